"""The curriculum contract: what is trained on next (`Plan`), what came of it (`Feedback`), and how much it counts (`Weights`).

A step asks `sample` for a plan, makes rollouts or demonstrations of it, and tells `observe` what came of them; `observe` may
also decide which of them count. Everything that a rule learns is in its state, a pytree of arrays of fixed shapes, so a step
is one compiled program whatever the rule has learned, and a checkpoint resumes it bit for bit.

Shapes: B items (problems) of a step, G rows an item (1 for demonstrations), M items of a pool, A arms.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# What a rule may need of the run beyond the verifier's score -> what it is.
NEEDS = {
    "reward": "the verifier's score of rollouts",
    "advantage": "advantages of rollouts",
    "length": "lengths of rollouts, in tokens",
    "loss": "the loss of each example before the update",
    "length_reward": "a term triangular_length, band_length or refusal of the reward, which reads the length budget",
    "scale": "a policy-gradient objective, whose advantages can be scaled, or demonstrations",
    "length_limit": "sampled answers alone, in one pass, that can be cut at a limit",
    "hints": "rollouts whose answers begin with a hint: forcing a prefix of role 'hint'",
    "kl_scale": "a policy-gradient objective with a KL term in its loss",
    "entropy": "the policy's entropy at the tokens of rollouts, nats",
    "prompt_state": "the policy's states of prompts before they are drawn",
    "logits": "the policy's logits on demonstrations",
    "rollouts": "groups of rollouts, of which some can be left out",
}


class Plan(NamedTuple):
    """What a step trains on. It begins as uniform draws from a split without end; links of a chain rewrite it in turn."""

    index_B: jax.Array  # uint32, problems of the training split
    rollouts_B: jax.Array | None = None  # int32, how many of the G rows of an item count; None: all
    knobs: dict = {}  # name -> array [B] or scalar: knobs of the task that replace those of its split; and length_budget,
    # length_limit, hint_share, or what a rule tells itself
    train: jax.Array | bool = True  # False: probing, the policy does not change


class Context(NamedTuple):
    """What a rule may know of the step that it plans."""

    step: jax.Array | int
    group: int = 1  # G, static
    prompt_states: Callable[[jax.Array], jax.Array] | None = None  # index_K -> [K, D], where the source gives them


class Feedback(NamedTuple):
    """What came of a plan. Fields that the source does not give are None."""

    step: jax.Array | int
    plan: Plan
    used_BxG: jax.Array  # float, 1 where the row counts
    reward_BxG: jax.Array | None = None  # the verifier's score
    advantage_BxG: jax.Array | None = None  # mean over the counted tokens of a row
    length_BxG: jax.Array | None = None
    loss_BxG: jax.Array | None = None  # mean negative log-likelihood of a row's counted tokens, nats
    counted_BxGxT: jax.Array | None = None  # 1 on counted tokens, with entropies
    entropy_BxGxT: jax.Array | None = None  # of the policy at each token, nats
    logits_BxTxV: jax.Array | None = None  # of demonstrations, 0 off their counted tokens

    def mean(self, x_BxG: jax.Array) -> jax.Array:
        """Mean of each item's rows that count; 0 for an item without one."""
        return jnp.where(self.used_BxG > 0, x_BxG, 0.0).sum(axis=1) / jnp.maximum(self.used_BxG.sum(axis=1), 1.0)


class Weights(NamedTuple):
    """How much each row counts; None is 1 everywhere.

    keep   0: the row is as if it had not been drawn; the statistics of its group are those of the others
    train  0: the row is not in the loss, but in the statistics of its group
    scale  multiplies the row's advantage, or the weight of a demonstration's tokens
    kl     multiplies the row's KL term in the loss
    token  0: the token is not in the loss
    """

    keep_BxG: jax.Array | None = None
    train_BxG: jax.Array | None = None
    scale_BxG: jax.Array | None = None
    kl_BxG: jax.Array | None = None
    token_BxGxT: jax.Array | None = None

    def times(self, keep=None, train=None, scale=None, kl=None, token=None) -> "Weights":
        """The product with other weights."""
        others = (keep, train, scale, kl, token)
        return Weights(*(b if a is None else a if b is None else a * b for a, b in zip(self, others)))


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """A rule. Here: it keeps no state, leaves the plan as it is and lets every row count.

    Class attributes say what the table shows: `paper`, what `differs` from it, what is `reconstructed`; `probes`: whether it
    plans steps that do not train.
    """

    paper: ClassVar[str] = ""
    differs: ClassVar[str] = ""
    reconstructed: ClassVar[str] = ""

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return frozenset()

    @property
    def probes(self) -> bool:
        """Whether some plans do not train."""
        return False

    @property
    def knobs(self) -> tuple[tuple[str, int, int], ...]:
        """(name, low, high) of the knobs of the task that plans set."""
        return ()

    def init(self, key: jax.Array) -> Any:
        """The state before the first step."""
        del key
        return {}

    def sample(self, state: Any, key: jax.Array, plan: Plan, context: Context) -> tuple[Any, Plan]:
        """(state, plan) of a step."""
        del key, context
        return state, plan

    def observe(self, state: Any, feedback: Feedback, weights: Weights) -> tuple[Any, Weights]:
        """(state, weights) after the step's rows are made, before they are trained on."""
        del feedback
        return state, weights


