"""Power-law and Marchenko-Pastur fits: samples of known laws, plain float64 oracles, planted spikes, and honest rows."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from jaxpost import linalg
from jaxpost.probes import base
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import tail_fits, tails

KEY = jax.random.key(3)
INFOS = (TensorInfo("l0/q", "q", 0, (80, 60)), TensorInfo("l1/q", "q", 1, (80, 60)), TensorInfo("l0/down", "down", 0, (60, 80)),
         TensorInfo("embed", "embed", None, (40, 12)))
PROBE = tails.SpectrumTails(draws=2, bootstrap=20)


def power_sample(alpha, n, seed=0):
    return (1 - np.random.default_rng(seed).random(n)) ** (-1 / (alpha - 1))


def plain_power_law(x):
    """(alpha, xmin, n, D) by loops over every candidate, from the definition."""
    x = np.sort(x)
    best = None
    for i in range(len(x) - tail_fits.MIN_TAIL + 1):
        tail = x[x >= x[i]]
        alpha = 1 + len(tail) / np.sum(np.log(tail / tail[0]))
        distance = scipy.stats.kstest(tail, lambda v, a=alpha, m=tail[0]: 1 - (v / m) ** (1 - a)).statistic
        if best is None or distance < best[3]:
            best = (alpha, tail[0], len(tail), distance)
    return best


@pytest.mark.parametrize("alpha", [1.8, 2.5, 4.0])
def test_the_exponent_of_a_power_law_sample(alpha):
    found = tail_fits.power_law(power_sample(alpha, 3000))
    assert abs(found.alpha - alpha) < 4 * found.alpha_se and found.count > 300
    np.testing.assert_allclose(found.alpha_se, (found.alpha - 1) / np.sqrt(found.count))
    assert found.ks < 0.05 and found.lognormal_ratio > -1.5


def test_the_fit_against_a_plain_implementation():
    for x in (power_sample(2.2, 150, 1), np.random.default_rng(2).lognormal(size=120),
              np.linalg.svd(np.random.default_rng(3).normal(size=(90, 70)), compute_uv=False) ** 2):
        found = tail_fits.power_law(x)
        np.testing.assert_allclose((found.alpha, found.xmin, found.count, found.ks), plain_power_law(x), rtol=1e-9)


def test_the_goodness_of_fit_against_a_plain_bootstrap():
    """The same random numbers, used in loops from the definition; and its Monte Carlo error is that of repeated bootstraps."""
    x, draws = np.sort(np.random.default_rng(2).lognormal(size=70)), 30
    alpha, xmin, n, ks = plain_power_law(x)
    body, rng, above = [v for v in x if v < xmin], np.random.default_rng(0), 0
    for _ in range(draws):
        where, depth, below = rng.random(70), rng.standard_exponential(70), rng.random(70)
        made = [xmin * np.exp(e / (alpha - 1)) if w < n / 70 else body[int(u * len(body))]
                for w, e, u in zip(where, depth, below, strict=True)]
        above += plain_power_law(np.asarray(made))[3] >= ks
    found = tail_fits.power_law(x, bootstrap=draws)
    assert found.goodness_p == above / draws and 0.1 < found.goodness_p < 0.9
    assert found[:-1] == tail_fits.power_law(x)[:-1] and np.isnan(tail_fits.power_law(x).goodness_p)
    share = np.random.default_rng(1).binomial(draws, 0.3, 20000) / draws
    np.testing.assert_allclose(tail_fits.goodness_error(0.3, draws), share.std(), rtol=0.03)
    assert 0 < tail_fits.goodness_error(0.0, draws) == tail_fits.goodness_error(1.0, draws) < 1 / np.sqrt(draws)


@pytest.mark.slow
def test_p_is_uniform_for_power_laws_and_smaller_for_exponential_and_lognormal_draws():
    def read(make, count, sets):
        return np.asarray([tail_fits.power_law(make(np.random.default_rng(k), count), 99).goodness_p for k in range(sets)])

    true = read(lambda rng, n: (1 - rng.random(n)) ** (-1 / 1.5), 100, 200)
    assert scipy.stats.kstest(true, "uniform").pvalue > 0.01 and 0.04 < (true <= 0.1).mean() < 0.14
    exponential = read(lambda rng, n: 15 + rng.exponential(8, n), 300, 24)
    lognormal = read(lambda rng, n: (x := rng.lognormal(0.3, 2, 40 * n))[x > 15][:n], 800, 24)
    for other in (exponential, lognormal):  # the laws of the source's section 4.2
        assert scipy.stats.mannwhitneyu(other, true, alternative="less").pvalue < 0.01 and (other < 0.1).mean() > 0.25


def test_the_truncated_lognormal_is_its_maximum_likelihood():
    """Against a grid search, and the ratio tells a lognormal tail from a power law."""
    y = np.abs(np.random.default_rng(4).normal(size=800))  # logarithms above xmin of a lognormal cut at its median
    slope = len(y) / y.sum()
    ratio, p = tail_fits._against_lognormal(np.sort(y), slope)
    best = max(scipy.stats.truncnorm.logpdf(y, -m / s, np.inf, loc=m, scale=s).sum()
               for m in np.linspace(-2, 1, 61) for s in np.linspace(0.4, 2, 65))
    exact = scipy.stats.expon.logpdf(y, scale=1 / slope)
    pointwise = scipy.stats.truncnorm.logpdf(y, 0, np.inf)  # the law it was drawn from
    expected = (exact - pointwise).sum() / ((exact - pointwise).std() * np.sqrt(len(y)))
    assert ratio < -4 and p < 1e-4 and abs(ratio - expected) < 1
    assert exact.sum() < best


def test_the_marchenko_pastur_law_against_quadrature():
    for shorter, longer in ((60, 60), (60, 80), (50, 500)):
        nodes, law = tail_fits._law(shorter, longer)
        c = shorter / longer
        low, high = (1 - np.sqrt(c)) ** 2, (1 + np.sqrt(c)) ** 2

        def density(x, c=c, low=low, high=high):
            return np.sqrt(max((high - x) * (x - low), 0)) / (2 * np.pi * c * x)

        for at in (low + 0.2 * (high - low), 1.0, high - 0.1):
            exact = scipy.integrate.quad(density, low, at, limit=400, points=[min(low + 1e-3, at)])[0]
            np.testing.assert_allclose(np.interp(at, nodes, law), exact, atol=2e-5)


@pytest.mark.parametrize("shape", [(300, 200), (150, 400), (200, 200)])
def test_noise_is_marchenko_pastur_and_planted_spikes_are_counted(shape):
    rng = np.random.default_rng(5)
    noise = 0.3 * rng.normal(size=shape)
    found = tail_fits.marchenko_pastur(np.linalg.svd(noise, compute_uv=False) ** 2, shape)
    np.testing.assert_allclose(found.sigma, 0.3, rtol=0.02)
    np.testing.assert_allclose(found.edge, 0.09 * (np.sqrt(shape[0]) + np.sqrt(shape[1])) ** 2, rtol=0.04)
    assert found.spikes <= 1 and 0.93 < found.soft_rank < 1.1 and found.ks < 0.03
    u, v = np.linalg.qr(rng.normal(size=(shape[0], 4)))[0], np.linalg.qr(rng.normal(size=(shape[1], 4)))[0]
    spiked = tail_fits.marchenko_pastur(np.linalg.svd(noise + 4 * np.sqrt(found.edge) * u @ v.T, compute_uv=False) ** 2, shape)
    assert 4 <= spiked.spikes <= 5 and spiked.soft_rank < 0.1
    np.testing.assert_allclose(spiked.sigma, 0.3, rtol=0.03)


@pytest.mark.parametrize("rank", [60, 30, 0])
def test_a_matrix_of_deficient_rank_has_no_bulk(rank):
    rng = np.random.default_rng(8)
    a = rng.normal(size=(100, rank)) @ rng.normal(size=(rank, 100))
    for read in (a, a.astype(np.float32)):
        found = tail_fits.marchenko_pastur(np.linalg.svd(read, compute_uv=False).astype(np.float64) ** 2, (100, 100))
        assert np.isnan(found).all()


def test_scale_changes_only_what_has_a_unit():
    s = np.linalg.svd(np.random.default_rng(6).standard_t(3, size=(90, 70)), compute_uv=False)
    one, other = tails.fits(s, (90, 70), 20)[0], tails.fits(1e-4 * s, (70, 90), 20)[0]
    power = np.asarray([{"tail.xmin": 2, "mp.edge": 2, "mp.sigma": 1}.get(name, 0) for name in tails._FIELDS])
    np.testing.assert_allclose(other, one * 1e-4**power, rtol=2e-3)


def test_numerical_errors_hold_at_the_fitted_xmin():
    rng = np.random.default_rng(7)
    s = np.linalg.svd(rng.normal(size=(120, 100)) * rng.gamma(0.5, size=(120, 1)), compute_uv=False)
    off = s + linalg.ALONE * linalg.VALUE_ERROR * s[0] * rng.uniform(-1, 1, size=s.shape)
    exact, error = tails.fits(s, (120, 100))
    moved, _ = tails.fits(off, (120, 100))
    finite = np.isfinite(error)
    assert list(np.asarray(tails._FIELDS)[~finite]) == ["tail.lognormal_ratio", "tail.lognormal_p", "tail.goodness_p"]
    assert (np.abs(moved - exact)[finite] <= error[finite] + 1e-12).all()
    assert (error[finite] <= 0.01 * np.abs(exact[finite]) + 1e-3).all()


def weights_of(seed=0):
    rng = np.random.default_rng(seed)
    w0 = {i.name: jnp.asarray(rng.normal(size=i.shape), jnp.bfloat16).astype(jnp.float32) for i in INFOS}
    return w0, {n: w + 1e-3 * jnp.asarray(rng.normal(size=w.shape), jnp.float32) for n, w in w0.items()}


def context(w0, w1):
    return base.Context({base.WEIGHTS0: w0, base.WEIGHTS: w1})


def rows_of(w0, tuned):
    state = PROBE.init(context(w0, w0), KEY)
    read = [jax.jit(PROBE.measure)(context(w0, w1), state, KEY)[1] for w1 in tuned]
    values = jax.tree.map(lambda *x: np.stack([np.asarray(leaf) for leaf in x]), *read)
    columns = PROBE.finalize(values, state, infos=INFOS, arm="a", step=1, seeds=range(len(tuned)), conditional_on="b",
                             row_ids=lambda c: [str(i) for i in range(len(c["metric"]))])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], values


def one(rows, metric, **wanted):
    found = [r for r in rows if all(r[k] == v for k, v in ({"metric": metric, "seed": 0} | wanted).items())]
    assert len(found) == 1
    return found[0]


def test_rows_nulls_and_statuses():
    w0, w1 = weights_of()
    still, broken = dict(w0), w1 | {"l0/q": w1["l0/q"].at[0, 0].set(jnp.nan)}
    rows, _ = rows_of(w0, [w1, still, broken])
    assert isinstance(PROBE, base.Probe) and {r["metric"] for r in rows} == set(PROBE.metrics)
    tensor = {"granularity": "tensor", "tensor": "l0/q"}
    dw = np.asarray(w1["l0/q"], np.float64) - np.asarray(w0["l0/q"])
    expected = tails.fits(np.linalg.svd(dw, compute_uv=False), dw.shape, PROBE.bootstrap)[0]
    for name, value in zip(tails._FIELDS, expected, strict=True):
        row = one(rows, f"weight.{name}", params="of=update", **tensor)
        if not name.startswith("tail.lognormal"):
            np.testing.assert_allclose(row["value"], value, atol=row["num_err"], rtol=1e-6, err_msg=name)
        assert row["null_kind"] == "gaussian_matrix" and row["null_lo"] <= row["null_value"] <= row["null_hi"]
    sigma = one(rows, "weight.mp.sigma", params="of=update", **tensor)
    np.testing.assert_allclose(sigma["null_value"], np.linalg.norm(dw) / np.sqrt(dw.size), rtol=0.05)  # at its own norm
    nothing = one(rows, "weight.tail.alpha", params="of=update", seed=1, **tensor)
    assert nothing["status"] == "degenerate" and "nothing to fit" in nothing["status_reason"]
    assert one(rows, "weight.tail.alpha", params="of=weights", seed=1, **tensor)["status"] == "ok"
    assert one(rows, "weight.mp.edge", params="of=weights", seed=2, **tensor)["status"] == "nan"
    small = one(rows, "weight.tail.alpha", params="of=weights", granularity="tensor", tensor="embed")
    assert small["status"] == "absent" and "fewer than 50" in small["status_reason"]
    pool = one(rows, "weight.tail.count", params="of=weights", granularity="global")
    assert "1 of 4 matrices" in pool["status_reason"] and np.isfinite(pool["value"])
    for row in rows:
        assert np.isfinite(row["value"]) == (row["status"] == "ok")


def test_matrices_one_by_one_read_what_they_read_together():
    w0, w1 = weights_of()
    _, values = rows_of(w0, [w1])
    full = PROBE.init(context(w0, w0), KEY)
    for name in w0:
        alone = context({name: w0[name]}, {name: w1[name]})
        state = PROBE.init(alone, KEY)
        (group,) = state
        np.testing.assert_array_equal(state[group]["gaussian"], full[group]["gaussian"])
        _, found = jax.jit(PROBE.measure)(alone, state, KEY)
        chex.assert_trees_all_equal(found[name], jax.tree.map(lambda x: x[0], values[name]))
    shapes = {n: jax.ShapeDtypeStruct(w.shape, jnp.float32) for n, w in w0.items()}
    assert PROBE.cost(context(shapes, shapes)).factorisations > 1e6
    assert 0 < PROBE.cost_of_init(context(shapes, shapes)).factorisations < PROBE.cost(context(shapes, shapes)).factorisations
    assert {key: x.shape for key, x in PROBE.arrays(values).items()}["spectrum/embed"] == (1, 2, 12)
    bare = tails.SpectrumTails(draws=2, bootstrap=0)
    assert set(PROBE.metrics) - set(bare.metrics) == {"weight.tail.goodness_p"}
    assert bare.cost(context(shapes, shapes)).streamed < PROBE.cost(context(shapes, shapes)).streamed
    with pytest.raises(ValueError, match="sidecar or offline"):
        tails.SpectrumTails(lane="inline")
