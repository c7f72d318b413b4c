"""Preference losses and gradients against TRL's own methods on stand-ins for the trainers, and CPL against a transcription.

Everything is float64 but what TRL itself rounds to float32: those cases carry their own limit.
"""

import types
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import Batch, View

torch = pytest.importorskip("torch", reason="pip install -e '.[test,parity]'")
trl = pytest.importorskip("trl", reason="pip install -e '.[test,parity]'")

pytestmark = pytest.mark.parity

N, T, V = 8, 5, 7
LENGTHS = np.array([5, 3, 1, 4, 2, 5, 4, 4])
EMPTY = np.array([5, 0, 1, 4, 0, 0, 4, 4])  # an empty side, two empty sides, two whole pairs
COUNTED = {"aggregation_empty": "counted"}  # TRL counts every row and pair
EXACT, SINGLE = 1e-12, 1e-7


def rows(seed, spread=1.0, lengths=LENGTHS):
    """Ragged pairs with log-ratios of both signs; rows 2i and 2i+1 belong together."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(T)[None] < lengths[:, None]).astype(float)
    logits, tokens = spread * rng.normal(size=(N, T, V)), rng.integers(0, V, (N, T))
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(logp, tokens[..., None], -1)[..., 0]
    return types.SimpleNamespace(logits=logits, tokens=tokens, mask=mask, logp=chosen * mask,
                                 reference=np.minimum(chosen + spread * rng.normal(size=(N, T)), -1e-3) * mask,
                                 label=(np.arange(N) % 3 == 0), outside=rng.normal(0.4, 1.0, (N, T)) * mask)


def halves(x):
    """Our interleaved rows in TRL's order: all preferred ones, then all others."""
    return np.concatenate([x[0::2], x[1::2]])


def interleaved(x):
    """The way back."""
    return np.stack(np.split(x, 2), 1).reshape(x.shape)


def agree(hf, ours, theirs, limit):
    (value, gradient), (expected, slope) = ours, theirs
    hf.agree(abs(value - expected) / max(abs(expected), 1.0), limit)
    hf.agree(hf.normwise(gradient, slope) if slope.any() else float(np.abs(gradient).max()), limit)


def ours(r, name, leaf="logp", **parts):
    """(loss, gradient) of a row of the table in the log-probabilities, or in the logits."""
    objective = objectives.get(name, **parts)
    batch = Batch(None, None, jnp.asarray(r.mask), reference_NxT=jnp.asarray(r.reference), label_N=jnp.asarray(r.label * 1.0),
                  outside_N=jnp.asarray(r.outside.sum(1)), tie_N=jnp.asarray(getattr(r, "tie", np.zeros(N))))
    batch = objective.balance(objective.prepare(batch))

    def loss(x):
        logp = x if leaf == "logp" else jnp.take_along_axis(jax.nn.log_softmax(x), r.tokens[..., None], -1)[..., 0]
        total, count, _ = objective.loss(View(logp, jnp.asarray(r.logits)), batch, {})
        return total / count

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(getattr(r, leaf)))
    assert gradient.dtype == jnp.float64
    return float(value), np.asarray(gradient)


# ---- DPOTrainer and KTOTrainer: the model returns given log-probabilities ----

def output(logp, r=None):
    """What the fused language-model head returns; only `log_probs`, and for WPO the sum of squares, enter the loss."""
    squares = torch.zeros_like(logp)
    if r is not None:
        p = torch.softmax(torch.tensor(halves(r.logits)), -1)
        squares = (p**2).sum(-1).log().to(logp.dtype)
    return types.SimpleNamespace(log_probs=logp, log_sum_sq_probs=squares, entropy=torch.zeros_like(logp),
                                 mean_logits=torch.zeros_like(logp), is_top1=torch.zeros_like(logp, dtype=torch.bool))


def stand_in(reference, **fields):
    """What `_compute_loss` of both trainers asks of its trainer."""
    model = types.SimpleNamespace(training=True, is_gradient_checkpointing=False)
    same = lambda x: x  # noqa: E731
    return types.SimpleNamespace(
        model=model, ref_model=reference, precompute_ref_logps=False, aux_loss_enabled=False, _total_train_tokens=0, _tp_size=1,
        _metrics={"train": defaultdict(list)},
        accelerator=types.SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same), **fields)


def with_prompt(mask):
    """Ids and completion mask with one prompt token in front."""
    ids = torch.zeros((N, T + 1), dtype=torch.long)
    return ids, torch.cat([torch.zeros((N, 1)), torch.tensor(mask)], 1).long()


