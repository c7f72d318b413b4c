"""Bandits over arms, the problems of one difficulty each: SEC, DUMP and teacher-student curriculum learning.

Shapes: B items a step, G rows an item, M items of the pool, A arms, K values of a window.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost import lookup
from jaxpost.curricula import scores, selection, statistics
from jaxpost.curricula.base import Context, Feedback, Graded, Plan, Weights


@dataclasses.dataclass(frozen=True)
class Bandit(Graded):
    """An arm for every item of the batch, then an item of the arm; a subclass says how arms are drawn and what they learn."""

    fresh: ClassVar[bool] = True  # an arm's items are used up before they repeat; False: drawn with replacement

    def init(self, key: jax.Array) -> dict:
        """Visits of each item, and what the arms remember."""
        del key
        return {"visits_M": jnp.zeros(self.pool, jnp.int32), **self.memory()}

    def memory(self) -> dict:
        """What the arms remember before the first step."""
        raise NotImplementedError

    def draw(self, state: dict, key: jax.Array, count: int) -> jax.Array:
        """arm_B of a step."""
        raise NotImplementedError

    def learn(self, state: dict, feedback: Feedback, arm_B: jax.Array) -> dict:
        """The memory after a step."""
        raise NotImplementedError

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """As `Curriculum.sample`."""
        del context
        arm_key, item_key = jax.random.split(key)
        arm_B = self.draw(state, arm_key, plan.index_B.shape[0])
        visits_M = state["visits_M"] if self.fresh else jnp.zeros(self.pool, jnp.int32)
        if self.fresh:
            item_B = selection.within_arms(item_key, arm_B, jnp.asarray(self.arm_M), visits_M, self.arms)
        else:
            member_AxM = jnp.where(jnp.asarray(self.arm_M)[None] == jnp.arange(self.arms)[:, None], 0.0, -jnp.inf)
            item_B = jax.random.categorical(item_key, member_AxM[arm_B])
        return state | {"visits_M": visits_M.at[item_B].add(1)}, plan._replace(index_B=item_B.astype(jnp.uint32))

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """As `Curriculum.observe`."""
        arm_B = jnp.asarray(self.arm_M)[feedback.plan.index_B]
        return state | self.learn(state, feedback, arm_B), weights

    def means(self, x_BxG: jax.Array, feedback: Feedback, arm_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(mean_A over rows that count, their number_A)."""
        arm_N = jnp.repeat(arm_B, x_BxG.shape[1])
        return statistics.means_by(arm_N, x_BxG.reshape(-1), feedback.used_BxG.reshape(-1), self.arms)


@dataclasses.dataclass(frozen=True)
class Sec(Bandit):
    """Self-evolving curriculum: arms by softmax(Q / temperature), Q an exponential average of the mean |advantage|.

      Q <- (1 - rate) Q + rate r,  r of the arm's rollouts, 0 for an arm that was not drawn

      learns  advantage     r = mean |A|
              unnormalised  r = mean |reward - mean reward of the group|
              progress      r = mean reward - that of the step which last drew the arm; 0 the first time
      draws   boltzmann     softmax(Q / temperature)
              clipped       max(Q, floor) / sum of max(Q, floor)
              greedy        the largest Q with probability 1 - epsilon, else any arm; ties go to any of the largest

    With decay_undrawn=False, the paper's text, Q of arms that were not drawn stays; its code lets them decay.
    """

    paper: ClassVar[str] = "arXiv:2505.14970"
    differs: ClassVar[str] = "categories are difficulties"
    reconstructed: ClassVar[str] = "ties of draws=\"greedy\"; progress counts from the step that last drew the arm"

    rate: float = 0.5
    temperature: float = 1.0
    decay_undrawn: bool = True
    learns: str = "advantage"  # advantage, unnormalised, progress
    draws: str = "boltzmann"  # boltzmann, clipped, greedy
    floor: float = 0.01
    epsilon: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        choices = {"learns": ("advantage", "unnormalised", "progress"), "draws": ("boltzmann", "clipped", "greedy")}
        for field, valid in choices.items():
            if (value := getattr(self, field)) not in valid:
                raise ValueError(f"{field}={value!r} is not known{lookup.nearest(value, valid)}")
        if not (self.floor > 0 and 0 <= self.epsilon <= 1):
            raise ValueError(f"floor={self.floor}, epsilon={self.epsilon}: expected a floor above 0 and a share, "
                             "e.g. 0.01 and 0.1")
        if not (0 < self.rate <= 1 and self.temperature > 0):
            raise ValueError(f"rate={self.rate}, temperature={self.temperature}: expected a rate in (0, 1] and a temperature "
                             "above 0, e.g. 0.5 and 1")

    @property
    def needs(self) -> frozenset[str]:
        """Advantages, or success."""
        return frozenset({"advantage" if self.learns == "advantage" else "reward"})

    def memory(self) -> dict:
        """Q = 0; for progress no success yet."""
        last = {"last_A": jnp.zeros(self.arms), "drawn_A": jnp.zeros(self.arms, bool)} if self.learns == "progress" else {}
        return {"q_A": jnp.zeros(self.arms)} | last

    def draw(self, state: dict, key: jax.Array, count: int) -> jax.Array:
        """Independent, by the probabilities of `draws`."""
        q_A = state["q_A"]
        if self.draws == "boltzmann":
            return selection.categorical(key, q_A / self.temperature, count)
        if self.draws == "clipped":
            return selection.categorical(key, jnp.log(jnp.maximum(q_A, self.floor)), count)
        best_A = selection.normalised((q_A == q_A.max()).astype(jnp.float32))
        return selection.categorical(key, jnp.log((1 - self.epsilon) * best_A + self.epsilon / self.arms), count)

    def learn(self, state: dict, feedback: Feedback, arm_B: jax.Array) -> dict:
        """One step of the exponential average."""
        last = {}
        if self.learns == "progress":
            success_A, count_A = self.means(feedback.reward_BxG, feedback, arm_B)
            reward_A = jnp.where((count_A > 0) & state["drawn_A"], success_A - state["last_A"], 0.0)
            last = {"last_A": jnp.where(count_A > 0, success_A, state["last_A"]), "drawn_A": state["drawn_A"] | (count_A > 0)}
        else:
            away_BxG = feedback.advantage_BxG if self.learns == "advantage" else (
                feedback.reward_BxG - feedback.mean(feedback.reward_BxG)[:, None])
            reward_A, count_A = self.means(jnp.abs(away_BxG), feedback, arm_B)
        new_A = statistics.ema(state["q_A"], reward_A, self.rate)
        return last | {"q_A": new_A if self.decay_undrawn else jnp.where(count_A > 0, new_A, state["q_A"])}


