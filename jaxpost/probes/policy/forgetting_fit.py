"""Which distance from the base predicts forgetting? The quadratic fits of RL's Razor on rows of a finished experiment.

    columns = fit(table.to_pylist(), [{"metric": "policy.kl_forward", "params": "reduce=sequence_sum"}, ...])

Published R^2 of a quadratic fit, for comparison (arXiv:2509.04259, as quoted by a replication): ParityMNIST, forward KL 0.96,
reverse KL 0.93, total variation 0.80, Fisher-weighted L2 0.58, weight spectral norm 0.58, activation L2 0.55, weight L1 0.34;
language model, forward KL 0.71. There a point is a finished run; here it is (arm, seed, step), hence the null: training
longer moves every distance and every forgetting, so that points of permuted arms already fit.

Legend: N points, U units, A arms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpost.probes import base, catalog

RAZOR = "RL's Razor, arXiv:2509.04259"
OLD_TASK = {"metric": "policy.success", "split": "second"}
UNITS = ("arm", "seed")
FEWEST = 5  # points of a fit with three coefficients
ENUMERATED = 720  # permutations of at most six arms are all taken
_ALGORITHM = "ordinary least squares on the centred and scaled predictor, float64"
FITS = (
    base.Metric("forgetting.r2", "R^2 of y = a + b x + c x^2, y = old-task success of the base minus that of the policy (same "
                "seed), x a predictor, one point a run and measured step", "1", RAZOR,
                "permuted_arms: predictors of one arm with the forgetting of another, same seeds and steps; mean and 95 % "
                "range", "none", _ALGORITHM,
                ci_method="percentile bootstrap over the unit that was randomised (at five units about 84 %)",
                higher_is_better=True),
    base.Metric("forgetting.permutation_p", "share of permutations of arms, the identity included, whose R^2 is at least "
                "the observed one", "1", "Fisher 1935", "none: a p-value", "none",
                f"all permutations up to {ENUMERATED}, else draws", ci_method="none"),
    base.Metric("forgetting.left_out_error", "root mean square error of predictions of each arm by the fit to all others",
                "1", RAZOR + " (out of sample: the paper's R^2 are in sample)",
                "mean_of_other_arms: error of the constant prediction", "none", _ALGORITHM,
                ci_method="none: arms share their fits", higher_is_better=False),
)
base.register(*FITS)


@dataclass(frozen=True)
class Points:
    """One point a run and measured step; fields [N]."""

    arm: np.ndarray
    seed: np.ndarray
    step: np.ndarray
    base: np.ndarray
    x: np.ndarray  # the predictor
    y: np.ndarray  # forgetting

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: np.ndarray) -> Points:
        """The points at these positions (or where a mask holds)."""
        return Points(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def points(rows: Sequence[Mapping], predictor: Mapping[str, object], old_task: Mapping[str, object] = OLD_TASK) -> Points:
    """Join a predictor with forgetting, by arm, seed, step and base.

    Args:
      rows: measurement rows. Those of role "seed" with a value count, of granularity "global" or "policy" unless the
        predictor names another; rows at matched points (`at=` in params) and of broken policies (status "nan") do not.
      predictor, old_task: columns that identify a statistic. Success of the base is arm "base", of the same seed.
    Raises: KeyError when no row, or more than one of a run and step, matches.
    """
    x, success = _series(rows, predictor), _series(rows, old_task)
    start = {(seed, digest): value for (arm, seed, _, digest), value in success.items() if arm == "base"}
    joined = [(*run, x[run], start[run[1], run[3]] - success[run]) for run in sorted(x.keys() & success.keys(), key=str)
              if run[0] != "base" and (run[1], run[3]) in start]
    columns = list(zip(*joined)) if joined else [()] * 6
    return Points(*(np.asarray(c, object) for c in columns[:4]), *(np.asarray(c, np.float64) for c in columns[4:]))


def _series(rows: Sequence[Mapping], wanted: Mapping[str, object]) -> dict[tuple, float]:
    by_run: dict[tuple, float] = {}
    wanted = {"role": "seed"} | dict(wanted)
    for row in rows:
        if any(row.get(name) != value for name, value in wanted.items()) or "at=" in (row.get("params") or ""):
            continue
        if "granularity" not in wanted and row["granularity"] not in ("global", "policy"):
            continue
        run = (row["arm"], row["seed"], row["step"], row["conditional_on"])
        if run in by_run:
            raise KeyError(f"two rows of arm {run[0]!r}, seed {run[1]}, step {run[2]} match {wanted}: "
                           "name params, dtype or split")
        if row["value"] is not None and np.isfinite(row["value"]) and row.get("status") != "nan":
            by_run[run] = float(row["value"])
    if not by_run:
        raise KeyError(f"no row with a value matches {wanted}")
    return by_run


def _design(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    spread = like.std()
    z = (x - like.mean()) / (spread if spread > 0 else 1.0)
    return np.stack([np.ones_like(z), z, z**2], axis=1)


def predict(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The quadratic least-squares fit of y on x, at other x."""
    return _design(at, x) @ np.linalg.lstsq(_design(x, x), y, rcond=None)[0]


