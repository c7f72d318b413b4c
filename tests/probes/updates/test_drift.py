"""Distance against time: fits against scipy, planted laws told apart, and what walks and short runs say."""

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from jaxpost.probes import base
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import drift
from tests.probes.trajectories import check_lanes, context, grid, make_base, measured, one, over_time

INFOS = (TensorInfo("l0/q", "q", 0, (12, 8)), TensorInfo("embed", "embed", None, (9, 10)))
PROBE = drift.Drift()
W0 = make_base(INFOS)
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)


def moved(law, steps=STEPS, n_seeds=3, noise=0.0):
    """Weights whose distance from the base follows a law of the step exactly (up to noise), in every matrix."""
    rng = np.random.default_rng(0)
    out = {step: {} for step in steps}
    for name, w in W0.items():
        way = rng.normal(size=(n_seeds, *w.shape))
        way /= np.linalg.norm(way, axis=(1, 2), keepdims=True)
        for step in steps:
            length = law(step) * (1 + noise * rng.normal(size=(n_seeds, 1, 1)))
            out[step][name] = np.float32(w + length * way)
    return out


def logarithm(t):
    return 0.5 + 0.4 * np.log(t)


def value(rows, metric, **wanted):
    return one(rows, f"weight.drift.{metric}", **({"tensor": "l0/q", "seed": 0, "role": "seed"} | wanted))


@pytest.fixture(scope="module")
def log_rows():
    return over_time(PROBE, INFOS, W0, moved(logarithm, noise=0.01))


def test_fits_against_scipy():
    rng = np.random.default_rng(0)
    t = np.array(STEPS, float)
    d = 0.3 * t**0.37 * np.exp(0.05 * rng.normal(size=8))
    line = scipy.stats.linregress(np.log(t), d)
    np.testing.assert_allclose(drift.log_law(t, d), (line.intercept, line.slope), rtol=1e-10)
    np.testing.assert_allclose(drift.r_squared(t, d), line.rvalue**2, rtol=1e-10)
    c, p = scipy.optimize.curve_fit(lambda x, c, p: c * x**p, t, d, p0=(0.3, 0.4))[0]
    np.testing.assert_allclose(drift.power_law(t, d), (c, p), rtol=1e-5)
    error = drift.holdout_errors(t, d, 2)
    early = scipy.stats.linregress(np.log(t[:-2]), d[:-2])
    missed = early.intercept + early.slope * np.log(t[-2:]) - d[-2:]
    np.testing.assert_allclose(error["log"], np.sqrt((missed**2).mean()) / d[-2:].mean(), rtol=1e-10)
    walk = np.linalg.lstsq(np.sqrt(t[:-2, None]), d[:-2], rcond=None)[0][0] * np.sqrt(t[-2:]) - d[-2:]
    np.testing.assert_allclose(error["random_walk"], np.sqrt((walk**2).mean()) / d[-2:].mean(), rtol=1e-10)


def test_a_planted_logarithm_is_found_and_preferred(log_rows):
    exact = over_time(PROBE, INFOS, W0, moved(logarithm))
    np.testing.assert_allclose(value(exact, "log_slope")["value"], 0.4, rtol=1e-5)
    assert value(exact, "log_r2")["value"] > 1 - 1e-9 and value(exact, "log_r2")["step"] == 128
    for row in (value(exact, "log_advantage"), value(log_rows, "log_advantage", seed=1)):
        assert row["value"] > 1 and row["null_kind"] == "equal" and row["null_value"] == 0
    log, power = (value(log_rows, "holdout_error", params=f"held=2;law={law}") for law in ("log", "power"))
    np.testing.assert_allclose(value(log_rows, "log_advantage")["value"], np.log(power["value"] / log["value"]), rtol=1e-10)


@pytest.mark.parametrize("p", [0.25, 0.5, 1.0])
def test_planted_power_laws_are_found_and_preferred(p):
    rows = over_time(PROBE, INFOS, W0, moved(lambda t: 0.05 * t**p))
    np.testing.assert_allclose(value(rows, "power_exponent")["value"], p, atol=1e-5)
    assert value(rows, "log_advantage")["value"] < -1
    if p == 0.5:  # a random walk reads its own null
        for metric in ("log_slope", "log_r2", "power_exponent"):
            row = value(rows, metric)
            np.testing.assert_allclose(row["value"], row["null_value"], rtol=1e-4)
        assert value(rows, "log_r2")["value"] > 0.7  # a good fit of the wrong law
    if p == 1.0:
        row = value(rows, "log_r2", role="null")
        np.testing.assert_allclose(value(rows, "log_r2")["value"], row["value"], rtol=1e-4)
        assert row["null_kind"] == "straight_line"


