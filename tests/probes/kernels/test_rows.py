"""Rows of the kernel probe: statistics by hand, a lazy model below its floor and a rich one above, errors of sketches."""

import functools
import importlib.util
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpost import probes, records
from jaxpost.probes import catalog, toy
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.kernels import Answer, statistics
from jaxpost.probes.kernels.probe import NeuralTangentKernel


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


networks = _beside("networks")
ROWS = 16
WIDE = {"rows": ROWS, "hidden": 64, "inputs": 8}


def read(w, row):
    return Answer(row["scale"] * networks.read(w, row).output_O, row["y"])


EXACT = NeuralTangentKernel(read, rows=ROWS)


@functools.partial(jax.jit, static_argnums=0)
def measured(probe, ctx):
    return probe.measure(ctx, probe.init(ctx, jax.random.key(0)), jax.random.key(1))[1]


def rows_of(probe, params0, params, batch, scale=1.0):
    """{metric: row} of outputs multiplied by `scale`."""
    batch = batch | {"scale": np.full(ROWS, scale)}
    narrow = [jax.tree.map(lambda x: np.asarray(x, np.float32), x) for x in (params0, params, batch)]
    ctx = probes.Context(dict(zip((probes.PARAMS0, probes.PARAMS, probes.PROBE_BATCH), narrow, strict=True)))
    values = measured(probe, ctx)
    columns = probe.finalize(jax.tree.map(lambda x: np.asarray(x)[None], values), {}, infos=gradient_sums.inventory(params),
                             arm="a", step=3, seeds=(0,), conditional_on="base", row_ids=records.row_ids)
    return {row["metric"]: row for row in records.measurement_table(columns).to_pylist()}


def step(params, size, seed=5):
    rng = np.random.default_rng(seed)
    return {name: x + size * rng.normal(size=x.shape) for name, x in params.items()}


@pytest.fixture(scope="module")
def rich():
    """(initial parameters, later ones, batch, rows) of a step that changes the features."""
    params, batch = networks.case(**WIDE)
    later = step(params, 0.3)
    return params, later, batch, rows_of(EXACT, params, later, batch)


def test_values_are_those_of_numpy_within_their_errors(rich):
    params, later, batch, found = rich
    k0, k = (networks.kernel(p, batch, "sum") for p in (params, later))
    h = np.eye(ROWS) - 1 / ROWS
    labels, c, c0 = batch["y"] @ batch["y"].T, h @ k @ h, h @ k0 @ h
    p = np.linalg.eigvalsh(k) / np.trace(k)
    f0, f = (np.tanh(batch["x"] @ w["w"].T) @ w["v"].T for w in (params, later))
    slope = 1 - np.tanh(batch["x"] @ params["w"].T) ** 2
    line = np.tanh(batch["x"] @ params["w"].T) @ (later["v"] - params["v"]).T
    line = line + (slope * (batch["x"] @ (later["w"] - params["w"]).T)) @ params["v"].T
    wanted = {"kernel.drift": np.linalg.norm(k - k0) / np.linalg.norm(k0),
              "kernel.alignment.initial": (c * c0).sum() / np.linalg.norm(c) / np.linalg.norm(c0),
              "kernel.alignment.labels": (c * labels).sum() / np.linalg.norm(c) / np.linalg.norm(h @ labels @ h),
              "kernel.effective_rank": np.exp(-(p * np.log(p)).sum()), "kernel.trace": np.trace(k) / ROWS,
              "kernel.linearised": np.linalg.norm(f - f0 - line) / np.linalg.norm(f - f0)}
    assert set(found) == set(wanted)
    for metric, value in wanted.items():
        row = found[metric]
        assert abs(row["value"] - value) <= row["num_err"] < 0.01 * value and row["status"] == "ok", metric
        assert row["ci_lo"] < row["value"] < row["ci_hi"] and (row["unit"], row["n_units"]) == ("example", ROWS)
        assert row["null_lo"] <= row["null_value"] <= row["null_hi"] and row["noise_floor"] > 0


def test_a_lazy_model_stays_below_the_floor_and_a_rich_one_does_not(rich):
    params, _, batch, above = rich
    scale = 1e4  # outputs move as far with a step that is as much smaller
    below = rows_of(EXACT, params, step(params, 0.3 / scale), batch, scale)
    assert below["kernel.drift"]["value"] < below["kernel.drift"]["noise_floor"]
    assert above["kernel.drift"]["value"] > 5 * above["kernel.drift"]["noise_floor"]
    assert below["kernel.linearised"]["status"] == "unresolved"  # what is left of it is the rounding of large outputs
    assert below["kernel.linearised"]["value"] < 0.01 < 0.1 < above["kernel.linearised"]["value"]
    assert below["kernel.alignment.initial"]["value"] > 1 - 1e-6 > above["kernel.alignment.initial"]["value"]


