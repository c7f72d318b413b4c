"""Rows of the Fourier progress measures: of weights at one step, of logits over a finished trajectory.

Legend: S seeds, p modulus, C = p answers, F frequencies, N training problems.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpost.probes.fourier import basis as fourier_basis
from jaxpost.probes.fourier.metrics import COSINE, EXCLUDED, FREQUENCY_SHARE, GINI, KEY_COUNT, RESTRICTED, SHARE, SUM_SQUARES
from jaxpost.probes.rows.pooling import RowTable, Scopes, joined, prediction_band

_EPS = 2.0**-24
_DRAWS = 16  # Gaussian tables of the Gini's null, and orders of the answers in that of the coefficients
_NAN = "the policy's logits are not finite"
_FLAT = "the logits do not depend on a + b: there is no key frequency"


@dataclass(frozen=True)
class Rule:
    """How key frequencies are chosen, and how many other sets of as many the null reads.

    Raises: ValueError for a setting out of range.
    """

    reach: float = 0.95  # share of the energy along a + b that the keys hold
    cap: int = 8  # most key frequencies
    sets: int = 32  # random sets of frequencies, all of them where there are fewer

    def __post_init__(self):
        if not 0 < self.reach <= 1 or self.cap < 1 or self.sets < 1:
            raise ValueError(f"{self}: reach must be in (0, 1], cap and sets at least 1")

    @property
    def text(self) -> str:
        """The entry in `params`."""
        return f"rule=energy_{self.reach:g}_cap_{self.cap}"


def one_scope(granularity: str, **columns: object) -> Scopes:
    """The scope of a statistic of the whole policy, or of one tensor."""
    names = {"granularity": granularity, "tensor": None, "module_kind": None, "layer": None, **columns}
    return Scopes(np.ones((1, 1), bool), {name: np.asarray([value], object) for name, value in names.items()})


def weight_rows(tables: Mapping[str, np.ndarray], sum_squares_S: np.ndarray, constant: Mapping[str, object],
                seeds: Sequence[int], row_ids: Callable) -> dict[str, np.ndarray]:
    """Rows of fourier.gini of each table (kind -> f32[S, p, D]) and of fourier.sum_squares."""
    parts = []
    for kind, table_SxPxD in tables.items():
        value = np.asarray([_gini(table) for table in table_SxPxD])
        rng = np.random.default_rng(0)
        null = prediction_band(np.asarray([_gini(rng.standard_normal(table_SxPxD.shape[1:])) for _ in range(_DRAWS)]))
        bad = ~np.isfinite(table_SxPxD).all(axis=(1, 2))
        status = np.where(bad, "nan", np.where(np.isnan(value), "degenerate", "ok")).astype(object)
        reason = np.where(bad, "non-finite entries", np.where(np.isnan(value), "all entries are 0", None))
        rows = RowTable(one_scope("tensor", tensor=kind, module_kind=kind), seeds, constant)
        rows.add(GINI.id, value[:, None], status[:, None], reason[:, None], null=("gaussian", *null), floor=2 * _EPS,
                 dtype="fp32")
        parts.append(rows.columns(row_ids))
    rows = RowTable(one_scope("global"), seeds, constant)
    ok = np.isfinite(sum_squares_S)
    rows.add(SUM_SQUARES.id, np.where(ok, sum_squares_S, np.nan)[:, None], np.where(ok, "ok", "nan").astype(object)[:, None],
             np.where(ok, None, "non-finite entries")[:, None], floor=2 * _EPS * np.asarray(sum_squares_S)[:, None],
             dtype="fp32")
    return joined(*parts, rows.columns(row_ids))


def _gini(table_PxD: np.ndarray) -> float:
    return fourier_basis.gini(fourier_basis.norms(table_PxD)) if np.isfinite(table_PxD).all() else np.nan


def logit_rows(series: Mapping[int, Mapping[str, np.ndarray]], problems, rule: Rule, constant: Mapping[str, object],
               seeds: Sequence[int], row_ids: Callable) -> dict[str, np.ndarray]:
    """Rows of restricted and excluded loss and logit share of every step, and of the frequencies at the last.

    Args:
      series: step -> `Fourier.arrays`. problems: `fourier.Problems`. constant: arm, conditional_on.
    """
    steps = sorted(series)
    runs = [_Run({step: {name: x[s] for name, x in series[step].items()} for step in steps}, problems, rule)
            for s in range(len(seeds))]
    parts = []
    for step in steps:
        rows = RowTable(one_scope("policy"), seeds, {**constant, "step": step})
        _add_step(rows, [run.at(step) for run in runs], [run.at(0) for run in runs] if 0 in series else None, rule)
        if step == steps[-1]:
            _add_frequencies(rows, runs, rule)
        parts.append(rows.columns(row_ids))
    return joined(*parts)


class _Run:
    """One seed: its key frequencies, and what each step reads with them and with other sets."""

    def __init__(self, series: Mapping[int, Mapping[str, np.ndarray]], problems, rule: Rule):
        self.series, self.problems, self.rule, self.p = series, problems, rule, problems.modulus
        self.share_F = self._shares(max(series))
        self.keys = fourier_basis.key_frequencies(np.nan_to_num(self.share_F), rule.reach, rule.cap)
        self.others = other_sets(self.keys, (self.p - 1) // 2, rule.sets)
        train = problems.train_PxP
        self.sum_N, self.answer_N = problems.sum_PxP[train], problems.answer_PxP[train]
        self.count_PxC = np.zeros((self.p, self.p))
        np.add.at(self.count_PxC, (problems.sum_PxP, problems.answer_PxP), 1)
        self._read = {}

    def at(self, step: int) -> dict:
        """{statistic: (value, [values of the null])}, status and floor of a step."""
        if step not in self._read:
            self._read[step] = self._measured(step)
        return self._read[step]

    def _shares(self, step) -> np.ndarray:
        x = self.series[step]
        return (fourier_basis.shares(x["coefficients"], x["variance"], self.p) if x["variance"] > 0
                else np.full((self.p - 1) // 2, np.nan))

    def _measured(self, step) -> dict:
        x, p = self.series[step], self.p
        ok = bool(np.isfinite(x["largest"]))
        values = {"ok": ok, "keys": len(self.keys), "floor": 2 * float(x["largest"]) * _EPS if ok else np.nan}
        if not ok or not len(self.keys):
            return values
        train_NxC, share_F = fourier_basis.centred(x["train"]), self._shares(step)

        def read(keys) -> tuple[float, float, float]:
            part_PxC = fourier_basis.components(x["coefficients"], keys, p)
            return (fourier_basis.restricted_loss(x["mean"], part_PxC, self.count_PxC),
                    fourier_basis.excluded_loss(train_NxC, self.sum_N, self.answer_N, part_PxC),
                    float(share_F[np.asarray(keys) - 1].sum()))

        null = np.asarray([read(keys) for keys in self.others]).reshape(-1, 3)
        value = dict(zip(("restricted", "excluded", "share"), zip(read(self.keys), null.T, strict=True), strict=True))
        single_F = np.asarray([fourier_basis.excluded_loss(train_NxC, self.sum_N, self.answer_N,
                                                           fourier_basis.components(x["coefficients"], [w], p))
                               for w in range(1, (p - 1) // 2 + 1)])
        rest_F = single_F[~np.isin(np.arange(1, len(single_F) + 1), self.keys)]
        return values | value | {"single": [(single_F[w - 1], rest_F) for w in self.keys]}


def other_sets(keys: Sequence[int], F: int, most: int) -> list[tuple[int, ...]]:
    """Sets of len(keys) frequencies in 1 .. F other than the keys: all, or `most` drawn with a fixed seed."""
    own, size = tuple(sorted(int(w) for w in keys)), len(keys)
    if math.comb(F, size) - 1 <= most:
        return [others for others in itertools.combinations(range(1, F + 1), size) if others != own]
    rng, drawn_sets = np.random.default_rng(0), {}
    while len(drawn_sets) < most:
        drawn = tuple(sorted(int(w) for w in rng.choice(F, size, replace=False) + 1))
        if drawn != own:
            drawn_sets[drawn] = None
    return list(drawn_sets)


def _add_step(rows: RowTable, read: Sequence[dict], untrained: Sequence[dict] | None, rule: Rule) -> None:
    ranks = max(x["keys"] for x in read)
    wanted = [(RESTRICTED.id, "restricted", rule.text, None), (SHARE.id, "share", rule.text, None),
              (EXCLUDED.id, "excluded", f"{rule.text};which=all", None),
              *((EXCLUDED.id, rank, f"{rule.text};which=single", rank + 1) for rank in range(ranks))]
    for metric, name, params, k in wanted:
        picked = [_pick(x, name) for x in read]
        value, status, reason = (np.asarray(column, object)[:, None] for column in list(zip(*picked, strict=True))[:3])
        nulls = np.asarray([_spread(x[3]) for x in picked])
        floor = np.asarray([[x["floor"] if metric != SHARE.id else 2 * _EPS] for x in read])
        row = rows.add(metric, value.astype(float), status, reason, floor=floor, params=params, k=k, dtype="fp32",
                       split="train" if metric == EXCLUDED.id else None,
                       null=("random_frequencies", *(nulls[:, i : i + 1] for i in range(3))))
        if untrained is not None:
            start = np.asarray([[_pick(x, name)[0]] for x in untrained], float)
            rows.add_null(row, "untrained", start, None, None)


def _pick(read: dict, name: str | int) -> tuple[float, str, str | None, np.ndarray]:
    """(value, status, reason, null values) of a statistic, or of the single key of a rank."""
    if not read["ok"]:
        return np.nan, "nan", _NAN, np.zeros(0)
    if not read["keys"]:
        return np.nan, "degenerate", _FLAT, np.zeros(0)
    if isinstance(name, int):
        if name >= read["keys"]:
            return np.nan, "absent", f"this seed has {read['keys']} key frequencies", np.zeros(0)
        return read["single"][name][0], "ok", None, read["single"][name][1]
    return read[name][0], "ok", None, read[name][1]


def _spread(x: np.ndarray) -> tuple[float, float, float]:
    """(mean, smallest, largest) over the other sets of frequencies: often all there are, not draws of a law."""
    return (x.mean(), x.min(), x.max()) if len(x) else (np.nan, np.nan, np.nan)


def _add_frequencies(rows: RowTable, runs: Sequence[_Run], rule: Rule) -> None:
    ok = np.asarray([[run.at(max(run.series))["ok"]] for run in runs])
    count = np.asarray([[float(len(run.keys))] for run in runs])
    rows.add(KEY_COUNT.id, np.where(ok, count, np.nan), np.where(ok, "ok", "nan").astype(object), np.where(ok, None, _NAN),
             params=rule.text, dtype="fp32")
    share_SxF, wave_SxFxD = np.stack([run.share_F for run in runs]), np.stack([_cosines(run) for run in runs])
    floor = np.asarray([[run.at(max(run.series))["floor"]] for run in runs])
    for w in range(1, share_SxF.shape[1] + 1):
        share_Sx1, wave_SxD = share_SxF[:, w - 1 : w], wave_SxFxD[:, w - 1]
        some = np.isfinite(share_Sx1)
        status = np.where(~ok, "nan", np.where(some, "ok", "degenerate")).astype(object)
        rows.add(FREQUENCY_SHARE.id, np.where(some, share_Sx1, np.nan), status,
                 np.where(~ok, _NAN, np.where(some, None, "the logits do not depend on the problem")), k=w, dtype="fp32",
                 floor=2 * _EPS, null=("uniform", share_SxF.mean(axis=1)[:, None], None, None))
        null = (x[:, None] for x in prediction_band(wave_SxD[:, 1:]))
        rows.add(COSINE.id, np.where(ok, wave_SxD[:, :1], np.nan), np.where(ok, "ok", "nan").astype(object),
                 np.where(ok, None, _NAN), k=w, dtype="fp32", floor=floor, null=("shuffled_answers", *null))


def _cosines(run: _Run) -> np.ndarray:
    """Coefficients of cos(w (a + b - c)) at the last step, [F, 1 + draws]: first as it is, then with answers permuted."""
    coefficients_FxKxC, rng = run.series[max(run.series)]["coefficients"], np.random.default_rng(0)
    orders = [np.arange(run.p), *(rng.permutation(run.p) for _ in range(_DRAWS))]
    return np.stack([fourier_basis.cosine_coefficients(coefficients_FxKxC[..., order], run.p) for order in orders], axis=1)