def trl_dpo(r, loss_types, weights=(1.0,), dtype=torch.float64, metrics=None, **fields):
    logp = torch.tensor(halves(r.logp), dtype=dtype, requires_grad=True)
    reference = torch.tensor(halves(r.reference), dtype=dtype)
    parts = {"beta": 0.1, "label_smoothing": 0.0, "f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 0.5,
             "use_weighting": False, "ld_alpha": None} | fields
    trainer = stand_in(lambda **kw: output(reference), loss_types=loss_types, loss_weights=weights,
                       args=types.SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None), **parts)
    ids, mask = with_prompt(halves(r.mask))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    loss = trl.DPOTrainer._compute_loss(trainer, lambda **kw: output(logp, r), inputs, False)
    loss.backward()
    if metrics is not None:
        metrics.update(trainer._metrics["train"])
    return loss.item(), interleaved(logp.grad.numpy()) * r.mask  # the head holds the others at a constant 0


DPO = {  # name: (TRL's loss types, their options, our row, our parts, limit)
    "sigmoid": (["sigmoid"], {}, "dpo", {}, EXACT),
    "sigmoid-beta": (["sigmoid"], {"beta": 3.0}, "dpo", {"beta": 3.0}, EXACT),
    "hinge": (["hinge"], {}, "hinge", {}, EXACT),
    "hinge-both-sides": (["hinge"], {"beta": 1.0}, "hinge", {"beta": 1.0}, EXACT),
    "ipo": (["ipo"], {}, "ipo", {"reduction": "mean"}, EXACT),
    "robust": (["robust"], {"label_smoothing": 0.2}, "robust_dpo", {"beta": 0.1, "label_noise": 0.2}, EXACT),
    "exo_pair": (["exo_pair"], {"label_smoothing": 0.1}, "exo_pair", {"label_noise": 0.1}, SINGLE),
    "aot": (["aot"], {}, "aot", {}, EXACT),
    "aot-smoothed": (["aot"], {"label_smoothing": 0.2}, "aot", {"smoothing": "conservative", "label_noise": 0.2}, EXACT),
    "aot_unpaired": (["aot_unpaired"], {}, "aot_unpaired", {}, EXACT),
    "nca_pair": (["nca_pair"], {}, "nca_pair", {"beta": 0.1}, EXACT),
    "bco_pair": (["bco_pair"], {}, "bco_pair", {"beta": 0.1}, EXACT),
    "sppo_hard": (["sppo_hard"], {}, "sppo_hard", {"beta": 0.1}, EXACT),
    "apo_zero": (["apo_zero"], {}, "apo_zero", {}, EXACT),
    "apo_down": (["apo_down"], {}, "apo_down", {}, EXACT),
    "discopop": (["discopop"], {}, "discopop", {"beta": 0.1}, EXACT),
    "sigmoid_norm": (["sigmoid_norm"], {}, "dpo_norm", {"beta": 0.1}, EXACT),
    "sigmoid+sft": (["sigmoid", "sft"], {"weights": (0.7, 0.3)}, "dpo", {"pair_coef": 0.7, "nll_coef": 0.3}, EXACT),
    "mpo": (["sigmoid", "bco_pair", "sft"], {"weights": (0.8, 0.2, 1.0)}, "mpo", {}, EXACT),
    "ld": (["sigmoid"], {"ld_alpha": 0.3}, "ld_dpo", {"tail_weight": 0.3}, EXACT),
    "wpo": (["sigmoid"], {"use_weighting": True}, "wpo", {"beta": 0.1}, EXACT),
    "forward_kl": (["sigmoid"], {"f_divergence_type": "forward_kl"}, "dpo", {"transform": "forward_kl"}, EXACT),
    "js": (["sigmoid"], {"f_divergence_type": "js_divergence"}, "dpo", {"transform": "js"}, EXACT),
    "js-ipo": (["ipo"], {"f_divergence_type": "js_divergence"}, "ipo",
               {"transform": "js", "reduction": "sum_over_length"}, EXACT),
    "forward_kl-norm": (["sigmoid_norm"], {"f_divergence_type": "forward_kl"}, "dpo_norm",
                        {"beta": 0.1, "transform": "forward_kl", "reduction": "sum_over_length"}, EXACT),
}


@pytest.mark.parametrize("case", DPO)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dpo_trainer(hf, case, seed):
    loss_types, options, name, parts, limit = DPO[case]
    with jax.enable_x64(True):
        r = rows(seed)
        agree(hf, ours(r, name, **parts), trl_dpo(r, loss_types, **options), limit)


