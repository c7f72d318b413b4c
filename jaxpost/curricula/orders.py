"""Orders that are fixed before training or by the step: easy to hard and its controls, stages, cycles.

Shapes: B items a step, M items of the pool.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.curricula import scores, selection, statistics
from jaxpost.curricula.base import Context, Feedback, Graded, Plan, Pooled, Weights

FAVOURS = ("easy", "hard", "exponential", "random")
ORDERS = ("easy_to_hard", "hard_to_easy", "random")


def _require_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps={steps}: the schedule needs the number of steps")


def _require_cycle(o) -> None:
    if not (0 < o.start <= o.end <= 1 and 0 < o.factor < 1 and o.total > 0):
        raise ValueError(f"start={o.start}, end={o.end}, factor={o.factor}, total={o.total}: expected "
                         "0 < start <= end <= 1, a factor in (0, 1) and epochs above 0")


@dataclasses.dataclass(frozen=True)
class Ordered(Pooled):
    """Uniform draws from the first n items of an order, n growing linearly from `start` M to M over `ramp` of the steps.

      easy_to_hard  ascending difficulty, ties in the order of the pool
      hard_to_easy  descending: the anti-curriculum
      random        a permutation of the run's seed: the control with the same growth

    Raises:
      ValueError: no pool or steps, an unknown order, shares out of range, or no difficulties for an order by them.
    """

    paper: ClassVar[str] = "arXiv:2012.03107"
    differs: ClassVar[str] = "linear pacing alone; the score is the task's difficulty"

    order: str = "easy_to_hard"
    start: float = 0.2
    ramp: float = 0.5
    steps: int = 0
    difficulty: tuple[float, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        _require_steps(self.steps)
        if self.order not in ORDERS:
            raise ValueError(f"order={self.order!r} is not known (valid: {', '.join(ORDERS)})")
        if not (0 < self.start <= 1 and 0 < self.ramp <= 1):
            raise ValueError(f"start={self.start}, ramp={self.ramp}: expected shares in (0, 1]")
        if self.order != "random":
            Graded(self.pool, self.difficulty)

    def init(self, key: jax.Array) -> dict:
        """The order."""
        if self.order == "random":
            return {"order_M": jax.random.permutation(key, self.pool).astype(jnp.int32)}
        sign = 1 if self.order == "easy_to_hard" else -1
        return {"order_M": jnp.asarray(np.argsort(sign * np.asarray(self.difficulty), kind="stable"), jnp.int32)}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """As `Curriculum.sample`."""
        share = scores.along(self.start, 1.0, context.step / (self.ramp * self.steps))
        return state, plan._replace(index_B=selection.from_first(key, state["order_M"], share, plan.index_B.shape[0]))


@dataclasses.dataclass(frozen=True)
class Curry(Graded):
    """Curry-DPO's order: the problems in `stages` parts by difficulty, easy first, each trained alone for its share of steps.

    Raises:
      ValueError: no pool, difficulties or steps, or stages that are not 1 to M.
    """

    paper: ClassVar[str] = "arXiv:2403.07230"
    differs: ClassVar[str] = "ordered by the problem's difficulty, not by the rating gap of a pair; `refresh_every` of the " \
        "arm makes each stage's start the reference"

    stages: int = 3
    steps: int = 0

    def __post_init__(self):
        super().__post_init__()
        _require_steps(self.steps)
        if not 1 <= self.stages <= self.pool:
            raise ValueError(f"stages={self.stages} of {self.pool} problems")

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """As `Curriculum.sample`."""
        order_M = jnp.asarray(np.argsort(np.asarray(self.difficulty), kind="stable"))
        stage = jnp.clip(jnp.asarray(context.step) * self.stages // self.steps, 0, self.stages - 1)
        low, high = stage * self.pool // self.stages, (stage + 1) * self.pool // self.stages
        place_B = jax.random.randint(key, plan.index_B.shape, low, high)
        return state, plan._replace(index_B=order_M[place_B].astype(jnp.uint32))


def cycle(start: float, factor: float, end: float, total: float) -> tuple[float, ...]:
    """Shares of the data by epoch: from `start` by 1 / factor up to `end`, down again and so on, until they sum to `total`."""
    shares, share, grows = [], start, True
    while sum(shares) < total:
        shares.append(share)
        if share >= end or share <= start:
            grows = share < end
        share = min(share / factor, end) if grows else max(share * factor, start)
    return tuple(shares)


@dataclasses.dataclass(frozen=True)
class Cyclical(Graded):
    """Cyclical curriculum: each epoch trains on a share of the pool, which bounces between `start` and `end` (`cycle`).

    An epoch's subset is drawn without replacement with probability proportional to the score, 1 / (1 + difficulty), and
    lasts steps / epochs steps.

    Raises:
      ValueError: no pool, difficulties or steps, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:2202.05531"
    differs: ClassVar[str] = "the score is the task's difficulty, not the loss of a trained model; epochs have equal steps"

    start: float = 0.25
    factor: float = 0.5
    end: float = 1.0
    total: float = 6.0  # epochs of the whole data
    steps: int = 0

    def __post_init__(self):
        super().__post_init__()
        _require_steps(self.steps)
        _require_cycle(self)

    def init(self, key: jax.Array) -> dict:
        """A word from which every epoch's subset is drawn."""
        return {"word": jax.random.bits(key, (), "uint32")}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """As `Curriculum.sample`."""
        shares = cycle(self.start, self.factor, self.end, self.total)
        epoch = jnp.clip(jnp.asarray(context.step) * len(shares) // self.steps, 0, len(shares) - 1)
        logit_M = -jnp.log1p(jnp.asarray(self.difficulty, jnp.float32))
        return state, plan._replace(index_B=_of_subset(key, state["word"], epoch, shares, logit_M, plan.index_B.shape[0]))


def _of_subset(key: jax.Array, word: jax.Array, epoch: jax.Array, shares: tuple[float, ...], logit_M: jax.Array,
               count: int) -> jax.Array:
    """index_B: uniform draws from an epoch's subset, which is drawn without replacement by softmax(logit)."""
    pool = logit_M.shape[0]
    order_M = selection.without_replacement(jax.random.fold_in(jax.random.key(word), epoch), logit_M, pool)
    sizes = [max(1, math.floor(share * pool)) for share in shares]
    place_B = jax.random.randint(key, (count,), 0, jnp.asarray(sizes)[epoch])
    return order_M[place_B].astype(jnp.uint32)


@dataclasses.dataclass(frozen=True)
class CyclicalLosses(Pooled):
    """Cyclical curriculum by losses: as `cyclical`, subsets drawn in proportion to a score of each example's loss.

      favours  easy         1 / loss
               hard         loss
               exponential  rate exp(-rate loss)
               random       1

    The pool is scored in the order of its problems by steps that do not train: before the first epoch or, if self_paced, at
    the beginning of each. They are steps of the epoch, which trains in those that are left.

    Raises:
      ValueError: no pool or steps, or numbers out of range; when traced, epochs that scoring leaves no step to train.
    """

    paper: ClassVar[str] = "arXiv:2202.05531"
    differs: ClassVar[str] = "losses of the policy that the run begins with, not of a model trained before; epochs have " \
        "equal steps, scoring included"

    favours: str = "easy"  # FAVOURS
    rate: float = 1.0  # of exponential, 1 / nats
    self_paced: bool = False
    start: float = 0.25
    factor: float = 0.5
    end: float = 1.0
    total: float = 6.0  # epochs of the whole data
    steps: int = 0

    def __post_init__(self):
        super().__post_init__()
        _require_steps(self.steps)
        _require_cycle(self)
        if self.favours not in FAVOURS or not self.rate > 0:
            raise ValueError(f"favours={self.favours!r}, rate={self.rate}: expected one of {', '.join(FAVOURS)}, and a rate "
                             "above 0")

    @property
    def needs(self) -> frozenset[str]:
        """Losses."""
        return frozenset({"loss"})

    @property
    def probes(self) -> bool:
        """Scoring does not train."""
        return True

    def init(self, key: jax.Array) -> dict:
        """No losses; a word from which every epoch's subset is drawn."""
        return {"word": jax.random.bits(key, (), "uint32"), "loss_M": jnp.ones(self.pool)}

    def phase(self, step: jax.Array | int, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(epoch, step within it, whether it scores)."""
        epochs, scoring = len(self.shares), -(-self.pool // count)
        if self.steps // epochs <= scoring:
            raise ValueError(f"scoring {self.pool} problems in batches of {count} takes {scoring} steps, and {self.steps} "
                             f"steps are {epochs} epochs of {self.steps // epochs}; nearest valid: "
                             f"{epochs * (scoring + 1)} steps")
        epoch = jnp.clip(jnp.asarray(step) * epochs // self.steps, 0, epochs - 1)
        within = step - -(-epoch * self.steps // epochs)
        return epoch, within, (within < scoring) & (self.self_paced | (epoch == 0))

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the data, by epoch."""
        return cycle(self.start, self.factor, self.end, self.total)

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """The next of the pool where it is scored, else as `Cyclical.sample`."""
        count = plan.index_B.shape[0]
        epoch, within, scores_it = self.phase(context.step, count)
        loss_M = jnp.maximum(state["loss_M"], 1e-6)
        logit_M = {"easy": -jnp.log(loss_M), "hard": jnp.log(loss_M), "exponential": -self.rate * loss_M,
                   "random": jnp.zeros(self.pool)}[self.favours]
        drawn_B = _of_subset(key, state["word"], epoch, self.shares, logit_M, count)
        next_B = selection.cursor(jnp.arange(self.pool, dtype=jnp.uint32), within * count, count)
        return state, plan._replace(index_B=jnp.where(scores_it, next_B, drawn_B), train=plan.train & ~scores_it)

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Note the losses of a scoring step."""
        item_B = feedback.plan.index_B.astype(jnp.int32)
        scores_it = self.phase(feedback.step, item_B.shape[0])[2]
        item_N = jnp.repeat(item_B, feedback.used_BxG.shape[1])
        mean_M, rows_M = statistics.means_by(item_N, feedback.loss_BxG.reshape(-1), feedback.used_BxG.reshape(-1), self.pool)
        return state | {"loss_M": jnp.where(scores_it & (rows_M > 0), mean_M, state["loss_M"])}, weights
