"""Jaccard over seeds: observed counts by brute force, the blind expectation, pooling, and what too few seeds say."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxpost import stats
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.weights import cross_seed

INFOS = (TensorInfo("l0/q", "q", 0, (60, 40)), TensorInfo("embed", "embed", None, (20, 60)))


def grid(x):
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def make(n_seeds=4, shared=0.0):
    rng = np.random.default_rng(0)
    w0 = {i.name: grid(rng.normal(size=i.shape)) for i in INFOS}
    w1 = {}
    for name, w in w0.items():
        common = rng.random(w.shape) < shared  # entries no seed moves
        w1[name] = np.stack([np.where(common, w, w + 3e-3 * rng.normal(size=w.shape)) for _ in range(n_seeds)]).astype(
            np.float32
        )
    return w0, w1


def rows_of(w0, w1, infos=INFOS):
    found = cross_seed.jaccard(w0, {n: jnp.asarray(w) for n, w in w1.items()})
    columns = cross_seed.finalize_jaccard(
        infos, found, arm="a", step=3, conditional_on="b", row_ids=lambda c: [f"id{i}" for i in range(len(c["metric"]))]
    )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def observed(w0, w1, names):
    seen = [np.concatenate([(grid(w1[n][s]) != w0[n]).ravel() for n in names]) for s in range(len(w1[names[0]]))]
    return np.array([[(a & b).sum() / (a | b).sum() for b in seen] for a in seen]), np.array([s.mean() for s in seen])


@pytest.mark.parametrize(
    ("scope", "names"), [({"tensor": "embed"}, ["embed"]), ({"granularity": "global"}, ["l0/q", "embed"])]
)
def test_observed_jaccard_interval_and_independence(scope, names):
    w0, w1 = make()
    rows = [r for r in rows_of(w0, w1) if all(r[c] == v for c, v in scope.items())]
    estimate, null = sorted(rows, key=lambda r: r["role"])
    pairs, q = observed(w0, w1, names)
    np.testing.assert_allclose(
        [estimate["value"], estimate["ci_lo"], estimate["ci_hi"]], stats.jackknife_pairs(pairs), rtol=1e-6
    )
    independent = np.array([[a * b / (a + b - a * b) for a in q] for b in q])
    np.testing.assert_allclose(null["value"], stats.jackknife_pairs(independent).value, rtol=1e-6)
    assert null["null_kind"] == "independence" and null["of"].startswith("id") and estimate["n_units"] == 4


def test_blind_runs_read_the_magnitude_conditioned_null_and_not_independence():
    rows = rows_of(*make())
    estimate = next(r for r in rows if r["granularity"] == "global" and r["role"] == "estimate")
    null = next(r for r in rows if r["granularity"] == "global" and r["role"] == "null")
    assert estimate["null_kind"] == "magnitude_conditioned"
    assert abs(estimate["value"] - estimate["null_value"]) < 0.02 < estimate["value"] - null["value"] - 0.03


def test_seeds_that_agree_on_what_to_leave_alone_rise_above_the_null():
    estimate = next(r for r in rows_of(*make(shared=0.5)) if r["granularity"] == "body" and r["role"] == "estimate")
    assert estimate["ci_lo"] > estimate["null_value"] + 0.1


def test_the_order_of_seeds_does_not_matter():
    w0, w1 = make()
    turned = rows_of(w0, {n: w[::-1] for n, w in w1.items()})
    for a, b in zip(rows_of(w0, w1), turned, strict=True):
        np.testing.assert_allclose([a["value"], a["null_value"]], [b["value"], b["null_value"]], rtol=1e-6)


def test_bf16_masters_use_a_calibrated_law():
    w0, w1 = make()
    rows = rows_of(w0, {n: grid(w) for n, w in w1.items()})
    estimate = next(r for r in rows if r["granularity"] == "global" and r["role"] == "estimate")
    assert abs(estimate["value"] - estimate["null_value"]) < 0.02
    assert estimate["null_kind"] == "law_range"


def test_too_few_seeds_and_no_change_are_said():
    w0, w1 = make(2)
    two = rows_of(w0, w1)[0]
    assert two["status"] == "ok" and np.isnan(two["ci_lo"])
    one = rows_of(w0, {n: w[:1] for n, w in w1.items()})[0]
    assert one["status"] == "absent" and one["status_reason"] == "one seed has no pair"
    still = rows_of(w0, {n: np.stack([w0[n]] * 2) for n in w0})[0]
    assert still["status"] == "degenerate" and np.isnan(still["value"])
    w1["embed"][1, 0, 0] = np.nan  # one of two seeds
    assert {r["tensor"]: r["status"] for r in rows_of(w0, w1) if r["role"] == "estimate" and r["tensor"]} == {
        "l0/q": "ok",
        "embed": "nan",
    }
    with pytest.raises(ValueError, match="tensors differ: \\['embed'\\]"):
        cross_seed.jaccard({"l0/q": w0["l0/q"]}, w1)
