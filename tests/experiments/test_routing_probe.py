"""Routing of a mixture of experts as an experiment measures it: the route of demonstrations, the probe, its rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import measure as measuring
from experiments.harness import probing
from experiments.harness.base_model import Base
from jaxpost import models, probes, records, tasks, training
from jaxpost.probes import catalog, presets, schedules

from .shelf import Shelf

DENSE = models.TransformerConfig(vocab=tasks.vocab.SIZE, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ff=8)
MODEL = dataclasses.replace(DENSE, experts=4, experts_per_token=2)
TASK = tasks.get("addition", digits=1)
SUITE = training.Suite(MODEL, (("id", TASK, "id"),), 4, "id")
STEPS, SEEDS, ROWS = (1, 2, 4), [7, 8], 8


@pytest.fixture(scope="module")
def start():
    return models.init(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    return probing.demonstration_batch(TASK, ROWS)


def test_the_route_is_what_the_model_does_on_tokens_that_are_no_padding(start, batch):
    routed = probing.demonstration_route(MODEL)(start, batch)
    tokens = np.concatenate([batch.prompt_NxP, batch.completion_NxT], axis=1)[:, :-1]
    P = batch.prompt_NxP.shape[1]
    real = np.concatenate([np.asarray(batch.prompt_NxP) != TASK.pad, np.asarray(batch.mask_NxT) > 0], axis=1)[:, :-1]
    np.testing.assert_array_equal(np.asarray(routed.mask_NxT) > 0, real)
    assert not real.all() and real.any(axis=1).all()
    for n in range(ROWS):  # each row alone, without its padding
        kept = tokens[n][real[n]][None]
        alone = models.apply(MODEL, start, jnp.asarray(kept), valid_BxS=jnp.ones(kept.shape, bool))
        np.testing.assert_allclose(np.asarray(routed.logits_NxLxTxE)[n][:, real[n]], alone.router["logits"][:, 0], atol=2e-5)
    assert P == TASK.prompt_len


def test_loss_and_answer_are_those_of_the_other_probes(start, batch):
    routed = probing.demonstration_route(MODEL)(start, batch)
    loss, solved = (jax.vmap(of(MODEL), (None, 0))(start, batch)
                    for of in (probing.demonstration_loss, probing.demonstration_solved))
    np.testing.assert_allclose(routed.loss_N, loss / (batch.mask_NxT > 0).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(routed.correct_N, solved)


def test_a_mixture_brings_its_route_and_a_dense_model_has_none():
    probe = catalog.get("routing", subject=probing.subject(SUITE), eps=0.3)
    assert probe.top == 2 and probe.eps == 0.3
    dense = training.Suite(DENSE, SUITE.splits, 4, "id")
    with pytest.raises(ValueError, match="'routing' needs 'route', which this experiment does not have"):
        catalog.get("routing", subject=probing.subject(dense))
    assert "routing" not in {probe.id for probe in presets.get(("full",), probing.subject(dense))}


def test_the_probe_runs_as_in_an_experiment(start, batch, tmp_path):
    probe = catalog.get("routing", subject=probing.subject(SUITE), schedule=schedules.At(STEPS), draws=2)
    shelf = Shelf(probe)
    measure = measuring.Measurement(Base(start, "digest", 1, 0.5, 1.0), MODEL, (probe,), batch=batch, bundle=shelf,
                                    directory=tmp_path)
    arm, tables = dataclasses.make_dataclass("Arm", ["name", "probes"])("arm", ()), []
    for step in STEPS:
        moved = [jax.tree.map(lambda x, k=seed + step: x + 0.01 * jax.random.normal(jax.random.key(k), x.shape), start)
                 for seed in SEEDS]
        tables.append(records.measurement_table(measure(arm, step, SEEDS, training.stack(moved), {})))
    measure.finish("arm", SEEDS)
    tables += [records.measurement_table(columns) for columns in shelf.rows.values()]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len({row["row_id"] for row in rows}) == len(rows)
    assert {row["metric"] for row in rows} == set(probe.metrics)
    lacking = {row["metric"] for row in rows if row["status"] != "ok" and row["role"] == "seed" and row["layer"] is None}
    assert lacking <= {"router.specialisation", "pathway.distance", "pathway.distance_normalised", "pathway.distance_by_layer",
                       "pathway.cosine", "pathway.consistency_c_paper"}  # no label; nothing is memorised without training
    estimates = records.summarise(tables[0]).to_pylist()
    assert any(row["role"] == "estimate" and row["metric"] == "pathway.distance" and row["n_units"] == 2 for row in estimates)
    assert shelf.arrays["4/probs_NxLxE"].shape == (2, ROWS, 2, 4)


def test_the_price_of_a_mixture_holds_its_edit_distances(batch):
    probe = catalog.get("routing", subject=probing.subject(SUITE))
    ctx = probes.Context({need: x for need, x in probing.shapes(MODEL, batch).items() if need in probe.needs})
    few, many = probe.cost(ctx), dataclasses.replace(probe, draws=80).cost(ctx)
    assert many.streamed > 2 * few.streamed and many.products == few.products > 0
