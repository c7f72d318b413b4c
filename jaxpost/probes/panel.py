"""What a weight measurement consists of: the settings, the inventory of matrices, and how they are stacked.

Legend: T tensors, L tensors of one shape, M masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

VIEWS = ("fp32", "bf16")  # the master weights, and what a bf16 reader sees of them
SIDES = ("left", "right")
OUTSIDE_BODY = ("embed", "head")

# Expected visibility of blind updates, in the order of `visible_mean`. "permuted": the update's own entries, shuffled.
PREDICTIONS = (
    "permuted", "permuted_fp32", "gaussian_fp32", "gaussian", "laplace", "t3",
    "calibrated_gaussian", "calibrated_laplace", "calibrated_t3",
)


@dataclass(frozen=True)
class Panel:
    """Static settings of the weight probes. The first entry of `ks` and `alphas` is primary."""

    ks: tuple[int, ...] = (16, 8, 32)  # subspace dimensions
    alphas: tuple[float, ...] = (0.5, 0.3)  # mask fractions
    abs_tols: tuple[float, ...] = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)  # |dW| <= tol on fp32
    rel_etas: tuple[float, ...] = (1e-4, 1e-3, 1e-2)  # |dW| <= eta max(|w0|, |w1|) on fp32
    null_norms: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)  # of ||W0||
    null_draws: int = 4  # Gaussian directions of the isotropic null

    def __post_init__(self):
        if min(self.ks, default=0) < 2:
            raise ValueError(f"Panel.ks needs at least one k and every k >= 2; found {self.ks}")
        if not self.alphas or not all(0 < alpha < 1 for alpha in self.alphas):
            raise ValueError(f"Panel.alphas must lie in (0, 1); found {self.alphas}")
        if list(self.null_norms) != sorted(set(self.null_norms)) or self.null_norms[0] <= 0 or self.null_draws < 1:
            raise ValueError(f"Panel needs ascending null_norms > 0 and null_draws >= 1; found {self.null_norms}")

    def primary(self) -> Panel:
        """The cheap panel: primary k and alpha only, the whole tolerance curve. Reads references of the full panel."""
        return replace(self, ks=self.ks[:1], alphas=self.alphas[:1])


@dataclass(frozen=True)
class TensorInfo:
    """Inventory entry of one matrix; kind is one of q k v o gate up down router embed head."""

    name: str
    kind: str
    layer: int | None
    shape: tuple[int, int]


def fits(k: int | None, shape: Sequence[int]) -> bool:
    """Whether a matrix has a (k+1)-th singular value: k <= min(m, n) - 1. True for what has no k."""
    return k is None or k <= min(shape) - 1


def masks_of(panel: Panel) -> tuple[tuple[str, int | None, float], ...]:
    """(mask, k, alpha) in the order of every mask axis: low magnitude, principal, principal but not low."""
    subspaces = [(k, alpha) for k in panel.ks for alpha in panel.alphas]
    return (
        *(("low_magnitude", None, alpha) for alpha in panel.alphas),
        *(("principal", k, alpha) for k, alpha in subspaces),
        *(("principal_not_low", k, alpha) for k, alpha in subspaces),
    )


def shape_groups(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[str, ...]]:
    """Tensor names by shape: one program a group, mapped over its tensors. "256x128" -> sorted names.

    Wide matrices are grouped with tall ones of the transposed shape and are measured transposed (see `is_wide`).
    Raises: ValueError for anything that is not a matrix.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        if len(shape) != 2 or min(shape) < 2:
            raise ValueError(f"weight probes read matrices; {name!r} has shape {shape}")
        groups.setdefault(f"{max(shape)}x{min(shape)}", []).append(name)
    return {group: tuple(names) for group, names in groups.items()}


def is_wide(shape: Sequence[int]) -> bool:
    """Whether a matrix is measured transposed, its left and right sides swapped back afterwards."""
    return shape[0] < shape[1]
