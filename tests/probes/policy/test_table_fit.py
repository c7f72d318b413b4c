"""Loss and accuracy over whole tables: plain numpy, nulls of constant answers, NaN with a status."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.probes import base, schedules
from jaxpost.probes.policy import table_fit as fit
from tests.probes.trajectories import as_rows, ids, one

ANSWERS = {"train": np.array([0, 2, 2, 1]), "id": np.array([1, 1, 0])}


def probe():
    tables = tuple(fit.Table(split, lambda params, inputs, split=split: params[split], answer)
                   for split, answer in ANSWERS.items())
    return fit.TableFit(tables, schedules.At((0, 4)))


def logits(seed):
    rng = np.random.default_rng(seed)
    return {split: (3 * rng.normal(size=(len(answer), 3))).astype(np.float32) for split, answer in ANSWERS.items()}


def rows_of(*given):
    made = probe()
    state = made.init(None, None)
    run = jax.jit(lambda p: jax.lax.map(lambda q: made.measure(base.Context({base.PARAMS: q}), state, None)[1], p))
    values = jax.device_get(run(jax.tree.map(lambda *x: jnp.stack(x), *given)))
    return as_rows(made.finalize(values, {}, arm="a", step=4, seeds=list(range(len(given))), conditional_on=None, row_ids=ids))


def test_loss_and_accuracy_are_those_of_numpy_with_constant_answers_as_null():
    given = [logits(0), logits(1)]
    rows = rows_of(*given)
    for seed, x in enumerate(given):
        for split, answer in ANSWERS.items():
            wide = x[split].astype(np.float64)
            want = -np.log(np.exp(wide)[np.arange(len(answer)), answer] / np.exp(wide).sum(1))
            loss, accuracy = (one(rows, name, split=split, seed=seed) for name in ("fit.loss", "fit.accuracy"))
            assert loss["value"] == pytest.approx(want.mean(), rel=1e-10)
            assert accuracy["value"] == (wide.argmax(1) == answer).mean()
    assert one(rows, "fit.accuracy", split="train", seed=0)["null_value"] == 0.5
    share = np.array([1, 2, 1]) / 4
    assert one(rows, "fit.loss", split="train", seed=0)["null_value"] == pytest.approx(-(share * np.log(share)).sum())
    assert {row["null_kind"] for row in rows} == {"constant"} and {row["granularity"] for row in rows} == {"experiment"}


def test_the_floor_bounds_the_rounding_of_logits():
    x = logits(2)
    near = {split: v + np.random.default_rng(3).choice([-0.5, 0.5], v.shape) * np.spacing(np.abs(v)) for split, v in x.items()}
    for split, answer in ANSWERS.items():
        (loss, floor), _ = fit.fit(x[split].astype(np.float64), answer)
        moved = fit.fit(near[split], answer)[0][0]
        assert 0 < abs(moved - loss) <= floor < 1e-5


def test_broken_logits_have_rows_with_a_status_and_order_of_rows_does_not_matter():
    bad = logits(4)
    bad["id"][0, 0] = np.inf
    rows = rows_of(bad)
    for metric in ("fit.loss", "fit.accuracy"):
        assert one(rows, metric, split="id")["status"] == "nan" and one(rows, metric, split="id")["value"] is None
        assert one(rows, metric, split="train")["status"] == "ok"
    order = np.array([2, 0, 3, 1])
    x = logits(5)["train"].astype(np.float64)
    assert fit.fit(x, ANSWERS["train"])[0][0] == pytest.approx(fit.fit(x[order], ANSWERS["train"][order])[0][0])


def test_the_contract():
    made = probe()
    assert isinstance(made, base.Probe) and made.schedule(4) and not made.schedule(5)
    hash(made)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), logits(0))
    assert made.cost(base.Context({base.PARAMS: shapes})).held >= 0
