"""Does the leading left direction of the update move in a straight line with an outcome?

arXiv:2510.00553 regresses accuracy on u1(t) by partial least squares with one component and reports R^2. *Reconstructed*:
the sheet gives PLS(1), sign alignment and R^2, neither centring nor validation. A training curve is monotone and so is
almost everything else: R^2 here is of leave-one-out predictions, and stands beside what time alone predicts in the same
way and beside circular shifts of the outcome, which keep its smoothness and break the pairing.

Legend: T measured steps, M entries of u1, S seeds, C scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxpost.probes import base, catalog
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import ABSENT, OK, RowTable, mean
from jaxpost.probes.weights import by_matrix

LINEARITY = base.Metric(
    "weight.rank_one.linearity", "R^2 of leave-one-out predictions of an outcome by PLS with one component on sign-aligned "
    "u1(t): params outcome", "1", "On Predictability of RL Dynamics, arXiv:2510.00553 (reconstructed)",
    "time: the better leave-one-out R^2 of a straight line in t or in log t; circular_shift (all shifts of the outcome, 95 % "
    "range) as a further row", "mean over matrices", "NIPALS with one component, centred, refitted without each step, float64")
base.register(LINEARITY)
MIN_STEPS = 5
_FEW = f"fewer than {MIN_STEPS} measured steps"


def aligned(u_TxM: np.ndarray) -> np.ndarray:
    """u1(t) with signs such that each has a positive inner product with the step before."""
    inner = np.einsum("tm,tm->t", u_TxM[1:], u_TxM[:-1])
    return u_TxM * np.cumprod(np.concatenate([[1.0], np.where(inner < 0, -1.0, 1.0)]))[:, None]


def pls_predict(x_TxM: np.ndarray, y_T: np.ndarray, at_M: np.ndarray) -> float:
    """Prediction at a point by PLS with one component: w = X'y / ||X'y||, t = Xw, y = mean + (t'y / t't) t."""
    centre, level = x_TxM.mean(0), y_T.mean()
    x, y = x_TxM - centre, y_T - level
    w = x.T @ y
    score = x @ w
    spread = score @ score
    return float(level + (score @ y) / spread * ((at_M - centre) @ w)) if spread > 0 else float(level)


def leave_one_out(x_TxM: np.ndarray, y_T: np.ndarray) -> float:
    """1 - sum (y_i - prediction without i)^2 / sum (y_i - mean without i)^2; at most 1, negative when the mean does better.

    NaN for a constant outcome.
    """
    if np.ptp(y_T) == 0:
        return np.nan
    rest = [np.arange(len(y_T)) != i for i in range(len(y_T))]
    missed = sum((y_T[i] - pls_predict(x_TxM[kept], y_T[kept], x_TxM[i])) ** 2 for i, kept in enumerate(rest))
    alone = sum((y_T[i] - y_T[kept].mean()) ** 2 for i, kept in enumerate(rest))
    return 1 - missed / alone


def time_alone(step_T: np.ndarray, y_T: np.ndarray) -> float:
    """The better `leave_one_out` of a straight line in t and in log t (PLS on one column is least squares)."""
    return max(leave_one_out(clock[:, None], y_T) for clock in (step_T, np.log(step_T)))


def circular_shifts(x_TxM: np.ndarray, y_T: np.ndarray) -> tuple[float, float, float]:
    """Mean and 2.5 and 97.5 % quantiles of `leave_one_out` over all T - 1 circular shifts of the outcome."""
    shifted = [leave_one_out(x_TxM, np.roll(y_T, shift)) for shift in range(1, len(y_T))]
    return float(np.mean(shifted)), *(float(q) for q in np.quantile(shifted, (0.025, 0.975)))


def linearity_rows(series: Mapping[int, Mapping[str, np.ndarray]], outcome_SxT: np.ndarray, outcome: str, *,
                   infos: Sequence[TensorInfo], arm: str, seeds: Sequence[int], conditional_on: str | None,
                   row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
    """Rows of weight.rank_one.linearity, at the last step.

    Args:
      series: step >= 1 -> `rank_one.RankOne.arrays`, leading axis seeds. outcome_SxT: one number a seed and step, in
        ascending steps (accuracy on fixed problems, say); outcome: its name, for `params`.
    Raises: ValueError when outcome and series do not fit together.
    """
    steps = sorted(series)
    if np.shape(outcome_SxT) != (len(seeds), len(steps)) or (steps and steps[0] < 1):
        raise ValueError(f"outcome has [seeds, steps] = {np.shape(outcome_SxT)}; expected {(len(seeds), len(steps))} "
                         f"and steps from 1; found {steps}")
    scopes = pooling.scopes_of(infos)
    table = RowTable(scopes, seeds, {"arm": arm, "step": steps[-1], "conditional_on": conditional_on})
    by_step = [by_matrix.regroup(series[step]) for step in steps]
    read = {name: np.stack([by_matrix.stacked(x, infos, name) for x in by_step]) for name in ("norm", "n_nonfinite", "bf16")}
    states = by_matrix.state(read["n_nonfinite"].sum(0), (read["norm"] == 0).any(0), [len(steps) < MIN_STEPS] * len(infos))
    out = np.full((5, len(seeds), len(infos)), np.nan)
    for s, t in np.argwhere(states == OK):
        x = aligned(np.stack([np.asarray(at[infos[t].name]["u1"][s], np.float64) for at in by_step]))
        y = np.asarray(outcome_SxT[s], np.float64)
        out[:, s, t] = leave_one_out(x, y), time_alone(np.asarray(steps, np.float64), y), *circular_shifts(x, y)
    flat = (states == OK) & np.isnan(out[0])
    states = np.where(flat, ABSENT, states)
    status, reason = pooling.statuses(states, scopes, _FEW if len(steps) < MIN_STEPS else "the outcome is constant")
    value, clock, shifted, lo, hi = (by_matrix.settled(mean(x, states == OK, scopes), status) for x in out)
    row = table.add(LINEARITY.id, value, status, reason, null=("time", clock, None, None), params=f"outcome={outcome}",
                    side="left", k=1, dtype=by_matrix.dtypes(read["bf16"].min(0)))
    table.add_null(row, "circular_shift", shifted, lo, hi)
    return table.columns(row_ids)


catalog.add(
    __name__,
    catalog.Entry("linearity", "whether the leading direction of the update follows an outcome", lane="offline",
                  where="fitted to the arrays of weight.rank_one and an outcome (predictability.linearity_rows)",
                  metrics=(LINEARITY.id,)),
)
