"""One pass over the files gives the rows of the weight panel: counts exactly, norms to float32."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxpost import records
from jaxpost.compare import compare, comparison, elementwise, kernel, rows
from jaxpost.compare.tally import Tally
from jaxpost.probes import weights
from jaxpost.probes.weights import visibility
from jaxpost.probes.weights.panel import Panel
from tests.compare import checkpoints

PANEL = Panel(ks=(16,), alphas=(0.5, 0.3), spectra="none")
TOLERANCE = {"value": 3e-6, "num_err": 3e-6, "null_value": 3e-6, "null_lo": 3e-6, "null_hi": 3e-6, "noise_floor": 3e-6}


def probe_rows(table, prepared, base, tuned):
    """What `WeightGeometry` at the same level says about the same matrices."""
    panel = prepared.job.panel
    w0, w1 = ({name: jnp.asarray(x) for name, x in side.items()} for side in (base, tuned))
    refs = weights.prepare(panel, w0, jax.random.key(0))
    vals = jax.jit(lambda r, w: weights.measure(panel, r, w))(refs, w1)
    pairs = [p for p in prepared.pairing.pairs if p.reason is None]
    columns = weights.finalize(panel, rows.infos_of(pairs), jax.tree.map(np.asarray, refs),
                               jax.tree.map(lambda x: np.asarray(x)[None], vals), arm="tuned", step=None, seeds=[0],
                               conditional_on=table["conditional_on"][0].as_py(), row_ids=rows.ids)
    return records.measurement_table(rows.of_a_pair(columns))


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def both(request, tmp_path_factory):
    """(rows of compare, rows of the probe) by identity, of a tuned side stored in bf16 or fp32."""
    path = tmp_path_factory.mktemp("element")
    tensors = checkpoints.base_tensors()
    tensors["model.layers.0.mlp.up_proj.weight"][:, :9] = 0.0  # ties of magnitude: row-major order decides
    tuned = checkpoints.moved(tensors)
    if request.param == "bf16":
        tuned = {name: checkpoints.on_grid(x) for name, x in tuned.items()}
    checkpoints.write(path / "base", tensors)
    checkpoints.write(path / "tuned", tuned, np.float32 if request.param == "fp32" else checkpoints.BF16)
    table = compare(path / "base", path / "tuned", level="element").rows
    prepared = comparison.prepare(path / "base", [path / "tuned"], comparison.Settings(level="element"))
    wanted = probe_rows(table, prepared, checkpoints.ours(tensors), checkpoints.ours(tuned))
    return tuple({row["row_id"]: row for row in found.to_pylist()} for found in (table, wanted))


def test_the_rows_are_those_of_the_probe(both):
    found, wanted = both
    assert found.keys() == wanted.keys()
    for key, row in wanted.items():
        for name in ("status", "status_reason", "null_kind", "params", "dtype", "unit", "n_units", "role"):
            assert found[key][name] == row[name], (name, row)
        assert row["unit"] == "pair" and row["n_units"] == 1 and row["ci_lo"] is None


def test_counts_are_equal_and_norms_agree(both):
    found, wanted = both
    for key, row in wanted.items():
        norm = row["metric"] in ("weight.update_norm", "weight.relative_norm")
        for name, tolerance in TOLERANCE.items():
            if norm and name in ("null_value", "null_lo", "null_hi", "noise_floor"):
                continue
            if row["metric"].startswith("weight.sparsity") and name == "value" and row["role"] == "estimate":
                assert found[key][name] == row[name], row
            elif row[name] is None:
                assert found[key][name] is None, (name, row)
            else:
                np.testing.assert_allclose(found[key][name], row[name], rtol=tolerance, atol=1e-9, err_msg=str(row))


def test_the_drawn_null_of_the_norm_agrees_as_far_as_draws_do(both):
    found, wanted = both
    for key, row in wanted.items():
        if row["metric"] == "weight.relative_norm" and row["dtype"] == "bf16":
            known = row["null_value"] is not None  # a bf16 run's blind law is matched to its size
            assert found[key]["null_value"] == (pytest.approx(row["null_value"], rel=0.03) if known else None)
            assert found[key]["noise_floor"] == pytest.approx(row["noise_floor"], rel=0.05)


SPECIAL = np.asarray([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-39, -1e-39, 3e38, 1.0, 1.0078125], ml_dtypes.bfloat16)


def pieces(seed, broken):
    rng = np.random.default_rng(seed)
    w0 = (0.05 * rng.standard_normal(20_000)).astype(ml_dtypes.bfloat16)
    w1 = (w0.astype(np.float32) + 2e-4 * rng.standard_normal(20_000).astype(np.float32)).astype(ml_dtypes.bfloat16)
    if broken:
        w0[:100], w1[:100] = (x.ravel() for x in np.meshgrid(SPECIAL, SPECIAL))
    return w0, w1


def counted(w0, w1):
    tally = Tally(PANEL)
    for part in np.array_split(np.arange(len(w0)), 3):
        tally.add(w0[part[0]:part[-1] + 1], w1[part[0]:part[-1] + 1])
    return tally


FIELDS = ("count_C", "seen_C", "within_abs_A", "within_rel_E", "same_fp32", "nonfinite", "nonfinite_base", "largest")


@pytest.mark.parametrize("broken", [False, True])
def test_the_tally_counts_what_numpy_counts(monkeypatch, broken):
    monkeypatch.setattr(kernel, "compiled", lambda: None)
    w0, w1 = pieces(0, broken)
    tally = counted(w0, w1)
    a, b = (x.astype(np.float32) for x in (w0, w1))
    with np.errstate(invalid="ignore", over="ignore"):
        same = (a == b) | (w0.view(np.uint16) == w1.view(np.uint16))
        within = [np.count_nonzero(np.abs(b - a) <= np.float32(tol)) for tol in PANEL.abs_tols]
        norm2 = np.sum((b - a).astype(np.float64) ** 2)
    assert tally.same_fp32 == np.count_nonzero(same) == tally.size - tally.seen_C.sum()
    assert (tally.nonfinite, tally.nonfinite_base) == tuple(np.count_nonzero(~np.isfinite(x)) for x in (b, a))
    assert tally.largest == np.abs(b[np.isfinite(b)]).max()
    if not broken:
        assert tally.within_abs_A.tolist() == within
        np.testing.assert_allclose([tally.update2, tally.tuned2], [norm2, np.sum(b.astype(np.float64) ** 2)], rtol=1e-12)


@pytest.mark.parametrize("broken", [False, True])
def test_the_kernel_counts_as_numpy_does(monkeypatch, broken):
    """Interpreted where Numba is not installed, else compiled."""
    w0, w1 = (x[:1500] for x in pieces(1, broken))
    monkeypatch.setattr(kernel, "compiled", lambda: None)
    plain = counted(w0, w1)
    monkeypatch.undo()
    loop = kernel.compiled() or kernel._count
    monkeypatch.setattr(kernel, "compiled", lambda: loop)
    with np.errstate(invalid="ignore", over="ignore"):
        fast = counted(w0, w1)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name), err_msg=name)
    if not broken:
        for name in ("update2", "visible2", "tuned2", "ulp2"):
            np.testing.assert_allclose(getattr(fast, name), getattr(plain, name), rtol=1e-12)


def test_values_stored_in_float32_on_the_grid_read_as_bf16_does():
    w0, w1 = pieces(2, False)
    plain, wide = counted(w0, w1), counted(w0.astype(np.float32), w1.astype(np.float32))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(wide, name), getattr(plain, name), err_msg=name)
    np.testing.assert_allclose(wide.ulp2, plain.ulp2, rtol=1e-12)
    assert wide.off_grid == wide.off_grid_base == 0


def test_entries_that_bf16_does_not_hold_are_counted_on_their_own_side():
    rng = np.random.default_rng(8)
    w0, w1 = (rng.normal(size=300).astype(np.float32) for _ in range(2))
    for w, keep in ((w0, 40), (w1, 7)):
        w[:keep] = w[:keep].astype(ml_dtypes.bfloat16)
    tally = counted(w0, w1)
    assert (tally.off_grid_base, tally.off_grid) == tuple(np.count_nonzero(w.astype(ml_dtypes.bfloat16) != w) for w in (w0, w1))
    assert tally.off_grid_base < tally.off_grid


def test_the_rounding_of_an_entry_is_uniform_over_the_ulps_of_both_sides():
    rng = np.random.default_rng(9)
    w0, w1 = (rng.normal(size=300).astype(ml_dtypes.bfloat16) for _ in range(2))
    ulps = np.stack([np.spacing(w.astype(np.float32)).astype(np.float64) * 2.0**16 for w in (w0, w1)])
    wanted = (rng.uniform(-0.5, 0.5, (4000, *ulps.shape)) * ulps).var()  # of both ends, drawn
    np.testing.assert_allclose(elementwise.rounding_variance(counted(w0, w1)), [wanted, wanted], rtol=0.02)


def test_low_masks_take_ties_in_row_major_order_of_ours():
    rng = np.random.default_rng(3)
    w0 = checkpoints.on_grid(rng.choice([0.0, 0.5, -0.5, 1.0, 2.0], (12, 20)))  # ours: [inputs, outputs]
    w1 = checkpoints.on_grid(w0 + rng.choice([0.0, 0.25], (12, 20)))
    stored = [np.ascontiguousarray(x.T).astype(ml_dtypes.bfloat16).reshape(-1) for x in (w0, w1)]
    tally = counted(*stored)
    limits = elementwise.thresholds(PANEL, tally)
    cut = elementwise.ties(limits, lambda: (iter([stored]), True), (12, 20))
    masks = elementwise.low_masks(tally, limits, cut)
    for i, alpha in enumerate(PANEL.alphas):
        size = int(np.ceil(alpha * w0.size))
        inside = np.argsort(np.abs(w0).ravel(), kind="stable")[:size]
        assert masks.size[i] == size and masks.overlap[i] == np.count_nonzero((w0 != w1).ravel()[inside])
        assert masks.class_counts[i].sum() == size


def test_updates_of_a_float32_side_are_counted_also_where_bf16_holds_them():
    rng = np.random.default_rng(7)
    w0 = checkpoints.on_grid(0.05 * rng.standard_normal(400))
    w1 = checkpoints.on_grid(w0 * np.where(rng.random(400) < 0.3, 1.0625, 1.0))
    tally = Tally(Panel(spectra="none"))
    tally.add(w0, w1)
    np.testing.assert_array_equal(tally.histogram, np.asarray(visibility.update_histogram(jnp.asarray(w1 - w0))))
    assert tally.histogram.sum() == np.count_nonzero(w1 != w0)
