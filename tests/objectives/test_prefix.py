"""Prefix-RFT's advantages and loss against loops over rows; UFT's terms by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def begun(batch, lengths):
    """Rows whose first tokens are a demonstration's."""
    return batch._replace(demonstration_NxT=batch.mask_NxT * (jnp.arange(given.T)[None] < jnp.asarray(lengths)[:, None]))


@pytest.mark.parametrize("score", ["raw", "normalised"])
@pytest.mark.parametrize("lengths", [[0, 0, 0, 3, 0, 0, 0, 2], [0, 0, 2, 2, 0, 3, 0, 3]])
def test_advantages_of_rows_continuations_and_prefixes(score, lengths):
    objective = given.recipe("prefix_rft", prefix_score=score, prefix_entropy=0.5)
    _, batch = given.needed(objective, *given.rows(2, lengths=[6, 4, 5, 6, 3, 5, 2, 6]))
    batch = begun(batch._replace(reward_N=jnp.asarray([1, 0, 0.5, 0.2, 0, 1, 0, 0.7])), lengths)
    got = np.asarray(objective.prepare(batch, given.GROUP).advantage_NxT)
    R, mask, shown, H = (np.asarray(x) for x in (batch.reward_N, batch.mask_NxT, batch.demonstration_NxT, batch.entropy_NxT))
    chosen = np.argsort(-np.where(shown > 0, H, -np.inf), axis=None, kind="stable")[:int(np.ceil(0.5 * shown.sum()))]
    keep = np.zeros(shown.size)
    keep[chosen] = 1
    for g in range(2):
        rows = range(4 * g, 4 * g + 4)
        with_it = [n for n in rows if lengths[n]]
        free = np.array([R[n] for n in rows if not lengths[n]])
        for n in rows:
            side = np.array([R[m] for m in with_it]) if lengths[n] else free
            A = (R[n] - side.mean()) / (side.std(ddof=1) + 1e-4) if len(side) > 1 else R[n]
            of = A if score == "normalised" else R[n]
            for t in np.flatnonzero(mask[n]):
                expected = (of - free.mean()) / len(with_it) * keep.reshape(shown.shape)[n, t] if shown[n, t] else A
                assert got[n, t] == pytest.approx(expected, abs=1e-12), (n, t)


def test_uft_is_grpo_of_the_continuations_and_likelihood_of_the_hints():
    objective = given.recipe("uft", sft_weight=0.3, kl_coef=0.0, entropy_coef=0.0)
    view, batch = given.needed(objective, *given.rows(3, lengths=[6, 4, 5, 6, 3, 5, 2, 6]))
    ready = given.prepared(objective, begun(batch, [2, 0, 1, 3] * 2))
    shown = np.asarray(ready.demonstration_NxT)
    on, off = (np.asarray(ready.mask_NxT) * x for x in (1 - shown, shown))
    R, logp = np.asarray(ready.reward_N).reshape(2, 4), np.asarray(view.logp_NxT)
    A = ((R - R.mean(1, keepdims=True)) / (R.std(1, ddof=1, keepdims=True) + 1e-4)).reshape(-1, 1)
    r = np.exp(logp - np.asarray(ready.behaviour_NxT))
    rl = (-np.minimum(r * A, np.clip(r, 0.8, 1.2) * A) * on).sum() / on.sum()
    total, count, _ = objective.loss(view, ready, {})
    assert float(total / count) == pytest.approx(rl + 0.3 * (-logp * off).sum() / off.sum(), rel=1e-12)


@pytest.mark.parametrize("name, parts, message", [
    ("prefix_rft", {"prefix_entropy": 0.0}, "must lie in"), ("prefix_rft", {"guidance": "none"}, "choose one of prefix_rft"),
    ("prefix_rft", {"baseline": "none"}, "choose one of mean"),
    ("uft", {"guidance": "ghpo"}, "choose one of None, prefix_rft")])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)
