"""How far the weights have moved as a function of training time: logarithm, power, random walk or straight line.

A walk in a random potential drifts as ||W_t - W_0||_F = a + b log t (Hoffer et al. 2017, arXiv:1705.08741), on the phase of
constant learning rate only; natural logarithm, t in optimizer steps counted from 1. A good R^2 proves little: a square root
over one decade fits a logarithm well. So the log law competes with c t^p on points that neither has seen (the last ones),
and both stand beside what the same fit makes of sqrt t and of t at the same steps.

Legend: P measured steps in the phase, H of them held out, S seeds, T matrices, C scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import OK, RowTable, total
from jaxpost.probes.weights import by_matrix

HOFFER = "Train longer, generalize better, arXiv:1705.08741"
_NULLS = "random_walk: the same fit of sqrt t at the same steps; straight_line (t) as a further row"
_FIT = "least squares on the distances, float64; p by a bounded scalar search on [0, 2]"


def _metric(name: str, definition: str, unit: str, null: str = _NULLS, paper: str = HOFFER) -> base.Metric:
    return base.Metric(f"weight.drift.{name}", definition, unit, paper, null, "quadrature", _FIT)


DRIFT = (
    _metric("log_slope", "b of ||W_t - W_0||_F = a + b log t, constant-learning-rate phase", "1 per e-fold of steps",
            _NULLS.replace("sqrt t", "sqrt t through the last distance").replace("(t)", "(t through the last distance)")),
    _metric("log_r2", "R^2 of a + b log t", "1"),
    _metric("power_exponent", "p of c t^p", "1", "random_walk: 1/2; straight_line: 1 as a further row"),
    _metric("holdout_error", "root mean square error over mean distance on the last points, fitted on the earlier ones: params "
            "law = log (a + b log t) or power (c t^p)", "1", "random_walk: error of c sqrt t; straight_line (c t) as a further "
            "row", HOFFER + " (reconstructed: the paper fits, it does not predict)"),
    _metric("log_advantage", "log(holdout_error of c t^p / holdout_error of a + b log t): positive where the log law predicts "
            "better", "nat", "equal: 0; random_walk (the same for c sqrt t against the log law) as a further row",
            HOFFER + " (reconstructed: the paper fits, it does not predict)"),
)
base.register(*DRIFT)
METRICS = tuple(metric.id for metric in DRIFT)
MIN_POINTS = 6
MIN_FITTED = 3  # points that a law with two coefficients is fitted on
_EXACT = 1e-6  # relative error of float32 distances: below it laws cannot be told apart


def log_law(t_P: np.ndarray, d_P: np.ndarray) -> tuple[float, float]:
    """(a, b) of the least-squares fit d = a + b log t."""
    slope, level = np.polyfit(np.log(t_P), d_P, 1)
    return float(level), float(slope)


def power_law(t_P: np.ndarray, d_P: np.ndarray) -> tuple[float, float]:
    """(c, p), 0 <= p <= 2, of the least-squares fit d = c t^p; c in closed form for every p."""
    x = np.log(t_P) - np.log(t_P).max()

    def missed(p: float) -> float:
        y = np.exp(p * x)
        return float(((d_P - (y @ d_P) / (y @ y) * y) ** 2).sum())

    grid = np.linspace(0.0, 2.0, 81)
    best = grid[int(np.argmin([missed(p) for p in grid]))]
    ends = max(best - 0.025, 0.0), min(best + 0.025, 2.0)
    p = float(scipy.optimize.minimize_scalar(missed, bounds=ends, method="bounded", options={"xatol": 1e-10}).x)
    return scale(t_P, d_P, p), p


def scale(t_P: np.ndarray, d_P: np.ndarray, p: float) -> float:
    """c of the least-squares fit d = c t^p with p given."""
    y = t_P**p
    return float((y @ d_P) / (y @ y))


def r_squared(t_P: np.ndarray, d_P: np.ndarray) -> float:
    """R^2 of `log_law`; NaN for a constant distance."""
    if np.ptp(d_P) == 0:
        return np.nan
    level, slope = log_law(t_P, d_P)
    return float(1 - ((d_P - level - slope * np.log(t_P)) ** 2).sum() / ((d_P - d_P.mean()) ** 2).sum())


def holdout_errors(t_P: np.ndarray, d_P: np.ndarray, held: int) -> dict[str, float]:
    """Root mean square error over the mean distance of the last `held` points, of each law fitted on the others."""
    t, d, late, held_out = t_P[:-held], d_P[:-held], t_P[-held:], d_P[-held:]
    level, slope = log_law(t, d)
    c, p = power_law(t, d)
    predicted = {"log": level + slope * np.log(late), "power": c * late**p, "random_walk": scale(t, d, 0.5) * np.sqrt(late),
                 "straight_line": scale(t, d, 1.0) * late}
    return {law: float(np.sqrt(np.mean((x - held_out) ** 2)) / held_out.mean()) for law, x in predicted.items()}


def fits(t_P: np.ndarray, d_P: np.ndarray, held: int) -> dict[str, tuple[float, float, float]]:
    """Statistic -> (value, random walk, straight line) of one trajectory of distances d > 0 at steps t."""
    paths = (d_P, d_P[-1] * np.sqrt(t_P / t_P[-1]), d_P[-1] * t_P / t_P[-1])
    error = holdout_errors(t_P, d_P, held)
    rivals = error["random_walk"], error["straight_line"]
    log_error = max(error["log"], _EXACT)
    return {
        "log_slope": tuple(log_law(t_P, d)[1] for d in paths),
        "log_r2": tuple(r_squared(t_P, d) for d in paths),
        "power_exponent": (power_law(t_P, d_P)[1], 0.5, 1.0),
        "holdout_error/log": (error["log"], *rivals),
        "holdout_error/power": (error["power"], *rivals),
        "log_advantage": (np.log(max(error["power"], _EXACT) / log_error), 0.0, np.log(max(rivals[0], _EXACT) / log_error)),
    }


@dataclass(frozen=True)
class Drift:
    """Distance from the base at every measured step; the laws are fitted once an arm is finished."""

    first: int = 1  # the phase of constant learning rate, in optimizer steps, both ends included
    last: int | None = None
    holdout: float = 0.25  # share of the points that no fit sees, at least two
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "weight.drift"
    version: str = "1"
    definition: str = "arXiv:1705.08741, with held-out points and competing laws"
    metrics: tuple[str, ...] = METRICS
    needs: frozenset[base.Need] = frozenset({base.WEIGHTS0, base.WEIGHTS})

    def __post_init__(self):
        if self.first < 1 or (self.last is not None and self.last <= self.first) or not 0 < self.holdout < 1:
            raise ValueError(f"Drift needs 1 <= first < last and 0 < holdout < 1; found first={self.first}, last={self.last}, "
                             f"holdout={self.holdout}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """Two reads, ULPs of both ends and two reductions."""
        sizes = [4.0 * np.prod(w.shape) for w in ctx[base.WEIGHTS].values()]
        return base.Cost(streamed=6 * sum(sizes), held=4 * max(sizes) + 2 * sum(sizes))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state."""
        del ctx, key
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): name -> distance ||W - W0||_F, edge (what storage rounding alone makes of it), statuses."""

        def one(w0, w1):
            return {"distance": jnp.linalg.norm(w1 - w0), "edge": by_matrix.rounding_rms(w0, w1) * w1.size**0.5,
                    "n_nonfinite": jnp.sum(~jnp.isfinite(w1), dtype=jnp.int32),
                    "bf16": by_matrix.bf16_master(w1).astype(jnp.int32)}

        return state, by_matrix.each(one, ctx[base.WEIGHTS0], ctx[base.WEIGHTS])

    def arrays(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """"statistic/tensor" -> f32[S]: distances, rounding edges, statuses."""
        return by_matrix.flat(values, ("distance", "edge", "n_nonfinite", "bf16"))

    def finalize(self, values: Mapping[str, Any], state: dict, **meta: Any) -> dict[str, np.ndarray]:
        """No rows: one step is no trajectory, and the distance itself is weight.update_norm. See `across`."""
        del values, state, meta
        return dict(by_matrix.NO_ROWS)

    def across(self, series: Mapping[int, Mapping[str, np.ndarray]], *, infos: Sequence[TensorInfo], arm: str,
               seeds: Sequence[int], conditional_on: str | None,
               row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of every law at the last step of the phase, one a seed and scope; series is step -> `arrays`."""
        steps = [step for step in sorted(series) if self.first <= step <= (self.last or step)]
        if not steps:
            return dict(by_matrix.NO_ROWS)
        by_step = [by_matrix.regroup(series[step]) for step in steps]
        read = {name: np.stack([by_matrix.stacked(x, infos, name) for x in by_step])
                for name in ("distance", "edge", "n_nonfinite", "bf16")}
        still = (read["distance"] == 0) & (read["bf16"] > 0) & ~(read["bf16"] > 0).all(-1, keepdims=True)
        read["edge"] = np.where(still, read["edge"] * 2.0**-16, read["edge"])  # float32 masters, still on the base's bf16 grid
        scopes = pooling.scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": steps[-1], "conditional_on": conditional_on})
        states = by_matrix.state(read["n_nonfinite"].sum(0), (read["distance"] == 0).all(0))
        pooled = [np.stack([np.sqrt(total(x**2, states == OK, scopes)) for x in read[name]]) for name in ("distance", "edge")]
        _add_laws(table, np.asarray(steps, np.float64), *pooled, states, max(2, round(self.holdout * len(steps))),
                  by_matrix.dtypes(read["bf16"].min(0)))
        return table.columns(row_ids)


