"""A planted mixture of experts for the tests of routing: router logits are x R, everything is known by construction."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import records
from jaxpost.probes import base, routing

META = {"arm": "moe", "conditional_on": None, "row_ids": records.row_ids}


def route(params, examples):
    """Logits of every layer from one state; the loss and the answer are part of the example."""
    logits = jnp.einsum("ntd,lde->nlte", examples["x"], params["layers"]["router"])
    return routing.Routed(logits, examples["mask"], examples["loss"] + params["worse"], examples["correct"], examples["label"])


def examples(n=12, positions=5, width=6, seed=0):
    rng = np.random.default_rng(seed)
    return {"x": np.float32(rng.normal(size=(n, positions, width))),
            "mask": np.float32(np.arange(positions) >= rng.integers(0, 3, (n, 1))),
            "loss": np.float32(rng.random(n)), "correct": np.float32(rng.random(n) < 0.5), "label": rng.integers(0, 3, n)}


def params(layers=2, width=6, experts=5, seed=1, worse=0.0):
    router = np.random.default_rng(seed).normal(size=(layers, width, experts))
    return {"layers": {"router": np.float32(router)}, "worse": np.float32(worse)}


def context(weights, batch):
    return base.Context({base.PARAMS: weights, base.PROBE_BATCH: batch})


def measured(probe, weights_S, batch):
    """Values of every seed, leading axis S; `init` has accepted the first."""
    state = probe.init(context(weights_S[0], batch), jax.random.key(0))
    one = jax.jit(lambda weights: probe.measure(context(weights, batch), state, jax.random.key(0))[1])
    return jax.tree.map(lambda *x: np.stack(x), *[jax.device_get(one(weights)) for weights in weights_S])


def rows_of(columns):
    """Checked rows, as a bundle takes them."""
    return records.measurement_table(columns).to_pylist()


def rows_at(probe, weights_S, batch, step=4):
    values = measured(probe, weights_S, batch)
    return rows_of(probe.finalize(values, {}, step=step, seeds=list(range(len(weights_S))), **META))


def rows_across(probe, weights_S_by_step, batch_by_step):
    series = {step: probe.arrays(measured(probe, weights_S, batch_by_step[step]))
              for step, weights_S in weights_S_by_step.items()}
    seeds = list(range(len(next(iter(weights_S_by_step.values())))))
    return rows_of(probe.across(series, seeds=seeds, **META))


def find(rows, metric, **wanted):
    """The one row of role "seed" (seed 0 where none is named) of the whole model (or a named layer)."""
    wanted = {"role": "seed", "seed": 0, "layer": None} | wanted
    found = [row for row in rows if row["metric"] == metric and all(row[name] == x for name, x in wanted.items())]
    assert len(found) == 1, f"{len(found)} rows of {metric} for {wanted}"
    return found[0]
