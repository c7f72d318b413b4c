"""DOTS: problems of which about half of the answers are right. Shapes: B items of a step, M items of the pool."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula import selection, statistics
from jaxpost.curricula.base import Context, Plan
from jaxpost.curricula.budgets import Counted


@dataclasses.dataclass(frozen=True)
class Dots(Counted):
    """DOTS: problems by softmax( -|d - 1/2| / temperature ), without replacement within a batch; d is 1 - success rate.

    The success rate is the posterior mean (1 + S) / (2 + S + F) of the rollouts so far, so that a problem that was not drawn
    yet has d = 1/2.

    Raises:
      ValueError: no pool, or a temperature that is not above 0.
    """

    paper: ClassVar[str] = "arXiv:2506.05316"
    differs: ClassVar[str] = "d from the problem's own counts, which never fade, not by attention over a reference set that " \
        "is probed; the draws alone, without replaying rollouts"
    reconstructed: ClassVar[str] = "the temperature (the rule was read in an excerpt)"

    temperature: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: expected a temperature above 0, e.g. 0.1")

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """As `Curriculum.sample`."""
        del context
        away_M = jnp.abs(statistics.beta_mean(state["success_M"], state["failure_M"]) - 0.5)
        item_B = selection.batch_of(key, -away_M / self.temperature, plan.index_B.shape[0])
        return state, plan._replace(index_B=item_B.astype(jnp.uint32))