@pytest.mark.parametrize("case", DPO)
def test_dpo_trainer_with_empty_rows(hf, case):
    loss_types, options, name, parts, limit = DPO[case]
    with jax.enable_x64(True):
        r = rows(4, lengths=EMPTY)
        value, gradient = ours(r, name, **parts, **COUNTED)
        theirs = trl_dpo(r, loss_types, **options)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        if np.isfinite(theirs[0]):
            agree(hf, (value, gradient), theirs, limit)
        left_out = ours(r, name, **parts)
        r.mask, r.logp, r.reference = (np.concatenate([x[2:4], x[6:]]) for x in (r.mask, r.logp, r.reference))
        r.label, r.outside, r.logits = r.label[:4], r.outside[:4], np.concatenate([r.logits[2:4], r.logits[6:]])
        kept = ours(r, name, **parts)
    assert left_out[0] == pytest.approx(kept[0], rel=1e-12)  # by default as if such pairs were not there


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dpo_trainer_alpha_divergence(hf, seed):
    """TRL 1.16 has no float64 here (its clamp is a table of narrower types): float32 there, so the limit of float32."""
    fields = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5}
    with jax.enable_x64(True):
        r = rows(seed)
        r.logp, r.reference = (x.astype(np.float32).astype(float) for x in (r.logp, r.reference))
        agree(hf, ours(r, "dpo", transform="alpha", alpha=0.5), trl_dpo(r, ["sigmoid"], dtype=torch.float32, **fields),
              10 * SINGLE)


def test_sigmoid_ignores_label_smoothing_in_trl(hf):
    """So cDPO has no counterpart in this DPOTrainer; CPOTrainer has (below)."""
    with jax.enable_x64(True):
        r = rows(0)
        agree(hf, ours(r, "dpo"), trl_dpo(r, ["sigmoid"], label_smoothing=0.3), EXACT)


def test_metrics_are_the_same_implicit_rewards():
    with jax.enable_x64(True):
        r, theirs = rows(1), {}
        trl_dpo(r, ["sigmoid"], metrics=theirs)
        batch = Batch(None, None, jnp.asarray(r.mask), reference_NxT=jnp.asarray(r.reference))
        aux = objectives.get("dpo").loss(View(jnp.asarray(r.logp)), batch, {})[2]
    for name, key in (("chosen", "chosen"), ("rejected", "rejected"), ("margin", "margins"), ("accuracy", "accuracies")):
        total, count = aux[name]
        assert float(total / count) == pytest.approx(theirs[f"rewards/{key}"][0], rel=1e-12)


@pytest.mark.parametrize("loss_type, name", [("kto", "kto"), ("apo_zero_unpaired", "apo_zero_unpaired")])
@pytest.mark.parametrize("shift", [0.5, -2.0])  # a positive reference point, and one held at 0
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.33, 0.7)])
@pytest.mark.parametrize("lengths", [LENGTHS, EMPTY], ids=["full", "empty"])
def test_kto_trainer(hf, loss_type, name, shift, weights, lengths):
    with jax.enable_x64(True):
        r = rows(3, lengths=lengths)
        r.outside = (r.outside + shift) * r.mask
        logp = torch.tensor(r.logp, requires_grad=True)
        far, other = torch.tensor(r.reference), torch.tensor(r.reference - 1.0)  # `other`: of the mismatched pairs

        def model(**kw):
            return output(other + torch.tensor(r.outside) if kw["input_ids"].any() else logp)

        def reference(**kw):
            return output(other if kw["input_ids"].any() else far)

        trainer = stand_in(reference, calculate_KL=loss_type == "kto", loss_type=loss_type, beta=0.3,
                           desirable_weight=weights[0], undesirable_weight=weights[1],
                           args=types.SimpleNamespace(gradient_checkpointing_kwargs=None))
        trainer._compute_kl_logps = types.MethodType(trl.KTOTrainer._compute_kl_logps, trainer)
        ids, mask = with_prompt(r.mask)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask,
                  "KL_input_ids": torch.ones_like(ids), "KL_attention_mask": torch.ones_like(ids), "KL_completion_mask": mask,
                  "label": torch.tensor(r.label)}
        loss = trl.KTOTrainer._compute_loss(trainer, model, inputs, False)
        loss.backward()
        got = ours(r, name, beta=0.3, desirable_weight=weights[0], undesirable_weight=weights[1], **COUNTED)
        agree(hf, got, (loss.item(), logp.grad.numpy() * r.mask), EXACT)


