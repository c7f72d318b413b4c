"""PLS with one component: an independent oracle, planted straight lines, and curves that only share a clock."""

import numpy as np
import pytest

from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import predictability
from tests.probes.trajectories import ROWS, as_rows, ids, one

INFOS = (TensorInfo("l0/q", "q", 0, (6, 5)),)
STEPS = (1, 2, 4, 8, 16, 32, 64)


def series_of(u_SxTxM, norm=1.0, broken=()):
    return {step: {"u1/l0/q": u_SxTxM[:, i], "norm/l0/q": np.full(len(u_SxTxM), norm),
                   "n_nonfinite/l0/q": np.full(len(u_SxTxM), float(step in broken)), "bf16/l0/q": np.zeros(len(u_SxTxM))}
            for i, step in enumerate(STEPS[: u_SxTxM.shape[1]])}


def rows_of(u_SxTxM, outcome, **kw):
    return as_rows(predictability.linearity_rows(series_of(u_SxTxM, **kw), outcome, "success", infos=INFOS,
                                                 seeds=list(range(len(outcome))), row_ids=ids, **ROWS))


def curve(y, noise=0.0, seed=0):
    """Directions on a straight line in y."""
    rng = np.random.default_rng(seed)
    u = np.eye(6)[0] + np.outer(y, np.eye(6)[1]) + noise * rng.normal(size=(len(y), 6))
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def test_prediction_is_least_squares_on_the_score_and_exact_for_one_column():
    rng = np.random.default_rng(0)
    x, y, at = rng.normal(size=(7, 3)), rng.normal(size=7), rng.normal(size=3)
    w = np.cov(x.T, y)[:3, 3]
    slope, level = np.polyfit(x @ w, y, 1)
    np.testing.assert_allclose(predictability.pls_predict(x, y, at), slope * (at @ w) + level, rtol=1e-10)
    line = np.polyfit(x[:, 0], y, 1)
    np.testing.assert_allclose(predictability.pls_predict(x[:, :1], y, at[:1]), np.polyval(line, at[0]), rtol=1e-10)
    missed = sum((y[i] - np.polyval(np.polyfit(np.delete(x[:, 0], i), np.delete(y, i), 1), x[i, 0])) ** 2 for i in range(7))
    alone = sum((y[i] - np.delete(y, i).mean()) ** 2 for i in range(7))
    np.testing.assert_allclose(predictability.leave_one_out(x[:, :1], y), 1 - missed / alone, rtol=1e-10)


def test_signs_are_aligned_with_the_step_before():
    u = curve(np.linspace(0, 0.5, 7))
    flips = np.array([1, -1, -1, 1, -1, 1, 1.0])[:, None]
    np.testing.assert_allclose(predictability.aligned(u * flips), u)


def test_a_planted_line_in_a_jagged_outcome_beats_the_clock_and_shifts():
    y = np.array([[0.1, 0.5, 0.2, 0.6, 0.3, 0.05, 0.4]])
    rows = rows_of(np.stack([curve(0.1 * y[0])]), y)
    row = one(rows, "weight.rank_one.linearity", tensor="l0/q", role="seed")
    null = one(rows, "weight.rank_one.linearity", tensor="l0/q", role="null")
    assert row["value"] > 0.99 and row["null_value"] < 0 and row["null_kind"] == "time" and row["step"] == 64
    assert null["null_kind"] == "circular_shift" and null["null_hi"] < 0.9 and row["params"] == "outcome=success"


def test_monotone_curves_are_judged_against_time():
    clock = np.log(np.asarray(STEPS, float))
    y = 0.1 * clock + 0.01 * np.random.default_rng(1).normal(size=7)
    u = curve(0.05 * clock, noise=0.01, seed=2)  # a direction that only knows the time
    row = one(rows_of(u[None], y[None]), "weight.rank_one.linearity", tensor="l0/q", role="seed")
    assert row["value"] > 0.8 and row["null_value"] >= row["value"]


def test_too_few_steps_constant_outcomes_and_broken_weights_are_said():
    u, y = np.stack([curve(np.linspace(0, 1, 7))] * 2), np.stack([np.linspace(0, 1, 7), np.ones(7)])
    rows = rows_of(u, y)
    assert one(rows, "weight.rank_one.linearity", tensor="l0/q", role="seed", seed=0)["status"] == "ok"
    flat = one(rows, "weight.rank_one.linearity", tensor="l0/q", role="seed", seed=1)
    assert flat["status"] == "absent" and flat["status_reason"] == "the outcome is constant"
    assert all(np.isnan(predictability.leave_one_out(np.random.default_rng(n).normal(size=(n, 4)), np.full(n, 0.1)))
               for n in range(5, 20))
    few = one(rows_of(u[:, :4], y[:, :4]), "weight.rank_one.linearity", tensor="l0/q", role="seed", seed=0)
    assert few["status"] == "absent" and "fewer than 5" in few["status_reason"]
    for kw, status in (({"broken": (4,)}, "nan"), ({"norm": 0.0}, "degenerate")):
        assert one(rows_of(u, y, **kw), "weight.rank_one.linearity", tensor="l0/q", role="seed", seed=0)["status"] == status
    with pytest.raises(ValueError, match="expected \\(2, 7\\)"):
        rows_of(u, y[:, :3])
