"""What a weight measurement consists of: the settings, their masks and ranks.

Legend: T tensors, L tensors of one shape, M masks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jaxpost.probes.weights.visibility import LAWS

VIEWS = ("fp32", "bf16")  # the master weights, and what a bf16 reader sees of them
SIDES = ("left", "right")
LEVELS = ("none", "masks", "top", "exact")  # how much of the spectra a panel reads, cheapest first

# Expected visibility of blind updates, in the order of `visible_mean`. "permuted": the update's own entries, shuffled;
# "calibrated_<law>": of the update's visible density; "sized_<law>": of its mean absolute visible update.
PREDICTIONS = (
    "permuted", "permuted_fp32", "gaussian",
    *(f"calibrated_{law}" for law in LAWS), *(f"sized_{law}" for law in LAWS), "rounded_gaussian",
)


@dataclass(frozen=True)
class Panel:
    """Static settings of the weight probes. The first entry of `ks` and `alphas` is primary.

    `spectra` is the level, and a level gives the rows of the cheaper ones and its own:
      none   element-wise statistics, without any decomposition: sparsities, norms, low-magnitude overlap
      masks  the SVD of the base alone: overlap with principal masks
      top    the leading max(ks) singular triplets of both ends, certified (`linalg.top_k`): rotation, gap, Wedin bound,
             principal energies, and of the update stable rank and Hill; null: `nulls.first_order`
      exact  all singular values: spectral shift, rho, kappa, the other ranks; null: draws on the whole grid of norms
    What a level does not read has no rows. References of a level serve panels of that level and of cheaper ones.
    """

    ks: tuple[int, ...] = (16, 8, 32)  # subspace dimensions
    alphas: tuple[float, ...] = (0.5, 0.3)  # mask fractions
    abs_tols: tuple[float, ...] = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)  # |dW| <= tol on fp32
    rel_etas: tuple[float, ...] = (1e-4, 1e-3, 1e-2)  # |dW| <= eta max(|w0|, |w1|) on fp32
    null_norms: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)  # of ||W0||
    null_draws: int = 4  # Gaussian directions of the isotropic null
    rank_draws: int = 4  # blind updates of every measurement whose ranks are the null of the update's; 0: none
    spectra: str = "exact"  # one of LEVELS

    def __post_init__(self):
        if self.spectra not in LEVELS:
            near = difflib.get_close_matches(str(self.spectra), LEVELS, n=1) or ["exact"]
            raise ValueError(f"Panel.spectra is one of {', '.join(LEVELS)}; found {self.spectra!r}: use {near[0]!r}")
        if min(self.ks, default=0) < 2:
            raise ValueError(f"Panel.ks needs at least one k and every k >= 2; found {self.ks}")
        if not self.alphas or not all(0 < alpha < 1 for alpha in self.alphas):
            raise ValueError(f"Panel.alphas must lie in (0, 1); found {self.alphas}")
        if list(self.null_norms) != sorted(set(self.null_norms)) or self.null_norms[0] <= 0 or self.null_draws < 1:
            raise ValueError(f"Panel needs ascending null_norms > 0 and null_draws >= 1; found {self.null_norms}")

    def primary(self) -> Panel:
        """The cheap panel: primary k and alpha only, no nulls of ranks, the whole tolerance curve.

        Reads references of the full panel.
        """
        return replace(self, ks=self.ks[:1], alphas=self.alphas[:1], rank_draws=0)

    def reads(self, level: str) -> bool:
        """Whether rows of `level` are among those of this panel."""
        return LEVELS.index(self.spectra) >= LEVELS.index(level)

    @property
    def subspaces(self) -> tuple[int, ...]:
        """The subspace dimensions of the base that are read: none without its decomposition."""
        return self.ks if self.reads("masks") else ()


def check_ranks(panel: Panel, shapes: Iterable[Sequence[int]]) -> None:
    """Refuse a subspace dimension that no matrix of an inventory has. (One that some lack gives them absent rows.)

    Raises: ValueError naming the largest dimension possible.
    """
    largest = max((min(shape) - 1 for shape in shapes), default=0)
    if above := [k for k in panel.subspaces if k > largest]:
        raise ValueError(f"Panel.ks={panel.ks}: k={above[0]} is above every matrix; the largest possible is {largest}")


def masks_of(panel: Panel) -> tuple[tuple[str, int | None, float], ...]:
    """(mask, k, alpha) in the order of every mask axis: low magnitude, principal, principal but not low."""
    subspaces = [(k, alpha) for k in panel.subspaces for alpha in panel.alphas]
    return (
        *(("low_magnitude", None, alpha) for alpha in panel.alphas),
        *(("principal", k, alpha) for k, alpha in subspaces),
        *(("principal_not_low", k, alpha) for k, alpha in subspaces),
    )
