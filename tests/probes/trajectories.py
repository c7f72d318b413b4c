"""Bases on the bf16 grid, updates and row look-up for the tests of masks and trajectories."""

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxpost.probes import base

ROWS = {"arm": "a", "conditional_on": "b0"}


def grid(x):
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def make_base(infos, seed=0):
    rng = np.random.default_rng(seed)
    return {info.name: grid(rng.normal(size=info.shape)) for info in infos}


def context(weights0, weights1):
    return base.Context({base.WEIGHTS0: weights0, base.WEIGHTS: weights1})


def measured(probe, weights0, weights1_S):
    """(state, values) with a leading axis over seeds, host arrays; weights1_S name -> [S, m, n]."""
    key = jax.random.key(3)
    state = probe.init(base.Context({base.WEIGHTS0: weights0}), key)

    def one(weights1):
        return probe.measure(context(weights0, weights1), state, key)[1]

    over_seeds = jax.jit(lambda w: jax.lax.map(one, w))
    return state, jax.device_get(over_seeds({n: jnp.asarray(w) for n, w in weights1_S.items()}))


def ids(columns):
    return [f"id{i}" for i in range(len(columns["metric"]))]


def as_rows(columns):
    n = len(columns["metric"])
    assert all(len(column) == n for column in columns.values())
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def finalized(probe, infos, weights0, weights1_S, step=8):
    state, values = measured(probe, weights0, weights1_S)
    seeds = range(len(next(iter(weights1_S.values()))))
    return as_rows(probe.finalize(values, state, infos=infos, step=step, seeds=list(seeds), row_ids=ids, **ROWS))


def over_time(probe, infos, weights0, weights_S_by_step, **extra):
    """Rows of `across` from measurements at several steps."""
    series = {step: probe.arrays(measured(probe, weights0, w)[1]) for step, w in weights_S_by_step.items()}
    n_seeds = len(next(iter(next(iter(weights_S_by_step.values())).values())))
    return as_rows(probe.across(series, infos=infos, seeds=list(range(n_seeds)), row_ids=ids, **ROWS, **extra))


def one(rows, metric, **wanted):
    found = [row for row in rows if row["metric"] == metric and all(row[name] == value for name, value in wanted.items())]
    assert len(found) == 1, f"{len(found)} rows of {metric} for {wanted}"
    return found[0]


def check_lanes(probe, infos, weights0, weights1_S):
    """One matrix at a time gives the bits that all matrices together give."""
    together = measured(probe, weights0, weights1_S)[1]
    for info in infos:
        alone = measured(probe, {info.name: weights0[info.name]}, {info.name: weights1_S[info.name]})[1]
        chex.assert_trees_all_equal(alone[info.name], together[info.name])
