"""From per-matrix statistics to rows: scopes (matrix, kind, body, global), pooling with honest statuses, row tables.

Everything is vectorised over seeds and scopes; a row table is a dict of equal-length columns.

Legend: S seeds, T matrices, C scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.stats

from jaxpost.probes.rows.inventory import OUTSIDE_BODY, TensorInfo

OK, NAN, ABSENT, DEGENERATE = range(4)  # state of one matrix in one statistic
_KEPT_BY_NULLS = ("metric", "only", "dtype", "side", "k", "params", "split")
NO_UPDATE = "no entry of the update is different from zero in this dtype"


@dataclass(frozen=True)
class Scopes:
    """Which matrices each reported row stands for, and the identity columns of those rows."""

    member_CxT: np.ndarray  # bool
    columns: dict[str, np.ndarray]  # granularity, tensor, module_kind, layer: object[C]


def scopes_of(infos: Sequence[TensorInfo]) -> Scopes:
    """One scope a matrix, one a module kind, `body` (all but embeddings and head, if any is left) and `global`."""
    kinds = np.asarray([info.kind for info in infos], object)
    rows = [("tensor", info.name, info.kind, info.layer) for info in infos]
    members = [np.arange(len(infos)) == t for t in range(len(infos))]
    for kind in dict.fromkeys(kinds):
        rows.append(("kind", None, kind, None))
        members.append(kinds == kind)
    body = ~np.isin(kinds, OUTSIDE_BODY)
    for granularity, member in (("body", body), ("global", np.ones(len(infos), bool))):
        if member.any():
            rows.append((granularity, None, None, None))
            members.append(member)
    names = ("granularity", "tensor", "module_kind", "layer")
    columns = {name: np.asarray(column, object) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return Scopes(np.stack(members), columns)


def total(x_SxT: np.ndarray, used_SxT: np.ndarray, scopes: Scopes) -> np.ndarray:
    """Sum over the used matrices of each scope; trailing axes of x are kept: [S, T, ...] -> [S, C, ...].

    A NaN makes the scopes that use its matrix NaN, an infinity infinite, and no other.
    """
    used = used_SxT.reshape(used_SxT.shape + (1,) * (x_SxT.ndim - 2))
    broken = used & ~np.isfinite(x_SxT)
    member = scopes.member_CxT.astype(np.float64)
    summed = np.einsum("st...,ct->sc...", np.where(used & ~broken, x_SxT, 0.0), member)
    if broken.any():
        lost = np.where(broken, x_SxT, 0.0)
        with np.errstate(invalid="ignore"):  # inf - inf
            summed += np.stack([lost[:, inside].sum(1) for inside in scopes.member_CxT], axis=1)
    return summed


def mean(x_SxT: np.ndarray, used_SxT: np.ndarray, scopes: Scopes) -> np.ndarray:
    """Unweighted mean over the used matrices of each scope, NaN where there is none."""
    count = total(np.ones(used_SxT.shape), used_SxT, scopes)
    summed = total(x_SxT, used_SxT, scopes)
    return divide(summed, count.reshape(count.shape + (1,) * (summed.ndim - 2)))


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b == 0, np.nan, a / np.where(b == 0, 1.0, b))


def prediction_band(draws: np.ndarray, low: float = -np.inf, high: float = np.inf) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, lo, hi): where one more draw would fall in 95 % of cases, from D null draws on the last axis.

    mean +- t_{0.975, D-1} s sqrt(1 + 1/D), the prediction interval of a normal law, cut to the statistic's domain
    [low, high]. The range of the draws instead would hold a fraction (D - 1) / (D + 1) of them: 60 % of four. Draws that
    are all equal have a band of width 0; one draw has none (NaN).
    """
    count, value = draws.shape[-1], draws.mean(-1)
    if count < 2:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    half = scipy.stats.t.ppf(0.975, count - 1) * draws.std(-1, ddof=1) * np.sqrt(1 + 1 / count)
    return value, np.maximum(value - half, low), np.minimum(value + half, high)


def union(bands: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value of the first, smallest lo, largest hi) of the bands of several laws: the null where the law is not known."""
    return bands[0][0], np.min([band[1] for band in bands], axis=0), np.max([band[2] for band in bands], axis=0)


def around(value: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, lo, hi): 95 % of a normal law, clipped to [0, 1]."""
    half = 1.959964 * deviation
    return value, np.clip(value - half, 0.0, 1.0), np.clip(value + half, 0.0, 1.0)


