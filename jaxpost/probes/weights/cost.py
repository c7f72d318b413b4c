"""Predicted price of the weight panel and of its references, counted by hand from shapes (flops are two a multiply-add).

Formulas of methods/numerics.md 5.1: thin SVD with vectors 6 m n^2 + 20 n^3, values alone 2 m n^2 + 2 n^3 (m >= n), block
Krylov 4 t m n b in products and 4 (m + n) (t b)^2 in orthogonalisation. Level "top" is priced at one Krylov cycle: a
spectrum too flat for it costs up to `linalg.top_k`'s four and the exact SVD.
"""

from __future__ import annotations

from collections.abc import Iterable

from jaxpost import linalg
from jaxpost.probes.base import Cost
from jaxpost.probes.weights.nulls import ANCHORS
from jaxpost.probes.weights.panel import VIEWS, Panel, masks_of

_PASSES = 40  # element-wise reads and writes of one float32 matrix: codes, histograms, tolerances, casts, norms
_SORT = 100  # passes that a random order of the entries costs
_LAWS = 8  # passes of a relative tolerance: four laws, each two survival functions


def svd_flops(shape: tuple[int, int], vectors: bool = True) -> float:
    """Floating-point operations of a dense SVD by R-SVD."""
    m, n = max(shape), min(shape)
    return 6.0 * m * n * n + 20.0 * n**3 if vectors else 2.0 * m * n * n + 2.0 * n**3


def krylov_cost(shape: tuple[int, int], k: int, depth: int, oversample: int = 8) -> Cost:
    """One block Krylov space with its residuals, or the exact SVD where it would not be smaller than the matrix."""
    m, n = max(shape), min(shape)
    if not linalg.krylov_fits(shape, k, oversample, depth):
        return Cost(products=4.0 * m * n * k, factorisations=svd_flops(shape), held=12.0 * m * n)
    block = k + 1 + oversample
    basis = depth * block
    products = 2.0 * (2 * depth - 1) * m * n * block + 4.0 * m * n * k
    return Cost(products, 4.0 * (m + n) * basis**2 + svd_flops((basis, basis)), held=8.0 * (m + n) * basis)


def panel_cost(panel: Panel, shapes: Iterable[tuple[int, int]]) -> Cost:
    """Price of one `measure` of one policy: matrices one after another, so what is held is the largest one's."""
    total = Cost()
    for shape in shapes:
        total += _elementwise(panel, shape)
        if panel.reads("top"):
            entries = float(shape[0] * shape[1])
            energy = Cost(products=4.0 * entries * _kept(panel, shape))
            total += _times(len(VIEWS), _end(panel, shape) + _update(panel, shape) + energy)
            total += Cost(products=len(VIEWS) * 24.0 * entries * len(panel.ks), streamed=4.0 * 12 * entries)  # blind energies
            drawn = _times(len(VIEWS), _update(panel, shape)) + Cost(streamed=4.0 * _SORT * entries)
            total += _times(panel.rank_draws, drawn)
    return total


def references_cost(panel: Panel, shapes: Iterable[tuple[int, int]]) -> Cost:
    """Price of `prepare`: the base itself, its rounding floors, and every decomposition of the isotropic null."""
    total, draws = Cost(), panel.null_draws
    for shape in shapes:
        norms = len(panel.null_norms) * draws * len(VIEWS)
        drawn = Cost(streamed=4.0 * 8 * norms * shape[0] * shape[1])  # draw, add, cast, subtract, square
        total += _elementwise(panel, shape) + drawn
        if panel.subspaces and not panel.reads("top"):
            total += _dense(panel, shape)
        elif panel.subspaces:
            exact = panel.reads("exact")
            ends = 1 + len(VIEWS) + (norms if exact else len(ANCHORS) * draws)
            updates = len(VIEWS)
            total += _times(ends, _end(panel, shape)) + _times(updates, _update(panel, shape))
    return total


def _times(count: int, one: Cost) -> Cost:
    return Cost(count * one.products, count * one.factorisations, count * one.streamed, one.held)


def _elementwise(panel: Panel, shape: tuple[int, int]) -> Cost:
    entries = float(shape[0] * shape[1])
    passes = _PASSES + len(panel.abs_tols) + _LAWS * len(panel.rel_etas) + 0.5 * len(masks_of(panel))
    return Cost(streamed=4.0 * entries * passes, held=entries * (24.0 + 2 * len(masks_of(panel))))


def _kept(panel: Panel, shape: tuple[int, int]) -> int:
    return min(max(panel.ks), min(shape) - 1)


def _dense(panel: Panel, shape: tuple[int, int]) -> Cost:
    """One decomposition by LAPACK, with the leading residuals."""
    entries = float(shape[0] * shape[1])
    return Cost(products=4.0 * entries * _kept(panel, shape), factorisations=svd_flops(shape), held=16.0 * entries)


def _end(panel: Panel, shape: tuple[int, int]) -> Cost:
    """One decomposition with its rotation against the base."""
    m, kept = max(shape), _kept(panel, shape)
    angles = Cost(products=2 * len(panel.ks) * 8.0 * m * kept**2,
                  factorisations=2 * len(panel.ks) * (svd_flops((m, kept), False) + svd_flops((kept, kept), False)))
    if panel.reads("exact"):
        return angles + _dense(panel, shape)
    return angles + krylov_cost(shape, kept, linalg.krylov_depth(shape, kept))


def _update(panel: Panel, shape: tuple[int, int]) -> Cost:
    """The ranks of one update."""
    if panel.reads("exact"):
        return Cost(factorisations=svd_flops(shape, vectors=False), held=4.0 * shape[0] * shape[1])
    return krylov_cost(shape, min(panel.ks[0], min(shape)), depth=8)
