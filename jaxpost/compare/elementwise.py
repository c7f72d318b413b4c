"""From the tally of a matrix to the values and references of a weight panel without spectra (`Panel(spectra="none")`).

The rows are those of `weight_rows.finalize`, fed with what `WeightGeometry` would have measured; counts are equal, norms
agree to float32 rounding. Two things are not drawn entry by entry: the visible norm of isotropic updates (the null of
`weight.update_norm` in bf16) is drawn on 4,096 entries taken by quantiles of the base's codes, and the rounding floor is its
expectation.

Legend: C 65,536 bf16 codes, V 1,536 visibility classes, A alphas, M masks, P norms of the null, D draws.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jaxpost.compare.reading import BF16, as_float32, bf16_codes, bf16_values
from jaxpost.compare.tally import CODES, Tally
from jaxpost.probes import visibility, weight_measurement
from jaxpost.probes.panel import Panel

SAMPLED = 4096
MAGNITUDE = 0x7FFF


class Masks(NamedTuple):
    """What rows need of masks: class counts i64[M, V], visible entries inside and size i64[M]."""

    class_counts: np.ndarray
    overlap: np.ndarray
    size: np.ndarray


class Threshold(NamedTuple):
    """The mask of lowest magnitude: all codes below `code`, and `taken` entries at it, the first in row-major order."""

    code: int
    taken: int
    at_code: int


def kept(alpha: float, n: int) -> int:
    """ceil(alpha n), as the panel's references count it."""
    return int(np.ceil(round(alpha * n, 6)))


def thresholds(panel: Panel, tally: Tally) -> list[Threshold]:
    """Where each mask of lowest magnitude ends."""
    count = tally.count_C[:32768] + tally.count_C[32768:]
    below = np.concatenate([[0], np.cumsum(count)])
    found = []
    for alpha in panel.alphas:
        wanted = kept(alpha, tally.size)
        code = int(np.searchsorted(below[1:], wanted))
        found.append(Threshold(code, wanted - int(below[code]), int(count[code])))
    return found


def ties(limits: list[Threshold], pieces: Callable[[], tuple[Iterable, bool]], shape: tuple[int, int]) -> list:
    """For each threshold with ties: flat positions in our order, base codes and tuned values of the entries taken; else None.

    One more pass over the base; nothing where no tie is cut.
    """
    wanted = [limit for limit in limits if 0 < limit.taken < limit.at_code]
    if not wanted:
        return [None] * len(limits)
    found = {limit.code: [] for limit in wanted}
    stream, turned = pieces()
    first = 0
    for w0, w1 in stream:
        codes = w0.view(np.uint16) if w0.dtype == BF16 else bf16_codes(as_float32(w0))
        for code, parts in found.items():
            at = np.flatnonzero((codes & MAGNITUDE) == code)
            parts.append((at + first, codes[at], bf16_codes(as_float32(w1[at]))))
        first += len(codes)
    out = []
    for limit in limits:
        if limit not in wanted:
            out.append(None)
            continue
        position, codes0, codes1 = (np.concatenate(x) for x in zip(*found[limit.code]))
        if turned:  # stored as [outputs, inputs], ours is [inputs, outputs]
            position = (position % shape[0]) * shape[1] + position // shape[0]
        first_ones = np.argpartition(position, limit.taken - 1)[:limit.taken]
        out.append((position[first_ones], codes0[first_ones], codes1[first_ones]))
    return out


@functools.cache
def classes() -> np.ndarray:
    """Visibility class of every bf16 code: i64[C]."""
    return np.asarray(visibility.class_of(jnp.arange(CODES, dtype=jnp.uint16)), np.int64)


def by_class(count_C: np.ndarray) -> np.ndarray:
    """Counts by code summed over classes: i64[V]."""
    return np.bincount(classes(), weights=count_C, minlength=visibility.CLASSES).astype(np.int64)


def low_masks(tally: Tally, limits: list[Threshold], cut: list) -> Masks:
    """Class counts, visible entries and sizes of the masks of lowest magnitude."""
    magnitude = np.arange(CODES) & MAGNITUDE
    rows = []
    for limit, tie in zip(limits, cut):
        inside = magnitude < limit.code if tie is not None or not limit.taken else magnitude <= limit.code
        count, seen = (np.where(inside, x, 0) for x in (tally.count_C, tally.seen_C))
        if tie is not None:
            _, codes0, codes1 = tie
            visible = (codes0 != codes1) & (((codes0 | codes1) & MAGNITUDE) != 0)
            count = count + np.bincount(codes0, minlength=CODES)
            seen = seen + np.bincount(codes0[visible], minlength=CODES)
        rows.append((by_class(count), seen.sum(), count.sum()))
    return Masks(*(np.asarray(x) for x in zip(*rows)))


