"""ALP-GMM: task knobs from a Gaussian mixture, by absolute learning progress.

Shapes: B items a step, D knobs, W tasks that are kept, F tasks of a fit, K components.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula import mixture
from jaxpost.curricula.base import Context, Curriculum, Feedback, Plan, Weights


@dataclasses.dataclass(frozen=True)
class AlpGmm(Curriculum):
    """Every item draws its knobs: with probability `explore` uniformly, else from a component chosen by its mean progress.

      ALP(task) = | r - r of the nearest task that is kept |, tasks scaled to [0, 1]

    Every `fit` tasks, mixtures of 2 to `components` components are fitted to the last `fit` (task, ALP), and the lowest AIC
    wins. Knobs are rounded to whole numbers within their ranges. Before the first fit all are uniform.

    Raises:
      ValueError: no knobs, an empty range, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:1910.07224"
    differs: ClassVar[str] = "a batch of tasks a step; a fixed number of iterations from random points"

    knobs: tuple[tuple[str, int, int], ...] = ()  # (name, low, high), both ends included
    explore: float = 0.2
    fit: int = 250  # tasks
    kept: int = 500  # tasks
    components: int = 10
    iterations: int = 30

    def __post_init__(self):
        if not self.knobs or any(len(knob) != 3 or knob[1] >= knob[2] for knob in self.knobs):
            raise ValueError(f"knobs={self.knobs}: expected ((name, low, high), ...) with low < high, of the task's knobs")
        if not (0 <= self.explore <= 1 and 2 <= self.components <= self.fit <= self.kept):
            raise ValueError(f"explore={self.explore}, components={self.components}, fit={self.fit}, kept={self.kept}: "
                             "expected a share and 2 <= components <= fit <= kept")

    @property
    def needs(self) -> frozenset[str]:
        """Success."""
        return frozenset({"reward"})

    def init(self, key: jax.Array) -> dict:
        """No tasks, no mixture; a word from which fits are started."""
        dim, k = len(self.knobs) + 1, self.components
        none = mixture.Mixture(jnp.zeros(k), jnp.zeros((k, dim)), jnp.broadcast_to(jnp.eye(dim), (k, dim, dim)))
        return {"task_WxD": jnp.zeros((self.kept, dim - 1)), "reward_W": jnp.zeros(self.kept), "alp_W": jnp.zeros(self.kept),
                "count": jnp.int32(0), "mixture": none, "word": jax.random.bits(key, (), "uint32")}

    @property
    def _range(self) -> tuple[jax.Array, jax.Array]:
        low_1xD, high_1xD = (jnp.asarray([[knob[i] for knob in self.knobs]], jnp.float32) for i in (1, 2))
        return low_1xD, high_1xD

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Knobs of every item."""
        del context
        low_1xD, high_1xD = self._range
        progress_K = jnp.maximum(state["mixture"].mean_KxD[:, -1], 0.0) * (state["mixture"].weight_K > 0)
        fitted = progress_K.sum() > 0

        def one(key):
            explore_key, uniform_key, draw_key = jax.random.split(key, 3)
            uniform_D = jax.random.uniform(uniform_key, (len(self.knobs),))
            drawn_D = mixture.draw(draw_key, state["mixture"], jnp.where(fitted, jnp.log(progress_K), 0.0))[:-1]
            explores = (jax.random.uniform(explore_key) < self.explore) | ~fitted
            return jnp.clip(jnp.where(explores, uniform_D, drawn_D), 0.0, 1.0)

        unit_BxD = jax.vmap(one)(jax.random.split(key, plan.index_B.shape[0]))
        # equal widths for every whole number, the ends included
        value_BxD = jnp.minimum(jnp.floor(low_1xD + unit_BxD * (high_1xD - low_1xD + 1)), high_1xD).astype(jnp.int32)
        knobs = {name: value_BxD[:, i] for i, (name, _, _) in enumerate(self.knobs)}
        return state, plan._replace(knobs=plan.knobs | knobs)

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Progress against the tasks kept so far, then these tasks into the ring, and a fit where one is due."""
        low_1xD, high_1xD = self._range
        knob_BxD = jnp.stack([feedback.plan.knobs[name] for name, _, _ in self.knobs], axis=1).astype(jnp.float32)
        task_BxD, reward_B = (knob_BxD - low_1xD) / (high_1xD - low_1xD), feedback.mean(feedback.reward_BxG)
        far_BxW = ((task_BxD[:, None] - state["task_WxD"][None]) ** 2).sum(axis=2)
        far_BxW = jnp.where(jnp.arange(self.kept)[None] < state["count"], far_BxW, jnp.inf)
        alp_B = jnp.where(state["count"] > 0, jnp.abs(reward_B - state["reward_W"][jnp.argmin(far_BxW, axis=1)]), 0.0)
        count = state["count"] + reward_B.shape[0]
        slot_B = (state["count"] + jnp.arange(reward_B.shape[0])) % self.kept
        state = state | {"task_WxD": state["task_WxD"].at[slot_B].set(task_BxD), "count": count,
                         "reward_W": state["reward_W"].at[slot_B].set(reward_B), "alp_W": state["alp_W"].at[slot_B].set(alp_B)}
        due = count // self.fit > (count - reward_B.shape[0]) // self.fit

        def fitted():
            last_F = (count - 1 - jnp.arange(self.fit)) % self.kept
            point_FxD = jnp.concatenate([state["task_WxD"][last_F], state["alp_W"][last_F][:, None]], axis=1)
            key = jax.random.fold_in(jax.random.key(state["word"]), count)
            return mixture.best(key, point_FxD, 2, self.components, self.iterations)

        return state | {"mixture": jax.lax.cond(due, fitted, lambda: state["mixture"])}, weights
