"""Gates: an arm that did not do what it is for supports nothing. Fixed before the run, like the claims.

A gate is (rows of all seeds, claim, arm of the claim) -> Gate. A config names one of GATES in its section `gate`:

    c.gate = ConfigDict({"kind": "mean_reached", "metric": "fit.accuracy", "split": "id", "level": 0.99})
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from experiments.harness.claims.curves import Run, curves, values
from experiments.harness.errors import UserError
from jaxpost import stats
from jaxpost.lookup import nearest
from jaxpost.probes import trends

LEARNED = 0.05  # an arm whose new-task success moved by less supports nothing
FEWEST = 3  # runs that count, below which a claim supports nothing


class Gate(NamedTuple):
    """Whether an arm may support a claim, the numbers in words, and the runs that count (None: all)."""

    passed: bool
    note: str
    counted: frozenset[Run] | None = None


class Start(NamedTuple):
    """Where the success that an arm starts with stands in the rows."""

    arm: str = "base"
    step: int = 0


class End(NamedTuple):
    """Where an arm ends, and what it had to learn."""

    step: int
    split: str = "id"  # on which its success has to move
    made_of: tuple[str, ...] = ()  # the ends that an arm which is not trained is an average or edit of: these had to learn
    start: Start = Start()  # of its own stage
    origin: Start = Start()  # of its first stage: the base, or initial parameters


def named(section: Mapping, ends: Mapping[str, End], metrics: Collection[str], splits: Collection[str]) -> Callable:
    """The gate of a config's section {kind, settings...}.

    Args:
      ends: arm -> where it ends. metrics, splits: what is measured, and on what.

    Raises:
      UserError: a kind or setting that is not known, a setting that is missing, a metric or split that is not measured, or an
        accuracy that is none.
    """
    settings = dict(section)
    kind = settings.pop("kind", "success_moved")
    if kind not in GATES:
        raise UserError(f"gate.kind={kind!r} is not known{nearest(kind, GATES)}")
    taken = {name: p for name, p in inspect.signature(GATES[kind]).parameters.items() if name != "ends"}
    for name in settings:
        if name not in taken:
            raise UserError(f"config key 'gate.{name}' is not known{nearest(name, taken)}")
    if missing := [name for name, p in taken.items() if p.default is inspect.Parameter.empty and name not in settings]:
        raise UserError(f"gate.{missing[0]} is missing; {kind!r} takes {', '.join(taken)}")
    for name, known in (("metric", metrics), ("split", splits), ("control_split", splits)):
        if settings.get(name) and settings[name] not in known:
            raise UserError(f"gate.{name}={settings[name]!r} is not measured{nearest(settings[name], known)}")
    if kind == "success_moved" and _SUCCESS not in metrics:
        raise UserError(f"gate.kind={kind!r} reads {_SUCCESS}, which no probe of measure.probes gives{nearest(kind, GATES)}")
    if settings.get("since", "base") not in SINCE:
        raise UserError(f"gate.since={settings['since']!r} is not known{nearest(settings['since'], SINCE)}")
    if settings.get("metric") in _ACCURACIES and not 0 < settings.get("level", 1) <= 1:
        raise UserError(f"gate.level={settings['level']}: an accuracy, greater than 0 and at most 1")
    return GATES[kind](**settings, **({"ends": ends} if kind == "success_moved" else {}))


def unconditional() -> Callable:
    """Every arm may support a claim."""
    return lambda table, claim, arm: Gate(True, f"{arm}: no gate")


def success_moved(ends: Mapping[str, End], first_only: bool = False, since: str = "base") -> Callable:
    """Success on the arm's split moved by at least LEARNED, with an interval that leaves out 0; with `first_only` in the first
    arm of a claim alone: the others are controls that are not meant to learn. An arm that is made of other ends may be a
    control or not: each of those ends had to learn, on the split of its own task.

    Args:
      since: "base": an arm that goes on from another is judged by all its stages, since the base or where there is none since
        initial parameters; "start": by its own stage alone. The note of such an arm says both.
    """
    def moved_of(table: pa.Table, arm: str) -> Gate:
        end = ends[arm]
        starts = {"base": end.origin, "start": end.start}
        moved = {name: _moved(table, arm, end, start) for name, start in starts.items()}
        if not moved[since]:
            return Gate(False, f"{arm}: {_SUCCESS} ({end.split}) is not in the rows")
        interval = mean_interval(moved[since])
        text = f"{arm}: success moved by {_in_words(interval)}"
        if end.start != end.origin:
            other = next(name for name in SINCE if name != since)
            text += f" since {_place(arm, starts[since])}"
            text += f", by {_in_words(mean_interval(moved[other]))} since {_place(arm, starts[other])}" if moved[other] else ""
        return Gate(bool(abs(interval.value) >= LEARNED and not interval.lo <= 0 <= interval.hi), text)

    def gate(table: pa.Table, claim: Mapping, arm: str) -> Gate:
        if trained := _trained(arm, ends):
            parts = [moved_of(table, part) for part in trained]
            return Gate(all(g.passed for g in parts), f"{arm} is made of {', '.join(g.note for g in parts)}")
        if first_only and arm != claim["arms"][0]:
            return Gate(True, f"{arm}: a control")
        return moved_of(table, arm)

    return gate


def _moved(table: pa.Table, arm: str, end: End, start: Start) -> dict[Run, float]:
    """{run: success at the arm's end less that at a start}."""
    of = {"metric": _SUCCESS, "split": end.split}
    before = values(table, of | {"arm": start.arm}, start.step)
    return {run: value - before[run] for run, value in values(table, of | {"arm": arm}, end.step).items() if run in before}


def _in_words(interval: stats.Interval) -> str:
    within = f"[{interval.lo:+.3f}, {interval.hi:+.3f}]" if np.isfinite(interval.lo) else "(one run, no interval)"
    return f"{interval.value:+.3f} {within}"


def _place(arm: str, start: Start) -> str:
    return "its start" if start.arm == arm else start.arm


def _trained(arm: str, ends: Mapping[str, End]) -> list[str]:
    """The trained arms that an arm is made of, also through others that are not trained."""
    names = [trained for part in ends[arm].made_of for trained in (_trained(part, ends) or [part])]
    return list(dict.fromkeys(names))


def mean_reached(metric: str, split: str, level: float, control_split: str = "", first_only: bool = False) -> Callable:
    """The mean over runs of a metric on a split reached a level at some step; in every arm of a claim but its first, a
    control, on `control_split` where that is stated, and not at all with `first_only`: a control that is not meant to learn.
    """
    def gate(table: pa.Table, claim: Mapping, arm: str) -> Gate:
        if first_only and arm != claim["arms"][0]:
            return Gate(True, f"{arm}: a control")
        on = split if not control_split or arm == claim["arms"][0] else control_split
        name = f"{metric} ({on})"
        by_run = list(curves(table, {"metric": metric, "split": on, "arm": arm}).values())
        if not by_run:
            return Gate(False, f"{arm}: no {name}")
        mean_P, last = np.mean([value_P for _, value_P in by_run], axis=0), [value_P[-1] for _, value_P in by_run]
        first = trends.first_reaching(by_run[0].step, mean_P, level)
        when = f"reached {level:g} at step {first:g}" if np.isfinite(first) else f"stayed below {level:g}"
        return Gate(bool(np.isfinite(first)), f"{arm}: mean {name} {when}; at the end {mean_P[-1]:.3f}, seeds {min(last):.3f} "
                                              f"to {max(last):.3f}")

    return gate


def runs_reached(metric: str, level: float, never: Sequence[str] = ()) -> Callable:
    """Runs count one by one: those whose `metric` reached the level on split train and on split id, in the arms `never` on
    train and not on id. A claim on the metric itself asks for train alone: the rest would select on its outcome.
    """
    def gate(table: pa.Table, claim: Mapping, arm: str) -> Gate:
        best = {split: {run: np.nanmax(curve.value) for run, curve in
                        curves(table, {"metric": metric, "split": split, "arm": arm}).items()} for split in ("train", "id")}
        counted = {run for run, x in best["train"].items() if x >= level}
        if claim["metric"] != metric:
            counted = {run for run in counted & best["id"].keys() if (best["id"][run] >= level) != (arm in never)}
        spans = {split: f"{min(by_run.values()):.2f} to {max(by_run.values()):.2f}" if by_run else "absent"
                 for split, by_run in best.items()}
        text = (f"{arm}: {len(counted)} of {len(best['train'])} seeds count, best train accuracy {spans['train']}, "
                f"test {spans['id']}")
        return Gate(True, text, frozenset(counted))

    return gate


def fell(metric: str, share: float) -> Callable:
    """The interval of the relative fall of a metric, first measured step to last, lies above `share`."""
    def gate(table: pa.Table, claim: Mapping, arm: str) -> Gate:
        del claim
        by_run = curves(table, {"metric": metric, "arm": arm})
        if not by_run:
            return Gate(False, f"{arm}: {metric} is not in the rows")
        interval = mean_interval({run: 1 - x.value[-1] / x.value[0] for run, x in by_run.items()})
        text = f"{arm}: {metric} fell by {interval.value:.2f} of its first value [{interval.lo:.2f}, {interval.hi:.2f}]"
        return Gate(bool(interval.lo > share), text)

    return gate


GATES = {gate.__name__: gate for gate in (unconditional, success_moved, mean_reached, runs_reached, fell)}
_SUCCESS = "policy.success"
SINCE = ("base", "start")
_ACCURACIES = ("fit.accuracy", _SUCCESS)


def randomised(by_run: Mapping[Run, float]) -> np.ndarray:
    """The units of {(base, seed): value}: the mean of each base over its seeds, however many, or of one base the seeds."""
    bases = _of_bases(by_run)
    return np.asarray([x_S.mean() for x_S in bases]) if len(bases) > 1 else bases[0]


def mean_interval(by_run: Mapping[Run, float]) -> stats.Interval:
    """The mean over runs and its interval: over bases where there are several, else over seeds."""
    bases = _of_bases(by_run)
    return stats.hierarchical_interval(bases) if len(bases) > 1 else stats.t_interval(bases[0])


def _of_bases(by_run: Mapping[Run, float]) -> list[np.ndarray]:
    """The values of each base's seeds."""
    of_base: dict[str | None, list[float]] = {}
    for (base, _), x in sorted(by_run.items(), key=str):
        of_base.setdefault(base, []).append(x)
    return [np.asarray(x_S, float) for x_S in of_base.values()]
