"""Comparisons at equal footing: at the same update norm, at the same rescaled norm, at the same new-task success.

Works on rows of role "seed" and gives rows of role "seed" back, with `params` saying `at=...;among=...`; seeds are
summarised later like any others. Outside an arm's range a value is absent, never extrapolated.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import numpy as np
import pyarrow as pa

from jaxpost import stats
from jaxpost.records import parse_params, select

_KEY = ("metric", "side", "k", "params", "split", "dtype", "granularity")
SUCCESS = "policy.success"
Read = tuple[str, str | None]  # (metric, split) of a policy
_NUMBERS = ("value", "null_value", "null_lo", "null_hi", "noise_floor")


class Trajectories:
    """Seed rows of global and policy granularity, by (arm, seed, base), as step-ordered series."""

    def __init__(self, table: pa.Table):
        self.runs = defaultdict(lambda: defaultdict(list))
        for granularity in ("global", "policy"):
            for row in select(table, role="seed", granularity=granularity).to_pylist():
                if "at=" not in (row["params"] or ""):
                    run = (row["arm"], row["seed"], row["conditional_on"])
                    self.runs[run][tuple(row[k] for k in _KEY)].append(row)
        for series in self.runs.values():
            for rows in series.values():
                rows.sort(key=lambda row: row["step"])

    def of(self, arms: Sequence[str], base: str) -> dict:
        """{(arm, seed): series} of some arms on one base."""
        return {(a, s): series for (a, s, b), series in self.runs.items() if b == base and a in arms}

    @property
    def arms(self) -> list[str]:
        """Arms that were trained."""
        return sorted({arm for arm, _, _ in self.runs if arm != "base"})


def path(series: Mapping, **wanted) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the one series with these key fields; NaN where a value is absent.

    Raises:
      KeyError: none or several such series.
    """
    matching = [rows for key, rows in series.items() if all(dict(zip(_KEY, key))[n] == v for n, v in wanted.items())]
    if len(matching) != 1:
        raise KeyError(f"{len(matching)} series match {wanted}")
    return (np.asarray([r["step"] for r in matching[0]], float),
            np.asarray(_values(matching[0]), float))


def _values(rows: Sequence[Mapping]) -> list[float]:
    return [_number(row["value"]) for row in rows]


