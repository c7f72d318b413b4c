"""The levels of the weight panel: what each reads, its errors against float64, its nulls, and the same bits in both lanes."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.linalg

from jaxpost import linalg
from jaxpost.probes import METRICS, base, weights
from jaxpost.probes.weights import nulls, spectra
from jaxpost.probes.weights import references as weight_references
from jaxpost.probes.weights.panel import LEVELS

KEY = jax.random.key(7)
KS = (4, 6)
INFOS = (
    weights.TensorInfo("l0/q", "q", 0, (160, 120)),
    weights.TensorInfo("l0/down", "down", 0, (120, 160)),
)
DECOMPOSITIONS = re.compile(r"\b(svd|qr|geqrf|householder_product|eigh|cholesky)\[")
SCALE = 2e-3  # of the weights' root mean square
MEASURE = jax.jit(weights.measure, static_argnums=0)


def panel(level):
    return weights.Panel(ks=KS, alphas=(0.5,), null_norms=(1e-4, 1e-3, 3e-3, 1e-2, 0.1), null_draws=3, spectra=level)


def grid(x):
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def make():
    rng = np.random.default_rng(0)
    w0 = {}
    for info in INFOS:
        m, n = info.shape
        q = min(m, n)
        u, v = (np.linalg.qr(rng.normal(size=(size, q)))[0] for size in (m, n))
        s = np.r_[np.linspace(3, 2, 4), np.linspace(1.5, 1.3, 2), np.linspace(1, 0.1, q - 6)]
        w0[info.name] = grid(u * s @ v.T)
    w1 = {n: np.float32(w + SCALE * w.std() * rng.normal(size=w.shape)) for n, w in w0.items()}
    return w0, w1


W0, W1 = make()


@pytest.fixture(scope="module")
def refs():
    return {level: weights.prepare(panel(level), W0, KEY) for level in LEVELS}


@pytest.fixture(scope="module")
def values(refs):
    return {level: MEASURE(panel(level), refs[level], W1) for level in LEVELS}


def rows_of(level_panel, refs, values):
    stacked = jax.tree.map(lambda x: np.asarray(x)[None], values)
    columns = weights.finalize(level_panel, INFOS, refs, stacked, arm="a", step=1, seeds=(0,), conditional_on="b",
                               row_ids=lambda c: [str(i) for i in range(len(c["metric"]))])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.fixture(scope="module")
def rows(refs, values):
    return {level: rows_of(panel(level), refs[level], values[level]) for level in LEVELS}


def key_of(row):
    names = ("metric", "role", "granularity", "tensor", "module_kind", "side", "k", "params", "dtype")
    return (*(row[name] for name in names), row["null_kind"] if row["role"] == "null" else None)


def tensor_rows(rows):
    return [row for row in rows if row["granularity"] == "tensor" and row["role"] == "seed"]


def find(rows, metric, **wanted):
    found = [r for r in tensor_rows(rows) if r["metric"] == f"weight.{metric}" and all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1
    return found[0]


def oracle(row):
    """The row's value in float64, or None for what counts entries; from the same float32 and bf16 matrices."""
    w0 = W0[row["tensor"]].astype(np.float64)
    w1 = (W1[row["tensor"]] if row["dtype"] == "fp32" else grid(W1[row["tensor"]])).astype(np.float64)
    dw, k, metric = w1 - w0, row["k"], row["metric"].removeprefix("weight.")
    (u0, s0, v0), (u1, s1, v1) = (np.linalg.svd(w, full_matrices=False) for w in (w0, w1))
    sd, norm = np.linalg.svd(dw, compute_uv=False), np.linalg.norm(dw)
    p, shift = sd**2 / norm**2, np.linalg.norm(s1 - s0) / np.linalg.norm(s0)
    rho = shift * np.linalg.norm(w0) / norm
    if metric.startswith("rotation.m"):
        a, b = (u0[:, :k], u1[:, :k]) if row["side"] == "left" else (v0[:k].T, v1[:k].T)
        angles = scipy.linalg.subspace_angles(a, b)
        return angles.max() if metric.endswith("max_angle") else np.mean(np.sin(angles) ** 2)
    if metric.endswith("energy") and "principal" in metric:
        left, right = u0[:, :k].T @ dw, dw @ v0[:k].T
        return 1 - np.linalg.norm({"left": left, "right": right, "both": left @ v0[:k].T}[row["side"]]) ** 2 / norm**2
    q = {None: 0, **{f"q={q:g}": q for q in (0.9, 0.99)}}[row["params"] if metric == "rank.energy" else None]
    return {
        "update_norm": lambda: norm,
        "relative_norm": lambda: norm / np.linalg.norm(w0),
        "spectral_shift": lambda: shift,
        "spectral_shift_over_update": lambda: rho,
        "spectral_kappa": lambda: rho**2 * max(w0.shape),
        "rotation.gap": lambda: (s0[k - 1] - s0[k]) / s0[0],
        "rotation.wedin_bound": lambda: sd[0] / (s0[k - 1] - s1[k]),
        "doubly_off_energy": lambda: np.linalg.norm(
            dw - u0[:, :k] @ (u0[:, :k].T @ dw) - (dw - u0[:, :k] @ (u0[:, :k].T @ dw)) @ v0[:k].T @ v0[:k]) ** 2 / norm**2,
        "rank.stable": lambda: 1 / p[0],
        "rank.hill": lambda: 1 / np.mean(np.log(sd[: k - 1] / sd[k - 1])),
        "rank.energy": lambda: 1 + np.argmax(np.cumsum(p) >= q),
        "rank.entropy": lambda: np.exp(-np.sum(p * np.log(p))),
        "rank.entropy_sigma": lambda: np.exp(-np.sum(sd / sd.sum() * np.log(sd / sd.sum()))),
    }.get(metric, lambda: None)()


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_gives_its_metrics_and_no_others(rows, level):
    probe = weights.WeightGeometry(panel(level))
    assert {row["metric"] for row in rows[level]} == set(probe.metrics) <= set(METRICS)
    assert isinstance(probe, base.Probe)
    without = ("none: ", "permuted (bf16 view)", "as weight.update_norm")
    assert all(row["null_kind"] or METRICS[row["metric"]].null.startswith(without) for row in rows[level])


