"""The weight panel end to end: rows against float64 oracles, statuses, pooling, and the same bits in both lanes."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from jaxpost.probes import METRICS, base, weights
from jaxpost.probes.rows.inventory import shape_groups

PANEL = weights.Panel(ks=(4, 13), alphas=(0.5, 0.3), null_norms=(1e-4, 1e-3, 1e-2, 0.1, 1.0), null_draws=2)
INFOS = (
    weights.TensorInfo("l1/q", "q", 1, (24, 16)),
    weights.TensorInfo("l0/q", "q", 0, (24, 16)),
    weights.TensorInfo("l0/down", "down", 0, (16, 24)),
    weights.TensorInfo("embed", "embed", None, (12, 24)),
)
SCALES = (3e-4, 3e-3)  # of the two seeds, relative to the weights' standard deviation
KEY = jax.random.key(7)


def grid(x):
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def make(seed=0):
    rng = np.random.default_rng(seed)
    w0 = {info.name: grid(rng.normal(size=info.shape)) for info in INFOS}
    w1 = {n: np.stack([np.float32(w + s * rng.normal(size=w.shape)) for s in SCALES]) for n, w in w0.items()}
    return w0, w1


def ids(columns):
    return [f"id{i}" for i in range(len(columns["metric"]))]


W0, W1 = make()
MEASURE = jax.jit(weights.measure, static_argnums=0)


@pytest.fixture(scope="module")
def refs():
    return weights.prepare(PANEL, W0, KEY)


def rows_of(refs, w1, panel=PANEL, seeds=(0, 1)):
    per_seed = [MEASURE(panel, refs, {n: jnp.asarray(w[i]) for n, w in w1.items()}) for i in range(len(seeds))]
    vals = jax.tree.map(lambda *x: np.stack([np.asarray(leaf) for leaf in x]), *per_seed)
    columns = weights.finalize(
        panel, INFOS, refs, vals, arm="rlvr", step=8, seeds=seeds, conditional_on="b0", row_ids=ids
    )
    n = len(columns["metric"])
    assert all(len(column) == n for column in columns.values())
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.fixture(scope="module")
def rows(refs):
    return rows_of(refs, W1)


def one(rows, metric, seed=1, **wanted):
    wanted = {"role": "seed", "metric": f"weight.{metric}", "seed": seed, "params": None} | wanted
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    assert len(found) == 1, f"{len(found)} rows for {wanted}"
    return found[0]


def at(name):
    return {"granularity": "tensor", "tensor": name}


@pytest.mark.parametrize("name", [info.name for info in INFOS])
def test_every_tensor_statistic_against_float64(rows, name):
    w0, w1 = W0[name].astype(np.float64), W1[name][1].astype(np.float64)
    views = {"fp32": w1, "bf16": grid(w1).astype(np.float64)}
    u0, s0, v0 = np.linalg.svd(w0, full_matrices=False)
    for dtype, read in views.items():
        dw = read - w0
        u1, s1, v1 = np.linalg.svd(read, full_matrices=False)
        sd = np.linalg.svd(dw, compute_uv=False)
        norm, norm0 = np.linalg.norm(dw), np.linalg.norm(w0)
        shift = np.linalg.norm(s1 - s0) / norm0
        energy = sd**2 / (sd**2).sum()
        captured = np.linalg.norm(u0[:, :4].T @ dw @ v0[:4].T) ** 2 / norm**2
        expected = {
            ("update_norm",): norm,
            ("relative_norm",): norm / norm0,
            ("spectral_shift",): shift,
            ("spectral_shift_over_update",): shift * norm0 / norm,
            ("spectral_kappa",): (shift * norm0 / norm) ** 2 * max(w0.shape),
            ("rotation.max_angle", "left"): scipy.linalg.subspace_angles(u0[:, :4], u1[:, :4]).max(),
            ("rotation.max_angle", "right"): scipy.linalg.subspace_angles(v0[:4].T, v1[:4].T).max(),
            ("rotation.wedin_bound", "both"): sd[0] / (s0[3] - s1[4]),
            ("off_principal_energy", "both"): 1 - captured,
            ("off_principal_energy", "left"): 1 - np.linalg.norm(u0[:, :4].T @ dw) ** 2 / norm**2,
            ("off_principal_energy", "right"): 1 - np.linalg.norm(dw @ v0[:4].T) ** 2 / norm**2,
            ("rank.stable",): (sd**2).sum() / sd[0] ** 2,
            ("rank.entropy",): np.exp(scipy.stats.entropy(energy)),
            ("rank.hill",): 1 / np.mean(np.log(sd[:3] / sd[3])),
        }
        for (metric, *side), value in expected.items():
            key = {"side": side[0], "k": 4} if side else {}
            row = one(rows, metric, **at(name), dtype=dtype, **key)
            np.testing.assert_allclose(row["value"], value, rtol=5e-3, err_msg=f"{metric} {side} {dtype}")
            assert row["n_units"] == 1 and row["conditional_on"] == "b0" and row["step"] == 8
    gap = one(rows, "rotation.gap", **at(name), k=4)
    np.testing.assert_allclose(gap["value"], (s0[3] - s0[4]) / s0[0], rtol=1e-3)


@pytest.mark.parametrize("name", [info.name for info in INFOS])
def test_counts_and_masks_against_numpy(rows, name):
    w0, w1 = W0[name], W1[name][1]
    same = grid(w0) == grid(w1)
    size = np.abs(w1 - w0)
    expected = {
        ("sparsity.bf16", None): same.mean(),
        ("sparsity.fp32", None): (w0 == w1).mean(),
        ("sparsity.abs", "tol=0.001"): (size <= np.float32(1e-3)).mean(),
        ("sparsity.rel", "eta=0.001"): (size <= np.float32(1e-3) * np.maximum(np.abs(w0), np.abs(w1))).mean(),
    }
    for (metric, params), value in expected.items():
        np.testing.assert_allclose(one(rows, metric, **at(name), params=params)["value"], value, rtol=1e-6)
    u, s, vt = np.linalg.svd(w0.astype(np.float64), full_matrices=False)
    score = np.abs(u[:, :4] * s[:4] @ vt[:4])
    for alpha in (0.5, 0.3):
        kept = int(np.ceil(round(alpha * w0.size, 6)))
        low, principal = (np.zeros(w0.size, bool) for _ in range(2))
        low[np.argsort(np.abs(w0).ravel(), kind="stable")[:kept]] = True
        principal[np.argsort(-score.ravel(), kind="stable")[:kept]] = True
        visible = ~same.ravel()
        for mask, inside, k in (
            ("low_magnitude", low, None),
            ("principal", principal, 4),
            ("principal_not_low", principal & ~low, 4),
        ):
            row = one(rows, f"overlap.{mask}", **at(name), k=k, params=f"alpha={alpha:g}")
            np.testing.assert_allclose(row["value"], (visible & inside).sum() / visible.sum(), rtol=1e-6)
            density = one(rows, f"overlap.{mask}", **at(name), k=k, params=f"alpha={alpha:g}", role="null")
            np.testing.assert_allclose(density["value"], inside.mean(), rtol=1e-6)


def test_closed_form_nulls_are_permutations_of_the_update(rows):
    rng = np.random.default_rng(1)
    for seed in (0, 1):
        row = one(rows, "sparsity.bf16", seed=seed, granularity="global")
        counts = []
        for _ in range(400):
            moved = {n: w0 + rng.permutation((W1[n][seed] - w0).ravel()).reshape(w0.shape) for n, w0 in W0.items()}
            counts.append(sum((grid(w) == W0[n]).sum() for n, w in moved.items()) / sum(w.size for w in W0.values()))
        assert row["null_kind"] == "halfulp_permuted"
        np.testing.assert_allclose(row["null_value"], np.mean(counts), atol=4 * np.std(counts) / 20 + 1e-4)
        inside = np.mean((np.array(counts) >= row["null_lo"]) & (np.array(counts) <= row["null_hi"]))
        assert inside > 0.93


def test_pools_are_what_the_registry_says(rows):
    tensors = {name: {"granularity": "tensor", "tensor": name} for name in W0}
    body = ["l1/q", "l0/q", "l0/down"]
    same = {n: one(rows, "sparsity.bf16", **t)["value"] for n, t in tensors.items()}
    sizes = {n: w.size for n, w in W0.items()}
    pooled = sum(same[n] * sizes[n] for n in W0) / sum(sizes.values())
    np.testing.assert_allclose(one(rows, "sparsity.bf16", granularity="global")["value"], pooled)
    by_tensor = one(rows, "sparsity.bf16", granularity="global", params="weighting=by_tensor")
    np.testing.assert_allclose(by_tensor["value"], np.mean(list(same.values())))
    norms = {n: one(rows, "update_norm", **t, dtype="fp32")["value"] for n, t in tensors.items()}
    np.testing.assert_allclose(
        one(rows, "update_norm", granularity="body", dtype="fp32")["value"], np.sqrt(sum(norms[n] ** 2 for n in body))
    )
    rho = [one(rows, "spectral_shift_over_update", **tensors[n], dtype="fp32")["value"] for n in ("l0/q", "l1/q")]
    kind = one(rows, "spectral_shift_over_update", granularity="kind", module_kind="q", dtype="fp32")
    np.testing.assert_allclose(kind["value"], np.mean(rho))
    off = {n: one(rows, "off_principal_energy", **tensors[n], dtype="fp32", side="both", k=4)["value"] for n in body}
    np.testing.assert_allclose(
        one(rows, "off_principal_energy", granularity="body", dtype="fp32", side="both", k=4)["value"],
        sum(off[n] * norms[n] ** 2 for n in body) / sum(norms[n] ** 2 for n in body),
    )


def test_every_row_has_a_registered_metric_a_status_and_finite_numbers_or_none(rows):
    reported = {row["metric"] for row in rows}
    assert reported == set(weights.WeightGeometry(PANEL).metrics) <= set(METRICS)
    for row in rows:
        assert np.isfinite(row["value"]) or row["status"] in ("nan", "absent", "degenerate"), row
        assert (row["status"] == "ok") or row["status_reason"], row
    keys = [
        tuple(
            str(row[c])
            for c in (
                "metric",
                "role",
                "seed",
                "granularity",
                "tensor",
                "module_kind",
                "side",
                "k",
                "params",
                "dtype",
                "null_kind" if row["role"] == "null" else "role",
            )
        )
        for row in rows
    ]
    assert len(set(keys)) == len(keys)
    seed_ids = {f"id{i}" for i, row in enumerate(rows) if row["role"] == "seed"}
    assert {row["of"] for row in rows if row["role"] == "null"} <= seed_ids


def test_null_rows_point_at_the_row_they_belong_to(rows):
    for row in rows:
        if row["role"] == "null":
            owner = rows[int(row["of"][2:])]
            assert all(owner[c] == row[c] for c in ("metric", "seed", "granularity", "tensor", "k", "params", "dtype"))


def test_isotropic_updates_read_their_null(rows):
    """Seed 1 is an isotropic update: every value must be near its null, far from extreme ones."""
    for row in rows:
        if (
            row["role"] == "seed"
            and row["granularity"] == "global"
            and row["seed"] == 1
            and np.isfinite(row["null_value"])
        ):
            tolerance = 0.8 if "rotation" in row["metric"] else 0.35
            assert abs(row["value"] - row["null_value"]) <= tolerance * abs(row["null_value"]) + 0.05, row


def test_a_k_that_does_not_fit_is_absent_with_its_reason_and_left_out_of_pools(rows):
    row = one(rows, "rotation.mean_sin2", **at("embed"), side="left", k=13, dtype="fp32")
    assert row["status"] == "absent" and "k=13 needs min(m, n) > k" in row["status_reason"]
    pool = one(rows, "off_principal_energy", granularity="global", side="both", k=13, dtype="fp32")
    assert pool["status"] == "ok" and "1 of 4 matrices" in pool["status_reason"]
    assert one(rows, "overlap.principal", **at("embed"), k=13, params="alpha=0.5")["status"] == "absent"
    assert one(rows, "overlap.low_magnitude", **at("embed"), params="alpha=0.5")["status"] == "ok"


def test_small_updates_are_below_the_bf16_floor_and_say_so(rows):
    row = one(rows, "rotation.mean_sin2", seed=0, granularity="body", side="left", k=4, dtype="bf16")
    assert row["status"] == "unresolved" and "noise floor" in row["status_reason"] and np.isfinite(row["value"])
    assert one(rows, "rotation.mean_sin2", seed=0, granularity="body", side="left", k=4, dtype="fp32")["status"] == "ok"


def test_no_update_is_degenerate_and_nan_is_a_row(refs):
    w1 = {n: w.copy() for n, w in W1.items()}
    for name in W0:
        w1[name][0] = W0[name]
    w1["l0/q"][1, 3, 5] = np.nan
    rows = rows_of(refs, w1)
    for metric, key in (
        ("overlap.low_magnitude", {"params": "alpha=0.5"}),
        ("rank.stable", {"dtype": "fp32"}),
        ("spectral_kappa", {"dtype": "bf16"}),
        ("off_principal_energy", {"dtype": "fp32", "k": 4, "side": "both"}),
    ):
        row = one(rows, metric, seed=0, granularity="global", **key)
        assert row["status"] == "degenerate" and np.isnan(row["value"]), row
    assert one(rows, "sparsity.bf16", seed=0, granularity="global")["value"] == 1
    assert one(rows, "update_norm", seed=0, granularity="global", dtype="fp32")["value"] == 0
    for metric in ("update_norm", "spectral_shift", "rank.stable"):
        for scope in (at("l0/q"), {"granularity": "global"}):
            row = one(rows, metric, **scope, dtype="fp32")
            assert row["status"] == "nan" and np.isnan(row["value"]) and "non-finite" in row["status_reason"]
        assert one(rows, metric, **at("l1/q"), dtype="fp32")["status"] == "ok"
    broken = one(rows, "sparsity.bf16", **at("l0/q"))
    changed = grid(W0["l0/q"]) != grid(w1["l0/q"][1])  # NaN counts as changed and stays in n
    assert broken["status"] == "nan" and np.isclose(broken["value"], 1 - changed.mean())


@pytest.mark.parametrize("stored", [lambda w: w, grid], ids=["fp32", "bf16"])
def test_a_matrix_that_did_not_move_leaves_the_nulls_of_its_pools(refs, stored):
    w1 = {n: stored(w) for n, w in W1.items()} | {"embed": np.stack([W0["embed"]] * 2)}
    rows = rows_of(refs, w1)
    for metric, key in (("spectral_shift", {}), ("rotation.mean_sin2", {"k": 4, "side": "left"})):
        whole, still = (one(rows, metric, dtype="bf16", **scope, **key) for scope in ({"granularity": "global"}, at("embed")))
        body = one(rows, metric, dtype="bf16", granularity="body", **key)
        assert still["status"] in ("ok", "unresolved") and still["null_value"] == 0 and still["value"] < 1e-6
        assert whole["null_value"] == pytest.approx(body["null_value"] * 3 / 4) and whole["null_value"] > 0


def test_bf16_masters_get_calibrated_nulls(refs):
    rows = rows_of(refs, {n: grid(w) for n, w in W1.items()})
    row = one(rows, "overlap.low_magnitude", granularity="global", params="alpha=0.5")
    assert row["null_kind"] == "law_range" and row["null_lo"] <= row["null_value"] <= row["null_hi"]
    reference = one(rows_of(refs, W1), "overlap.low_magnitude", granularity="global", params="alpha=0.5")
    np.testing.assert_allclose(row["null_value"], reference["null_value"], rtol=0.1)
    assert one(rows, "sparsity.bf16", granularity="global")["null_kind"] == "law_range"
    norm = one(rows, "update_norm", granularity="global", dtype="bf16")  # what the law is matched to has no null
    assert np.isnan(norm["null_value"]) and "no calibrated null" in norm["status_reason"]


def test_the_primary_panel_reads_the_full_panels_references(refs, rows):
    primary = rows_of(refs, W1, PANEL.primary())
    assert len(primary) < len(rows)
    for row in primary:
        if row["role"] == "seed" and row["granularity"] == "global":
            key = {c: row[c] for c in ("granularity", "side", "k", "params", "dtype")}
            full = one(rows, row["metric"][len("weight.") :], seed=row["seed"], **key)
            # blind updates are drawn for the ranks of the full panel only
            undrawn = row["metric"].startswith("weight.rank") and row["status"] != "degenerate"
            assert not undrawn or np.isnan(row["null_value"]) and "no calibrated null" in row["status_reason"]
            for name in ("value", "noise_floor") if undrawn else ("value", "null_value", "noise_floor"):
                np.testing.assert_allclose(row[name], full[name], rtol=1e-4, err_msg=row["metric"])


@pytest.mark.slow  # of a cheaper panel: test_levels.py
def test_sidecar_and_offline_give_the_same_bits(refs, users_emitters):
    """All matrices in one program, against each streamed alone through the probe's own contract."""
    current = {n: jnp.asarray(w[1]) for n, w in W1.items()}
    probe = weights.WeightGeometry(PANEL)
    everything = jax.jit(weights.measure, static_argnums=0)(PANEL, refs, current)
    for name in ("embed", "l1/q"):  # a wide one and one of a group of two
        i = sorted(W0).index(name)
        alone = base.Context({base.WEIGHTS0: {name: W0[name]}, base.WEIGHTS: {name: current[name]}})
        state = probe.init(alone, KEY)
        _, values = jax.jit(probe.measure)(alone, state, KEY)
        spectrum = {name: values.pop("spectra")[name]}
        np.testing.assert_array_equal(spectrum[name], everything["spectra"][name])
        for statistic, value in values.items():
            np.testing.assert_array_equal(value[0], everything[statistic][i], err_msg=f"{name} {statistic}")


