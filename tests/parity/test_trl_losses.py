"""Losses and their gradients in the log-probabilities against TRL's own `_compute_loss`, in float64.

The trainers' methods run on a stand-in for the trainer that returns given log-probabilities: no model, no data, r != 1.
"""

import types
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import Batch

torch = pytest.importorskip("torch", reason="pip install -e '.[test,parity]'")
trl = pytest.importorskip("trl", reason="pip install -e '.[test,parity]'")

pytestmark = pytest.mark.parity

N, T = 6, 5
BETA = 0.04


def rows(seed=0):
    """Log-probabilities with ratios on both sides of every clip, advantages of both signs, ragged rows, one empty."""
    rng = np.random.default_rng(seed)
    logp = -rng.gamma(1.0, 1.0, (N, T))
    mask = (np.arange(T)[None, :] < np.array([5, 3, 1, 4, 0, 5])[:, None]).astype(float)
    return types.SimpleNamespace(logp=logp, old=logp + 0.4 * rng.normal(size=(N, T)), mask=mask,
                                 reference=logp + rng.normal(size=(N, T)),
                                 advantage=np.array([1.3, -0.7, 0.2, -1.1, 0.9, -0.4]))


def trainer(logp, **fields):
    """What `_compute_loss` asks of its trainer."""
    return types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, torch.zeros_like(logp), None),
        model=types.SimpleNamespace(training=True), _metrics={"train": defaultdict(list)}, aux_loss_enabled=False,
        accelerator=types.SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1),
        current_gradient_accumulation_steps=1, top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False,
        _entropy_bonus_enabled=False, max_completion_length=T, **fields)


def inputs(r):
    ids = torch.zeros((N, T), dtype=torch.long)
    mask = torch.tensor(r.mask)
    return {"prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": mask,
            "advantages": torch.tensor(r.advantage), "old_per_token_logps": torch.tensor(r.old),
            "ref_per_token_logps": torch.tensor(r.reference), "num_items_in_batch": mask.sum(),
            "old_logps": torch.tensor((r.old * r.mask).sum(1))}


def differentiated(method, stand_in, logp, r):
    loss = method(stand_in, None, inputs(r))
    loss.backward()
    return loss.item(), logp.grad.numpy()


def trl_grpo(r, loss_type, level="token", low=0.2, high=0.2, beta=0.0, **options):
    logp = torch.tensor(r.logp, requires_grad=True)
    defaults = {"use_bias_correction_kl": False,  # TRL: default True
                "delta": None, "steps_per_generation": 1, "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.25,
                "vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
    stand_in = trainer(logp, args=types.SimpleNamespace(**(defaults | options)), importance_sampling_level=level, beta=beta,
                       loss_type=loss_type, epsilon_low=low, epsilon_high=high,
                       get_gamma_weights=trl.GRPOTrainer.get_gamma_weights)
    return differentiated(trl.GRPOTrainer._compute_loss, stand_in, logp, r)


def trl_rloo(r):
    """An empty row has ratio exp(0) there and adds -A to TRL's value (not to its gradient); ours adds nothing."""
    logp = torch.tensor(r.logp, requires_grad=True)
    loss, grad = differentiated(trl.RLOOTrainer._compute_loss, trainer(logp, epsilon_low=0.2, epsilon_high=0.2), logp, r)
    return loss + r.advantage[r.mask.sum(axis=1) == 0].sum() / N, grad


def ours(r, name, **parts):
    objective = objectives.get(name, **parts)
    batch = Batch(None, None, jnp.asarray(r.mask), behaviour_NxT=jnp.asarray(r.old),
                  reference_NxT=jnp.asarray(r.reference),
                  advantage_NxT=jnp.tile(jnp.asarray(r.advantage)[:, None], (1, T)))

    def loss(logp_NxT):
        total, count, _ = objective.loss(objectives.View(logp_NxT), batch, objective.init())
        return total / count

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(r.logp))
    assert gradient.dtype == jnp.float64
    return float(value), np.asarray(gradient)