# ---- CPOTrainer and ORPOTrainer: the model returns given logits, the likelihood term included ----

def trl_from_logits(trainer_class, r, prompt=None, **fields):
    """(loss, gradient in the logits); a prompt of one token has no target, so ORPO's likelihood is that of the completion.

    Args:
      prompt: (logits_NxQxV, tokens_NxQ) of further tokens of the prompt.
    """
    logits = torch.tensor(halves(r.logits), requires_grad=True)
    closing = torch.zeros((N, 1, V), dtype=logits.dtype)
    ids, mask = with_prompt(halves(r.mask))
    ids[:, 1:] = torch.tensor(halves(r.tokens))
    before = []
    if prompt is not None:
        before, more = [torch.tensor(halves(prompt[0]))], torch.tensor(halves(prompt[1]))
        ids, mask = torch.cat([ids[:, :1], more, ids[:, 1:]], 1), torch.cat([torch.zeros_like(more), mask], 1)
    seen = mask.clone()
    seen[:, :mask.shape[1] - T] = 1
    labels = torch.where(mask == 1, ids, -100)
    batch = {}
    for side, part in (("chosen", slice(0, N // 2)), ("rejected", slice(N // 2, N))):
        batch |= {f"{side}_input_ids": ids[part], f"{side}_attention_mask": seen[part], f"{side}_labels": labels[part]}
    same = lambda x: x  # noqa: E731
    trainer = types.SimpleNamespace(
        is_encoder_decoder=False, aux_loss_enabled=False, pad_token_id=0, padding_value=0,
        accelerator=types.SimpleNamespace(device="cpu", gather_for_metrics=same),
        concatenated_inputs=trainer_class.concatenated_inputs, get_batch_logps=trainer_class.get_batch_logps, **fields)
    for method in ("concatenated_forward", "cpo_loss", "odds_ratio_loss"):
        if hasattr(trainer_class, method):
            setattr(trainer, method, types.MethodType(getattr(trainer_class, method), trainer))
    model = lambda *a, **kw: types.SimpleNamespace(logits=torch.cat([*before, logits, closing], 1))  # noqa: E731
    loss = trainer_class.get_batch_loss_metrics(trainer, model, batch)[0]
    loss.backward()
    return loss.item(), interleaved(logits.grad.numpy())


CPO = {  # name: (TRL's options, our row, our parts)
    "cpo": ({}, "cpo", {}),
    "cpo-smoothed": ({"label_smoothing": 0.2, "cpo_alpha": 0.5}, "cpo",
                     {"smoothing": "conservative", "label_noise": 0.2, "nll_coef": 0.5}),
    "cpo-hinge": ({"loss_type": "hinge", "beta": 1.0}, "cpo", {"link": "hinge", "beta": 1.0}),
    "cpo-ipo": ({"loss_type": "ipo"}, "cpo", {"link": "squared", "reduction": "mean"}),
    "cdpo": ({"label_smoothing": 0.1, "cpo_alpha": 0.0}, "cdpo", {"reference_free": True}),
    "simpo": ({"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 1.375, "cpo_alpha": 0.0}, "simpo", {}),
    "simpo-smoothed": ({"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0, "label_smoothing": 0.3},
                       "simpo", {"beta": 2.0, "margin": 0.5, "smoothing": "conservative", "label_noise": 0.3}),
    "cpo-simpo": ({"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 1.375}, "simpo", {"nll_coef": 1.0}),
    "alphapo": ({"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.1, "cpo_alpha": 0.0, "alpha": 0.25}, "alphapo", {}),
}


@pytest.mark.parametrize("case", CPO)
@pytest.mark.parametrize("seed", [0, 1])
def test_cpo_trainer(hf, case, seed):
    from trl.experimental.cpo import CPOTrainer

    options, name, parts = CPO[case]
    options = {"loss_type": "sigmoid", "beta": 0.1, "label_smoothing": 0.0, "cpo_alpha": 1.0, "alpha": 0.0} | options
    with jax.enable_x64(True):
        r = rows(seed)
        agree(hf, ours(r, name, leaf="logits", **parts), trl_from_logits(CPOTrainer, r, **options), EXACT)


@pytest.mark.parametrize("case", CPO)
def test_cpo_trainer_with_empty_rows(hf, case):
    """Where TRL divides by an empty row's length it gives NaN; ours is finite."""
    from trl.experimental.cpo import CPOTrainer

    options, name, parts = CPO[case]
    options = {"loss_type": "sigmoid", "beta": 0.1, "label_smoothing": 0.0, "cpo_alpha": 1.0, "alpha": 0.0} | options
    with jax.enable_x64(True):
        r = rows(5, lengths=EMPTY)
        found, theirs = ours(r, name, leaf="logits", **parts, **COUNTED), trl_from_logits(CPOTrainer, r, **options)
        assert np.isfinite(found[0]) and np.isfinite(found[1]).all()
        assert np.isfinite(theirs[0]) or parts.get("reduction", objectives.RECIPES[name].reduction) == "mean"
        if np.isfinite(theirs[0]):
            agree(hf, found, theirs, EXACT)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_orpo_trainer(hf, seed):
    """TRL takes the odds in float32."""
    from trl.experimental.orpo import ORPOTrainer

    with jax.enable_x64(True):
        r = rows(seed)
        agree(hf, ours(r, "orpo", leaf="logits"), trl_from_logits(ORPOTrainer, r, beta=0.1), SINGLE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_orpo_with_the_likelihood_of_the_prompt(hf, seed):
    from trl.experimental.orpo import ORPOTrainer

    with jax.enable_x64(True):
        r, rng = rows(seed), np.random.default_rng(seed + 50)
        logits, tokens = np.repeat(rng.normal(size=(N // 2, 3, V)), 2, 0), np.repeat(rng.integers(0, V, (N // 2, 3)), 2, 0)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        objective = objectives.get("orpo_prompt_nll")
        batch = Batch(None, None, jnp.asarray(r.mask), prompt_mask_NxQ=jnp.ones((N, 3)))
        batch = objective.balance(objective.prepare(batch))

        def loss(x):
            seen = View(jnp.take_along_axis(jax.nn.log_softmax(x), r.tokens[..., None], -1)[..., 0],
                        prompt_logp_NxQ=jnp.asarray(np.take_along_axis(logp, tokens[..., None], -1)[..., 0]))
            total, count, _ = objective.loss(seen, batch, {})
            return total / count

        value, gradient = jax.value_and_grad(loss)(jnp.asarray(r.logits))
        agree(hf, (float(value), np.asarray(gradient)), trl_from_logits(ORPOTrainer, r, (logits, tokens), beta=0.1), SINGLE)


# ---- CPL: research/algs/cpl.py and cpl_kl.py of github.com/jhejna/cpl in our own words; label 0 prefers the first half ----

def cpl(r, alpha, bias, reference=False, bc_coeff=0.0, label=None):
    """`label`: one a pair, 0 where the first is preferred, 1/2 for a tie (biased_bce_with_logits)."""
    logp = torch.tensor(halves(r.logp), requires_grad=True)
    far = torch.tensor(halves(r.reference)) if reference else 0.0
    first, second = torch.chunk(alpha * (logp - far).sum(-1), 2)
    y = torch.zeros(N // 2) if label is None else torch.tensor(label)
    right, wrong = torch.logaddexp(first, bias * second) - first, torch.logaddexp(second, bias * first) - second
    loss = ((1 - y) * right + y * wrong).mean()
    loss = loss - bc_coeff * logp.sum() / float(r.mask.sum())
    loss.backward()
    return loss.item(), interleaved(logp.grad.numpy()) * r.mask


@pytest.mark.parametrize("name, constants", [
    ("cpl", {"alpha": 0.1, "bias": 0.5}), ("cpl_kl", {"alpha": 0.2, "bias": 0.75, "reference": True}),
    ("cpl_bc", {"alpha": 0.1, "bias": 1.0, "bc_coeff": 1.0})])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cpl(hf, name, constants, seed):
    with jax.enable_x64(True):
        r = rows(seed)
        agree(hf, ours(r, name), cpl(r, **constants), EXACT)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cpl_with_ties(hf, seed):
    with jax.enable_x64(True):
        r = rows(seed)
        r.tie = np.repeat([0.0, 1.0, 0.0, 1.0], 2)
        agree(hf, ours(r, "cpl_ties"), cpl(r, 0.1, 0.5, label=r.tie[::2] / 2), EXACT)


def test_the_pairs_reach_both_sides_of_every_bend():
    """Log-ratio differences of both signs, hinge terms on and off at beta = 1."""
    delta = np.concatenate([(s[0::2] - s[1::2]) for s in ((rows(i).logp - rows(i).reference).sum(1) for i in (0, 1, 2))])
    assert (delta > 1).any() and ((0 < delta) & (delta < 1)).any() and (delta < 0).any()
