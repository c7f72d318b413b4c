"""What a panel measured, as arrays over seeds and matrices in the order of the inventory. Host side.

Legend: S seeds, T matrices, L matrices of one shape, P points of the null grid, D null draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxpost.probes.rows.inventory import TensorInfo, fits, shape_groups
from jaxpost.probes.rows.pooling import ABSENT, DEGENERATE, NAN, OK, divide
from jaxpost.probes.weights import blind_energy, nulls, spectra, visibility
from jaxpost.probes.weights.panel import Panel


@dataclass
class Readings:
    """Values of `measure` with a leading axis over seeds, and references of `prepare`, put in the order of `infos`."""

    panel: Panel
    infos: Sequence[TensorInfo]
    refs: Mapping[str, Mapping]
    vals: Mapping[str, np.ndarray]
    n_seeds: int

    def __post_init__(self):
        names = [info.name for info in self.infos]
        if len(set(names)) != len(names):
            raise ValueError(f"tensor names repeat in infos: {sorted({n for n in names if names.count(n) > 1})}")
        self._order = np.argsort(np.argsort(names))  # position of each info among the sorted names
        place = {name: t for t, name in enumerate(names)}
        groups = shape_groups({info.name: info.shape for info in self.infos})
        self._columns = {g: [place[name] for name in members] for g, members in groups.items()}
        counts = {g: np.shape(ref["w0"])[0] for g, ref in self.refs.items()}
        expected = {g: len(columns) for g, columns in self._columns.items()}
        if counts != expected:
            raise ValueError(f"references do not match infos: shapes and counts {counts}, expected {expected}")
        shape = np.shape(self.vals["same_bf16"])
        if shape != (self.n_seeds, len(names)):
            raise ValueError(f"values have [seeds, tensors] = {shape}; expected {(self.n_seeds, len(names))}")

    def value(self, name: str) -> np.ndarray:
        """f64[S, T, ...] of a statistic of `measure`."""
        return np.asarray(self.vals[name], np.float64)[:, self._order]

    def reference(self, read: Callable[[Mapping], np.ndarray]) -> np.ndarray:
        """f64[T, ...] of something in the references."""
        by_group = {g: np.asarray(read(ref), np.float64) for g, ref in self.refs.items()}
        out = np.empty((len(self.infos), *next(iter(by_group.values())).shape[1:]))
        for g, columns in self._columns.items():
            out[columns] = by_group[g]
        return out

    @cached_property
    def n_T(self) -> np.ndarray:
        return np.asarray([info.shape[0] * info.shape[1] for info in self.infos], np.float64)

    @cached_property
    def norm0_T(self) -> np.ndarray:
        if not self._references_are_exact:
            return self.reference(lambda ref: ref["norm0"])
        return self.reference(lambda ref: np.linalg.norm(np.asarray(ref["s"], np.float64), axis=-1))

    @cached_property
    def _references_are_exact(self) -> bool:
        return "spectral_shift" in next(iter(self.refs.values()))["curves"]

    def null_kind(self, name: str) -> np.ndarray:
        """How the null of a rotation or spectral shift came about, object[S, 1]: blind updates drawn with this measurement
        (of the update's own law, or of a range of laws), or isotropic ones drawn with the references."""
        if f"blind_{name}" in self.vals:
            kind = np.where(self.bf16_master_S, "law_range", "permuted")
        else:
            kind = np.full(self.n_seeds, "isotropic" if self._references_are_exact else "isotropic_first_order")
        return kind.astype(object)[:, None]

    def ambiguous(self, mask: int) -> np.ndarray:
        """Entries that numerical error could put on the other side of a mask of `masks_of`: [T]."""
        n_alpha = len(self.panel.alphas)
        if mask < n_alpha:
            return np.zeros(len(self.infos))
        k, alpha = divmod((mask - n_alpha) % (len(self.panel.subspaces) * n_alpha), n_alpha)
        return self.reference(lambda ref: np.asarray(ref["ambiguous"])[:, k, alpha])

    def fell_back(self, view: int) -> np.ndarray:
        """Matrices of which either end needed the exact SVD after the iteration: bool [S, T]."""
        return (self.value("fell_back")[..., view] > 0) | (self.reference(lambda ref: ref["fell_back"]) > 0)

    @cached_property
    def finite_SxT(self) -> np.ndarray:
        """State OK or NAN."""
        return np.where(self.value("n_nonfinite") > 0, NAN, OK)

    def state(self, k: int | None = None, view: int | None = None) -> np.ndarray:
        """State [S, T]: absent where a matrix is too small for k, degenerate where the update of `view` is zero."""
        small_T = np.asarray([not fits(k, info.shape) for info in self.infos])
        state = np.where(small_T[None, :], ABSENT, self.finite_SxT)
        return state if view is None else np.where((state == OK) & (self.norm(view) == 0), DEGENERATE, state)

    @cached_property
    def bf16_master_S(self) -> np.ndarray:
        """Seeds whose masters are stored in bf16: then the update before rounding is not known."""
        return (self.value("n_off_grid") == 0).all(1)

    def norm(self, view: int) -> np.ndarray:
        return self.value("update_norm")[..., view]

    @cached_property
    def _curves(self) -> dict[str, np.ndarray]:
        """Isotropic null curves: name -> f64[T, P, D, 2 views, ...]."""
        names = next(iter(self.refs.values()))["curves"]
        curves = {name: self.reference(lambda ref, name=name: ref["curves"][name]) for name in names}
        if not self._references_are_exact:
            return curves
        return curves | {"spectral_shift_over_update": divide(curves["spectral_shift"], curves["relative_norm"])}

    def null_at(self, view: int) -> np.ndarray:
        """Relative norm [S, T] at which the isotropic null is read: that of the master update.

        For bf16 masters, in the bf16 view, the norm whose visible part is as large as the update.
        """
        relative = self.norm(0) / self.norm0_T
        if view == 0 or not self.bf16_master_S.any():
            return relative
        seen_TxP = self._curves["relative_norm"][..., view].mean(-1)
        matched = nulls.invert_norm(self.panel.null_norms, seen_TxP, relative)
        return np.where(self.bf16_master_S[:, None] & (relative > 0), matched, relative)

    def isotropic(self, name: str, view: int, side: int | None = None, k: int | None = None) -> np.ndarray:
        """Null draws [S, T, D] of a statistic of `spectra.rotation` (side and k are positions), or of relative_norm.

        A matrix without an update has the null 0 (its ratio of spectral shift and norm is degenerate, and has none).
        """
        if name == "spectral_shift_over_update" and "blind_spectral_shift" in self.vals:
            return divide(self.isotropic("spectral_shift", view), (self.norm(view) / self.norm0_T)[..., None])
        if f"blind_{name}" in self.vals:
            drawn = self.value(f"blind_{name}")[:, :, view]
            return drawn if side is None else drawn[..., side, k]
        curve = self._curves[name][:, :, :, view]
        if side is not None:
            curve = curve[..., side, k]
        at = self.null_at(view)
        drawn = nulls.interpolate(self.panel.null_norms, curve, at)
        if view == 0 and self.bf16_master_S.any():  # what is stored in bf16 reads alike in both views, and so does its null
            drawn = np.where(self.bf16_master_S[:, None, None], self.isotropic(name, 1, side, k), drawn)
        still = (at == 0) & (name != "spectral_shift_over_update")
        return np.where(still[..., None], 0.0, drawn)

    def floor(self, name: str, view: int, side: int | None = None, k: int | None = None) -> np.ndarray:
        """Rounding floor [S, T, ...] of a statistic (the same for every seed)."""
        floor = self.reference(lambda ref: ref["floor"][name])[:, view]
        if side is not None:
            floor = floor[..., side, k]
        return np.broadcast_to(floor, (self.n_seeds, *floor.shape))

    def _rank_place(self, name: str) -> int:
        """Position of a rank in the references, which may be of a dearer level than the panel."""
        return (spectra.RANKS if self._references_are_exact else spectra.LEADING_RANKS).index(name)

    def rank_floor(self, name: str, view: int) -> np.ndarray:
        """A rank of pure rounding noise of the base: [S, T]."""
        return self.floor("ranks", view)[..., self._rank_place(name)]

    def blind_ranks(self, name: str, view: int) -> np.ndarray | None:
        """A rank of drawn blind updates: [S, T, D]; None where none were drawn."""
        if "blind_ranks" not in self.vals:
            return None
        if name == "above_edge":
            return self.value("blind_above_edge")[:, :, view]
        names = spectra.RANKS if self.panel.reads("exact") else spectra.LEADING_RANKS
        return self.value("blind_ranks")[:, :, view, :, names.index(name)]

    def blind_energy(self, view: int, region: str, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(mean, variance) [S, T] of the share of a blind update's energy in a region, under each law that stands for it:
        the update's own, or of bf16 masters every law of `visibility.LAWS`. `k` is a position."""
        mean, variance = (self.value(f"blind_energy{what}")[..., blind_energy.REGIONS.index(region), k]
                          for what in ("", "_variance"))
        stored = self.bf16_master_S[:, None]
        return [(np.where(stored, mean[..., 2 + law], mean[..., view]), np.where(stored, variance[..., 2 + law],
                                                                                variance[..., view]))
                for law in range(len(visibility.LAWS))]
