"""Paths with known barriers: quadratic, concave and two-basin losses; planted FalseFalseTrue rows and temperatures."""

import importlib.util
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxpost import probes, records, stats
from jaxpost.probes.policy import example_rows, interpolation

_SPEC = importlib.util.spec_from_file_location("softmax_policy", Path(__file__).parents[1] / "softmax_policy.py")
policy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(policy)
KEY = jax.random.key(0)
M = 24
ROWS = {"x": np.random.default_rng(0).normal(size=(M, 3)).astype(np.float32),
        "scale": np.random.default_rng(1).uniform(0.5, 1.5, size=M).astype(np.float32)}
START, END = {"w": np.asarray([0.5, -1.0, 2.0], np.float32)}, {"w": np.asarray([1.5, 1.0, 2.0], np.float32)}
DISTANCE2 = 5.0


def quadratic(params, row):
    return 0.5 * jnp.sum((params["w"] - row["x"]) ** 2)


def concave(params, row):
    return -row["scale"] * 0.5 * jnp.sum(params["w"] ** 2)


def basins(params, row):
    """Minima of height 0 at w = -1 and w = 1, and scale between them."""
    return row["scale"] * (params["w"][0] ** 2 - 1) ** 2


def measured(probe, params0, params1, rows=ROWS):
    ctx = probes.Context({probes.PARAMS0: params0, probes.PARAMS: params1, probes.PROBE_BATCH: rows})
    return jax.device_get(jax.jit(probe.measure)(ctx, probe.init(ctx, KEY), KEY)[1])


def rows_of(probe, *values):
    columns = probe.finalize(jax.tree.map(lambda *x: np.stack(x), *values), {}, arm="a", step=3, seeds=range(len(values)),
                             conditional_on="base", row_ids=records.row_ids)
    return records.measurement_table(columns).to_pylist()


