"""Rows of a table as curves: the values of one statistic along the steps of every run."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jaxpost.records import parse_params, select

WHOLE = ("global", "policy", "experiment")  # granularities of a statistic of the whole model
SELECTORS = ("split", "dtype", "k", "side", "granularity", "layer", "module_kind")  # columns that a claim may name
_MATCHED = ("at", "among", "on")  # params of rows at a matched point, which are asked for by name or not at all
_PLAIN = ("split", "dtype", "k")
_NO_STEP = -1  # stands for "no step", that of rows at a matched point
Run = tuple[str | None, int]  # (base, seed)


class AmbiguousError(ValueError):
    """What a claim states leaves several rows a step."""


class Curve(NamedTuple):
    """Steps [P] and values [P], NaN where there is none."""

    step: np.ndarray
    value: np.ndarray


def curves(table: pa.Table, of: Mapping, column: str = "value") -> dict[Run, Curve]:
    """{run: curve} of one statistic of one arm, in the order of the steps.

    Args:
      table: rows of role "seed".
      of: metric, arm, and what picks the variant: any of SELECTORS, and params (those that must be as stated; "at", "among"
        and "on" must be stated where rows have them). Without granularity it is the whole model's, with module_kind that
        of one matrix, with layer alone that of the layer.
      column: value or null_value.

    Raises:
      AmbiguousError: what is stated leaves several rows a step.
    """
    wanted = {"metric": of["metric"], "arm": of["arm"]} | {name: of[name] for name in SELECTORS if of.get(name) is not None}
    if "granularity" not in wanted:
        wanted["granularity"] = ("tensor",) if "module_kind" in wanted else ("layer",) if "layer" in wanted else WHOLE
    params = {name: str(value) for name, value in dict(of.get("params", {})).items()}
    points: dict[Run, dict[int, list[dict]]] = {}
    for row in select(table, role="seed", **wanted).to_pylist():
        own = parse_params(row["params"])
        if all(own.get(name) == params.get(name) for name in {*params, *_MATCHED}):
            step = _NO_STEP if row["step"] is None else row["step"]
            points.setdefault((row["conditional_on"], row["seed"]), {}).setdefault(step, []).append(row)
    return {run: Curve(np.asarray(sorted(at)), np.asarray([_value(of, at[step], column) for step in sorted(at)]))
            for run, at in points.items()}


def values(table: pa.Table, of: Mapping, step: int | None, column: str = "value") -> dict[Run, float]:
    """{run: value at a step} of one statistic; runs without a value are left out. Raises: AmbiguousError, as `curves`."""
    by_run = {}
    for run, curve in curves(table, of, column).items():
        at = curve.value[curve.step == (_NO_STEP if step is None else step)]
        if at.size and np.isfinite(at[0]):
            by_run[run] = float(at[0])
    return by_run


def aligned(x: Mapping[Run, Curve], y: Mapping[Run, Curve]) -> tuple[list[Run], np.ndarray, np.ndarray, np.ndarray]:
    """(runs that have both, steps of x [P], x [R, P], y at the same steps [R, P]); NaN where there is no value."""
    runs = sorted(set(x) & set(y), key=lambda run: (str(run[0]), run[1]))
    if not runs:
        return [], np.zeros(0, int), np.zeros((0, 0)), np.zeros((0, 0))
    step_P = np.unique(np.concatenate([x[run].step for run in runs]))
    return runs, step_P, *(np.stack([_on(side[run], step_P) for run in runs]) for side in (x, y))


def _on(curve: Curve, step_P: np.ndarray) -> np.ndarray:
    known = dict(zip(curve.step.tolist(), curve.value, strict=True))
    return np.asarray([known.get(step, np.nan) for step in step_P.tolist()])


def _value(of: Mapping, rows: list[dict], column: str) -> float:
    """The value of the one row of a step; of several the one that has nothing besides what is stated.

    Raises:
      AmbiguousError: several rows, none or more than one of them plain.
    """
    if len(rows) > 1:
        stated = {name: of.get(name) for name in _PLAIN} | {"params": dict(of.get("params", {}))}
        plain = [row for row in rows
                 if stated == {name: row[name] for name in _PLAIN} | {"params": parse_params(row["params"])}]
        if len(plain) != 1:
            differ = {name: sorted({repr(row[name]) for row in rows}) for name in (*SELECTORS, "params", "tensor")}
            variants = "; ".join(f"{name} {' or '.join(values)}" for name, values in differ.items() if len(values) > 1)
            raise AmbiguousError(f"{of['metric']} of arm {of['arm']!r} has several variants: {variants}; state which")
        rows = plain
    return np.nan if rows[0][column] is None else rows[0][column]
