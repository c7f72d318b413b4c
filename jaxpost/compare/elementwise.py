"""From the tally of a matrix to the values and references of a weight panel without spectra (`Panel(spectra="none")`).

The rows are those of `weights.rows.finalize`, fed with what `WeightGeometry` would have measured; counts are equal, norms
agree to float32 rounding. The rounding floor is its expectation. A base that bf16 does not hold is compared as stored; its
cells and masks are those of its cast, and where its entries lie in them is counted (`offsets`).

Legend: C 65,536 bf16 codes, V 1,536 visibility classes, A alphas, E relative tolerances, M masks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.compare import offsets
from jaxpost.compare.reading import BF16, as_float32, bf16_codes, bf16_values
from jaxpost.compare.tally import CODES, Tally
from jaxpost.probes.weights import blind_moments, visibility
from jaxpost.probes.weights import measurement as weight_measurement
from jaxpost.probes.weights.panel import PREDICTIONS, Panel

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
    limits = []
    for alpha in panel.alphas:
        wanted = kept(alpha, tally.size)
        code = int(np.searchsorted(below[1:], wanted))
        limits.append(Threshold(code, wanted - int(below[code]), int(count[code])))
    return limits


def ties(limits: list[Threshold], pieces: Callable[[], tuple[Iterable, bool]], shape: tuple[int, int]) -> list:
    """For each threshold with ties: flat positions in our order, base codes and tuned values of the entries taken; else None.

    One more pass over the base; nothing where no tie is cut.
    """
    wanted = [limit for limit in limits if 0 < limit.taken < limit.at_code]
    if not wanted:
        return [None] * len(limits)
    by_code = {limit.code: [] for limit in wanted}
    stream, turned = pieces()
    first = 0
    for w0, w1 in stream:
        codes = w0.view(np.uint16) if w0.dtype == BF16 else bf16_codes(as_float32(w0))
        for code, parts in by_code.items():
            at = np.flatnonzero((codes & MAGNITUDE) == code)
            parts.append((at + first, codes[at], bf16_codes(as_float32(w1[at]))))
        first += len(codes)
    out = []
    for limit in limits:
        if limit not in wanted:
            out.append(None)
            continue
        position, codes0, codes1 = (np.concatenate(x) for x in zip(*by_code[limit.code]))
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


class Blind(NamedTuple):
    """The law of a blind update of one matrix, as `probes.weights.blind` has it."""

    stored_bf16: bool  # the tuned side holds bf16 values: the law is unknown
    visible_L: np.ndarray  # standard deviation of each law of `visibility.LAWS` at the visible size
    kurtosis: float  # of the update
    moments: list[tuple[np.ndarray, np.ndarray]]  # E visible^2, E visible^4 by class, over the update's: own law or all


def blind_law(tally: Tally) -> Blind:
    """The law of a blind update of the size of this one."""
    n = tally.size
    once = jnp.asarray(by_class(tally.count_C), jnp.int32)
    fitted = np.asarray(_sized(once, jnp.float32(tally.visible1 / n)), np.float64)
    stored = not tally.off_grid
    square = tally.update2 / n
    kurtosis = tally.update4 / n / square**2 if square else 0.0
    if stored:
        moments = [tuple(law) for law in np.asarray(_moments(fitted.astype(np.float32)), np.float64)[:, 2:]]
    elif tally.off_grid_base and square:
        second, fourth = offsets.moments(tally.sizes_F, n)
        moments = [(second / square, fourth / square**2)]
    else:
        of_sizes = blind_moments.of_sizes(jnp.asarray(tally.sizes, jnp.int32), n, jnp.float32(np.sqrt(square)))
        moments = [tuple(np.asarray(x, np.float64) for x in of_sizes)]
    return Blind(stored, fitted, kurtosis, moments)


def values(panel: Panel, tally: Tally, masks: Masks, blind: Blind) -> dict[str, np.ndarray]:
    """Element-wise statistics of one matrix, named and shaped as in `weights.measurement.measure` (without its axis T)."""
    n, visible = tally.size, int(tally.seen_C.sum())
    square = tally.update2 / n if np.isfinite(tally.update2) else np.nan
    class_counts = np.concatenate([by_class(tally.count_C)[None], masks.class_counts])
    expected = {name: np.asarray(x, np.float64) for name, x in _expected(panel, {
        "histogram": jnp.asarray(tally.histogram, jnp.int32), "sigma": jnp.float32(np.sqrt(square)),
        "density": jnp.float32(visible / n), "visible_size": jnp.float32(tally.visible1 / n),
        "class_counts": jnp.asarray(class_counts, jnp.int32)}).items()}
    if tally.off_grid_base and tally.off_grid:
        p_V, square_V = offsets.by_class(tally.offset_CxB, tally.sizes_F, n)
        place = PREDICTIONS.index("permuted")
        expected["visible_mean"][place] = class_counts @ p_V
        expected["visible_variance"][place] = class_counts @ (p_V - square_V)
    second, fourth = blind.moments[0]
    square_law = [class_counts[0] @ second * square, class_counts[0] @ (fourth - second**2) * square**2]
    reals = {
        "update_norm": np.sqrt([tally.update2, tally.visible2]),
        "update_size": tally.update1 / n,
        "blind_square": np.full(2, np.nan) if blind.stored_bf16 else square_law,
        "rounding_energy": rounding_variance(tally) * n,
    } | _within_relative(panel, tally)
    if tally.nonfinite:
        reals = {name: np.full_like(x, np.nan) for name, x in reals.items()}
    counts = {"n_nonfinite": tally.nonfinite, "n_off_grid": tally.off_grid, "same_bf16": n - visible,
              "same_fp32": tally.same_fp32, "same_abs": tally.within_abs_A, "same_rel": tally.within_rel_E,
              "overlap": masks.overlap, "mask_size": masks.size}
    return {name: np.asarray(x) for name, x in (counts | reals | expected).items()}


def rounding_variance(tally: Tally) -> np.ndarray:
    """Mean square rounding error of an entry in each view: of a bf16 pair with bf16's ULPs in both: f64[views]."""
    q2 = (code_ulp2() @ tally.count_C + tally.ulp2) / (2 * tally.size) / 12
    return q2 * np.asarray([4.0**-16 if tally.off_grid else 1.0, 1.0])


