"""Invariants of every recipe: padding, splitting into microbatches, empty masks, the table itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import aggregation


def rows(seed=0, N=8, T=5, group=4):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, T + 1, N)
    mask = (np.arange(T)[None] < lengths[:, None]).astype(np.float32)
    make = lambda: jnp.asarray(-rng.exponential(size=(N, T)), jnp.float32)  # noqa: E731
    logp = make()
    reward = jnp.asarray(rng.integers(0, 2, N), jnp.float32)
    given = {"proximal_NxT": make(), "truncated_N": jnp.zeros(N)}
    return logp, objectives.Batch(None, None, jnp.asarray(mask), reward, make(), make(), **given), group


def ready(name):
    length = {"aggregation_length": 5} if name == "dr_grpo" else {}
    objective = objectives.get(name, **length)
    logp, batch, group = rows()
    return objective, logp, objective.prepare(batch, group)


@pytest.mark.parametrize("name", objectives.RECIPES)
def test_microbatches_add_up(name):
    objective, logp, batch = ready(name)
    whole = objective.loss(objectives.View(logp), batch, {})[:2]
    parts = [objective.loss(objectives.View(logp[i]), batch.where(i), {})[:2] for i in (slice(0, 3), slice(3, 8))]
    np.testing.assert_allclose(np.sum(np.asarray(parts), axis=0), np.asarray(whole), rtol=1e-6)


@pytest.mark.parametrize("name", objectives.RECIPES)
def test_padding_changes_nothing(name):
    objective, logp, batch = ready(name)
    wide = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 3)), constant_values=-7.0) if x.ndim == 2 else x, batch)
    wide = wide._replace(mask_NxT=jnp.pad(batch.mask_NxT, ((0, 0), (0, 3))))
    padded = objective.loss(objectives.View(jnp.pad(logp, ((0, 0), (0, 3)), constant_values=-50.0)), wide, {})[:2]
    np.testing.assert_allclose(np.asarray(padded), np.asarray(objective.loss(objectives.View(logp), batch, {})[:2]), rtol=1e-6)


@pytest.mark.parametrize("name", objectives.RECIPES)
def test_an_empty_mask_is_zero_and_finite(name):
    objective, logp, batch = ready(name)
    total, count, _ = objective.loss(objectives.View(logp), batch._replace(mask_NxT=jnp.zeros_like(batch.mask_NxT)), {})
    assert float(total) == 0.0 and np.isfinite(float(count))


def test_aggregation_rejects_what_it_cannot_mean():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="choose one of token"):
        aggregation.aggregate(x, x, "tokens")
    with pytest.raises(ValueError, match="need a length"):
        aggregation.aggregate(x, x, "constant")


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'grpo'"):
        objectives.get("grpoo")
    with pytest.raises(ValueError, match="did you mean 'clip_high'"):
        objectives.get("grpo", cliphigh=0.28)
    with pytest.raises(ValueError, match="has no effect"):
        objectives.get("grpo", kl_coef=0.1)
    with pytest.raises(ValueError, match="choose one of"):
        objectives.get("grpo", ratio="tokens")


def test_an_override_moves_only_its_part():
    base, changed = objectives.get("grpo"), objectives.get("grpo", clip_high=0.28)
    assert {k for k in vars(base) if getattr(base, k) != getattr(changed, k)} == {"clip_high"}


def test_every_row_names_its_paper():
    assert all(row["paper"] and row["family"] in ("sft", "rl") for row in objectives.table())