KL = {"kl_place": "loss", "kl_estimator": "k3", "kl_coef": BETA}
WIDE = {"clip_low": 0.2, "clip_high": 0.2}
COUNTED = {"aggregation_empty": "counted"}  # TRL's mean over sequences counts rows without a token
CASES = {  # name: (theirs, our recipe, our parts)
    "grpo": (lambda r: trl_grpo(r, "grpo"), "grpo", COUNTED),
    "grpo-kl": (lambda r: trl_grpo(r, "grpo", beta=BETA), "grpo", COUNTED | KL),
    "grpo-kl-corrected": (lambda r: trl_grpo(r, "grpo", beta=BETA, use_bias_correction_kl=True), "grpo",
                          COUNTED | KL | {"kl_gradient": "ratio_weighted"}),
    "grpo-delta": (lambda r: trl_grpo(r, "grpo", delta=1.5), "grpo", COUNTED | {"ratio_cap": 1.5}),
    "grpo-delta-inside-the-clip": (lambda r: trl_grpo(r, "grpo", delta=1.1), "grpo", COUNTED | {"ratio_cap": 1.1}),
    "dr_grpo": (lambda r: trl_grpo(r, "dr_grpo"), "dr_grpo", {"aggregation_length": T}),
    "dr_grpo-kl": (lambda r: trl_grpo(r, "dr_grpo", beta=BETA), "dr_grpo", {"aggregation_length": T, **KL}),
    "bnpo": (lambda r: trl_grpo(r, "bnpo"), "grpo", {"aggregation": "token"}),
    "dapo": (lambda r: trl_grpo(r, "dapo", high=0.28), "dapo", {}),
    "gspo": (lambda r: trl_grpo(r, "grpo", "sequence", 3e-4, 4e-4), "gspo", COUNTED),
    "gspo-kl-corrected": (lambda r: trl_grpo(r, "grpo", "sequence", 3e-4, 4e-4, BETA, use_bias_correction_kl=True), "gspo",
                          COUNTED | KL | {"kl_gradient": "ratio_weighted"}),
    "gspo-unclipped": (lambda r: trl_grpo(r, "grpo", "sequence", 10.0, 10.0), "gspo",
                       COUNTED | {"clip_low": None, "clip_high": None}),
    "gspo-bnpo": (lambda r: trl_grpo(r, "bnpo", "sequence"), "gspo", {**WIDE, "aggregation": "token"}),
    "gspo-dapo": (lambda r: trl_grpo(r, "dapo", "sequence", high=0.28), "gspo",
                  {**WIDE, "clip_high": 0.28, "aggregation": "token"}),
    "gspo-dr_grpo": (lambda r: trl_grpo(r, "dr_grpo", "sequence"), "gspo",
                     {**WIDE, "aggregation": "constant", "aggregation_length": T}),
    "gspo-bnpo-kl": (lambda r: trl_grpo(r, "bnpo", "sequence", beta=BETA), "gspo", {**WIDE, "aggregation": "token", **KL}),
    "luspo": (lambda r: trl_grpo(r, "luspo", "sequence"), "luspo", COUNTED),
    "cispo": (lambda r: trl_grpo(r, "cispo", high=1.3), "cispo", {"clip": "capped_weight", "clip_cap": 1.3, "clip_high": None}),
    "cispo-default": (lambda r: trl_grpo(r, "cispo"), "cispo", {"clip": "capped_weight", "clip_cap": 0.2, "clip_high": None}),
    "cispo-distance": (lambda r: trl_grpo(r, "cispo", high=1.2), "cispo", {"clip": "capped_weight", "clip_high": 0.2}),
    "cispo-sequence": (lambda r: trl_grpo(r, "cispo", "sequence", high=1.1), "cispo",
                       {"clip": "capped_weight", "clip_cap": 1.1, "clip_high": None, "ratio": "sequence"}),
    "sapo": (lambda r: trl_grpo(r, "sapo"), "sapo", COUNTED | {"gate_negative": 1.25}),
    "vespo": (lambda r: trl_grpo(r, "vespo"), "vespo", {}),
    "rloo": (trl_rloo, "rloo", COUNTED),
}
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradient(hf, case, seed):
    method, recipe, parts = CASES[case]
    with jax.enable_x64(True):
        r = rows(seed)
        (value, gradient), (expected, slope) = ours(r, recipe, **parts), method(r)
    assert abs(value - expected) <= 1e-12 * max(abs(expected), 1.0)
    hf.agree(hf.normwise(gradient, slope) if slope.any() else float(np.abs(gradient).max()), 1e-12)


def test_the_rows_reach_every_clip_region():
    """Both signs of the advantage, ratios below, inside and above the clip, on counted tokens."""
    seen = set()
    for seed in (0, 1, 2):
        r = rows(seed)
        ratio = np.exp(r.logp - r.old)
        region = np.where(ratio < 0.8, -1, np.where(ratio > 1.2, 1, 0))
        for sign, line, kept in zip(np.sign(r.advantage), region, r.mask, strict=True):
            seen |= {(sign, int(x)) for x in line[kept > 0]}
    assert seen == {(s, x) for s in (-1.0, 1.0) for x in (-1, 0, 1)}


