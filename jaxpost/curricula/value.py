"""Prompt curriculum learning: the prompts whose predicted success is nearest to a target.

Shapes: B items a step, K = candidates * B candidates, F features of a prompt and a constant.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula import selection
from jaxpost.curricula.base import Context, Curriculum, Feedback, Plan, Weights

STATE = "prompt_state"  # of a plan: the features of its items


@dataclasses.dataclass(frozen=True)
class Pcl(Curriculum):
    """Prompt curriculum learning: of candidates * B prompts those with the smallest |V(x) - target|, V learned along the way.

      V(x) = w' f(x),  f the policy's last state of the prompt and a 1,   w = (A + ridge I)^-1 b
      A <- memory A + sum_i f_i f_i',   b <- memory b + sum_i f_i r_i,   r_i the mean reward of the group

    V is behind the policy by a step. Candidates are of the pool, without repeats where it is large enough, or of a split
    without end.

    Raises:
      ValueError: numbers out of range; when traced, another width of states.
    """

    paper: ClassVar[str] = "arXiv:2510.01135"
    differs: ClassVar[str] = "V is a linear head on the policy's state, fitted in closed form, not a model of its own; any " \
        "objective"
    reconstructed: ClassVar[str] = "read in an excerpt; memory and ridge"

    candidates: int = 4
    target: float = 0.5
    memory: float = 0.9
    ridge: float = 1.0
    pool: int = 0
    width: int = 0  # of the policy's states

    def __post_init__(self):
        if not (self.candidates >= 1 and 0 <= self.target <= 1 and 0 <= self.memory <= 1 and self.ridge > 0 and self.pool >= 0
                and self.width >= 1):
            raise ValueError(f"candidates={self.candidates}, target={self.target}, memory={self.memory}, ridge={self.ridge}, "
                             f"width={self.width}: expected a candidate or more, shares, a ridge above 0 and the model's width")

    @property
    def needs(self) -> frozenset[str]:
        """Success, and states of prompts."""
        return frozenset({"reward", "prompt_state"})

    def init(self, key: jax.Array) -> dict:
        """Nothing seen: V = 0."""
        del key
        return {"a_FxF": jnp.zeros((self.width + 1, self.width + 1)), "b_F": jnp.zeros(self.width + 1)}

    def value(self, state: dict, feature_KxF: jax.Array) -> jax.Array:
        """V_K."""
        regular_FxF = state["a_FxF"] + self.ridge * jnp.eye(self.width + 1)
        return feature_KxF @ jax.scipy.linalg.solve(regular_FxF, state["b_F"], assume_a="pos")

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """The best of fresh candidates; ties go to the earlier draw."""
        count = self.candidates * plan.index_B.shape[0]
        if self.pool:
            index_K = selection.batch_of(key, jnp.zeros(self.pool), count).astype(jnp.uint32)
        else:
            index_K = jax.random.bits(key, (count,), "uint32")
        state_KxD = context.prompt_states(index_K)
        if state_KxD.shape[1] != self.width:
            raise ValueError(f"width={self.width}, and the policy's states of prompts have {state_KxD.shape[1]} numbers; set "
                             f"width to {state_KxD.shape[1]}")
        feature_KxF = jnp.concatenate([state_KxD, jnp.ones((count, 1))], axis=1)
        away_K = jnp.abs(self.value(state, feature_KxF) - self.target)
        best_B = jnp.argsort(away_K, stable=True)[:plan.index_B.shape[0]]
        return state, plan._replace(index_B=index_K[best_B], knobs=plan.knobs | {STATE: feature_KxF[best_B]})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Regress the mean rewards on the features."""
        feature_BxF = feedback.plan.knobs[STATE]
        some_B = feedback.used_BxG.any(axis=1).astype(jnp.float32)
        seen_BxF = feature_BxF * some_B[:, None]
        return {"a_FxF": self.memory * state["a_FxF"] + seen_BxF.T @ seen_BxF,
                "b_F": self.memory * state["b_F"] + seen_BxF.T @ feedback.mean(feedback.reward_BxG)}, weights
