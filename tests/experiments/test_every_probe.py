"""Every probe of the catalogue goes the one way of an experiment: references, measurement of two seeds, rows, trajectories."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.harness import measure as measuring
from experiments.harness import probing
from experiments.harness.base_model import Base
from jaxpost import models, probes, records, tasks, training
from jaxpost.probes import catalog, schedules
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.updates import ever_changed

from .shelf import Shelf

MODEL = models.TransformerConfig(vocab=tasks.vocab.SIZE, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ff=16)
STEPS, SEEDS = (1, 2, 4, 8), [7, 8]
SETTINGS = {"weight": {"ks": (4,), "alphas": (0.5,)}, "weight.rank_one": {"k": 4}, "gradient": {"draws": 1},
            "gradient_gram": {"examples": 4}, "gate.curvature": {"k": 4}}
DEAR = {"weight", "weight.consensus", "weight.rank_one", "weight.fixed_spectrum", "gate.leash", "gate.ulp", "distance",
        "interpolation", "gradient", "gate.curvature", "weight.stripes"}
CHOSEN = [pytest.param(name, marks=pytest.mark.slow if name in DEAR else ())
          for name, row in catalog.CATALOG.items() if row.make is not None and not row.by_name]


@pytest.fixture(scope="module")
def given():
    """(base, suite, probe batch, {step: masters of two seeds on a noisy path})."""
    task = tasks.get("addition", digits=1)
    suite = training.Suite(MODEL, tuple((split, task, split) for split in ("id", "ood/carry")), 4, "id")
    params = training.bf16_grid(models.init(MODEL, jax.random.key(0)))

    def moved(step, seed):
        keys = iter(jax.random.split(jax.random.fold_in(jax.random.key(seed), step), 99))
        return jax.tree.map(lambda x: x + 1e-3 * step**0.5 * jax.random.normal(next(keys), x.shape), params)

    path = {step: training.stack([moved(step, seed) for seed in SEEDS]) for step in STEPS}
    return Base(params, "digest", 1, 0.5, 1.0), suite, probing.demonstration_batch(task, 8), path


def history(params_S):
    """What three train steps of two chunks of four rows report."""
    tensors = len(gradient_sums.inventory(jax.tree.map(lambda x: x[0], params_S)))
    steps = np.ones((len(SEEDS), 3))
    sums = steps[..., None] * (1 + np.arange(tensors))
    return {"loss_tokens": steps, "effective_rows": steps, "advantage_covariance": 0.1 * np.arange(6.0).reshape(2, 3),
            "chunk_s1_T": 3 * sums, "chunk_s2_T": 2 * sums, "chunks": 2 * steps, "chunk_rows": 4 * steps}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_probe_of_the_catalogue_runs_as_in_an_experiment(given, tmp_path, name):
    base, suite, batch, path = given
    probe = catalog.get(name, subject=probing.subject(suite), schedule=schedules.At(STEPS), **SETTINGS.get(name, {}))
    shelf = Shelf(probe)
    measure = measuring.Measurement(base, MODEL, (probe,), batch=batch, bundle=shelf, directory=tmp_path)
    arm = dataclasses.make_dataclass("Arm", ["name", "probes"])("arm", ())
    found = set()
    for step, params_S in path.items():
        carried_S = jax.vmap(ever_changed.start)(params_S)
        columns = measure(arm, step, SEEDS, params_S, history(params_S), carried_S)
        table = records.measurement_table(columns)
        found |= set(table["metric"].to_pylist())
        assert set(table["status"].to_pylist()) <= {"ok", "absent", "degenerate", "unresolved"}, name
    measure.finish("arm", SEEDS)
    for columns in shelf.rows.values():
        found |= set(records.measurement_table(columns)["metric"].to_pylist())
    assert found == set(probe.metrics)
    assert found <= set(probes.METRICS)
    assert all(np.shape(x)[0] == len(SEEDS) for x in shelf.arrays.values())
