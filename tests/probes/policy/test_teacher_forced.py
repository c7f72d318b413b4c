"""Teacher-forced accuracy against a loop over planted tokens, with its null of commonest tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.probes import base, schedules
from jaxpost.probes.policy import fisher, teacher_forced

from ..trajectories import as_rows, ids

V = 5


def predict(params, row):
    return fisher.Predictions(jax.nn.one_hot(row["said"], V) + params, row["target"], row["mask"])


def read(batch, params_S):
    probe = teacher_forced.TeacherForced(predict, microbatch=4, schedule=schedules.At((1,)))
    found = [probe.measure(base.Context({base.PARAMS: p, base.PROBE_BATCH: batch}), {}, jax.random.key(0))[1] for p in params_S]
    values = {name: np.stack([np.asarray(one[name]) for one in found]) for name in found[0]}
    return as_rows(probe.finalize(values, {}, arm="a", step=1, seeds=[1, 2], conditional_on="d", row_ids=ids))


def test_accuracy_is_that_of_a_loop_and_its_null_knows_places_only():
    rng = np.random.default_rng(0)
    target, said = rng.integers(0, V, (6, 4)), rng.integers(0, V, (6, 4))
    mask = np.ones((6, 4), np.float32)
    mask[:, 3], mask[5] = rng.random(6) < 0.5, 0  # the last demonstration has no target
    said[0] = target[0]
    batch = {"target": jnp.asarray(target), "said": jnp.asarray(said), "mask": jnp.asarray(mask)}
    whole, broken = read(batch, [0.0, jnp.nan])
    each = [np.mean([said[i, t] == target[i, t] for t in range(4) if mask[i, t]]) for i in range(5)]
    assert whole["value"] == pytest.approx(np.mean(each)) and whole["n_units"] == 5 and each[0] == 1.0
    best = [max(range(V), key=lambda v, t=t: sum(target[i, t] == v for i in range(6) if mask[i, t])) for t in range(4)]
    null = [np.mean([target[i, t] == best[t] for t in range(4) if mask[i, t]]) for i in range(5)]
    assert whole["null_kind"] == "constant" and whole["null_value"] == pytest.approx(np.mean(null))
    assert broken["status"] == "nan" and "not finite" in broken["status_reason"]
    for row in read(batch | {"mask": jnp.zeros((6, 4))}, [0.0, 0.0]):
        assert (row["status"], row["status_reason"]) == ("absent", "no demonstration has a target token")