@dataclasses.dataclass(frozen=True)
class Dump(Bandit):
    """DUMP: arms by softmax(UCB / temperature), `scores.upper_confidence` of the mean |advantage| of the last rollouts.

    Counts are of rollouts, so the bonus falls quickly; items of an arm are drawn with replacement.
    """

    paper: ClassVar[str] = "arXiv:2504.09710"
    differs: ClassVar[str] = "distributions are difficulties; validation rewards are not fed to the estimate, as the code does"
    fresh: ClassVar[bool] = False

    window: int = 300  # rollouts
    temperature: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not (self.window >= 1 and self.window == int(self.window) and self.temperature > 0):
            raise ValueError(f"window={self.window}, temperature={self.temperature}: expected a whole number of rollouts of at "
                             "least 1 and a temperature above 0, e.g. 300 and 0.1")

    @property
    def needs(self) -> frozenset[str]:
        """Advantages."""
        return frozenset({"advantage"})

    def memory(self) -> dict:
        """Empty windows."""
        return {"window_AxW": jnp.zeros((self.arms, self.window)), "count_A": jnp.zeros(self.arms, jnp.int32)}

    def draw(self, state: dict, key: jax.Array, count: int) -> jax.Array:
        """Independent, by softmax(UCB / temperature)."""
        mean_A = statistics.window_mean(state["window_AxW"], state["count_A"])
        bound_A = scores.upper_confidence(mean_A, state["count_A"], state["count_A"].sum())
        return selection.categorical(key, bound_A / self.temperature, count)

    def learn(self, state: dict, feedback: Feedback, arm_B: jax.Array) -> dict:
        """|A| of every rollout into its arm's window."""
        absolute_BxG = jnp.abs(feedback.advantage_BxG)
        window, count = statistics.push(state["window_AxW"], state["count_A"], jnp.repeat(arm_B, absolute_BxG.shape[1]),
                                        absolute_BxG.reshape(-1), feedback.used_BxG.reshape(-1) > 0)
        return {"window_AxW": window, "count_A": count}


