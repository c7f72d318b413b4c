"""Supervised and flow losses, with gradients in the logits, against TRL's own `compute_loss` and official formulas in float64.

TRL's method runs on a stand-in for the trainer whose model returns given log-probabilities; the other cases are torch
transcriptions, step by step, of the source that each names.
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
functional = torch.nn.functional

pytestmark = pytest.mark.parity

N, T, V = 6, 5, 9
SINGLE = 3e-7  # LabelSmoother adds the log-probabilities of the vocabulary up in float32


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rows(seed=0):
    """Logits of a policy and a reference, targets, and ragged labels (-100 off the mask) with one empty row."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (N, T))
    mask = (np.arange(T)[None, :] < np.array([5, 3, 1, 4, 0, 5])[:, None]).astype(float)
    return types.SimpleNamespace(logits=2 * rng.normal(size=(N, T, V)), far=2 * rng.normal(size=(N, T, V)), tokens=tokens,
                                 mask=mask, labels=np.where(mask > 0, tokens, -100), outside=rng.normal(size=N))


def trl_sft(loss_type, counted):
    """`SFTTrainer.compute_loss`, where the number of tokens is given (as in training) or counted from the labels."""
    def run(logits, r):
        labels = torch.tensor(r.labels)
        logp = torch.log_softmax(logits, -1)
        kept = torch.where(labels >= 0, torch.gather(logp, -1, labels.clamp(min=0)[..., None])[..., 0], 0.0)
        zero = torch.zeros(())

        def model(**_):
            return types.SimpleNamespace(log_probs=kept, label_mask=labels >= 0, entropy=zero, is_top1=zero)

        stand_in = types.SimpleNamespace(
            model=types.SimpleNamespace(training=True), aux_loss_enabled=False, compute_loss_func=None, label_smoother=None,
            args=types.SimpleNamespace(loss_type=loss_type, average_tokens_across_devices=False),
            accelerator=types.SimpleNamespace(parallelism_config=None, gather_for_metrics=lambda x: x),
            _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1)
        inputs = {"input_ids": labels, "labels": labels, "attention_mask": torch.ones_like(labels)}
        return trl.SFTTrainer.compute_loss(stand_in, model, inputs, num_items_in_batch=counted and (labels >= 0).sum())
    return run


def asft(mode, weight=0.05):
    """zhuchichi56/ASFT, train_v2.py: cross-entropy, times the target's detached softmax in the dft modes, plus kl_div of the
    frozen reference in the kl modes; over valid labels."""
    def run(logits, r):
        flat, labels = logits.reshape(-1, V), torch.tensor(r.labels).reshape(-1)
        valid = labels != -100
        loss = functional.cross_entropy(flat, labels, reduction="none")
        if mode in ("dft", "asft"):
            loss = loss * torch.softmax(flat, -1).gather(1, labels.clamp(min=0)[:, None])[:, 0].detach()
        if mode in ("sft+kl", "asft"):
            far = torch.softmax(torch.tensor(r.far).reshape(-1, V), -1)
            loss = loss + weight * functional.kl_div(torch.log_softmax(flat, -1), far, reduction="none").sum(-1)
        return loss[valid].sum() / valid.sum()
    return run


def poft(beta, gamma):
    """Savannah120/alignment-handbook-PoFT, scripts/run_poft.py: log-sigmoid of the mean log-probability against that of the
    aligned models; rows without a token, which it does not meet, are left out."""
    def run(logits, r):
        labels = torch.tensor(r.labels)
        picked = torch.gather(torch.log_softmax(logits, -1), -1, labels.clamp(min=0)[..., None])[..., 0]
        kept = (labels >= 0).any(1)
        mean = (picked * (labels >= 0)).sum(1)[kept] / (labels >= 0).sum(1)[kept]
        return -functional.logsigmoid(beta * mean - beta * torch.tensor(r.outside)[kept] + gamma).mean()
    return run


def smoothed(eps):
    """transformers' LabelSmoother, what `label_smoothing_factor` calls; labels are those of the logits' positions."""
    def run(logits, r):
        pt_utils = pytest.importorskip("transformers.trainer_pt_utils")
        return pt_utils.LabelSmoother(eps)({"logits": logits}, torch.tensor(r.labels))
    return run