@pytest.mark.parametrize("level", ["top", "exact"])
def test_every_spectral_row_is_within_its_error_of_float64(rows, level):
    ratios = []
    for row in tensor_rows(rows[level]):
        value = oracle(row)
        if value is None or row["status"] in ("absent", "degenerate"):
            continue
        miss = abs(row["value"] - value)
        assert np.isfinite(row["num_err"]) and miss <= row["num_err"], (row, value)
        if row["metric"] != "weight.rank.energy":
            ratios.append(row["num_err"] / max(abs(value), 1e-12))
    assert len(ratios) > 60 and np.median(ratios) < 1e-2  # a bound of use: small beside the value, whatever the machine misses


@pytest.mark.parametrize("level", LEVELS)
def test_counts_are_exact_and_errors_of_masks_are_small(rows, level):
    for row in rows[level]:
        if row["role"] == "seed" and "sparsity" in row["metric"] or row["metric"] == "weight.overlap.low_magnitude":
            assert row["role"] == "null" or row["num_err"] == 0
        if row["metric"].startswith("weight.overlap.p"):
            assert row["role"] == "null" or 0 <= row["num_err"] < 5e-3


def test_levels_agree_where_both_read(rows):
    exact = {key_of(row): row for row in rows["exact"]}
    for level in ("none", "masks", "top"):
        for row in rows[level]:
            other = exact.get(key_of(row))
            if other is None or row["role"] == "null" or not np.isfinite(row["value"]):
                continue
            assert abs(row["value"] - other["value"]) <= row["num_err"] + other["num_err"], row
            if "rotation" not in row["metric"] and "rank" not in row["metric"]:
                np.testing.assert_allclose([row[c] for c in ("null_value", "noise_floor")],
                                           [other[c] for c in ("null_value", "noise_floor")], rtol=1e-5)
    assert {key_of(r) for r in rows["top"]} < set(exact)


def test_level_none_decomposes_nothing(refs):
    w, wide, keys = jnp.asarray(W0["l0/q"])[None], np.zeros(1, bool), KEY[None]
    prepared = jax.make_jaxpr(lambda *x: weight_references._prepare_group(panel("none"), *x))(w, wide, keys)
    measured = jax.make_jaxpr(lambda w: weights.measure(panel("none"), refs["none"], w))(W1)
    for text in (str(prepared), str(measured)):
        assert not DECOMPOSITIONS.search(text)
    assert not DECOMPOSITIONS.search(str(jax.make_jaxpr(lambda w: weights.measure(panel("masks"), refs["masks"], w))(W1)))
    assert DECOMPOSITIONS.search(str(jax.make_jaxpr(lambda w: weights.measure(panel("top"), refs["top"], w))(W1)))


def test_an_exact_fallback_is_said_in_the_rows_it_made(refs, values):
    """The first of the sorted matrices, l0/down, in the fp32 view."""
    marked = values["top"] | {"fell_back": np.asarray([[1, 0], [0, 0]])}
    found = [row for row in rows_of(panel("top"), refs["top"], marked) if row["role"] == "seed"]
    for row in found:
        expected = row["dtype"] == "fp32" and row["tensor"] != "l0/q" and row["module_kind"] != "q"
        expected &= row["metric"].startswith("weight.rotation") and row["metric"] != "weight.rotation.gap"
        assert ("exact SVD" in (row["status_reason"] or "")) == expected, row


