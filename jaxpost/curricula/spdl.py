"""Self-paced deep RL: a Gaussian of task knobs that moves from easy tasks to a target. Shapes: B items, D knobs, N tasks."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Context, Feedback, Plan, Weights
from jaxpost.curricula.knobbed import Knobbed


class Gaussian(NamedTuple):
    """Independent knobs of the unit cube."""

    mean_D: jax.Array
    log_std_D: jax.Array

    def log_density(self, x_NxD: jax.Array) -> jax.Array:
        """log_N, without the constant."""
        z_NxD = (x_NxD - self.mean_D[None]) / jnp.exp(self.log_std_D)[None]
        return -(0.5 * z_NxD**2 + self.log_std_D[None]).sum(axis=1)


def kl(p: Gaussian, q: Gaussian) -> jax.Array:
    """KL(p || q), nats."""
    ratio_D = jnp.exp(2 * (p.log_std_D - q.log_std_D))
    apart_D = ((p.mean_D - q.mean_D) / jnp.exp(q.log_std_D)) ** 2
    return 0.5 * (ratio_D + apart_D - 1 - 2 * (p.log_std_D - q.log_std_D)).sum()


def objective(new: Gaussian, old: Gaussian, target: Gaussian, task_NxD: jax.Array, value_N: jax.Array,
              alpha: jax.Array) -> jax.Array:
    """mean_N( p_new(c) / p_old(c) V(c) ) - alpha KL(p_new || target)."""
    ratio_N = jnp.exp(new.log_density(task_NxD) - old.log_density(task_NxD))
    return (ratio_N * value_N).mean() - alpha * kl(new, target)


def within(new: Gaussian, old: Gaussian, most: float) -> Gaussian:
    """The point nearest to `new` on the line from `old` whose KL to `old` is at most `most`, by bisection."""
    def between(share):
        return jax.tree.map(lambda a, b: a + share * (b - a), old, new)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        inside = kl(between(middle), old) <= most
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.float32(0), jnp.float32(1)))
    return between(jnp.where(kl(new, old) <= most, 1.0, low))


@dataclasses.dataclass(frozen=True)
class Spdl(Knobbed):
    """Knobs are drawn from a Gaussian p, which every `every` tasks goes towards success and towards the target.

      maximise  mean( p'(c) / p(c) V(c) ) - alpha KL(p' || target)   subject to   KL(p' || p) <= most_kl
      alpha = zeta mean(V) / KL(p || target), 0 in the first `offset` updates;  V(c): mean success of a task

    The target has its mean at the highest values, or at `target`; p begins at the lowest, or at `start`; both with deviation
    `width` of the ranges at first, the target with a quarter of it.

    Raises:
      ValueError: no knobs or an empty range; numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:2004.11812"
    differs: ClassVar[str] = "success of the tasks themselves in place of a value function; independent knobs; projected " \
        "gradient steps in place of a trust-region solver"
    reconstructed: ClassVar[str] = "widths, the number of tasks of an update and the solver's steps"

    start: tuple[float, ...] = ()  # shares of the ranges; (): 0
    target: tuple[float, ...] = ()  # (): 1
    width: float = 0.2
    every: int = 100  # tasks
    most_kl: float = 0.1  # nats
    zeta: float = 0.05
    offset: int = 2  # updates
    iterations: int = 100
    rate: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        for name in ("start", "target"):
            if (given := getattr(self, name)) and not (len(given) == len(self.knobs) and all(0 <= x <= 1 for x in given)):
                raise ValueError(f"{name}={given}: expected a share of its range for each of the {len(self.knobs)} knobs")
        if not (self.width > 0 and self.every >= 2 and self.most_kl > 0 and self.zeta >= 0 and self.offset >= 0
                and self.iterations >= 1 and self.rate > 0):
            raise ValueError(f"width={self.width}, every={self.every}, most_kl={self.most_kl}, zeta={self.zeta}, "
                             f"offset={self.offset}: expected a width and a KL above 0, at least 2 tasks, none negative")

    @property
    def goal(self) -> Gaussian:
        """The target."""
        mean_D = jnp.asarray(self.target or (1.0,) * len(self.knobs), jnp.float32)
        return Gaussian(mean_D, jnp.full(mean_D.shape, jnp.log(self.width / 4)))

    def init(self, key: jax.Array) -> dict:
        """The Gaussian, and no tasks."""
        del key
        D = len(self.knobs)
        mean_D = jnp.asarray(self.start or (0.0,) * D, jnp.float32)
        return {"mean_D": mean_D, "log_std_D": jnp.full((D,), jnp.log(self.width)), "task_NxD": jnp.zeros((self.every, D)),
                "value_N": jnp.zeros(self.every), "count": jnp.int32(0)}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Knobs of every item."""
        del context
        normal_BxD = jax.random.normal(key, (plan.index_B.shape[0], len(self.knobs)))
        unit_BxD = state["mean_D"][None] + jnp.exp(state["log_std_D"])[None] * normal_BxD
        return state, self.write(plan, self.whole(jnp.clip(unit_BxD, 0.0, 1.0)))

    def moved(self, old: Gaussian, task_NxD: jax.Array, value_N: jax.Array, alpha: jax.Array) -> Gaussian:
        """The Gaussian after an update: natural gradient steps that shrink to 0, each drawn back to the bound on the KL."""
        slope = jax.grad(objective)

        def step(i, new):
            mean_D, log_std_D = slope(new, old, self.goal, task_NxD, value_N, alpha)
            std_D = jnp.exp(new.log_std_D)
            size = jnp.sqrt(((std_D * mean_D) ** 2 + log_std_D**2 / 2).sum()) + 1e-8  # in the Fisher metric
            rate = self.rate * (1 - i / self.iterations) / size
            return within(Gaussian(new.mean_D + rate * std_D**2 * mean_D, new.log_std_D + rate * log_std_D / 2), old,
                          self.most_kl)

        steps = jax.lax.fori_loop(0, self.iterations, step, old)
        better = objective(steps, old, self.goal, task_NxD, value_N, alpha) >= objective(old, old, self.goal, task_NxD, value_N,
                                                                                        alpha)
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), steps, old)

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """These tasks among the last ones, and an update where one is due."""
        task_BxD, value_B = self.read(feedback.plan), feedback.mean(feedback.reward_BxG)
        before, count = state["count"], state["count"] + value_B.shape[0]
        slot_B = (before + jnp.arange(value_B.shape[0])) % self.every
        task_NxD, value_N = state["task_NxD"].at[slot_B].set(task_BxD), state["value_N"].at[slot_B].set(value_B)
        old = Gaussian(state["mean_D"], state["log_std_D"])
        alpha = jnp.where(count // self.every > self.offset, self.zeta * value_N.mean() / jnp.maximum(kl(old, self.goal), 1e-3),
                          0.0)
        due = count // self.every > before // self.every
        new = jax.lax.cond(due, lambda: self.moved(old, task_NxD, value_N, alpha), lambda: old)
        return {"mean_D": new.mean_D, "log_std_D": new.log_std_D, "task_NxD": task_NxD, "value_N": value_N,
                "count": count}, weights