CASES = {  # name: (theirs, our recipe, our parts)
    "hf-label-smoothing": (smoothed(0.1), "sft_label_smoothing", {}),
    "hf-label-smoothing-half": (smoothed(0.5), "sft_label_smoothing", {"label_smoothing": 0.5}),
    "trl-nll": (trl_sft("nll", True), "cross_entropy", {}),
    "trl-dft": (trl_sft("dft", True), "dft", {}),
    "trl-dft-counting": (trl_sft("dft", None), "dft", {}),
    "asft-sft": (asft("sft"), "cross_entropy", {}),
    "asft-dft": (asft("dft"), "dft", {}),
    "asft-sft+kl": (asft("sft+kl"), "sft_kl", {}),
    "asft": (asft("asft"), "asft", {}),
    "asft-argparse-default": (asft("asft", 0.1), "asft", {"anchor_coef": 0.1}),
    "poft": (poft(1.0, 0.0), "poft", {}),
    "poft-scaled": (poft(2.5, 0.4), "poft", {"beta": 2.5, "gamma": 0.4}),
}


def ours(r, name, **parts):
    """(loss, gradient in the logits); log-probabilities off the mask are NaN."""
    objective = objectives.get(name, **parts)
    tokens, mask = jnp.asarray(r.tokens), jnp.asarray(r.mask)
    batch = objective.prepare(Batch(None, tokens, mask, outside_N=jnp.asarray(r.outside)))

    def loss(logits_NxTxV):
        chosen_NxT = jnp.take_along_axis(jax.nn.log_softmax(logits_NxTxV), tokens[..., None], -1)[..., 0]
        view = View(jnp.where(mask > 0, chosen_NxT, jnp.nan), logits_NxTxV, jnp.asarray(r.far))
        total, count, _ = objective.loss(view, batch, {})
        return total / count

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(r.logits))
    assert gradient.dtype == jnp.float64
    return float(value), np.asarray(gradient)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient(hf, case, seed):
    theirs, name, parts = CASES[case]
    r = rows(seed)
    logits = torch.tensor(r.logits, requires_grad=True)
    expected = theirs(logits, r)
    expected.backward()
    value, gradient = ours(r, name, **parts)
    print(f"loss {abs(value / expected.item() - 1):.1e}")
    limit = SINGLE if case.startswith("hf-label") else 1e-12
    assert abs(value - expected.item()) <= limit * abs(expected.item())
    hf.agree(hf.normwise(gradient, logits.grad.numpy()), limit)


def modified_subtb(logits, r, end, lam, temperature):
    """GFNOrg/gfn-lm-tuning, next_sentence: score_fast of the frozen model over its temperature as every prefix's reward, and
    modified_subtb_loss: windows of every length with powers of lambda, zero once the row has ended, over the weights of those
    kept (which the original adds up in float32)."""
    tokens, mask = torch.tensor(r.tokens), torch.tensor(r.mask) > 0
    generated = torch.where(mask, tokens, end)
    lp, lq = torch.log_softmax(logits, -1), torch.log_softmax(torch.tensor(r.far), -1)
    log_pf = torch.where(generated != end, torch.gather(lp, -1, generated[..., None])[..., 0], 0.0)
    log_end = torch.where(mask, lp[..., end], 0.0)
    told = torch.gather(lq, -1, generated[..., None])[..., 0].cumsum(1)
    log_r = torch.where(mask, lq[..., end] + functional.pad(told, (1, 0))[:, :-1], 0.0) / temperature
    delta = log_r[:, :-1] + log_pf[:, :-1] + log_end[:, 1:] - log_r[:, 1:] - log_end[:, :-1]
    reached = functional.pad(delta.cumsum(1), (1, 0))
    ended = (generated[:, :-1] == end).cumsum(1) >= 1
    total, weight = 0.0, 0.0
    for length in range(1, T):
        alive = ~ended[:, length - 1:]
        total = total + lam ** (length - 1) * ((reached[:, length:] - reached[:, :-length]) ** 2 * alive).sum()
        weight = weight + lam ** (length - 1) * alive.double().sum()
    return total / weight


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("lam, temperature", [(1.0, 1.0), (0.8, 0.9)])
def test_modified_subtrajectory_balance(hf, lam, temperature, seed):
    """Rows that end with the end token, some at once."""
    r, end, lengths = rows(seed), 2, np.array([5, 3, 1, 4, 2, 5])
    r.mask = (np.arange(T)[None, :] < lengths[:, None]) * 1.0
    r.tokens = np.where(r.tokens == end, 3, r.tokens)
    r.tokens[np.arange(N), lengths - 1] = end
    logits = torch.tensor(r.logits, requires_grad=True)
    expected = modified_subtb(logits, r, end, lam, temperature)
    expected.backward()
    value, gradient = ours(r, "modified_subtrajectory_balance", lam=lam, reward_temperature=temperature)
    print(f"loss {abs(value / expected.item() - 1):.1e}")
    assert abs(value - expected.item()) <= 1e-12 * abs(expected.item())
    hf.agree(hf.normwise(gradient, logits.grad.numpy()), 1e-12)
