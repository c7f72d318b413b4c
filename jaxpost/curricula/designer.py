"""Curriculum designer: an order of kinds of problems from the distances between them. Shapes: A arms, F features."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.curricula.base import Context, Graded, Plan


def designed(feature_AxF: np.ndarray) -> np.ndarray:
    """int_A, an order of arms: by ascending variance of their distances, but last the one nearest to the first.

      distance: Euclidean, each row divided by its sum
    """
    distance_AxA = np.sqrt(((feature_AxF[:, None] - feature_AxF[None]) ** 2).sum(axis=2))
    distance_AxA = distance_AxA / np.maximum(distance_AxA.sum(axis=1, keepdims=True), 1e-12)
    order_A = np.argsort(distance_AxA.var(axis=1), kind="stable")
    rest = order_A[1:]
    nearest = rest[np.argmin(distance_AxA[order_A[0], rest])]
    return np.concatenate([order_A[:1], rest[rest != nearest], [nearest]])


@dataclasses.dataclass(frozen=True)
class Designer(Graded):
    """Curriculum designer: arms one after another, each for its share of the steps, in the order of `designed`.

    It begins with an arm whose distances to the others vary little, a central one, and ends with the one most like it, so that
    the first is not forgotten. An arm's features are `prototypes`, or its difficulty.

    Raises:
      ValueError: no pool, difficulties or steps; not one vector an arm.
    """

    paper: ClassVar[str] = "arXiv:2211.15470"
    differs: ClassVar[str] = "difficulties, or vectors that are given, in place of features of a frozen network"
    reconstructed: ClassVar[str] = "how the two criteria become an order (the released one scores permutations)"

    prototypes: tuple[tuple[float, ...], ...] = ()  # one vector an arm, arms by ascending difficulty
    steps: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.prototypes and (len(self.prototypes) != self.arms or len({len(x) for x in self.prototypes}) != 1):
            raise ValueError(f"{len(self.prototypes)} prototypes for {self.arms} arms; expected a vector of one length an arm")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: the schedule needs the number of steps")

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """As `Curriculum.sample`."""
        feature_AxF = np.asarray(self.prototypes or [(x,) for x in sorted(set(self.difficulty))], float)
        turn = jnp.clip(jnp.asarray(context.step) * self.arms // self.steps, 0, self.arms - 1)
        arm = jnp.asarray(designed(feature_AxF))[turn]
        logit_M = jnp.where(jnp.asarray(self.arm_M) == arm, 0.0, -jnp.inf)
        return state, plan._replace(index_B=jax.random.categorical(key, logit_M, shape=plan.index_B.shape).astype(jnp.uint32))
