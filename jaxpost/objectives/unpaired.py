"""Unpaired preferences: rows that are desirable or not, each measured against a reference point. Shapes: N rows, T tokens."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import scores
from jaxpost.objectives.base import Batch, Objective, View, masked, mean_over

REFERENCE_POINTS = ("mismatched", "zero")


@dataclasses.dataclass(frozen=True)
class Unpaired(Objective):
    """KTO (arXiv:2402.01306): a row gains the more, the further its log-ratio is from the reference point, with saturation.

      loss = mean_rows( weight (1 - sigma( beta (h - z) )) )   desirable rows (label 1), weight desirable_weight
                        weight (1 - sigma( beta (z - h) ))     undesirable rows (label 0), weight undesirable_weight

    h = sum_t(l - f). z = max(0, mean of `Batch.outside_N`) over the rows of the whole batch that count, no gradient;
    `outside_N` is sum_t(l - f) of a mismatched pair, this row's prompt with another row's completion, under the parameters
    before the update; NaN: not known, left out of the mean. With reference_point="zero", z = 0 (APO-zero, arXiv:2408.06266).

    A row without a token counts only with aggregation_empty="counted" (TRL), with h = 0.

    Differs from the paper in: with several updates a batch, z stays that of the parameters before the first.
    """

    beta: float = 0.1  # scale of a log-ratio
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    reference_point: str = "mismatched"  # REFERENCE_POINTS

    def __post_init__(self):
        super().__post_init__()
        self.choose(batch=("rows",), reference_point=REFERENCE_POINTS)
        self.require(self.aggregation == "token",
                     f"aggregation={self.aggregation!r}: a row is one unit and the loss a mean over rows; leave 'token'")
        self.require(self.beta > 0, f"beta={self.beta} must be greater than 0, e.g. 0.1")
        for name in ("desirable_weight", "undesirable_weight"):
            self.require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} is negative, e.g. 1")

    @property
    def counts_rows(self) -> bool:
        """As `Objective.counts_rows`: the loss is a mean over rows."""
        return True

    def _counted(self, batch):
        """bool_N: the rows that count."""
        filled_N = (batch.mask_NxT > 0).any(axis=1)
        return jnp.ones_like(filled_N) if self.aggregation_empty == "counted" else filled_N

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return frozenset({"reference", "label"} | ({"outside"} if self.reference_point == "mismatched" else set()))

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        z = "z = 0" if self.reference_point == "zero" else "z = sg(max(0, mean over the batch's rows of Batch.outside_N))"
        return ["loss = mean_rows [ desirable_weight (1 - sigma(beta (h - z))) where the label is 1,",
                "                   undesirable_weight (1 - sigma(beta (z - h))) where it is 0 ]", "h = sum_t (l - f)", z]

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """Replace `outside_N` by the reference point z, the same for every row; as `Objective.prepare`.

        Raises:
          ValueError: a field that `needs` names is missing.
        """
        batch = self.check(batch, group)
        if self.reference_point == "zero":
            return batch._replace(outside_N=jnp.zeros_like(batch.mask_NxT[:, 0]))
        known_N = self._counted(batch) & ~jnp.isnan(batch.outside_N)
        mean = jnp.where(known_N, batch.outside_N, 0.0).sum() / jnp.maximum(known_N.sum(), 1)
        z = jax.lax.stop_gradient(jnp.maximum(mean, 0.0)).astype(batch.outside_N.dtype)
        return batch._replace(outside_N=jnp.broadcast_to(z, batch.outside_N.shape))

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; the count is the number of rows with a token.

        aux: `desirable` and `undesirable`, the mean implicit rewards beta h of either kind, and `reference_point`, z.
        """
        del state, kl_coef
        view, batch = masked(view, batch)
        h_N = scores.score(view.logp_NxT, batch.reference_NxT, batch.mask_NxT, batch.mask_NxT)
        full_N = self._counted(batch).astype(h_N.dtype)
        good_N = batch.label_N > 0.5
        toward_N = self.beta * jnp.where(good_N, h_N - batch.outside_N, batch.outside_N - h_N)
        weight_N = jnp.where(good_N, self.desirable_weight, self.undesirable_weight).astype(h_N.dtype)
        reward_N = self.beta * h_N
        aux = {"desirable": mean_over(reward_N, full_N * good_N), "undesirable": mean_over(reward_N, full_N * ~good_N),
               "reference_point": mean_over(batch.outside_N, full_N)}
        return *mean_over(weight_N * jax.nn.sigmoid(-toward_N), full_N), aux


ROWS = (
    Unpaired("kto", "preference", "arXiv:2402.01306", "rows"),
    Unpaired("apo_zero_unpaired", "preference", "arXiv:2408.06266", "rows", reference_point="zero"),
)