def test_where_nothing_moved_a_distance_is_not_resolved(rich):
    params, _, batch, _ = rich
    found = rows_of(EXACT, params, params, batch)
    assert found["kernel.drift"]["status"] == "unresolved" and found["kernel.linearised"]["status"] == "degenerate"


def test_constant_labels_are_degenerate_and_broken_kernels_not_finite(rich):
    params, later, batch, _ = rich
    alike = rows_of(EXACT, params, later, batch | {"y": np.full_like(batch["y"], 0.1)})
    assert (alike["kernel.alignment.labels"]["status"], alike["kernel.drift"]["status"]) == ("degenerate", "ok")
    broken = rows_of(EXACT, params, {name: np.full_like(x, np.nan) for name, x in later.items()}, batch)
    assert {row["status"] for row in broken.values()} == {"nan"}


def test_sketched_kernels_are_off_by_no_more_than_they_say(rich):
    params, later, batch, full = rich
    probe = NeuralTangentKernel(read, rows=ROWS, held=0.0, sketches=8, width=128)
    found = rows_of(probe, params, later, batch)
    for metric, row in found.items():
        assert abs(row["value"] - full[metric]["value"]) <= row["num_err"] + full[metric]["num_err"], metric
    assert found["kernel.drift"]["params"] == "outputs=sum;projection=8x128"
    assert full["kernel.drift"]["num_err"] < 1e-3 * found["kernel.drift"]["num_err"] < found["kernel.drift"]["value"]


def test_the_null_is_of_the_update_with_its_entries_permuted(rich):
    """An update that is constant in each matrix is its own permutation; the noisy one is not."""
    params, _, batch, noisy = rich
    found = rows_of(EXACT, params, {name: x + 0.1 for name, x in params.items()}, batch)
    for metric, row in found.items():
        if metric != "kernel.alignment.labels":
            assert row["null_kind"] == "shuffled" and row["null_hi"] - row["null_lo"] < 4e-5 * row["value"], metric
            assert abs(row["null_value"] - row["value"]) <= row["num_err"], metric
    drift = noisy["kernel.drift"]
    assert abs(drift["null_value"] - drift["value"]) > 100 * drift["num_err"]


def test_the_null_of_labels_is_the_mean_over_all_orders():
    rng = np.random.default_rng(3)
    k, y = (x @ x.T for x in (rng.normal(size=(5, 4)), rng.normal(size=(5, 2))))
    every = [statistics.alignment(k, y[np.ix_(order, order)]) for order in map(list, itertools.permutations(range(5)))]
    mean, lo, hi = statistics.permuted_alignment(k, y)
    assert mean == pytest.approx(np.mean(every), abs=1e-14)
    assert np.min(every) <= lo < np.quantile(every, 0.1) and np.quantile(every, 0.9) < hi <= np.max(every)
    for n in range(2, 12):  # a constant matrix has no alignment, whatever rounding leaves of it
        alike, x = np.full((n, n), 0.1), np.diag(np.arange(n) + 1.0)
        assert np.isnan([statistics.alignment(x, alike), *statistics.permuted_alignment(x, alike)]).all()
    assert statistics.alignment(1e-20 * k, 1e20 * y) == pytest.approx(statistics.alignment(k, y), rel=1e-12)


def test_a_policy_takes_every_setting_by_name():
    found = catalog.get("kernel", subject=toy.SUBJECT, outputs="each", rows=8, held=0.0, sketches=3, width=16, null_draws=5,
                        microbatch=2)
    assert (found.outputs, found.rows, found.held, found.sketches, found.width, found.null_draws, found.microbatch) == (
        "each", 8, 0.0, 3, 16, 5, 2)


@pytest.mark.parametrize(("settings", "expected"), [
    ({"outputs": "all"}, "one of sum, each; found 'all'"),
    ({"sketches": 1}, "sketches >= 2"),
    ({"lane": "inline"}, "lane sidecar"),
])
def test_settings_that_do_not_fit_are_refused(settings, expected):
    with pytest.raises(ValueError, match=expected):
        NeuralTangentKernel(networks.read, **settings)
