"""RIAC: boxes of task knobs that split where progress differs. Shapes: B items, D knobs, R regions, W points, C cuts."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Context, Feedback, Plan, Weights
from jaxpost.curricula.knobbed import Knobbed


def progress(reward_W: jax.Array, inside_W: jax.Array) -> jax.Array:
    """| mean of the later half - mean of the earlier half | of the points inside, in order; 0 for fewer than two."""
    count = inside_W.sum()
    place_W = jnp.cumsum(inside_W) - inside_W
    early_W = inside_W * (place_W < count // 2)
    late_W = inside_W - early_W
    early, late = ((reward_W * x).sum() / jnp.maximum(x.sum(), 1.0) for x in (early_W, late_W))
    return jnp.where(count > 1, jnp.abs(late - early), 0.0)


@dataclasses.dataclass(frozen=True)
class Riac(Knobbed):
    """Robust intelligent adaptive curiosity: the cube of knobs is a growing set of boxes, drawn by their learning progress.

      ALP(box) = | mean reward of the later half of its points - of the earlier half |

    A box of `points` points is cut in two: of `cuts` random ones, each through a random knob, the cut of the largest
    n1 n2 |ALP1 - ALP2| with at least points // 10 points on each side. Where none has or there are `regions` boxes already, its
    oldest quarter of points is forgotten. Items: a share `explore` uniform, a share `mutate` next to the task of lowest reward
    of a box (normal, deviation `noise`), the rest uniform in a box; boxes in proportion to ALP.

    Raises:
      ValueError: no knobs, an empty range, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:1910.07224"
    differs: ClassVar[str] = "a batch of tasks a step; a largest number of boxes; the released benchmark weighs cuts by " \
        "|ALP1 - ALP2| alone, as its count of points is that of two lists"
    reconstructed: ClassVar[str] = "the fewest points of a side; what a box that is not cut forgets"

    points: int = 200
    cuts: int = 50
    regions: int = 32
    explore: float = 0.2
    mutate: float = 0.1
    noise: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not (self.points >= 10 and self.cuts >= 1 and self.regions >= 1 and min(self.explore, self.mutate) >= 0
                and self.explore + self.mutate <= 1 and self.noise >= 0):
            raise ValueError(f"points={self.points}, cuts={self.cuts}, regions={self.regions}, explore={self.explore}, "
                             f"mutate={self.mutate}, noise={self.noise}: expected points of at least 10, numbers of at least "
                             "1, and shares of which the sum is at most 1")

    def init(self, key: jax.Array) -> dict:
        """One box, the cube, without a point; a word from which cuts are drawn."""
        R, W, D = self.regions, self.points, len(self.knobs)
        return {"low_RxD": jnp.zeros((R, D)), "high_RxD": jnp.ones((R, D)), "task_RxWxD": jnp.zeros((R, W, D)),
                "reward_RxW": jnp.zeros((R, W)), "count_R": jnp.zeros(R, jnp.int32), "alp_R": jnp.zeros(R),
                "live": jnp.int32(1), "ticks": jnp.int32(0), "word": jax.random.bits(key, (), "uint32")}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Knobs of every item."""
        del context
        live_R = jnp.arange(self.regions) < state["live"]
        some = (state["alp_R"] * live_R).sum() > 0
        logit_R = jnp.where(live_R, jnp.where(some, jnp.log(state["alp_R"]), 0.0), -jnp.inf)
        here_RxW = jnp.arange(self.points)[None] < state["count_R"][:, None]
        worst_R = jnp.argmin(jnp.where(here_RxW, state["reward_RxW"], jnp.inf), axis=1)

        def one(key):
            how_key, region_key, uniform_key, normal_key = jax.random.split(key, 4)
            r = jax.random.categorical(region_key, logit_R)
            how, uniform_D = jax.random.uniform(how_key), jax.random.uniform(uniform_key, (len(self.knobs),))
            inside_D = state["low_RxD"][r] + uniform_D * (state["high_RxD"][r] - state["low_RxD"][r])
            near_D = state["task_RxWxD"][r, worst_R[r]] + self.noise * jax.random.normal(normal_key, uniform_D.shape)
            mutates = (how < self.explore + self.mutate) & (state["count_R"][r] > 0)
            return jnp.clip(jnp.where(how < self.explore, uniform_D, jnp.where(mutates, near_D, inside_D)), 0.0, 1.0)

        return state, self.write(plan, self.whole(jax.vmap(one)(jax.random.split(key, plan.index_B.shape[0]))))

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Every item into its box, one after another; full boxes are cut."""
        points = self.middle(feedback.plan), feedback.mean(feedback.reward_BxG)
        state, _ = jax.lax.scan(self._add, state, points)
        return state, weights

    def _add(self, state: dict, point: tuple) -> tuple[dict, None]:
        task_D, reward = point
        inside_R = ((task_D[None] >= state["low_RxD"]) & (task_D[None] <= state["high_RxD"])).all(axis=1)
        r = jnp.argmax(inside_R & (jnp.arange(self.regions) < state["live"]))
        place = state["count_R"][r]
        state = state | {"task_RxWxD": state["task_RxWxD"].at[r, place].set(task_D), "ticks": state["ticks"] + 1,
                         "reward_RxW": state["reward_RxW"].at[r, place].set(reward),
                         "count_R": state["count_R"].at[r].add(1)}
        state = jax.lax.cond(place + 1 >= self.points, self._full, lambda state, r: state, state, r)
        here_RxW = (jnp.arange(self.points)[None] < state["count_R"][:, None]).astype(jnp.float32)
        return state | {"alp_R": jax.vmap(progress)(state["reward_RxW"], here_RxW)}, None

    def cut(self, state: dict, r: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(knob, place, score) of the best cut of a full box; score -1 where none leaves enough on both sides."""
        key = jax.random.fold_in(jax.random.key(state["word"]), state["ticks"])
        which_C = jax.random.randint(jax.random.fold_in(key, 0), (self.cuts,), 0, len(self.knobs))
        low_C, high_C = state["low_RxD"][r][which_C], state["high_RxD"][r][which_C]
        place_C = low_C + jax.random.uniform(jax.random.fold_in(key, 1), (self.cuts,)) * (high_C - low_C)
        left_CxW = (state["task_RxWxD"][r][:, which_C].T < place_C[:, None]).astype(jnp.float32)
        n1_C, n2_C = left_CxW.sum(axis=1), (1 - left_CxW).sum(axis=1)
        alp1_C, alp2_C = (jax.vmap(progress, (None, 0))(state["reward_RxW"][r], x) for x in (left_CxW, 1 - left_CxW))
        score_C = jnp.where(jnp.minimum(n1_C, n2_C) >= self.points // 10, n1_C * n2_C * jnp.abs(alp1_C - alp2_C), -1.0)
        best = jnp.argmax(score_C)
        return which_C[best], place_C[best], score_C[best]

    def _full(self, state: dict, r: jax.Array) -> dict:
        which, place, score = self.cut(state, r)
        task_WxD, reward_W, new = state["task_RxWxD"][r], state["reward_RxW"][r], state["live"]
        right_W = task_WxD[:, which] >= place
        to_left_W, to_right_W = jnp.argsort(right_W, stable=True), jnp.argsort(~right_W, stable=True)
        cut = state | {
            "task_RxWxD": state["task_RxWxD"].at[r].set(task_WxD[to_left_W]).at[new].set(task_WxD[to_right_W], mode="drop"),
            "reward_RxW": state["reward_RxW"].at[r].set(reward_W[to_left_W]).at[new].set(reward_W[to_right_W], mode="drop"),
            "count_R": state["count_R"].at[r].set((~right_W).sum()).at[new].set(right_W.sum(), mode="drop"),
            "low_RxD": state["low_RxD"].at[new].set(state["low_RxD"][r].at[which].set(place), mode="drop"),
            "high_RxD": state["high_RxD"].at[new].set(state["high_RxD"][r], mode="drop").at[r, which].set(place),
            "live": new + 1}
        drop = max(1, self.points // 4)
        kept = state | {"task_RxWxD": state["task_RxWxD"].at[r].set(jnp.roll(task_WxD, -drop, axis=0)),
                        "reward_RxW": state["reward_RxW"].at[r].set(jnp.roll(reward_W, -drop)),
                        "count_R": state["count_R"].at[r].add(-drop)}
        splits = (score >= 0) & (new < self.regions)
        return jax.tree.map(lambda a, b: jnp.where(splits, a, b), cut, kept)