def test_the_first_order_null_is_what_draws_read(rows, refs):
    for row in tensor_rows(rows["top"]):
        if row["metric"].startswith("weight.rotation.m"):
            exact = find(rows["exact"], row["metric"][7:], **{c: row[c] for c in ("tensor", "side", "k", "dtype")})
            assert (row["null_kind"], exact["null_kind"]) == ("isotropic_first_order", "isotropic")
            np.testing.assert_allclose(row["null_value"], exact["null_value"], rtol=0.25 if row["dtype"] == "bf16" else 0.03)
    (group,) = refs["top"]
    curve = np.asarray(refs["top"][group]["curves"]["mean_sin2"])[0, :, :, 0, 0, 0]  # [P, D], fp32, left, first k
    np.testing.assert_allclose(curve[0] / curve[1], 1e-2, rtol=1e-3)  # quadratic below the first anchor
    np.testing.assert_allclose(curve, np.asarray(refs["exact"][group]["curves"]["mean_sin2"])[0, :, :, 0, 0, 0], rtol=0.03)


def test_nothing_is_said_of_norms_beyond_the_anchors():
    norm = jnp.asarray([0.0, 1e-4, 0.1, 0.5]).reshape(4, 1, 1)
    read = jnp.asarray([1e-4, 1e-2, 0.5]).reshape(3, 1)
    found = np.asarray(nulls._continued(read, jnp.asarray(nulls.ANCHORS), norm, 2)).ravel()
    np.testing.assert_allclose(found, [0, 1e-6, 0.5, np.nan], rtol=1e-4)


@pytest.mark.parametrize("level", ["none", pytest.param("top", marks=pytest.mark.slow)])
def test_sidecar_and_offline_give_the_same_bits(refs, users_emitters, level):
    probe = weights.WeightGeometry(panel(level))
    together = jax.jit(weights.measure, static_argnums=0)(panel(level), refs[level], W1)
    for t, name in enumerate(sorted(W0)):
        alone = base.Context({base.WEIGHTS0: {name: W0[name]}, base.WEIGHTS: {name: jnp.asarray(W1[name])}})
        state = probe.init(alone, KEY)
        _, found = jax.jit(probe.measure)(alone, state, KEY)
        jax.tree.map(lambda a, b, t=t: np.testing.assert_array_equal(a[0], b[t]),
                     *({n: x for n, x in values.items() if n != "spectra"} for values in (found, together)))


@pytest.mark.slow
def test_a_cheap_panel_reads_dear_references_and_not_the_other_way(refs, values, rows):
    found = MEASURE(panel("top"), refs["exact"], W1)
    read = {key_of(row): row for row in rows_of(panel("top"), refs["exact"], found)}
    assert set(read) == {key_of(row) for row in rows["top"]}
    for row in rows["top"]:
        if row["role"] == "seed" and np.isfinite(row["value"]):
            assert abs(read[key_of(row)]["value"] - row["value"]) <= read[key_of(row)]["num_err"] + row["num_err"]
    bare = rows_of(panel("none"), refs["exact"], MEASURE(panel("none"), refs["exact"], W1))
    assert [r["value"] for r in bare] == pytest.approx([r["value"] for r in rows["none"]], rel=1e-6)
    with pytest.raises(ValueError, match="level 'exact' cannot read references of level 'top'"):
        weights.measure(panel("exact"), refs["top"], W1)


@pytest.mark.parametrize("level", LEVELS)
def test_non_finite_weights_are_rows_with_a_status(refs, level):
    broken = W1 | {"l0/q": W1["l0/q"].copy()}
    broken["l0/q"][3, 5] = np.inf
    found = rows_of(panel(level), refs[level], MEASURE(panel(level), refs[level], broken))
    own = [r for r in found if r["role"] == "seed" and (r["tensor"] == "l0/q" or r["granularity"] == "global")]
    assert own and all(r["status"] == "nan" for r in own if r["metric"] != "weight.rotation.gap")
    assert all(r["status"] != "nan" for r in found if r["tensor"] == "l0/down")