def over_laws(band: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`union` of bands that have the laws on their last axis."""
    value, lo, hi = band
    return value[..., 0], lo.min(-1), hi.max(-1)


def statuses(state_SxT: np.ndarray, scopes: Scopes, absent_reason: str) -> tuple[np.ndarray, np.ndarray]:
    """Status and reason of each scope: nan if any matrix is, ok if any has a value, else degenerate or absent.

    The reason counts what was left out of a pool, so that nothing is dropped silently.
    """
    counts = {code: total((state_SxT == code) * 1.0, state_SxT >= 0, scopes) for code in (OK, NAN, ABSENT, DEGENERATE)}
    status = np.full(counts[OK].shape, "ok", object)
    status[counts[OK] == 0] = "absent"
    status[(counts[OK] == 0) & (counts[DEGENERATE] > 0)] = "degenerate"
    status[counts[NAN] > 0] = "nan"
    reason = np.full(status.shape, None, object)
    for s, c in np.argwhere(sum(counts[code] for code in (NAN, ABSENT, DEGENERATE)) > 0):
        texts = {NAN: "non-finite entries", ABSENT: absent_reason, DEGENERATE: NO_UPDATE}
        n = int(scopes.member_CxT[c].sum())
        pieces = [
            text if n == 1 else f"{text} in {int(counts[code][s, c])} of {n} matrices"
            for code, text in texts.items()
            if counts[code][s, c]
        ]
        reason[s, c] = "; ".join(pieces)
    return status, reason


def joined(*parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of several row sets in one; what one lacks (`of`, without further nulls) is null there."""
    sizes = [len(part["metric"]) for part in parts]
    return {name: np.concatenate([part.get(name, np.full(n, None, object)) for part, n in zip(parts, sizes, strict=True)])
            for name in dict.fromkeys(name for part in parts for name in part)}


@dataclass
class RowTable:
    """Collects blocks of rows, one block a statistic with all seeds and scopes, and writes them out as columns."""

    scopes: Scopes
    seeds: Sequence[int]
    constant: Mapping[str, object]  # arm, step, conditional_on
    _seed_blocks: list[dict] = field(default_factory=list)
    _null_blocks: list[tuple[int, dict]] = field(default_factory=list)

    def add(self, metric: str, value_SxC, status, reason, *, null=None, floor=None, only=None, **key) -> int:
        """Append one statistic; returns its number, for `add_null`.

        Args:
          value_SxC: f64; status, reason object[S, C].
          null: (kind, value, lo, hi) with kind a text or object[S, C], or None for a statistic without a null.
          floor: noise floor f64[S, C] or None.
          only: bool[C], the scopes to report (default all).
          key: side, k, params, dtype, split; num_err; and, of an interval inside one policy, ci_lo, ci_hi with its own
            unit and n_units (default: one seed, no interval).
        """
        block = {"metric": metric, "role": "seed", "only": only, "value": value_SxC, "status": status, "n_units": 1,
                 "unit": "seed", "status_reason": reason, "noise_floor": floor, **key}
        if null is not None:
            block |= dict(zip(("null_kind", "null_value", "null_lo", "null_hi"), null, strict=True))
        self._seed_blocks.append(block)
        return len(self._seed_blocks) - 1

    def add_null(self, of: int, kind: str, value, lo, hi) -> None:
        """Append a further null of statistic number `of`: one row of role "null" for each of its rows."""
        owner = self._seed_blocks[of]
        block = {name: owner[name] for name in _KEPT_BY_NULLS if name in owner}
        status = np.where(np.isfinite(value), "ok", "absent").astype(object)
        reason = np.where(status == "ok", None, owner["status_reason"])
        block |= {"role": "null", "value": value, "status": status, "status_reason": reason}
        block |= {"null_kind": kind, "null_value": value}
        self._null_blocks.append((of, block | {"null_lo": lo, "null_hi": hi}))

    def columns(self, row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """All rows. `row_ids` gives the identity of every row of a dict of columns (records owns it)."""
        seeds = [self._expand(block) for block in self._seed_blocks]
        merged = {name: np.concatenate([part[name] for part in seeds]) for name in seeds[0]}
        if not self._null_blocks:
            return merged
        ids = np.asarray(row_ids(merged), object)
        starts = np.cumsum([0] + [len(part["metric"]) for part in seeds])
        parts = [merged]
        for of, block in self._null_blocks:
            parts.append(self._expand(block) | {"of": ids[starts[of] : starts[of + 1]]})
        return {name: np.concatenate([part[name] for part in parts]) for name in merged}

    def _expand(self, block: Mapping[str, object]) -> dict[str, np.ndarray]:
        n_seeds, n_scopes = len(self.seeds), len(self.scopes.member_CxT)
        only = np.ones(n_scopes, bool) if block["only"] is None else block["only"]

        def flat(x, dtype):
            filled = np.empty((n_seeds, n_scopes), dtype)
            filled[...] = x
            return filled[:, only].ravel()

        out = {name: flat(column[None, :], object) for name, column in self.scopes.columns.items()}
        out["seed"] = flat(np.asarray(self.seeds, object)[:, None], object)
        for name in ("arm", "step", "conditional_on"):
            out[name] = flat(self.constant[name], object)
        for name in ("metric", "role", "of", "params", "dtype", "split", "status", "status_reason", "unit", "null_kind"):
            out[name] = flat(block.get(name), object)
        out["side"] = flat(block.get("side") or "none", object)
        out["k"], out["n_units"] = flat(block.get("k"), object), flat(block.get("n_units"), object)
        for name in ("value", "null_value", "null_lo", "null_hi", "noise_floor", "num_err", "ci_lo", "ci_hi"):
            x = block.get(name)
            out[name] = flat(np.nan if x is None else x, np.float64)
        return out