def test_pools_add_in_quadrature_and_scale_leaves_the_shape_alone(log_rows):
    pooled = over_time(PROBE, INFOS, W0, moved(logarithm))
    slope = one(pooled, "weight.drift.log_slope", granularity="global", seed=0, role="seed")["value"]
    np.testing.assert_allclose(slope, 0.4 * np.sqrt(2), rtol=1e-5)
    double = over_time(PROBE, INFOS, W0, moved(lambda t: 2 * logarithm(t), noise=0.01))
    for metric in ("log_r2", "power_exponent", "log_advantage"):
        np.testing.assert_allclose(value(double, metric)["value"], value(log_rows, metric)["value"], rtol=1e-3)
    np.testing.assert_allclose(value(double, "log_slope")["value"], 2 * value(log_rows, "log_slope")["value"], rtol=1e-4)


def test_only_the_phase_of_constant_learning_rate_is_fitted():
    decayed = moved(lambda t: logarithm(min(t, 64)), steps=(*STEPS, 256, 512))
    whole = over_time(PROBE, INFOS, W0, decayed)
    phase = over_time(drift.Drift(first=2, last=64), INFOS, W0, decayed)
    assert value(phase, "log_r2")["value"] > 1 - 1e-9 > value(whole, "log_r2")["value"] and value(phase, "log_r2")["step"] == 64
    with pytest.raises(ValueError, match="1 <= first < last"):
        drift.Drift(first=0)


def test_sidecar_and_offline_give_the_same_bits():
    check_lanes(PROBE, INFOS, W0, moved(logarithm)[8])


def test_short_runs_still_weights_rounding_and_broken_weights_are_said():
    few = over_time(PROBE, INFOS, W0, moved(logarithm, steps=STEPS[:4]))
    assert value(few, "log_r2")["status"] == "absent" and "needs 6" in value(few, "log_r2")["status_reason"]
    greedy = value(over_time(drift.Drift(holdout=0.9), INFOS, W0, moved(logarithm)), "log_r2")
    assert greedy["status"] == "absent" and "held out" in greedy["status_reason"]
    series = moved(logarithm)
    for step in STEPS:
        series[step]["embed"][:2] = W0["embed"]
        series[step]["embed"][2] = W0["embed"] + 0.01 * series[step]["l0/q"].flat[0]
    series[16]["embed"][2, 0, 0] = np.nan
    rows = over_time(PROBE, INFOS, W0, series)
    assert value(rows, "log_r2", tensor="embed")["status"] == "degenerate"
    assert value(rows, "power_exponent", tensor="embed", seed=2)["status"] == "nan"
    still = value(over_time(PROBE, INFOS, W0, moved(lambda t: 0.5)), "log_r2")
    assert still["status"] == "degenerate" and still["status_reason"] == "the distance is the same at every step"
    rounded = {t: {n: grid(x) for n, x in w.items()} for t, w in moved(lambda t: 1.2e-2 * (1 + np.log(t))).items()}
    row = value(over_time(PROBE, INFOS, W0, rounded), "log_slope")
    assert row["status"] == "unresolved" and row["dtype"] == "bf16" and "below storage rounding" in row["status_reason"]
    exact = drift.fits(np.array(STEPS, float), np.full(8, 2.0), 2)
    assert exact["log_advantage"][0] == 0.0
    assert all(np.isnan(drift.r_squared(np.arange(1.0, n), np.full(n - 1, 0.1))) for n in range(6, 20))


def test_a_float32_matrix_that_starts_late_does_not_bury_the_others_under_rounding_of_bf16():
    series = moved(lambda t: 2e-3 * (1 + np.log(t)))
    series[1]["embed"][:] = W0["embed"]
    rows = over_time(PROBE, INFOS, W0, series)
    assert value(rows, "log_slope", tensor=None, granularity="global")["status"] == "ok"
    assert value(rows, "log_slope", tensor="embed")["status"] == "unresolved"


def test_contract():
    shapes = {i.name: jax.ShapeDtypeStruct(i.shape, "float32") for i in INFOS}
    assert isinstance(PROBE, base.Probe) and set(PROBE.metrics) <= set(base.METRICS)
    assert PROBE.cost(context(shapes, shapes)).streamed > 0
    assert all(len(column) == 0 for column in PROBE.finalize(measured(PROBE, W0, moved(logarithm)[1])[1], {}).values())