def _add_laws(table: RowTable, t_P: np.ndarray, distance_PxSxC, edge_PxSxC, states, held: int, dtype) -> None:
    """Fit every seed and scope and append the rows; too few points, or none above rounding, are said."""
    status, reason = pooling.statuses(states, table.scopes, "")
    ok, fitted = status == "ok", len(t_P) - held
    if len(t_P) < MIN_POINTS:
        status[ok], reason[ok] = "absent", f"{len(t_P)} measured steps in the phase; a fit needs {MIN_POINTS}"
    elif fitted < MIN_FITTED:
        status[ok], reason[ok] = "absent", f"{held} of {len(t_P)} steps are held out; a fit needs {MIN_FITTED} others"
    drowned = (distance_PxSxC < edge_PxSxC).sum(0)
    low = (status == "ok") & (drowned > 0)
    status[low] = "unresolved"
    reason[low] = [f"{n} of {len(t_P)} distances are below storage rounding" for n in drowned[low]]
    names = ("log_slope", "log_r2", "power_exponent", "holdout_error/log", "holdout_error/power", "log_advantage")
    out = np.full((len(names), 3, *status.shape), np.nan)
    for s, c in np.argwhere(np.isin(status, ("ok", "unresolved"))):
        laws = fits(t_P, distance_PxSxC[:, s, c], held)
        out[:, :, s, c] = [laws[name] for name in names]
    for name, (value, walk, line) in zip(names, out):
        metric, _, law = name.partition("/")
        own, why = status.copy(), reason.copy()
        exact = (own == "ok") & (metric == "log_advantage") & (np.fmax(out[3, 0], out[4, 0]) < _EXACT)
        own[exact], why[exact] = "unresolved", "both laws predict to the precision of the distances"
        still = (own == "ok") & (metric == "log_r2") & (np.ptp(distance_PxSxC, axis=0) == 0)
        own[still], why[still] = "degenerate", "the distance is the same at every step"
        kind, further = ("equal", "random_walk") if metric == "log_advantage" else ("random_walk", "straight_line")
        floor = edge_PxSxC[-1] if metric == "log_slope" else None
        row = table.add(f"weight.drift.{metric}", value, own, why, null=(kind, walk, None, None), floor=floor, dtype=dtype,
                        params=_params(held, law))
        table.add_null(row, further, line, None, None)


def _params(held: int, law: str) -> str:
    return f"held={held};law={law}" if law else f"held={held}"


catalog.add(
    __name__,
    catalog.Entry("weight.drift", "how the distance grows with training time: logarithm, power, random walk", Drift),
    catalog.Statistic(
        "drift", "Distance against training time", ("weight.drift",),
        "Which law the distance follows at constant learning rate, judged on points that no fit saw: log_advantage above 0 "
        "means the logarithm predicts better than a power.",
        "A good R^2 of a + b log t proves little: a random walk over one decade has one too. Warm-up and decay phases bend "
        "every law.",
        "distance of a random walk and of a logarithmic drift, with log fits",
        extremes={
            "weight.drift.log_r2": ("the logarithm fits, as it does a random walk over one decade", "it does not"),
            "weight.drift.power_exponent": ("the distance keeps growing", "it levels off"),
            "weight.drift.holdout_error": ("the law misses the points it has not seen", "it predicts them"),
            "weight.drift.log_advantage": ("above 0: the logarithm predicts better than a power", "below 0: the power does"),
        }),
)
