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