def references(tally: Tally) -> dict:
    """References of one matrix as far as rows without spectra read them (without the axis of equal shapes)."""
    norm0 = base_norm(tally)
    floor = np.sqrt(code_ulp2() @ tally.count_C / 12) / norm0 * np.asarray([2.0**-16 if tally.off_grid else 1.0, 1.0])
    return {"norm0": norm0, "floor": {"relative_norm": floor}, "curves": {"relative_norm": np.zeros((1, 1, 2))}}


def base_norm(tally: Tally) -> float:
    """||W0||_F of the base as stored."""
    return float(np.sqrt(tally.base2 if tally.off_grid_base else _squares() @ tally.count_C))


@functools.cache
def _squares() -> np.ndarray:
    finite = (np.arange(CODES) & 0x7F80) != 0x7F80
    return bf16_values(np.where(finite, np.arange(CODES), 0).astype(np.uint16)).astype(np.float64) ** 2


@functools.cache
def code_ulp2() -> np.ndarray:
    """Squared bf16 ULP by code: f64[C]."""
    return 4.0 ** (np.maximum((np.arange(CODES) >> 7) & 0xFF, 1) - 134.0)


_expected = jax.jit(weight_measurement.expected_counts, static_argnums=0)
_sized = jax.jit(blind_moments.calibrate)
_moments = jax.jit(blind_moments.of_laws)


def _within_relative(panel: Panel, tally: Tally) -> dict[str, np.ndarray]:
    """`weights.measurement.within_relative` by code: f64[LAWS, E] twice. One in thirty codes occurs in a matrix."""
    occupied = np.flatnonzero(tally.count_C)
    w, count = np.sqrt(_squares()[occupied]), tally.count_C[occupied]
    out = np.zeros((2, len(visibility.LAWS), len(panel.rel_etas)))
    for i, law in enumerate(visibility.LAWS):
        sigma = tally.update1 / tally.size / blind_moments.mean_size(law)
        for j, eta in enumerate(panel.rel_etas):
            inward = eta * w / max(sigma, 1e-30)
            p = 1 - 0.5 * (blind_moments.survival(law, inward) + blind_moments.survival(law, inward / (1 - eta)))
            p = np.clip(p, 0.0, 1.0) if sigma > 0 else np.ones_like(w)
            out[:, i, j] = p @ count, (p * (1 - p)) @ count
    return {"rel_blind": out[0], "rel_blind_variance": out[1]}