def one(rows, metric, **wanted):
    wanted = {"role": "seed", "seed": 0} | wanted
    found = [r for r in rows if r["metric"] == f"interpolation.{metric}" and all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (metric, wanted, len(found))
    return found[0]


def test_a_quadratic_loss_has_its_closed_form_curve_and_no_barrier():
    probe = interpolation.Interpolation(quadratic)
    rows = rows_of(probe, measured(probe, START, END))
    for alpha in np.linspace(0, 1, 11):
        w = START["w"].astype(np.float64) + alpha * (END["w"] - START["w"])
        each = 0.5 * ((w - ROWS["x"].astype(np.float64)) ** 2).sum(1)
        row = one(rows, "loss", params=f"alpha={alpha:g}")
        assert row["value"] == pytest.approx(each.mean(), rel=1e-6)
        assert row["value"] - row["null_value"] == pytest.approx(-alpha * (1 - alpha) * DISTANCE2 / 2, abs=2e-6)
        assert row["ci_hi"] - row["value"] == pytest.approx(2.06865761 * each.std(ddof=1) / np.sqrt(M), rel=1e-5)
        assert row["noise_floor"] == pytest.approx(0, abs=1e-6)  # paired: the excess is the same on every row
    barrier = one(rows, "barrier")
    assert (barrier["value"], barrier["status"], barrier["null_value"], barrier["unit"]) == (0.0, "ok", 0.0, "example")
    where = one(rows, "barrier_at")
    assert where["status"] == "absent" and "above the chord" in where["status_reason"]


def test_a_concave_loss_has_the_closed_form_barrier_in_the_middle_with_its_paired_error():
    probe = interpolation.Interpolation(concave, microbatch=3)
    barrier = one(rows := rows_of(probe, measured(probe, START, END)), "barrier")
    scale = ROWS["scale"].astype(np.float64)
    assert barrier["value"] == pytest.approx(scale.mean() * DISTANCE2 / 8, rel=1e-5)
    assert one(rows, "barrier_at")["value"] == 0.5
    assert barrier["noise_floor"] == pytest.approx(scale.std(ddof=1) / np.sqrt(M) * DISTANCE2 / 8, rel=1e-5)
    flips = one(rows, "barrier", role="null", null_kind="sign_flips")
    assert flips["null_hi"] < 0.6 * barrier["value"] and 0 < flips["value"] < flips["null_hi"]


@pytest.mark.parametrize("start, where", [(-1.0, 0.5), (-1.4, 0.6)])
def test_two_basins_have_the_planted_barrier(start, where):
    probe = interpolation.Interpolation(basins)
    ends = [{"w": np.asarray([w], np.float32)} for w in (start, 1.0)]
    barrier = one(rows := rows_of(probe, measured(probe, *ends)), "barrier")
    scale, alphas = ROWS["scale"].astype(np.float64).mean(), np.linspace(0, 1, 11)
    curve = (((1 - alphas) * np.float32(start) + alphas) ** 2 - 1) ** 2
    excess = curve - (1 - alphas) * curve[0] - alphas * curve[-1]
    assert barrier["value"] == pytest.approx(scale * excess.max(), rel=1e-5)
    assert one(rows, "barrier_at")["value"] == pytest.approx(alphas[excess.argmax()]) == pytest.approx(where)
    assert barrier["ci_lo"] < barrier["value"] < barrier["ci_hi"]


def test_scaling_the_loss_scales_the_barrier_and_reversing_the_path_mirrors_it():
    ends = [{"w": np.asarray([w], np.float32)} for w in (-1.25, 1.0)]
    plain, doubled = interpolation.Interpolation(basins), interpolation.Interpolation(lambda p, r: 2 * basins(p, r) + 7)
    forth, back = (rows_of(plain, measured(plain, *path)) for path in (ends, ends[::-1]))
    twice = rows_of(doubled, measured(doubled, *ends))
    for column in ("value", "noise_floor", "ci_lo"):
        assert one(twice, "barrier")[column] == pytest.approx(2 * one(forth, "barrier")[column], rel=1e-4)
    assert one(back, "barrier")["value"] == pytest.approx(one(forth, "barrier")["value"], rel=1e-5)
    assert one(back, "barrier_at")["value"] == pytest.approx(1 - one(forth, "barrier_at")["value"])


def test_noise_alone_stays_within_the_sign_flips():
    inside = 0
    alphas = np.linspace(0, 1, 11)
    for seed in range(60):
        loss_AxM = np.random.default_rng(seed).normal(size=(11, 30))
        low, high = np.quantile(interpolation.sign_flips(loss_AxM, alphas), (0.025, 0.975))
        inside += low <= interpolation.barrier(loss_AxM, alphas)[0] <= high
    assert inside >= 52


def test_the_ends_are_exact_and_the_grid_is_one_program_whatever_the_microbatch():
    parts = [interpolation.along(quadratic, START, END, ROWS, np.linspace(0, 1, 11), b) for b in (1, 4, 24)]
    for found in parts[1:]:
        np.testing.assert_allclose(found, parts[0], rtol=1e-6)
    params, _ = policy.case(dtype=np.float32)
    other = {name: x[::-1] * np.float32(0.7) for name, x in params.items()}
    for alpha, end in ((0, params), (1, other)):
        found = jax.jit(interpolation.between)(params, other, jnp.float32(alpha))
        chex.assert_trees_all_equal(found, end)
    odd = {"w": np.asarray([np.nan], np.float32)}
    np.testing.assert_array_equal(interpolation.between({"w": np.ones(1, np.float32)}, odd, jnp.float32(0))["w"], 1.0)


def test_a_point_that_is_not_finite_has_a_row_and_the_barrier_names_it():
    probe = interpolation.Interpolation(lambda p, row: row["scale"] / jnp.abs(p["w"][0]))
    ends = [{"w": np.asarray([w], np.float32)} for w in (-1.0, 1.0)]
    good = {"w": np.asarray([-3.0], np.float32)}
    rows = rows_of(probe, measured(probe, *ends), measured(probe, ends[0], good))
    middle = one(rows, "loss", params="alpha=0.5")
    assert middle["status"] == "nan" and middle["value"] is None and one(rows, "loss", params="alpha=0.4")["status"] == "ok"
    barrier = one(rows, "barrier")
    assert barrier["status"] == "nan" and barrier["status_reason"] == "the loss is not finite at alpha 0.5"
    assert one(rows, "barrier_at")["status"] == "nan"
    assert one(rows, "barrier", seed=1)["status"] == "ok"
    assert one(rows, "barrier", role="null", null_kind="sign_flips")["status"] == "absent"


def test_false_false_true_counts_planted_rows_against_independence():
    low = np.where(np.arange(M) < 6, 0.4, -9.0).astype(np.float32)  # six rows are solved only around the middle
    always = np.arange(M) >= 18
    rows_in = ROWS | {"low": low, "always": always}

    def solved(params, row):
        w = params["w"][0]
        return ((w > row["low"]) & (w < row["low"] + 0.2)) | row["always"]

    probe = interpolation.Interpolation(quadratic, solved=solved)
    ends = [{"w": np.asarray([w], np.float32)} for w in (0.0, 1.0)]
    rows = rows_of(probe, measured(probe, *ends, rows_in))
    row = one(rows, "false_false_true")
    assert row["value"] == pytest.approx(6 / M)
    assert row["null_value"] == pytest.approx(12 / M * 18 / M) and row["null_lo"] >= 6 / M <= row["null_hi"]
    assert one(rows, "false_false_true", role="null")["value"] == pytest.approx(0.5 * 0.75 * 0.75)
    success = one(rows, "success", params="alpha=0.5")
    assert (success["value"], success["null_value"]) == (pytest.approx(0.5), pytest.approx(0.25))
    wanted = ("loss", "barrier", "barrier_at", "success", "false_false_true")
    assert set(probe.metrics) == {f"interpolation.{name}" for name in wanted}


def test_the_independence_band_is_that_of_shuffled_rows():
    rng = np.random.default_rng(2)
    middle, neither = np.arange(200) < 90, rng.random(200) < 0.6
    counts = [(rng.permutation(middle) & neither).mean() for _ in range(4000)]
    solved = np.stack([~neither, middle, ~neither])[None].astype(float)
    table = example_rows.policy_table(arm="a", step=0, seeds=[0], conditional_on="b")
    interpolation._add_false_false_true(table, solved)
    columns = table.columns(records.row_ids)
    assert columns["null_value"][0] == pytest.approx(np.mean(counts), abs=1e-3)
    band = tuple(np.quantile(counts, (0.025, 0.975)))
    assert (columns["null_lo"][0], columns["null_hi"][0]) == pytest.approx(band, abs=0.006)


def test_a_policy_with_scaled_logits_is_matched_at_that_temperature():
    params, rows = policy.case(m=8, dtype=np.float32)
    sharp = {name: 2.5 * x for name, x in params.items()}
    probe = interpolation.Interpolation(policy.loss, predict=policy.predict, microbatch=4)
    rows_out = rows_of(probe, measured(probe, params, sharp, rows))
    temperature, loss = one(rows_out, "balanced_temperature"), one(rows_out, "balanced_loss")
    assert temperature["value"] == pytest.approx(2.5, rel=1e-5) and temperature["null_value"] == 1.0
    assert loss["value"] == pytest.approx(one(rows_out, "loss", params="alpha=0")["value"], rel=1e-5)
    middle = one(rows_out, "loss", params="alpha=0.5")  # logits are linear in these parameters
    assert loss["null_value"] == pytest.approx(middle["value"], rel=1e-5) and loss["noise_floor"] > 0


def test_the_temperature_solves_its_equation_and_says_when_it_cannot():
    rng = np.random.default_rng(3)
    z0, z1 = (s * rng.normal(size=(6, 4, 7)) for s in (1.0, 1.7))
    mask = (rng.random((6, 4)) < 0.7).astype(np.float64)

    def sure(z, t):
        p = np.exp(z / t - (z / t).max(-1, keepdims=True))
        return ((p / p.sum(-1, keepdims=True)).max(-1) * mask).sum() / mask.sum()

    wanted = scipy.optimize.brentq(lambda t: sure(z1, t) - sure(z0, 1.0), 0.05, 20)
    with jax.enable_x64(True):
        found = interpolation.matching_temperature(jnp.asarray(z0), jnp.asarray(z1), jnp.asarray(mask))
    assert float(found) == pytest.approx(wanted, rel=1e-6)
    params, rows = policy.case(m=8, dtype=np.float32)
    flat = {name: 0 * x for name, x in params.items()}
    probe = interpolation.Interpolation(policy.loss, predict=policy.predict)
    row = one(rows_of(probe, measured(probe, params, flat, rows)), "balanced_temperature")
    assert row["status"] == "unresolved" and "no temperature" in row["status_reason"]


def test_contract_cost_arrays_and_refusals():
    probe = interpolation.Interpolation(policy.loss, predict=policy.predict)
    assert isinstance(probe, probes.Probe) and set(probe.metrics) <= set(probes.METRICS)
    params, rows = policy.case(m=8, dtype=np.float32)
    ctx = probes.Context(dict.fromkeys((probes.PARAMS0, probes.PARAMS), params) | {probes.PROBE_BATCH: rows})
    assert probe.cost(ctx).products >= 11 * 8 * 2 * 3 * 4 * 5
    assert probe.arrays(measured(probe, params, params, rows))["loss"].shape == (11, 8)
    with pytest.raises(ValueError, match="odd number of points"):
        interpolation.Interpolation(quadratic, points=10)
    with pytest.raises(ValueError, match="lane sidecar"):
        interpolation.Interpolation(quadratic, lane="offline")
    with pytest.raises(ValueError, match="nearest valid: 4"):
        interpolation.Interpolation(policy.loss, microbatch=5).init(ctx, KEY)
    with pytest.raises(ValueError, match="scalar a row"):
        interpolation.Interpolation(lambda p, row: row["x"].sum(-1)).init(ctx, KEY)


def test_the_jackknife_of_a_mean_is_its_t_interval_and_of_a_ratio_near_the_delta_method():
    rng = np.random.default_rng(4)
    x, y = rng.exponential(size=(2, 3, 400)) + 1
    mean = example_rows.jackknife(lambda a: a, x)
    np.testing.assert_allclose(mean, stats.t_interval(x), rtol=1e-10)
    ratio = example_rows.jackknife(lambda a, b: a / b, x, y)
    value = x.mean(-1) / y.mean(-1)
    delta = (x - value[:, None] * y).std(-1, ddof=1) / y.mean(-1) / np.sqrt(400)
    np.testing.assert_allclose(ratio.value, value, rtol=1e-12)
    np.testing.assert_allclose((ratio.hi - ratio.lo) / 2, 1.9659 * delta, rtol=0.02)
    assert np.isnan(example_rows.jackknife(lambda a: a, x[:, :1]).lo).all()