def r2(x: np.ndarray, y: np.ndarray) -> float:
    """1 - residual over total sum of squares of the quadratic fit; NaN where x or y does not vary."""
    if np.ptp(y) == 0 or np.ptp(x) == 0:
        return np.nan
    return 1 - np.sum((y - predict(x, y, x)) ** 2) / np.sum((y - y.mean()) ** 2)


def left_out_error(p: Points) -> tuple[float, float]:
    """(error of predicting each arm from all others, error of the others' mean); NaN without two arms of enough points."""
    fitted, constant = [], []
    for arm in dict.fromkeys(p.arm):
        inside, outside = p.take(p.arm == arm), p.take(p.arm != arm)
        if len(outside) < FEWEST or np.ptp(outside.x) == 0:
            return np.nan, np.nan
        fitted.append(inside.y - predict(outside.x, outside.y, inside.x))
        constant.append(inside.y - outside.y.mean())
    return tuple(float(np.sqrt(np.mean(np.concatenate(e) ** 2))) for e in (fitted, constant))


def bootstrap(p: Points, unit: str, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval of R^2 over resampled units (arms, or seeds of a base in all arms at once).

    NaN below three units. Resamples without variation are left out.
    """
    label = np.asarray([str(x) for x in (p.arm if unit == "arm" else zip(p.base, p.seed))])
    members = [np.flatnonzero(label == name) for name in dict.fromkeys(label)]
    if len(members) < 3:
        return np.nan, np.nan
    resampled = []
    for _ in range(draws):
        drawn = np.concatenate([members[u] for u in rng.integers(len(members), size=len(members))])
        resampled.append(r2(p.x[drawn], p.y[drawn]))
    return tuple(np.nanquantile(resampled, (0.025, 0.975))) if np.isfinite(resampled).any() else (np.nan, np.nan)


def permuted(p: Points, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """R^2 when arms keep their predictors and swap their forgetting, on the seeds and steps that all arms have.

    Returns: value, lo, hi of the permutations other than the identity, and p; NaN without two arms that share enough.
    """
    nothing = {"value": np.nan, "lo": np.nan, "hi": np.nan, "p": np.nan}
    blocks = {arm: {} for arm in dict.fromkeys(p.arm)}
    for i in range(len(p)):
        blocks[p.arm[i]][p.base[i], p.seed[i], p.step[i]] = (p.x[i], p.y[i])
    shared = sorted(set.intersection(*(set(b) for b in blocks.values())), key=str) if blocks else []
    if len(blocks) < 2 or len(shared) * len(blocks) < FEWEST:
        return nothing
    x_AxK, y_AxK = np.moveaxis(np.asarray([[b[key] for key in shared] for b in blocks.values()]), 2, 0)
    observed = r2(x_AxK.ravel(), y_AxK.ravel())
    if np.isnan(observed):
        return nothing
    identity = tuple(range(len(blocks)))
    if math.factorial(len(blocks)) <= ENUMERATED:
        orders = [order for order in itertools.permutations(identity) if order != identity]
    else:
        orders = [tuple(rng.permutation(len(blocks))) for _ in range(draws)]
    shuffled = np.asarray([r2(x_AxK.ravel(), y_AxK[list(order)].ravel()) for order in orders])
    lo, hi = np.quantile(shuffled, (0.025, 0.975))
    at_least = np.sum(shuffled >= observed - 1e-12)
    return {"value": float(shuffled.mean()), "lo": lo, "hi": hi, "p": float((1 + at_least) / (1 + len(shuffled)))}


def fit(rows: Sequence[Mapping], predictors: Sequence[Mapping[str, object]], *, arms: Sequence[str] | None = None,
        old_task: Mapping[str, object] = OLD_TASK, unit: str = "arm", conditional_on: str | None = None, draws: int = 999,
        seed: int = 0) -> dict[str, list]:
    """Columns of one row of each of `FITS` for every predictor, role "estimate", granularity "experiment".

    Args:
      rows: measurement rows of trained arms and of arm "base".
      predictors: columns that identify each one, such as {"metric": "weight.l1_mean", "dtype": "fp32"}.
      arms: which to fit (default: all).
      unit: what was randomised, "arm" or "seed": the bootstrap resamples it.
      conditional_on: digest of the only base, or None for several.
      draws, seed: of bootstrap and permutations.
    Raises: ValueError for an unknown unit or arm; KeyError for a predictor without rows.
    """
    if unit not in UNITS:
        raise ValueError(f"unit {unit!r} is unknown; expected one of {', '.join(UNITS)}")
    known = sorted({row["arm"] for row in rows} - {"base", None})
    if unknown := sorted(set(arms or ()) - set(known)):
        raise ValueError(f"arms {unknown} have no rows; known: {', '.join(known)}")
    out = []
    for predictor in predictors:
        p = points(rows, predictor, old_task)
        p = p if arms is None else p.take(np.isin(p.arm, list(arms)))
        out += _rows(p, predictor, unit, conditional_on, draws, np.random.default_rng(seed))
    names = dict.fromkeys(name for row in out for name in row)
    return {name: [row.get(name) for row in out] for name in names}


def _rows(p: Points, predictor: Mapping, unit: str, conditional_on, draws: int, rng: np.random.Generator) -> list[dict]:
    status, reason = _status(p)
    common = {"role": "estimate", "granularity": "experiment", "unit": unit, "dtype": predictor.get("dtype"),
              "params": _label(p, predictor, unit), "conditional_on": conditional_on, "n_units": _units(p, unit)}
    if status == "ok":
        lo, hi = bootstrap(p, unit, draws, rng)
        null = permuted(p, draws, rng)
        error, constant = left_out_error(p)
        value = r2(p.x, p.y)
    else:
        value = lo = hi = error = constant = np.nan
        null = {"value": np.nan, "lo": np.nan, "hi": np.nan, "p": np.nan}

    def row(metric, value, missing, **more):
        ok = np.isfinite(value)
        status_reason = (None if ok else missing) if status == "ok" else reason
        return common | more | {"metric": metric, "value": value if ok else None, "status_reason": status_reason,
                                "status": ("ok" if ok else "absent") if status == "ok" else status}

    alone = "fewer than two arms share seeds and steps"
    return [
        row("forgetting.r2", value, "", ci_lo=lo, ci_hi=hi, null_kind="permuted_arms", null_value=null["value"],
            null_lo=null["lo"], null_hi=null["hi"]),
        row("forgetting.permutation_p", null["p"], alone),
        row("forgetting.left_out_error", error, f"leaving an arm out leaves fewer than {FEWEST} points, or equal ones",
            null_kind="mean_of_other_arms", null_value=constant),
    ]


def _status(p: Points) -> tuple[str, str | None]:
    if len(p) < FEWEST:
        return "absent", f"{len(p)} points; a quadratic fit needs {FEWEST}"
    for name, values in (("predictor", p.x), ("forgetting", p.y)):
        if np.ptp(values) == 0:
            return "degenerate", f"the {name} is the same at every point"
    return "ok", None


def _units(p: Points, unit: str) -> int:
    return len(set(p.arm) if unit == "arm" else set(zip(p.base, p.seed)))


def _label(p: Points, predictor: Mapping, unit: str) -> str:
    """What was fitted, as a `params` text; "=" and ";" of the predictor's own params become ":" and ","."""
    own = str(predictor.get("params") or "").replace("=", ":").replace(";", ",")
    named = {"arms": "+".join(sorted(set(p.arm))), "points": len(p), "predictor": predictor["metric"], "unit": unit}
    named |= {"of": own} if own else {}
    return ";".join(f"{key}={named[key]}" for key in sorted(named))


catalog.add(
    __name__,
    catalog.Entry("forgetting", "which distance predicts what was forgotten, over runs", lane="offline",
                  where="fitted to the rows of all arms when they are finished (rlvr_sparsity, rlvr_masks)",
                  metrics=tuple(metric.id for metric in FITS)),
    catalog.Statistic(
        "forgetting", "What predicts forgetting", ("forgetting",),
        "How well a quadratic in one distance explains the loss of the old task over runs, and predicts an arm that the fit "
        "has not seen.",
        "R^2 over runs that differ in learning rate mostly measures the learning rate. Judge by left-out arms and by permuted "
        "arms, not by R^2.",
        "a distance that predicts and one that only follows the arm",
        extremes={
            "forgetting.r2": ("the distance explains what was forgotten, or both follow the learning rate", "it does not"),
            "forgetting.permutation_p": ("arms in another order are explained as well", "they are not"),
            "forgetting.left_out_error": ("the fit misses an arm it has not seen", "it predicts it"),
        }),
)