def test_floors_are_what_pure_rounding_reads(rows):
    w0 = jnp.asarray(W0["l0/q"])
    noise = np.asarray(nulls.rounded(w0, jax.random.key(5)), np.float64)[1] - np.asarray(w0, np.float64)
    s = np.linalg.svd(noise, compute_uv=False)
    key = {"tensor": "l0/q", "dtype": "bf16"}
    np.testing.assert_allclose(find(rows["exact"], "rank.stable", **key)["noise_floor"], (s**2).sum() / s[0] ** 2, rtol=0.2)
    np.testing.assert_allclose(find(rows["top"], "rank.stable", **key)["noise_floor"],
                               find(rows["exact"], "rank.stable", **key)["noise_floor"], rtol=0.02)
    s0, s1 = (np.linalg.svd(np.asarray(w0, np.float64) + x, compute_uv=False) for x in (0, noise))
    wedin = find(rows["exact"], "rotation.wedin_bound", k=4, **key)
    np.testing.assert_allclose(wedin["noise_floor"], s[0] / (s0[3] - s1[4]), rtol=0.1)
    gap = find(rows["exact"], "rotation.gap", tensor="l0/q", k=4)
    assert 0 < gap["noise_floor"] < 1e-3 < gap["value"]
    stable = find(rows["exact"], "rank.stable", **key)
    assert stable["status"] == "unresolved" and "rounding of one end" in stable["status_reason"]
    assert find(rows["exact"], "rank.stable", tensor="l0/q", dtype="fp32")["status"] == "ok"


def test_spectra_are_kept_with_their_edge(values):
    probe = weights.WeightGeometry(panel("exact"))
    kept = probe.arrays(jax.tree.map(lambda x: np.asarray(x)[None], values["exact"]))
    for t, info in enumerate(sorted(INFOS, key=lambda info: info.name)):
        dw = W1[info.name].astype(np.float64) - W0[info.name]
        np.testing.assert_allclose(kept[f"spectrum/{info.name}"][0, 0], np.linalg.svd(dw, compute_uv=False), atol=1e-6)
        np.testing.assert_array_equal(kept[f"edge/{info.name}"][0], values["exact"]["edge"][t])
    assert weights.WeightGeometry(panel("top")).arrays(values["top"]) == {}


def shapes_of(shape):
    weight = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    return base.Context({base.WEIGHTS0: weight, base.WEIGHTS: weight})


def test_prices_grow_with_the_level_and_ranks_above_every_matrix_are_refused():
    shape = shapes_of((4096, 4096))
    panels = {level: weights.Panel(spectra=level, rank_draws=0) for level in LEVELS}
    none, masks, top, exact = (weights.WeightGeometry(panel).cost(shape) for panel in panels.values())
    drawn = weights.WeightGeometry(weights.Panel(rank_draws=4)).cost(shape)
    assert drawn.factorisations > 1.2 * exact.factorisations and drawn.streamed > exact.streamed
    assert none.products == none.factorisations == masks.products == masks.factorisations == 0 < none.streamed < masks.streamed
    assert top.factorisations * 10 < exact.factorisations
    once = {level: weights.WeightGeometry(weights.Panel(spectra=level)).cost_of_init(shape) for level in LEVELS}
    assert once["none"].factorisations == 0 < once["none"].streamed
    assert 60 < once["exact"].factorisations / once["masks"].factorisations < 120  # one decomposition, and no null draws
    assert 5 < once["top"].products / top.products < 9  # 15 decompositions against 2
    assert 30 < once["exact"].factorisations / exact.factorisations < 50  # 11 norms x 4 draws x 2 views
    n, b = 4096, 32 + 9  # twelve deep; the update has no frame: its 16 + 9 columns eight deep
    assert top.products > 2 * (2 * 23 * n * n * b + 2 * 15 * n * n * 25)
    with pytest.raises(ValueError, match=r"k=32 is above every matrix; the largest possible is 23"):
        weights.WeightGeometry(weights.Panel(ks=(16, 32))).cost(shapes_of((24, 60)))
    assert weights.WeightGeometry(weights.Panel(ks=(16, 32), spectra="none")).cost(shapes_of((24, 60))).streamed > 0
    with pytest.raises(ValueError, match="none, masks, top, exact; found 'exakt': use 'exact'"):
        weights.Panel(spectra="exakt")


@pytest.mark.slow
def test_frames_certify_what_the_iteration_found():
    w = jnp.asarray(W0["l0/q"])
    assert linalg.krylov_fits(w.shape, 6)
    found = jax.jit(spectra.frame, static_argnums=(1, 2))(w, (4, 6), "top")
    exact = spectra.frame(w, (4, 6), "exact")
    assert not found.fell_back and found.s.shape == (7,) and exact.s.shape == (120,)
    error = float(linalg.subspace_error(found.residual, found.s, 6))
    u, _, vt = np.linalg.svd(np.asarray(w, np.float64), full_matrices=False)
    sides = (found.u_MxR, u[:, :6]), (found.v_NxR, vt[:6].T)
    assert max(scipy.linalg.subspace_angles(np.asarray(a, np.float64), b).max() for a, b in sides) < error < 1e-4
