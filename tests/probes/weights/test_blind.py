"""Blind updates: moments of what bf16 shows of them, and bands that hold them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.stats

from jaxpost import records
from jaxpost.probes import weights
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.weights import blind, blind_moments, visibility
from jaxpost.probes.weights.panel import Panel

LAW_DRAWS = {
    "gaussian": lambda rng, n: rng.standard_normal(n),
    "laplace": lambda rng, n: rng.laplace(size=n) / 2**0.5,
    "t3": lambda rng, n: rng.standard_t(3, n) / 3**0.5,
    "lognormal": lambda rng, n: np.exp(0.25 * rng.standard_normal(n) - 0.0625) * rng.choice([-1, 1], n),
}


def grid(w):
    return np.asarray(w).astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("law", visibility.LAWS)
@pytest.mark.parametrize("size", [3e-5, 1e-3])
def test_moments_of_the_visible_update_against_draws(law, size):
    rng = np.random.default_rng(0)
    w0 = grid(0.02 * rng.standard_normal(200_000))
    d = (size * LAW_DRAWS[law](rng, w0.size)).astype(np.float32)
    seen = grid(w0 + d).astype(np.float64) - w0
    counts = visibility.class_counts(visibility.bf16_codes(jnp.asarray(w0)))
    density, absolute, square, fourth = (float(visibility.expected_density(counts, x))
                                         for x in blind_moments.of_laws(jnp.float32([size]), (law,))[0])
    tail = 0.06 if law == "t3" else 0.02
    np.testing.assert_allclose([density, absolute * size], [np.mean(seen != 0), np.mean(np.abs(seen))], rtol=0.02)
    np.testing.assert_allclose(square * size**2, np.mean(seen**2), rtol=tail)
    own = blind_moments.of_sizes(blind_moments.sizes(jnp.asarray(d)), d.size, jnp.float32(size))
    for x, p in zip(own, (2, 4)):
        found = float(visibility.expected_density(counts, x))
        np.testing.assert_allclose(found, np.mean((seen / size) ** p), rtol=tail * p / 2)
    if law != "t3":
        np.testing.assert_allclose(fourth * size**4, np.mean(seen**4), rtol=0.04)
    sigma = blind_moments.calibrate(counts, jnp.float32(np.mean(np.abs(seen))))[visibility.LAWS.index(law)]
    np.testing.assert_allclose(sigma, size, rtol=0.01)


def test_a_prediction_interval_holds_the_next_draw_and_a_union_every_law():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20_000, 5))
    _, lo, hi = pooling.prediction_band(x[:, :4])
    assert 0.945 < np.mean((lo <= x[:, 4]) & (x[:, 4] <= hi)) < 0.955
    value, lo, hi = pooling.prediction_band(np.full((1, 3), 2.0))
    assert value == lo == hi == 2.0 and np.isnan(pooling.prediction_band(np.ones((1, 1)))[1])
    assert pooling.prediction_band(np.asarray([[0.01, 0.3]]), low=0.0, high=1.0)[1:] == (0.0, 1.0)
    assert pooling.union([(1, 0, 2), (5, 4, 6)]) == (1, 0, 6)


def test_the_table_of_a_base_off_the_grid_counts_what_a_shuffled_update_shows():
    rng = np.random.default_rng(2)
    w0 = (0.02 * rng.standard_normal((200, 100))).astype(np.float32)
    d = (2e-5 * rng.standard_t(3, w0.shape)).astype(np.float32)
    table = blind.tables(jnp.asarray(w0), jnp.asarray(w0 + d))[0]
    counts = visibility.class_counts(visibility.bf16_codes(jnp.asarray(w0)))
    shuffled = [np.count_nonzero(grid(w0 + rng.permutation(d.ravel()).reshape(d.shape)) != grid(w0)) for _ in range(20)]
    expected = float(visibility.expected_density(counts, table)) * w0.size
    assert abs(expected - np.mean(shuffled)) < 4 * np.std(shuffled) / np.sqrt(20) + 1e-3 * expected


def rows_of(panel, bases, tuned):
    infos = [TensorInfo(name, "q", i, w.shape) for i, (name, w) in enumerate(bases.items())]
    refs = weights.prepare(panel, jax.tree.map(jnp.asarray, bases), jax.random.key(1))
    vals = jax.device_get(jax.jit(lambda r, w: weights.measure(panel, r, w))(refs, jax.tree.map(jnp.asarray, tuned)))
    vals = {name: np.asarray(x)[None] for name, x in vals.items() if name != "spectra"}
    columns = weights.finalize(panel, infos, refs, vals, arm="a", step=1, seeds=[0], conditional_on="x",
                               row_ids=records.row_ids)
    return [row for row in records.measurement_table(columns).to_pylist() if row["role"] == "seed"]


@pytest.mark.parametrize("stored", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
@pytest.mark.parametrize("law", ["gaussian", pytest.param("t3", marks=pytest.mark.slow), pytest.param("laplace",
                                                                                                      marks=pytest.mark.slow)])
def test_bands_hold_blind_updates_of_a_base_with_row_scales(stored, law):
    """A Gaussian blind update on such a base read as off-principal when the law of unrounded updates was its null."""
    rng, shape, replicates = np.random.default_rng(3), (48, 32), 40
    w0 = grid(0.02 * rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1))))
    bases = {f"l{i:02d}/q": w0 for i in range(replicates)}
    tuned = {n: (w0 + 1e-4 * LAW_DRAWS[law](rng, w0.size).reshape(shape)).astype(np.float32) for n in bases}
    tuned = tuned if stored == "fp32" else {n: grid(w) for n, w in tuned.items()}
    rows = rows_of(Panel(ks=(4,), alphas=(0.5,), spectra="exact"), bases, tuned)
    inside: dict[str, list] = {}
    for row in rows:
        if row["granularity"] == "tensor" and row["value"] is not None and row["null_lo"] is not None:
            slack = 1e-6 * abs(row["value"])
            name = " ".join(str(row[key]) for key in ("metric", "dtype", "side", "params"))
            inside.setdefault(name, []).append(row["null_lo"] - slack <= row["value"] <= row["null_hi"] + slack)
    lost = {name: np.mean(x) for name, x in inside.items() if scipy.stats.binom.sf(len(x) - sum(x) - 1, len(x), 0.08) < 1e-4}
    assert len(inside) > 30 and not lost, lost


DEGENERATE = {
    "half of the weights zero": lambda w: np.where(np.arange(w.size).reshape(w.shape) % 2, w, 0),
    "constant": lambda w: np.full_like(w, 0.5),
    "two rows": lambda w: w[:2],
    "two columns": lambda w: w[:, :2],
    "tiny": lambda w: w * np.float32(2.0**-60),
}


@pytest.mark.parametrize("kind", [
    kind if kind == "two rows" else pytest.param(kind, marks=pytest.mark.slow) for kind in DEGENERATE])
def test_an_update_of_norm_zero_has_the_identity_as_its_null(kind):
    w0 = grid(DEGENERATE[kind](0.02 * np.random.default_rng(4).standard_normal((12, 8)).astype(np.float32)))
    rows = rows_of(Panel(ks=(2,), alphas=(0.5,), spectra="exact" if min(w0.shape) > 2 else "none"), {"l0/q": w0}, {"l0/q": w0})
    for row in rows:
        if row["metric"].startswith("weight.sparsity") and row["null_value"] is not None:
            assert row["value"] == row["null_value"] == row["null_lo"] == row["null_hi"] == 1.0, row
        elif row["metric"].startswith(("weight.rotation.m", "weight.spectral_shift")) and row["null_value"] is not None:
            assert row["null_value"] == 0.0, row
        elif row["metric"].startswith(("weight.overlap", "weight.rank", "weight.off")):
            assert row["status"] in ("degenerate", "absent"), row
