"""When does a curve turn, and do turns come in the stated order? Claims about trajectories, paired over seeds.

Curves are read on a logarithmic axis of the measured steps from 1 on; a turn is looked for from the step on at which the
training accuracy says that a seed has memorised: before memorisation everything moves.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from experiments.harness.claims import check_strength, corrected, estimated, gated, judgeable, unjudged
from experiments.harness.errors import UserError
from jaxpost import stats
from jaxpost.lookup import nearest
from jaxpost.records import parse_params, select

KINDS = ("lead", "delay", "final_difference")
# name in a claim -> where its curve is in the rows
CURVES = {
    "train_loss": {"metric": "fit.loss", "split": "train"},
    "test_loss": {"metric": "fit.loss", "split": "id"},
    "train_accuracy": {"metric": "fit.accuracy", "split": "train"},
    "test_accuracy": {"metric": "fit.accuracy", "split": "id"},
    "restricted_loss": {"metric": "fourier.restricted_loss"},
    "restricted_null": {"metric": "fourier.restricted_loss", "column": "null_value"},  # of random frequencies
    "excluded_loss": {"metric": "fourier.excluded_loss", "which": "all"},
    "logit_share": {"metric": "fourier.logit_share"},
    "gini_embed": {"metric": "fourier.gini", "module_kind": "embed"},
    "gini_head": {"metric": "fourier.gini", "module_kind": "head"},
    "sum_squares": {"metric": "fourier.sum_squares"},
}


def claim(name: str, kind: str, statement: str, curve: str, against: str, arms: Sequence[str], threshold: float,
          primary: bool = False) -> dict:
    """A claim that something is greater than its threshold, which is its equivalence margin as well.

      lead              ln(half-change step of `against` / half-change step of `curve`) in one arm, after memorisation
      delay             ln(first step at which `against` reached the event level / the same of `curve`) in one arm
      final_difference  `curve` at the last step, first arm - second arm (`against` is the same curve)
    """
    return {"id": name, "primary": primary, "kind": kind, "statement": statement, "metric": CURVES[curve]["metric"],
            "curve": curve, "against": against, "arms": tuple(arms), "at": kind, "direction": "greater",
            "threshold": threshold, "equivalence_margin": threshold}


def checked(claims: Sequence[Mapping], arms: Sequence[str]) -> list[Mapping]:
    """The claims whose arms all run. Raises: UserError for a claim that could not be judged."""
    for one in claims:
        for field, valid in (("kind", KINDS), ("curve", CURVES), ("against", CURVES)):
            if one[field] not in valid:
                raise UserError(f"claim {one['id']!r}: {field}={one[field]!r}{nearest(one[field], valid)}")
    found = judgeable(claims, arms)
    check_strength(found)
    return found


def half_change(step_T: Sequence[int], value_T: Sequence[float]) -> float:
    """The step after which a curve has made half of its total change for good; NaN for a curve that does not change.

    The total change goes from the value farthest from the last one to the last one, so that a loss that rises before it
    falls is timed by its fall, without a choice of direction. Crossings are interpolated in (log step, value).

    >>> round(half_change([1, 10, 100, 1000], [4.0, 4.0, 0.0, 0.0]), 6)  # halfway between 10 and 100
    31.622777
    """
    step, value = np.log(np.asarray(step_T, float)), np.asarray(value_T, float)
    if not len(value) or not np.isfinite(value).all():
        return np.nan
    far = value[np.argmax(np.abs(value - value[-1]))]
    if far == value[-1]:
        return np.nan
    done = (value - far) / (value[-1] - far)  # 0 at the farthest, 1 at the end
    t = int(np.flatnonzero(done <= 0.5)[-1])
    return float(np.exp(step[t] + (0.5 - done[t]) / (done[t + 1] - done[t]) * (step[t + 1] - step[t])))


def reached(step_T: Sequence[int], value_T: Sequence[float], level: float) -> float:
    """The first step at which a curve is at least `level`; NaN where it never is."""
    there = np.flatnonzero(np.asarray(value_T) >= level)
    return float(step_T[there[0]]) if len(there) else np.nan


def curves_of(table: pa.Table, name: str, arm: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{seed: (steps, values)} of a curve, from step 1; a step without a value is NaN."""
    wanted = dict(CURVES[name])
    which, column, found = wanted.pop("which", None), wanted.pop("column", "value"), {}
    for row in select(table, role="seed", arm=arm, **wanted).to_pylist():
        if row["step"] >= 1 and parse_params(row["params"]).get("which") == which:
            found.setdefault(row["seed"], []).append((row["step"], np.nan if row[column] is None else row[column]))
    return {seed: tuple(np.asarray(x, float) for x in zip(*sorted(points), strict=True)) for seed, points in found.items()}