# ---- what TRL adds to the loss: corrections for the sampler, sequence masks, high-entropy tokens, an entropy controller ----

def off_the_sampler(r, seed):
    """Log-probabilities of a sampler that is not quite the trainer, and entropies."""
    rng = np.random.default_rng(seed + 100)
    r.old = np.minimum(r.old, -1e-3)
    r.sampler, r.entropy = np.minimum(r.old + 0.3 * rng.normal(size=(N, T)), -1e-3), rng.gamma(2.0, 0.4, (N, T))
    return r


def trl_ratio(r, mode, low, high):
    """The lines of `GRPOTrainer._generate_and_score_completions` that make `importance_sampling_ratio`."""
    difference = torch.tensor((r.old - r.sampler) * r.mask)
    if mode.startswith("sequence"):
        difference = difference.sum(-1, keepdim=True)
    ratio = torch.exp(difference)
    if mode.endswith("truncate"):
        return torch.clamp(ratio, min=low, max=high)
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    return ratio.masked_fill((ratio < low) | (ratio > high), value=0.0)


def trl_further(r, *, loss_type="dapo", ratio=None, limit=None, quantile=1.0, entropy=None, trainer_class=None, low=0.2,
                high=0.2):
    logp = torch.tensor(r.logp, requires_grad=True)
    args = types.SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1, **(entropy or {}))
    stand_in = trainer(logp, args=args, importance_sampling_level="token", beta=0.0, loss_type=loss_type, epsilon_low=low,
                       epsilon_high=high)
    stand_in._get_per_token_logps_and_entropies = lambda *a, **k: (logp, torch.tensor(r.entropy), None)
    stand_in.accelerator = types.SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1,
                                                 pad_across_processes=lambda x, **k: x, sync_gradients=True)
    stand_in.use_vllm, stand_in.vllm_importance_sampling_correction = ratio is not None, True
    stand_in.off_policy_mask_threshold, stand_in.top_entropy_quantile = limit, quantile
    stand_in.get_off_policy_mask = trl.GRPOTrainer.get_off_policy_mask
    stand_in.get_high_entropy_mask = types.MethodType(trl.GRPOTrainer.get_high_entropy_mask, stand_in)
    if entropy is not None:
        stand_in._entropy_bonus_enabled = stand_in.use_adaptive_entropy = True
        stand_in.entropy_coef, stand_in._last_world_entropy, stand_in._entropy_window_stats = 0.3, 0.0, None
    given = inputs(r) | {"sampling_per_token_logps": torch.tensor(r.sampler), "importance_sampling_ratio": ratio}
    loss = (trainer_class or trl.GRPOTrainer)._compute_loss(stand_in, None, given)
    loss.backward()
    return (loss.item(), logp.grad.numpy()), stand_in


def ours_further(r, name, **parts):
    """As `ours`, with the proximal policy apart from the sampler, and what `prepare` makes of entropies."""
    objective = objectives.get(name, **parts)
    A = jnp.asarray(r.advantage)
    batch = Batch(None, None, jnp.asarray(r.mask), reward_N=A, behaviour_NxT=jnp.asarray(r.sampler),
                  proximal_NxT=jnp.asarray(r.old), entropy_NxT=jnp.asarray(r.entropy))
    if name in ("top_entropy_tokens", "adaptive_entropy"):
        batch = objective.prepare(batch, N, state={"coef": jnp.asarray(0.3)})
    batch = batch._replace(advantage_NxT=jnp.tile(A[:, None], (1, T)))

    def loss(logp_NxT):
        total, count, _ = objective.loss(objectives.View(logp_NxT, entropy_NxT=jnp.asarray(r.entropy)), batch, {})
        return total / count

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(r.logp))
    return (float(value), np.asarray(gradient)), objective, batch


def compare(hf, ours, theirs):
    (value, gradient), (expected, slope) = ours, theirs
    assert abs(value - expected) <= 1e-12 * max(abs(expected), 1.0)
    hf.agree(hf.normwise(gradient, slope) if slope.any() else float(np.abs(gradient).max()), 1e-12)