def values(panel: Panel, tally: Tally, masks: Masks) -> dict[str, np.ndarray]:
    """Element-wise statistics of one matrix, named and shaped as in `weight_measurement.measure` (without its axis T)."""
    n, visible = tally.size, int(tally.seen_C.sum())
    sigma = max(np.sqrt(tally.update2 / n), 1e-30) if np.isfinite(tally.update2) else np.nan
    expected = _expected(panel, {
        "histogram": jnp.asarray(tally.histogram, jnp.int32), "sigma": jnp.float32(sigma),
        "density": jnp.float32(visible / n),
        "class_counts": jnp.asarray(np.concatenate([by_class(tally.count_C)[None], masks.class_counts]), jnp.int32),
    })
    ulp2 = code_ulp2() @ tally.count_C
    q2 = (ulp2 + tally.ulp2) / (2 * n) / 12 * np.asarray([4.0**-16, 1.0])
    reals = {
        "update_norm": np.sqrt([tally.update2, tally.visible2]),
        "rounding_energy": q2 * n,
        "rel_gaussian": _within_relative(panel, tally, sigma),
    }
    if tally.nonfinite:
        reals = {name: np.full_like(x, np.nan) for name, x in reals.items()}
    counts = {"n_nonfinite": tally.nonfinite, "n_off_grid": tally.off_grid, "same_bf16": n - visible,
              "same_fp32": tally.same_fp32, "same_abs": tally.within_abs_A, "same_rel": tally.within_rel_E,
              "overlap": masks.overlap, "mask_size": masks.size}
    return {name: np.asarray(x) for name, x in (counts | reals | expected).items()}


def references(panel: Panel, tally: Tally, name: str) -> dict:
    """References of one matrix as far as rows without spectra read them (without the axis of equal shapes)."""
    norm0 = base_norm(tally)
    floor = np.sqrt(code_ulp2() @ tally.count_C / 12) / norm0 * np.asarray([2.0**-16, 1.0])
    return {"norm0": norm0, "floor": {"relative_norm": floor}, "curves": {"relative_norm": _visible_norms(panel, tally, name)}}


def base_norm(tally: Tally) -> float:
    """||W0||_F of the base on the bf16 grid."""
    return float(np.sqrt(_squares() @ tally.count_C))


@functools.cache
def _squares() -> np.ndarray:
    finite = (np.arange(CODES) & 0x7F80) != 0x7F80
    return bf16_values(np.where(finite, np.arange(CODES), 0).astype(np.uint16)).astype(np.float64) ** 2


@functools.cache
def code_ulp2() -> np.ndarray:
    """Squared bf16 ULP by code: f64[C]."""
    return 4.0 ** (np.maximum((np.arange(CODES) >> 7) & 0xFF, 1) - 134.0)


_expected = jax.jit(weight_measurement.expected_counts, static_argnums=0)


def _within_relative(panel: Panel, tally: Tally, sigma: float) -> np.ndarray:
    """Expected entries with |d| <= eta max(|w0|, |w0 + d|) for Gaussian d, by code: f64[E]."""
    w = np.sqrt(_squares())
    out = []
    for eta in panel.rel_etas:
        inward = eta * w / sigma
        within = scipy.special.ndtr(inward) - scipy.special.ndtr(-inward / (1 - eta))
        out.append(within @ tally.count_C)
    return np.asarray(out)


def _visible_norms(panel: Panel, tally: Tally, name: str) -> np.ndarray:
    """Relative norms of isotropic updates, as float32 and bf16 see them: f64[P, D, 2 views]."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    edges = np.cumsum(tally.count_C)
    codes = np.searchsorted(edges, (np.arange(SAMPLED) + rng.random(SAMPLED)) * tally.size / SAMPLED, side="right")
    w0 = bf16_values(np.minimum(codes, CODES - 1).astype(np.uint16))
    norm0 = base_norm(tally)
    scale_P = np.asarray(panel.null_norms) * norm0 / np.sqrt(tally.size)
    z_DxS = rng.standard_normal((panel.null_draws, SAMPLED)).astype(np.float32)
    moved = w0 + scale_P.astype(np.float32)[:, None, None] * z_DxS
    seen = bf16_values(bf16_codes(np.ascontiguousarray(moved))) - w0
    views = [np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=-1) * tally.size) / norm0 for x in (moved - w0, seen)]
    return np.stack(views, axis=-1)
