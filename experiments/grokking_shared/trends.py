"""Trends of routing on training data against test accuracy, and the claims about them: over seeds, against controls.

The control arm never generalises, so its routing is correlated with the accuracy of the arm of the same seed that does: what it
shows there is the course of training alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from experiments.harness.claims import check_strength, corrected, estimated, judgeable, unjudged
from experiments.harness.errors import UserError
from experiments.harness.measure import concatenate
from jaxpost import stats
from jaxpost.lookup import nearest
from jaxpost.probes import trends
from jaxpost.probes.trends import rows as trend_rows
from jaxpost.records import parse_params, row_ids, select

LEADER, CONTROL = "moe", "moe-no-decay-random"
# name in a claim and in rows -> where the trajectory is: metric, and what its params must say
CURVES = {
    "distance": ("pathway.distance", {"over": "all"}),
    "distance_memorised": ("pathway.distance", {"over": "memorised"}),
    "cosine": ("pathway.cosine", {"over": "all"}),
    "cosine_memorised": ("pathway.cosine", {"over": "memorised"}),
    "entropy": ("router.entropy", {}),
    "load_cv": ("router.load_cv", {}),
}
WINDOWS = ("all", "rising")  # every step with a value; from where test accuracy rises for good
FEWEST = 3  # seeds that did what their arms are for, below which a claim supports nothing
KINDS = ("trend", "minus_control", "minus_others", "gap")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Points a block and draws of the permutations; the accuracy that counts as learned. Raises: UserError."""

    block: int
    draws: int
    reached: float

    def __post_init__(self):
        for name in ("block", "draws"):
            if getattr(self, name) < 1:
                raise UserError(f"trend.{name}={getattr(self, name)}: at least 1")


def claim(name: str, kind: str, statement: str, x: str, arms: Sequence[str], direction: str, threshold: float, *,
          primary: bool = False, reading: str = "given_time", method: str = "spearman", at: str = "all") -> dict:
    """A claim about correlations r of a routing curve with the test accuracy, a seed each; the margin is half the threshold.

      trend          mean r, on Fisher's z and back
      minus_control  mean of z(r) - z(r of the control's curve with the first arm's accuracy), paired by seed
      minus_others   mean of z(r) - z(r with the accuracy of the other seeds)
      gap            final test accuracy, first arm - second arm; `x`, `method` and `reading` are not read
    """
    return {"id": name, "primary": primary, "kind": kind, "statement": statement, "metric": "fit.accuracy" if kind == "gap" else
            "trend.correlation", "x": x, "arms": tuple(arms), "at": at, "reading": reading, "method": method,
            "direction": direction, "threshold": threshold, "equivalence_margin": abs(threshold) / 2}


def checked(claims: Sequence[Mapping], arms: Sequence[str]) -> list[Mapping]:
    """The claims whose arms all run. Raises: UserError for a claim that could not be judged."""
    for one in claims:
        for field, valid in (("kind", KINDS), ("x", CURVES), ("at", WINDOWS), ("reading", trends.READINGS),
                             ("method", trends.METHODS)):
            if one[field] not in valid:
                raise UserError(f"claim {one['id']!r}: {field}={one[field]!r}{nearest(one[field], valid)}")
    found = judgeable(claims, arms)
    check_strength(found)
    return found


def curve(table: pa.Table, metric: str, arm: str, seeds: Sequence[int], said: Mapping[str, str], split: str | None = None
          ) -> tuple[np.ndarray, np.ndarray]:
    """(steps [P], values [S, P]) of a trajectory of the whole model, NaN where there is no value."""
    rows = select(table, role="seed", metric=metric, arm=arm, granularity=["global", "experiment"],
                  **({} if split is None else {"split": split})).to_pylist()
    rows = [row for row in rows if said.items() <= parse_params(row["params"]).items()]
    steps = sorted({row["step"] for row in rows})
    value = {(row["seed"], row["step"]): row["value"] for row in rows}
    read = [[value.get((seed, step)) for step in steps] for seed in seeds]
    return np.asarray(steps), np.asarray(read, float).reshape(len(seeds), len(steps))