def update_norm(series: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """(steps, ||dW||_F of all 2-D weights) along the run, from the masters."""
    return path(series, metric="weight.update_norm", granularity="global", dtype="fp32")


def kl(series: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """(steps, KL(base || policy) of whole answers) along the run, the distance that fits of forgetting read."""
    return path(series, metric="policy.kl_forward", params="reduce=sequence_sum")


def _at(points: Sequence[Mapping], steps: np.ndarray) -> list[Mapping]:
    """The rows of a series at these steps; [] where it was not measured at each of them."""
    by_step = {row["step"]: row for row in points}
    return [by_step[step] for step in steps] if by_step.keys() >= set(steps) else []


def tag(params: str | None, **more: str) -> str:
    """`params` with further key=value pairs, sorted."""
    return ";".join(f"{k}={v}" for k, v in sorted({**parse_params(params), **more}.items()))


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _columns(rows: list[dict]) -> dict[str, list]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _row(first: Mapping, at: Mapping[str, str], numbers: Mapping[str, float]) -> dict:
    finite = np.isfinite(numbers["value"])
    kept = {k: first[k] for k in (*_KEY, "arm", "seed", "conditional_on", "null_kind", "unit")}
    kept_numbers = {k: float(v) if np.isfinite(v) else None for k, v in numbers.items()}
    if not finite:
        kept_numbers = dict.fromkeys(kept_numbers)
    return {**kept, **kept_numbers, "params": tag(first["params"], **at), "role": "seed", "n_units": 1,
            "status": "ok" if finite else "absent",
            "status_reason": None if finite else "outside the range of this run: not extrapolated"}


def at_matched_distance(collected: Trajectories, arms: Sequence[str], base: str, among: str, *, place: str = "matched_norm",
                        distance: Callable[[Mapping], tuple[np.ndarray, np.ndarray]] = update_norm) -> tuple[dict, float]:
    """Every global weight statistic and KL where each run was first as far from the base, log-linear between steps.

    Args:
      place, distance: what the runs are matched on: matched_norm and `update_norm`, or matched_kl and `kl`.

    Returns:
      (columns, target): the target is the smallest final distance over the runs of `arms` that moved; NaN if none did.
    """
    runs = collected.of(arms, base)
    reached = {run: distance(series) for run, series in runs.items()}
    target = min((float(x[-1]) for _, x in reached.values() if x[-1] > 0), default=np.nan)
    rows = []
    for run, series in runs.items():
        steps, far = reached[run]
        for key, points in series.items():
            of_policy = key[0].startswith(("weight.", "policy.")) and key[0] != "policy.loss_tokens"
            if not of_policy or not (there := _at(points, steps)):
                continue  # of other things than where the policy is, or measured at other steps, such as the last one only
            numbers = {n: stats.log_interp([target], far, [_number(p[n]) for p in there])[0]
                       if target > 0 else np.nan for n in _NUMBERS}
            rows.append(_row(there[-1], {"at": place, "among": among}, numbers))
    return _columns(rows), target


def _last(values: np.ndarray) -> float:
    return values[-1]


def at_matched_success(collected: Trajectories, arms: Sequence[str], base: str, among: str, *, on: str = "id",
                       read: Sequence[Read] = ((SUCCESS, "second"),), before: Mapping[str, str] = MappingProxyType({}),
                       metric: str = SUCCESS, level: Callable[[np.ndarray], float] = _last) -> tuple[dict, float]:
    """What else a policy does where each run first had the target success on one split, linear between measured steps.

    Args:
      on: the split on which the runs are matched; read: what is read there, (metric, split or None), every variant of it that
        a run and its start have at the steps of success.
      before: arm -> the arm whose end it starts from; those that are not there start from the base, or where their own rows of
        step 0 say.
      metric: what success is. level: a run's curve of it -> what the run can do, its last value or its best.

    Returns:
      (columns, target): the target is the smallest level on `on` over the runs of `arms`.
    """
    runs = collected.of(arms, base)
    start = collected.of([*{before.get(arm, "base") for arm in arms}], base)

    def success(series):
        return path(series, metric=metric, split=on)

    measured = {run: success(series) for run, series in runs.items()}
    began = {(arm, seed): {} if measured[arm, seed][0][0] == 0 else start[before.get(arm, "base"), seed] for arm, seed in runs}
    reached = {run: np.concatenate([success(began[run])[1][-1:], values]) if began[run] else values
               for run, (_, values) in measured.items()}
    target = min(float(level(values)) for values in reached.values())
    place = {"at": "matched_success", "among": among} | ({"on": on} if on != "id" else {})
    rows = []
    for run, series in runs.items():
        for key, points in series.items():
            if (key[0], key[_KEY.index("split")]) not in read or (began[run] and key not in began[run]):
                continue
            if there := _at(points, measured[run][0]):
                new, old = reached[run], np.asarray(_values([*began[run].get(key, ())[-1:], *there]), float)
                value = stats.log_interp([np.exp(target)], np.exp(new), old)[0]  # linear: the logarithm undoes the exp
                rows.append(_row(there[-1], place, {"value": value, "null_value": _number(there[-1]["null_value"])}))
    return _columns(rows), target


def at_rescaled_norm(rows_of: Callable[[dict], dict], base_params: Mapping, final_S: Mapping, seeds: Sequence[int],
                     norm_S: np.ndarray, target: float, among: str) -> dict:
    """Global rows of W0 + c dW with c = target / ||dW||_F: what size alone does to the final update's statistics.

    Args:
      rows_of: stacked parameters -> columns of the weight panel.
      base_params, final_S: the base, and the final masters with a leading axis over seeds (float32).
      seeds, norm_S: each seed and its ||dW||_F; rows of a run that did not move are absent.
    """
    moved_S = (norm_S > 0) & np.isfinite(target)
    scale_S = np.divide(target, norm_S, out=np.zeros(len(norm_S)), where=moved_S).astype(np.float32)

    def shrink(w0, w1):
        c = scale_S.reshape((-1,) + (1,) * w0.ndim)
        return w0[None] + c * (w1 - w0[None])

    columns = rows_of(jax.tree.map(shrink, base_params, final_S))
    keep = [i for i, (g, r) in enumerate(zip(columns["granularity"], columns["role"])) if g == "global" and r == "seed"]
    kept = {name: [values[i] for i in keep] for name, values in columns.items()}
    kept["params"] = [tag(p, at="rescaled_norm", among=among) for p in kept["params"]]
    still = [i for i, seed in enumerate(kept["seed"]) if not moved_S[seeds.index(seed)]]
    absent = dict.fromkeys(_NUMBERS) | {"status": "absent", "status_reason": "the run did not move: nothing to rescale"}
    for name, value in absent.items():
        for i in still:
            kept[name][i] = value
    return kept
