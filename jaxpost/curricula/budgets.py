"""How many rollouts each problem gets: Knapsack RL, CurES and GVM-RAFT's budget.

Groups have G rows; a problem with a budget of n uses n of them, the others are masked, so a budget changes what is learned
from and not what is computed. Shapes: B items a step, G rows an item, M items of the pool, W values of a window.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula import allocation, scores, selection, statistics
from jaxpost.curricula.base import Context, Feedback, Plan, Pooled, Weights


def _total(average: int, least: int, plan: Plan, context: Context) -> int:
    """Rollouts of the step. Raises: ValueError for an average that the groups do not hold."""
    if not least <= average <= context.group:
        raise ValueError(f"average={average} rollouts a problem with least={least} in groups of {context.group}; expected "
                         f"{least} to {context.group}")
    return average * plan.index_B.shape[0]


@dataclasses.dataclass(frozen=True)
class Knapsack(Pooled):
    """Knapsack RL: rollouts where they are worth most, V(n, p) = (1 - p^n - (1 - p)^n) p (1 - p)^2.

      p: mean reward of the last visit, or of the last `window` rewards if that visit had fewer
      fewer than `known` rewards seen: `average` rollouts; p = 0 or 1: `extreme`
      else at least `least`, and more by `allocation.knapsack`

    Of what 0 < p < 1 can use, sum min(most, ln(1 - sure) / ln max(p, 1 - p)), a surplus goes evenly to problems with p = 0,
    then to those with p = 1, then back. The sum is average * B, whatever the success rates.

    Raises:
      ValueError: no pool, or numbers out of range; when traced, an average above the group.
    """

    paper: ClassVar[str] = "arXiv:2509.25849"
    differs: ClassVar[str] = "greedy, which is exact, in place of dynamic programming (the released one values no rollout " \
        "beyond the least as 0); no problem gets more rollouts than the group has"

    average: int = 8
    least: int = 2
    extreme: int = 2
    known: int = 8
    window: int = 16
    sure: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if not (1 <= self.least <= self.average and 1 <= self.extreme <= self.average and 0 < self.sure < 1
                and self.known >= 1 and self.window >= 1):
            raise ValueError(f"least={self.least}, extreme={self.extreme}, average={self.average}, sure={self.sure}, "
                             f"known={self.known}, window={self.window}: expected 1 <= least, extreme <= average, sure in "
                             "(0, 1), and known and window of at least 1")

    @property
    def needs(self) -> frozenset[str]:
        """Groups with their success."""
        return frozenset({"reward", "rollouts"})

    def init(self, key: jax.Array) -> dict:
        """Nothing seen."""
        del key
        return {"window_MxW": jnp.zeros((self.pool, self.window)), "count_M": jnp.zeros(self.pool, jnp.int32),
                "visit_M": jnp.zeros(self.pool), "visited_M": jnp.zeros(self.pool)}

    def success(self, state: dict) -> jax.Array:
        """p of every item of the pool."""
        recent_M = statistics.window_mean(state["window_MxW"], state["count_M"])
        return jnp.where(state["visited_M"] >= self.window, state["visit_M"], recent_M)

    def allocate(self, p_B: jax.Array, known_B: jax.Array, total: int, most: int) -> jax.Array:
        """n_B with sum `total`, each at most `most`."""
        none_B, all_B = known_B & (p_B <= 0), known_B & (p_B >= 1)
        inner_B = known_B & ~none_B & ~all_B
        held_B = jnp.where(inner_B, self.least, jnp.where(known_B, self.extreme, self.average))
        safe_B = jnp.where(inner_B, p_B, 0.5)
        cost_B = jnp.log(1 - self.sure) / jnp.log(jnp.maximum(safe_B, 1 - safe_B))
        useful = jnp.ceil(jnp.where(inner_B, jnp.clip(cost_B - self.least, 0, most - self.least), 0.0).sum()).astype(jnp.int32)
        left = total - held_B.sum()
        count_B = allocation.knapsack(safe_B, jnp.clip(left, 0, useful), jnp.where(inner_B, held_B, most), most)
        count_B = jnp.where(inner_B, count_B, held_B)
        surplus = total - count_B.sum()
        turn_B = jnp.where(none_B, 0, jnp.where(all_B, 1, jnp.where(inner_B, 2, 3)))
        level_BxN = -(turn_B[:, None] * most + jnp.arange(most, dtype=jnp.float32)[None])
        return allocation.greedy(level_BxN, jnp.maximum(surplus, 0), count_B)

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Budgets of the plan's items; items outside the pool count as unknown."""
        del key
        total = _total(self.average, max(self.least, self.extreme), plan, context)
        item_B = jnp.minimum(plan.index_B, self.pool - 1)
        known_B = (state["count_M"][item_B] >= self.known) & (plan.index_B < self.pool)
        return state, plan._replace(rollouts_B=self.allocate(self.success(state)[item_B], known_B, total, context.group))

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Rewards into the windows of their items."""
        item_N = jnp.repeat(feedback.plan.index_B.astype(jnp.int32), feedback.used_BxG.shape[1])
        reward_N, used_N = feedback.reward_BxG.reshape(-1), feedback.used_BxG.reshape(-1)
        window, count = statistics.push(state["window_MxW"], state["count_M"], item_N, reward_N, used_N > 0)
        mean_M, rows_M = statistics.means_by(item_N, reward_N, used_N, self.pool)
        return {"window_MxW": window, "count_M": count, "visit_M": jnp.where(rows_M > 0, mean_M, state["visit_M"]),
                "visited_M": jnp.where(rows_M > 0, rows_M, state["visited_M"])}, weights


@dataclasses.dataclass(frozen=True)
class Counted(Pooled):
    """A rule that counts the successes and failures of every item: p = (1 + S) / (2 + S + F)."""

    def init(self, key: jax.Array) -> dict:
        """Nothing seen."""
        del key
        return {"success_M": jnp.zeros(self.pool), "failure_M": jnp.zeros(self.pool)}

    @property
    def needs(self) -> frozenset[str]:
        """Success."""
        return frozenset({"reward"})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Count; a success is a reward above 1/2."""
        right_BxG = feedback.reward_BxG > 0.5
        item_B = feedback.plan.index_B.astype(jnp.int32)
        counts = {name: state[name].at[item_B].add((feedback.used_BxG * x_BxG).sum(axis=1), mode="drop")
                  for name, x_BxG in (("success_M", right_BxG), ("failure_M", ~right_BxG))}
        return state | counts, weights