def accuracy(table: pa.Table, arm: str, seeds: Sequence[int], split: str = "id") -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the exact accuracy on a split."""
    return curve(table, "fit.accuracy", arm, seeds, {}, split)


def rows(table: pa.Table, arm: str, arms: Sequence[str], seeds: Sequence[int], settings: Settings) -> dict:
    """Columns of trend rows of an arm, of every curve it has: with its own test accuracy, and the control's with LEADER's."""
    parts, outcomes = [], [arm, LEADER] if arm == CONTROL and LEADER in arms else [arm]
    for outcome in outcomes:
        step_P, y_SxP = accuracy(table, outcome, seeds)
        for name, (metric, said) in CURVES.items():
            steps, x_SxP = curve(table, metric, arm, seeds, said)
            if not len(steps):
                continue
            y = y_SxP[:, np.searchsorted(step_P, steps)]
            for window in WINDOWS:
                start_S = [_start(x, y_P, window) for x, y_P in zip(x_SxP, y, strict=True)]
                parts.append(trend_rows.columns(
                    steps, x_SxP, y, x=name, y=f"test_accuracy_{outcome}", window=window, start_S=start_S, block=settings.block,
                    draws=settings.draws, arm=arm, seeds=seeds, conditional_on=None, row_ids=row_ids))
    return concatenate(*parts) if parts else {}


def _start(x_P: np.ndarray, y_P: np.ndarray, window: str) -> int:
    """The first point of a window: where x has a value from (nothing is memorised at first), and where y rises."""
    missing = np.flatnonzero(~np.isfinite(x_P))
    first = int(missing[-1]) + 1 if len(missing) else 0
    return first if window == "all" else max(first, trends.rising_from(y_P))


def judge(claims: Sequence[Mapping], table: pa.Table, settings: Settings) -> list[dict]:
    """Results for `records.finish`: paired over seeds, primary ones Holm-corrected.

    A seed counts in a claim where its arms did what they are for (`fit_for`); a claim with fewer than FEWEST such seeds
    supports nothing. In a `gap`, whose outcome that would select, every seed counts that memorised in both arms.
    """
    return corrected([_judge(one, table, settings) for one in claims])


def _correlations(one: Mapping, table: pa.Table, arm: str, outcome: str, role: str = "seed") -> dict[int, float]:
    """{seed: r} of a claim's variant; of role null what the other runs give."""
    wanted = {"x": one["x"], "y": f"test_accuracy_{outcome}", "at": one["at"], "reading": one["reading"],
              "method": one["method"]}
    kind = {} if role == "seed" else {"null_kind": "other_runs"}
    found = select(table, role=role, metric="trend.correlation", arm=arm, **kind).to_pylist()
    return {row["seed"]: row["value"] for row in found
            if row["value"] is not None and wanted.items() <= parse_params(row["params"]).items()}


def _units(one: Mapping, table: pa.Table) -> dict[int, float]:
    """{seed: the claim's statistic}: Fisher's z, differences of them, or a gap of accuracies."""
    first = one["arms"][0]
    if one["kind"] == "gap":
        seeds = sorted(set(select(table, role="seed", arm=first)["seed"].to_pylist()))
        last = [accuracy(table, arm, seeds)[1][:, -1] for arm in one["arms"]]
        return dict(zip(seeds, last[0] - last[1], strict=True))
    own = _correlations(one, table, first, first)
    if one["kind"] == "trend":
        return {seed: float(trends.fisher(r)) for seed, r in own.items()}
    other = (_correlations(one, table, one["arms"][1], first) if one["kind"] == "minus_control"
             else _correlations(one, table, first, first, role="null"))
    return {seed: float(trends.fisher(own[seed]) - trends.fisher(other[seed])) for seed in sorted(set(own) & set(other))}


def fit_for(one: Mapping, table: pa.Table, arm: str, reached: float) -> tuple[set[int], str]:
    """Seeds of an arm that count in a claim, and the numbers: they reached `reached` on the training split and, but in a `gap`,
    on the test split too; those of CONTROL did not.
    """
    seeds = sorted(set(select(table, role="seed", arm=arm)["seed"].to_pylist()))
    best = {split: accuracy(table, arm, seeds, split)[1].max(axis=1) for split in ("train", "id")}
    ok_S = best["train"] >= reached
    if one["kind"] != "gap":
        ok_S &= (best["id"] >= reached) != (arm == CONTROL)
    train, test = (f"{best[split].min():.2f} to {best[split].max():.2f}" for split in ("train", "id"))
    text = f"{arm}: {ok_S.sum()} of {len(seeds)} seeds count, best train accuracy {train}, test {test}"
    return {seed for seed, ok in zip(seeds, ok_S, strict=True) if ok}, text


_WORDS = {"trend": "correlation of {x} with test accuracy",
          "minus_control": "Fisher z of {x} with test accuracy, arm - control",
          "minus_others": "Fisher z of {x} with test accuracy, own - other seeds'", "gap": "final test accuracy"}


def _judge(one: Mapping, table: pa.Table, settings: Settings) -> dict:
    counted = [fit_for(one, table, arm, settings.reached) for arm in one["arms"]]
    units = {seed: x for seed, x in _units(one, table).items() if np.isfinite(x) and all(seed in ok for ok, _ in counted)}
    variant = "" if one["kind"] == "gap" else f" ({one['method']}, {one['reading']}, {one['at']} steps)"
    what = f"{_WORDS[one['kind']].format(x=one['x'])}{variant}, {' - '.join(one['arms'])}"
    result = unjudged(one, what, len(units), counted)
    if not units:
        return result | {"note": f"no seed has a value and counts; {result['note']}"}
    x_S, threshold = np.asarray(list(units.values())), one["threshold"]
    interval = stats.t_interval(x_S)
    if one["kind"] == "trend":
        threshold, interval = float(trends.fisher(threshold)), stats.Interval(*(np.tanh(end) for end in interval))
    result |= estimated(interval, stats.t_pvalue(x_S, threshold, one["direction"]))
    if len(units) < FEWEST:
        return result | {"note": f"{len(units)} seeds count, at least {FEWEST} are needed; {result['note']}"}
    return result | {"verdict": stats.verdict(interval, one["direction"], one["threshold"], one["equivalence_margin"])}