@dataclasses.dataclass(frozen=True)
class Tscl(Bandit):
    """Teacher-student curriculum learning: arms by the progress of their success.

      online    Q <- Q + rate (d - Q), d = mean success now - when last drawn; Q decides
      naive     as online, d = the slope of the success over a block of `window` steps with one distribution
      window    the slope over the arm's last `window` (step, success); no average
      sampling  one of the arm's last `window` d at random; the largest decides

    By |Q| if absolute. Which arm: the largest with probability 1 - epsilon, else any (`boltzmann`: softmax(Q / temperature)).
    An arm that was never drawn has progress 1.
    """

    paper: ClassVar[str] = "arXiv:1707.00183"
    differs: ClassVar[str] = "every item of a batch draws its own arm; arms that a step does not draw keep their values"

    variant: str = "online"  # online, naive, window, sampling
    rate: float = 0.1
    window: int = 10  # K
    epsilon: float = 0.1
    boltzmann: bool = False
    temperature: float = 4e-4
    absolute: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in (variants := ("online", "naive", "window", "sampling")):
            raise ValueError(f"variant={self.variant!r} is not known (valid: {', '.join(variants)})")
        if not (0 < self.rate <= 1 and self.window >= 1 and self.window == int(self.window) and 0 <= self.epsilon <= 1
                and self.temperature > 0):
            raise ValueError(f"rate={self.rate}, window={self.window}, epsilon={self.epsilon}, temperature={self.temperature}: "
                             "expected a rate in (0, 1], a whole number of at least 1, a share and a temperature above 0")

    @property
    def needs(self) -> frozenset[str]:
        """Success."""
        return frozenset({"reward"})

    def memory(self) -> dict:
        """Nothing seen; Q = 1."""
        windows = jnp.zeros((self.arms, self.window))
        return {"q_A": jnp.ones(self.arms), "last_A": jnp.zeros(self.arms), "count_A": jnp.zeros(self.arms, jnp.int32),
                "success_AxK": windows, "time_AxK": windows, "change_AxK": windows, "tick": jnp.int32(0)}

    def progress(self, state: dict, key: jax.Array) -> jax.Array:
        """The value of each arm, before its absolute value is taken."""
        if self.variant == "window":
            slope_A = _slopes(state["time_AxK"], state["success_AxK"], state["count_A"])
            return jnp.where(state["count_A"] > 1, slope_A, 1.0)
        if self.variant == "sampling":
            held_A = jnp.clip(state["count_A"], 1, self.window)
            place_A = jax.random.randint(key, (self.arms,), 0, held_A)
            change_A = jnp.take_along_axis(state["change_AxK"], place_A[:, None], axis=1)[:, 0]
            return jnp.where(state["count_A"] > 0, change_A, 1.0)
        return state["q_A"]

    def draw(self, state: dict, key: jax.Array, count: int) -> jax.Array:
        """The best arm or any other, for each item anew; ties go to any of them."""

        def one(key):
            value_key, tie_key, explore_key, any_key = jax.random.split(key, 4)
            value_A = self.progress(state, value_key)
            value_A = jnp.abs(value_A) if self.absolute else value_A
            if self.boltzmann:
                return jax.random.categorical(any_key, value_A / self.temperature)
            best = jax.random.categorical(tie_key, jnp.where(value_A == value_A.max(), 0.0, -jnp.inf))
            explores = jax.random.uniform(explore_key) < self.epsilon
            return jnp.where(explores, jax.random.randint(any_key, (), 0, self.arms), best)

        return jax.vmap(one)(jax.random.split(key, count))

    def learn(self, state: dict, feedback: Feedback, arm_B: jax.Array) -> dict:
        """Success of the arms that were drawn, and its change."""
        success_A, count_A = self.means(feedback.reward_BxG, feedback, arm_B)
        drawn_A, arm_A = count_A > 0, jnp.arange(self.arms)
        change_A = jnp.where(state["count_A"] > 0, success_A - state["last_A"], 0.0)
        tick = state["tick"] + 1
        out = {"last_A": jnp.where(drawn_A, success_A, state["last_A"]), "tick": tick}
        for name, x_A in (("success_AxK", success_A), ("time_AxK", jnp.full(self.arms, tick, jnp.float32)),
                          ("change_AxK", change_A)):
            out[name], out["count_A"] = statistics.push(state[name], state["count_A"], arm_A, x_A, drawn_A)
        if self.variant == "online":
            out["q_A"] = jnp.where(drawn_A, statistics.ema(state["q_A"], change_A, self.rate), state["q_A"])
        if self.variant == "naive":
            times_AxK = out["time_AxK"]
            recent_AxK = (times_AxK > tick - self.window) & (jnp.arange(self.window)[None] < out["count_A"][:, None])
            order_AxK = jnp.argsort(jnp.where(recent_AxK, times_AxK, jnp.inf), axis=1)
            sorted_AxK = [jnp.take_along_axis(x, order_AxK, axis=1) for x in (times_AxK, out["success_AxK"])]
            seen_A = recent_AxK.sum(axis=1)
            slope_A = jax.vmap(statistics.slope)(*sorted_AxK, seen_A)
            learned_A = jnp.where(seen_A > 1, statistics.ema(state["q_A"], slope_A, self.rate), state["q_A"])
            out["q_A"] = jnp.where(tick % self.window == 0, learned_A, state["q_A"])
        return out


def _slopes(time_AxK: jax.Array, success_AxK: jax.Array, count_A: jax.Array) -> jax.Array:
    """Least-squares slopes of rings; the order of their entries does not matter."""
    return jax.vmap(statistics.slope)(time_AxK, success_AxK, jnp.minimum(count_A, time_AxK.shape[1]))