@dataclasses.dataclass(frozen=True)
class Cures(Counted):
    """CurES: problems by softmax( sqrt(p (1 - p)) / temperature ), without replacement within a batch.

    With `average` above 0 their rollouts are in proportion to sqrt(p (1 - p)), at least `least`; p is the posterior mean, so
    that no problem starves.

    Raises:
      ValueError: no pool, or numbers out of range; when traced, an average above the group.
    """

    paper: ClassVar[str] = "arXiv:2510.01037"
    differs: ClassVar[str] = "the paper's softmax, not the released sampler, which is nearly uniform; gradient norms are " \
        "taken as 1; counts are not reset and no probe comes first"

    temperature: float = 0.1
    average: int = 0  # rollouts a problem; 0: all of the group
    least: int = 2

    def __post_init__(self):
        super().__post_init__()
        if not (self.temperature > 0 and self.average >= 0 and self.least >= 1):
            raise ValueError(f"temperature={self.temperature}, average={self.average}, least={self.least}: expected a "
                             "temperature above 0, an average of at least 0 and a least of at least 1")

    @property
    def needs(self) -> frozenset[str]:
        """Success; groups, if rollouts are allocated."""
        return super().needs | (frozenset({"rollouts"}) if self.average else frozenset())

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """As `Curriculum.sample`."""
        sigma_M = scores.deviation(statistics.beta_mean(state["success_M"], state["failure_M"]))
        item_B = selection.batch_of(key, sigma_M / self.temperature, plan.index_B.shape[0])
        plan = plan._replace(index_B=item_B.astype(jnp.uint32))
        if not self.average:
            return state, plan
        count_B = allocation.proportional(sigma_M[item_B], _total(self.average, self.least, plan, context), self.least)
        return state, plan._replace(rollouts_B=allocation.capped(count_B, context.group))


@dataclasses.dataclass(frozen=True)
class Gvm(Counted):
    """GVM-RAFT's budget: rollouts in proportion to 1 / sqrt(p + alpha / p), hard but not impossible problems first.

    Raises:
      ValueError: no pool; when traced, an average above the group.
    """

    paper: ClassVar[str] = "arXiv:2505.02391"
    differs: ClassVar[str] = "p from the rollouts that are trained on, by counts with a uniform prior, not from a probe of " \
        "each iteration; gradient norms are taken as 1"

    average: int = 8
    least: int = 2
    alpha: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        if not (1 <= self.least <= self.average and self.alpha > 0):
            raise ValueError(f"average={self.average}, least={self.least}, alpha={self.alpha}: expected 1 <= least <= average "
                             "and an alpha above 0, e.g. 0.001")

    @property
    def needs(self) -> frozenset[str]:
        """Groups with their success."""
        return super().needs | {"rollouts"}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Budgets of the plan's items; an item outside the pool has p = 1/2."""
        del key
        p_M = statistics.beta_mean(state["success_M"], state["failure_M"])
        p_B = jnp.where(plan.index_B < self.pool, p_M[jnp.minimum(plan.index_B, self.pool - 1)], 0.5)
        weight_B = scores.acceptance(p_B, self.alpha)
        count_B = allocation.proportional(weight_B, _total(self.average, self.least, plan, context), self.least)
        return state, plan._replace(rollouts_B=allocation.capped(count_B, context.group))
