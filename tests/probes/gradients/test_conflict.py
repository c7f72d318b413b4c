"""Conflict of two losses against numpy: cosine, brute-force jackknife, split halves, planted angles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import records
from jaxpost.probes.gradients import conflict
from jaxpost.probes.gradients import sums as gradient_sums


def linear(params, example):
    """Gradient = the example itself."""
    return sum(jnp.vdot(params["layers"][name], example[name]) for name in params["layers"])


def case(cosine, noise, m_a=16, m_b=12, n=30, seed=0):
    rng = np.random.default_rng(seed)
    u, v = np.linalg.qr(rng.normal(size=(2 * n, 2)))[0].T
    a = u + noise * rng.normal(size=(m_a, 2 * n))
    b = cosine * u + np.sqrt(1 - cosine**2) * v + noise * rng.normal(size=(m_b, 2 * n))
    return a, b


def trees(x, dtype=np.float64):
    return {"w": jnp.asarray(x.reshape(len(x), 2, -1), dtype)}


def values_of(a, b):
    params = {"layers": {"w": jnp.zeros((2, a.shape[1] // 2))}}
    return params, conflict.measure(linear, linear, params, trees(a), trees(b), 2)


def rows_of(params, values, names=("sft", "rl")):
    columns = conflict.finalize(jax.tree.map(lambda x: np.asarray(x)[None], values), names=names,
                                infos=gradient_sums.inventory(params), arm="a", step=0, seeds=(0,), conditional_on="base",
                                row_ids=records.row_ids, dtype=None)
    return records.measurement_table(columns).to_pylist()


def cos(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def row(rows, metric, **wanted):
    wanted = {"granularity": "global"} | wanted
    found = [r for r in rows if r["metric"] == f"gradient.conflict.{metric}" and all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("planted", [-0.8, 0.0, 0.6, 1.0])
def test_cosine_interval_and_split_halves_are_those_of_numpy(planted):
    with jax.enable_x64(True):
        a, b = case(planted, 0.05)
        rows = rows_of(*values_of(a, b))
    A, B = a.mean(0), b.mean(0)
    found = row(rows, "cosine")
    assert found["value"] == pytest.approx(cos(A, B), rel=1e-11, abs=1e-13)
    variance = 0.0
    for x, other in ((a, B), (b, A)):
        d = np.asarray([cos(np.delete(x, i, 0).mean(0), other) for i in range(len(x))])
        variance += (len(x) - 1) / len(x) * ((d - d.mean()) ** 2).sum()
    half = 2.2009851600916384 * np.sqrt(variance)  # t, 11 degrees of freedom
    assert found["ci_lo"] == pytest.approx(max(cos(A, B) - half, -1), rel=1e-9)
    assert found["null_kind"] == "isotropic" and found["null_hi"] == pytest.approx(1.959964 / np.sqrt(60))
    halves = [cos(x[::2].mean(0), x[1::2].mean(0)) for x in (a, b)]
    for name, value in zip(("sft", "rl"), halves, strict=True):
        assert row(rows, "split_half", params=f"loss={name}")["value"] == pytest.approx(value, rel=1e-11)
    parts = [x[h::2] for x in (a, b) for h in (0, 1)]

    def top(parts):
        r = [2 * c / (1 + c) for c in (cos(parts[0].mean(0), parts[1].mean(0)), cos(parts[2].mean(0), parts[3].mean(0)))]
        return np.sqrt(r[0] * r[1])

    def spread(statistic, which):
        variance = 0.0
        for k in which:
            d = np.asarray([statistic([np.delete(p, i, 0) if j == k else p for j, p in enumerate(parts)])
                            for i in range(len(parts[k]))])
            variance += (len(d) - 1) / len(d) * ((d - d.mean()) ** 2).sum()
        return np.sqrt(variance)

    t7, t5 = 2.364624251592785, 2.570581835636314
    first = row(rows, "split_half", params="loss=sft")
    error = t7 * spread(lambda p: cos(p[0].mean(0), p[1].mean(0)), (0, 1))
    assert first["ci_lo"] == pytest.approx(max(halves[0] - error, -1), rel=1e-9)
    error, found = t5 * spread(top, range(4)), row(rows, "ceiling")
    assert found["ci_lo"] == pytest.approx(max(top(parts) - error, -1), rel=1e-9) and found["ci_hi"] <= 1
    reliability = [2 * h / (1 + h) for h in halves]
    assert row(rows, "ceiling")["value"] == pytest.approx(np.sqrt(reliability[0] * reliability[1]), rel=1e-11)


def test_parallel_expectations_reach_the_ceiling_and_no_more():
    """200 samples: the mean cosine of parallel gradients in noise is that of the ceiling, far below 1."""
    values, ceilings = [], []
    for seed in range(200):
        a, b = case(1.0, 0.3, 16, 16, seed=seed)
        values.append(cos(a.mean(0), b.mean(0)))
        halves = [max(cos(x[::2].mean(0), x[1::2].mean(0)), 1e-3) for x in (a, b)]
        ceilings.append(np.prod([np.sqrt(2 * h / (1 + h)) for h in halves]))
    assert np.mean(values) < 0.85 and abs(np.mean(values) - np.mean(ceilings)) < 0.03


def test_per_layer_rows_see_a_conflict_that_the_whole_hides():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        shared, noise = rng.normal(size=60), 0.01
        a = shared + noise * rng.normal(size=(8, 60))
        b = shared * np.repeat([1.0, -1.0], 30) + noise * rng.normal(size=(8, 60))
        rows = rows_of(*values_of(a, b))
    layers = [row(rows, "cosine", granularity="layer", layer=i)["value"] for i in range(2)]
    assert layers[0] > 0.99 and layers[1] < -0.99


def test_no_gradient_has_no_cosine_and_noise_no_ceiling():
    with jax.enable_x64(True):
        a, b = case(0.0, 1.0)
        rows = rows_of(*values_of(np.zeros_like(a), b))
        opposed = np.concatenate([b[:1], -b[:1]] * 4)
        ceiling = row(rows_of(*values_of(opposed[:8], opposed[:8])), "ceiling")
        a[3, 1] = np.nan
        broken = rows_of(*values_of(a, b))
    found = row(rows, "cosine")
    assert found["status"] == "degenerate" and found["value"] is None and found["status_reason"]
    for name in ("cosine", "ceiling"):
        found = row(broken, name)
        assert (found["status"], found["status_reason"], found["value"]) == ("nan", "a mean gradient is not finite", None)
    assert ceiling["status"] == "absent" and "too small" in ceiling["status_reason"]


def test_an_odd_number_of_examples_is_refused_by_name():
    a, b = case(0.5, 0.1, m_a=4, m_b=5)
    with pytest.raises(ValueError, match="examples_b has 5 examples, which have no two equal halves; nearest valid: 4"):
        conflict.measure(linear, linear, {"layers": {"w": jnp.zeros((2, 30))}}, trees(a, np.float32), trees(b, np.float32), 1)
