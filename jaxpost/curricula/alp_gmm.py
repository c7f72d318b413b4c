"""ALP-GMM and Covar-GMM: task knobs from a Gaussian mixture of what was seen.

Shapes: B items a step, D knobs, E further columns, W tasks that are kept, F tasks of a fit, K components.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula import mixture
from jaxpost.curricula.base import Context, Feedback, Plan, Weights
from jaxpost.curricula.knobbed import Knobbed


@dataclasses.dataclass(frozen=True)
class MixtureTeacher(Knobbed):
    """Draws from mixtures that are fitted to the last tasks; a subclass says what stands beside a task and what is worth it."""

    columns: ClassVar[int]  # E

    explore: float = 0.2
    fit: int = 250  # tasks
    kept: int = 500  # tasks
    components: int = 10
    iterations: int = 30

    def __post_init__(self):
        super().__post_init__()
        if not (0 <= self.explore <= 1 and 2 <= self.components <= self.fit <= self.kept):
            raise ValueError(f"explore={self.explore}, components={self.components}, fit={self.fit}, kept={self.kept}: "
                             "expected a share and 2 <= components <= fit <= kept")

    def worth(self, fitted: mixture.Mixture) -> jax.Array:
        """progress_K >= 0 of components."""
        raise NotImplementedError

    def notes(self, state: dict, task_BxD: jax.Array, reward_B: jax.Array) -> dict:
        """What is kept of tasks beside their knobs and rewards: name_W -> x_B."""
        del state, task_BxD, reward_B
        return {}

    def beside(self, state: dict, last_F: jax.Array) -> jax.Array:
        """[F, E], newest first."""
        raise NotImplementedError

    def init(self, key: jax.Array) -> dict:
        """No tasks, no mixture; a word from which fits are started."""
        dim, k = len(self.knobs) + self.columns, self.components
        none = mixture.Mixture(jnp.zeros(k), jnp.zeros((k, dim)), jnp.broadcast_to(jnp.eye(dim), (k, dim, dim)))
        return {"task_WxD": jnp.zeros((self.kept, len(self.knobs))), "reward_W": jnp.zeros(self.kept),
                "count": jnp.int32(0), "mixture": none, "word": jax.random.bits(key, (), "uint32")}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Knobs of every item."""
        del context
        progress_K = self.worth(state["mixture"]) * (state["mixture"].weight_K > 0)
        fitted = progress_K.sum() > 0
        knobs = len(self.knobs)

        def one(key):
            explore_key, uniform_key, draw_key = jax.random.split(key, 3)
            uniform_D = jax.random.uniform(uniform_key, (knobs,))
            drawn_D = mixture.draw(draw_key, state["mixture"], jnp.where(fitted, jnp.log(progress_K), 0.0))[:knobs]
            explores = (jax.random.uniform(explore_key) < self.explore) | ~fitted
            return jnp.clip(jnp.where(explores, uniform_D, drawn_D), 0.0, 1.0)

        unit_BxD = jax.vmap(one)(jax.random.split(key, plan.index_B.shape[0]))
        return state, self.write(plan, self.whole(unit_BxD))

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """These tasks into the ring, and a fit where one is due."""
        task_BxD, reward_B = self.read(feedback.plan), feedback.mean(feedback.reward_BxG)
        new = {"task_WxD": task_BxD, "reward_W": reward_B, **self.notes(state, task_BxD, reward_B)}
        before, count = state["count"], state["count"] + reward_B.shape[0]
        slot_B = (before + jnp.arange(reward_B.shape[0])) % self.kept
        state = state | {name: state[name].at[slot_B].set(x) for name, x in new.items()} | {"count": count}

        def fitted():
            last_F = (count - 1 - jnp.arange(self.fit)) % self.kept
            point_FxC = jnp.concatenate([state["task_WxD"][last_F], self.beside(state, last_F)], axis=1)
            key = jax.random.fold_in(jax.random.key(state["word"]), count)
            return mixture.best(key, point_FxC, 2, self.components, self.iterations)

        due = count // self.fit > before // self.fit
        return state | {"mixture": jax.lax.cond(due, fitted, lambda: state["mixture"])}, weights


@dataclasses.dataclass(frozen=True)
class AlpGmm(MixtureTeacher):
    """Every item draws its knobs: with probability `explore` uniformly, else from a component chosen by its mean progress.

      ALP(task) = | r - r of the nearest task that is kept |, tasks scaled to [0, 1]

    Every `fit` tasks, mixtures of 2 to `components` components are fitted to the last `fit` (task, ALP), and the lowest AIC
    wins. Knobs are rounded to whole numbers within their ranges. Before the first fit all are uniform.

    Raises:
      ValueError: no knobs, an empty range, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:1910.07224"
    differs: ClassVar[str] = "a batch of tasks a step; a fixed number of iterations from random points"
    columns: ClassVar[int] = 1

    def worth(self, fitted: mixture.Mixture) -> jax.Array:
        """Mean ALP."""
        return jnp.maximum(fitted.mean_KxD[:, -1], 0.0)

    def init(self, key: jax.Array) -> dict:
        """As `MixtureTeacher.init`."""
        return super().init(key) | {"alp_W": jnp.zeros(self.kept)}

    def notes(self, state: dict, task_BxD: jax.Array, reward_B: jax.Array) -> dict:
        """Progress against the tasks kept so far."""
        far_BxW = ((task_BxD[:, None] - state["task_WxD"][None]) ** 2).sum(axis=2)
        far_BxW = jnp.where(jnp.arange(self.kept)[None] < state["count"], far_BxW, jnp.inf)
        alp_B = jnp.abs(reward_B - state["reward_W"][jnp.argmin(far_BxW, axis=1)])
        return {"alp_W": jnp.where(state["count"] > 0, alp_B, 0.0)}

    def beside(self, state: dict, last_F: jax.Array) -> jax.Array:
        """ALP."""
        return state["alp_W"][last_F][:, None]


@dataclasses.dataclass(frozen=True)
class CovarGmm(MixtureTeacher):
    """As ALP-GMM, with mixtures of (task, time, reward) and components chosen by their covariance of time and reward.

      progress_k = max(0, cov_k(time, r)), or | cov_k(time, r) | if `absolute`;  time from 0 to 1 over the tasks of a fit

    Raises:
      ValueError: as ALP-GMM.
    """

    paper: ClassVar[str] = "arXiv:2103.09815"
    differs: ClassVar[str] = "a batch of tasks a step; a fixed number of iterations from random points; after the " \
        "benchmark TeachMyAgent, not the rule's first paper"
    columns: ClassVar[int] = 2

    absolute: bool = False

    def worth(self, fitted: mixture.Mixture) -> jax.Array:
        """Covariance of time and reward."""
        covariance_K = fitted.covariance_KxDxD[:, -2, -1]
        return jnp.abs(covariance_K) if self.absolute else jnp.maximum(covariance_K, 0.0)

    def beside(self, state: dict, last_F: jax.Array) -> jax.Array:
        """Time and reward."""
        return jnp.stack([jnp.linspace(1.0, 0.0, self.fit), state["reward_W"][last_F]], axis=1)