def test_it_is_a_probe_of_two_lanes():
    probe = weights.WeightGeometry(PANEL)
    assert isinstance(probe, base.Probe) and hash(probe) == hash(weights.WeightGeometry(PANEL))
    with pytest.raises(ValueError, match="sidecar or offline"):
        weights.WeightGeometry(PANEL, lane="inline")


@pytest.mark.slow  # on one device and on eight, up to rounding: test_layouts.py
def test_an_ensemble_member_is_the_single_run_bit_for_bit(refs, users_emitters):
    stacked = {n: jnp.asarray(w) for n, w in W1.items()}
    mapped = jax.jit(lambda refs, w: jax.lax.map(lambda one: weights.measure(PANEL, refs, one), w))(refs, stacked)
    single = jax.jit(weights.measure, static_argnums=0)(PANEL, refs, {n: w[1] for n, w in stacked.items()})
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), mapped, single)


def test_a_matrix_and_its_transpose_read_the_same_with_sides_exchanged(rows):
    flipped = [weights.TensorInfo(i.name, i.kind, i.layer, i.shape[::-1]) for i in INFOS]
    w0 = {n: np.ascontiguousarray(w.T) for n, w in W0.items()}
    refs = weights.prepare(PANEL, w0, KEY)
    vals = MEASURE(PANEL, refs, {n: jnp.asarray(w[1].T) for n, w in W1.items()})
    columns = weights.finalize(
        PANEL,
        flipped,
        refs,
        jax.tree.map(lambda x: np.asarray(x)[None], vals),
        arm="rlvr",
        step=8,
        seeds=(1,),
        conditional_on="b0",
        row_ids=ids,
    )
    turned = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for metric in ("rotation.max_angle", "off_principal_energy"):
        for a, b in (("left", "right"), ("right", "left")):
            for name in W0:
                key = at(name) | {"k": 4, "dtype": "fp32"}
                x, y = one(rows, metric, **key, side=a), one(turned, metric, **key, side=b)
                np.testing.assert_allclose(x["value"], y["value"], rtol=1e-3)
                if metric == "off_principal_energy":
                    np.testing.assert_allclose(x["null_value"], y["null_value"])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (np.ones(3, np.float32), "'x' has shape \\(3,\\)"),
        (np.full((4, 3), 1.001, np.float32), "100.0% of its entries are off the bf16 grid"),
        (np.full((4, 3), np.nan, np.float32), "not finite"),
        (np.zeros((4, 3), np.float32), "all zero"),
        (np.ones((4, 3), ml_dtypes.bfloat16), "is bfloat16; expected float32"),
    ],
)
def test_prepare_refuses_a_base_it_cannot_measure_against(broken, message):
    with pytest.raises(ValueError, match=message):
        weights.prepare(PANEL, {"x": broken}, KEY)


def test_mismatches_are_named(refs):
    with pytest.raises(ValueError, match="do not match the references"):
        weights.measure(PANEL, refs, {"l0/q": jnp.ones((24, 16))})
    vals = jax.tree.map(
        lambda x: np.asarray(x)[None], MEASURE(PANEL, refs, {n: jnp.asarray(w[0]) for n, w in W1.items()})
    )
    with pytest.raises(ValueError, match=r"\[seeds, tensors\] = \(1, 4\); expected \(2, 4\)"):
        weights.finalize(PANEL, INFOS, refs, vals, arm="a", step=0, seeds=(0, 1), conditional_on="b", row_ids=ids)
    with pytest.raises(ValueError, match="references do not match infos"):
        weights.finalize(PANEL, INFOS[:2], refs, vals, arm="a", step=0, seeds=(0,), conditional_on="b", row_ids=ids)
    with pytest.raises(ValueError, match="every k >= 2"):
        weights.Panel(ks=(1,))


def test_groups_join_a_shape_with_its_transpose():
    assert shape_groups({i.name: i.shape for i in INFOS}) == {"24x12": ("embed",), "24x16": ("l0/down", "l0/q", "l1/q")}