def learned(table: pa.Table, arm: str, curve: str, level: float) -> tuple[bool, str]:
    """Whether the mean over an arm's seeds reached the level of a curve at some measured step, and the numbers."""
    read = list(curves_of(table, curve, arm).values())
    if not read:
        return False, f"{arm}: no {curve}"
    mean_T, last = np.mean([value_T for _, value_T in read], axis=0), [value_T[-1] for _, value_T in read]
    first = reached(read[0][0], mean_T, level)
    when = f"reached {level:g} at step {first:g}" if np.isfinite(first) else f"stayed below {level:g}"
    return bool(np.isfinite(first)), (f"{arm}: mean {curve} {when}; at the end {mean_T[-1]:.3f}, "
                                     f"seeds {min(last):.3f} to {max(last):.3f}")


def judge(claims: Sequence[Mapping], table: pa.Table, level: float, event: float) -> list[dict]:
    """Results for `records.finish`: paired over seeds, primary ones Holm-corrected, gated on arms that learned.

    Args:
      table: all rows of role "seed".
      level: mean accuracy that counts as learned. The first arm of a claim must reach it on the test split, a second one, a
        control, on the training split.
      event: accuracy at which a seed has memorised (training) or generalised (test).
    """
    return corrected([_judge(one, table, level, event) for one in claims])


def _units(one: Mapping, table: pa.Table, event: float) -> dict[int, float]:
    """{seed: the claim's statistic}."""
    sides = [curves_of(table, name, arm) for name, arm in zip((one["curve"], one["against"]), (one["arms"] * 2)[:2],
                                                              strict=True)]
    memorised, found = curves_of(table, "train_accuracy", one["arms"][0]), {}
    for seed in sorted(set(sides[0]) & set(sides[1])):
        pair = [side[seed] for side in sides]
        if one["kind"] == "final_difference":
            found[seed] = pair[0][1][-1] - pair[1][1][-1]
            continue
        if one["kind"] == "lead":
            start = reached(*memorised[seed], event)
            early, late = (half_change(step_T[step_T >= start], value_T[step_T >= start]) for step_T, value_T in pair)
        else:
            early, late = (reached(*x, event) for x in pair)
        found[seed] = float(np.log(late / early))
    return found


def _judge(one: Mapping, table: pa.Table, level: float, event: float) -> dict:
    units = _units(one, table, event)
    missing = [seed for seed, x in units.items() if not np.isfinite(x)]
    words = {"lead": f"ln(half-change step of {one['against']} / of {one['curve']})",
             "delay": f"ln(step at which {one['against']} reached {event:g} / {one['curve']} did)",
             "final_difference": f"{one['curve']} at the last step"}[one["kind"]]
    gates = [learned(table, arm, curve, level)
             for arm, curve in zip(one["arms"], ("test_accuracy", "train_accuracy"), strict=False)]
    result = unjudged(one, f"{words}, {' - '.join(one['arms'])}", len(units) - len(missing), gates)
    if missing or not units:
        lost = f"no value in seed {missing[0]}" if missing else "no seed has both curves"
        return result | {"note": f"{lost}, so it supports nothing; {result['note']}"}
    x_S = np.asarray(list(units.values()))
    interval = stats.t_interval(x_S)
    result |= estimated(interval, stats.t_pvalue(x_S, one["threshold"], one["direction"]))
    return gated(result, interval, gates)