def blank(key: jax.Array, count: int) -> Plan:
    """The plan that a step begins with: `count` problems of a split without end."""
    return Plan(jax.random.bits(key, (count,), "uint32"))


@dataclasses.dataclass(frozen=True)
class Pooled(Curriculum):
    """A rule that chooses among the first M problems of the training split.

    Raises:
      ValueError: no pool.
    """

    pool: int = 0  # M

    def __post_init__(self):
        if self.pool < 1:
            raise ValueError(f"{type(self).__name__} chooses among the problems of a pool, and pool={self.pool}; set pool to "
                             "their number")


@dataclasses.dataclass(frozen=True)
class Graded(Pooled):
    """A rule over a pool whose problems have difficulties; those of one difficulty are an arm, arms in ascending order.

    Raises:
      ValueError: not one difficulty an item, or fewer than two different ones.
    """

    difficulty: tuple[float, ...] = ()  # of each item

    def __post_init__(self):
        super().__post_init__()
        if len(self.difficulty) != self.pool or len(set(self.difficulty)) < 2:
            raise ValueError(f"{type(self).__name__} tells problems apart by their difficulty: {self.pool} problems have "
                             f"{len(self.difficulty)} difficulties, {len(set(self.difficulty))} of them different; take a task "
                             "and options whose problems differ in difficulty")

    @property
    def arm_M(self) -> np.ndarray:
        """int32, the arm of each item."""
        return np.unique(np.asarray(self.difficulty), return_inverse=True)[1].astype(np.int32)

    @property
    def arms(self) -> int:
        """A."""
        return len(set(self.difficulty))


@dataclasses.dataclass(frozen=True)
class Chain(Curriculum):
    """Rules in turn: each rewrites the plan of those before it, and their weights are multiplied.

    The first link draws with the step's key itself, so that a rule which only weighs rows trains on the problems of the
    sampler before it alone; link i > 0 with fold_in(key, i).
    """

    links: tuple[Curriculum, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """Of all links."""
        return frozenset().union(*(link.needs for link in self.links))

    @property
    def probes(self) -> bool:
        """Whether a link probes."""
        return any(link.probes for link in self.links)

    @property
    def knobs(self) -> tuple[tuple[str, int, int], ...]:
        """Of all links."""
        return tuple(knob for link in self.links for knob in link.knobs)

    def init(self, key: jax.Array) -> tuple:
        """The links' states."""
        return tuple(link.init(_key(key, i)) for i, link in enumerate(self.links))

    def sample(self, state: tuple, key: jax.Array, plan: Plan, context: Context) -> tuple[tuple, Plan]:
        """As `Curriculum.sample`."""
        states = []
        for i, link in enumerate(self.links):
            own, plan = link.sample(state[i], _key(key, i), plan, context)
            states.append(own)
        return tuple(states), plan

    def observe(self, state: tuple, feedback: Feedback, weights: Weights) -> tuple[tuple, Weights]:
        """As `Curriculum.observe`; a link sees the weights of those before it, not their effect."""
        states = []
        for own, link in zip(state, self.links):
            own, weights = link.observe(own, feedback, weights)
            states.append(own)
        return tuple(states), weights


def _key(key: jax.Array, position: int) -> jax.Array:
    return jax.random.fold_in(key, position) if position else key


def chain(*curricula: Curriculum) -> Curriculum:
    """The rules in turn; chains within are flattened, so that chain(a, chain(b, c)) = chain(chain(a, b), c)."""
    links = tuple(link for one in curricula for link in (one.links if isinstance(one, Chain) else (one,)))
    return links[0] if len(links) == 1 else Chain(links)