@pytest.mark.parametrize("low, high", [(None, 1.3), (0.8, 1.3)])
@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_corrections_for_the_sampler(hf, mode, low, high):
    level, rule = mode.split("_")
    with jax.enable_x64(True):
        for seed in range(3):
            r = off_the_sampler(rows(seed), seed)
            mine = ours_further(r, "tis", sampler_level=level, sampler_rule=rule, sampler_floor=low, sampler_cap=high)[0]
            compare(hf, mine, trl_further(r, ratio=trl_ratio(r, mode, low, high))[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_off_policy_sequence_mask(hf, seed):
    with jax.enable_x64(True):
        r = off_the_sampler(rows(seed), seed)
        mine = ours_further(r, "deepseek_v3_2", off_policy_limit=0.02, kl_place="none", kl_gradient="value", kl_coef=0.0,
                            **COUNTED)[0]
        compare(hf, mine, trl_further(r, loss_type="grpo", limit=0.02)[0])


@pytest.mark.parametrize("quantile", [0.2, 0.55])
def test_high_entropy_tokens(hf, quantile):
    with jax.enable_x64(True):
        for seed in range(3):
            r = off_the_sampler(rows(seed), seed)
            r.sampler = r.old
            r.entropy = r.entropy.astype(np.float32).astype(float)  # TRL takes the quantile in float32
            mine = ours_further(r, "top_entropy_tokens", top_entropy=quantile, clip_high=0.2)[0]
            compare(hf, mine, trl_further(r, quantile=quantile)[0])


@pytest.mark.parametrize("target", [0.1, 5.0])
def test_the_entropy_controller(target):
    """The bonus' weight and the next coefficient, where the entropy before the update is that of the current policy."""
    options = {"entropy_target": target, "entropy_coef_delta": 0.05, "entropy_coef_max": 0.32, "entropy_coef_min": 0.0}
    with jax.enable_x64(True):
        r = off_the_sampler(rows(0), 0)
        r.sampler = r.old
        (value, _), objective, batch = ours_further(r, "adaptive_entropy", entropy_coef=0.3, entropy_target=target,
                                                    entropy_step=0.05, entropy_high=0.32)
        (expected, _), stand_in = trl_further(r, entropy=options)
        after = objective.observe({"coef": jnp.asarray(0.3)}, batch)["coef"]
    if target == 0.1:  # TRL decides by the step before, whose entropy was 0 here; ours by this batch's own
        expected += 0.3 * (r.entropy * r.mask).sum() / r.mask.sum()
    assert value == pytest.approx(expected, rel=1e-12) and float(after) == pytest.approx(stand_in.entropy_coef, rel=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gmpo(hf, seed):
    gmpo = pytest.importorskip("trl.experimental.gmpo")
    with jax.enable_x64(True):
        r = off_the_sampler(rows(seed), seed)
        theirs, _ = trl_further(r, loss_type="grpo", trainer_class=gmpo.GMPOTrainer, low=0.2, high=0.3)
        value, gradient = ours(r, "gmpo", log_clip_low=0.2, log_clip_high=0.3, **COUNTED)
        empty = r.advantage[r.mask.sum(axis=1) == 0].sum() / N  # an empty row is exp(0) A there and nothing here
        compare(hf, (value - empty, gradient), theirs)


@pytest.mark.parametrize("beta, name, parts", [
    (0.0, "distillation", {}), (1.0, "on_policy_distillation", {}), (0.5, "gkd", {}), (0.1, "gkd", {"teacher_weight": 0.1})])
def test_generalised_jensen_shannon(hf, beta, name, parts):
    gkd = pytest.importorskip("trl.experimental.gkd")
    rng = np.random.default_rng(7)
    student, teacher, mask = rng.normal(size=(N, T, 6)), rng.normal(size=(N, T, 6)), rows().mask
    logits = torch.tensor(student, requires_grad=True)
    labels = torch.tensor(np.where(mask > 0, 1, -100))
    expected = gkd.GKDTrainer.generalized_jsd_loss(logits, torch.tensor(teacher), labels, beta)
    expected.backward()
    with jax.enable_x64(True):
        objective = objectives.get(name, **parts)
        batch = Batch(None, None, jnp.asarray(mask))

        def loss(x):
            total, count, _ = objective.loss(objectives.View(jnp.zeros((N, T)), x, jnp.asarray(teacher)), batch, {})
            return total / count

        mine = jax.value_and_grad(loss)(jnp.asarray(student))
    compare(hf, (float(mine[0]), np.asarray(mine[1])), (expected.item(), logits.grad.numpy()))
