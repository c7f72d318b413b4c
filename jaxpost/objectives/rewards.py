"""Rewards as a weighted sum of named terms, each logged on its own. Shapes: N rows, T completion tokens.

A term reads what every task can say of a completion: the verifier's score, its tokens and length, whether it was finished.
A term of one's own is a function of these, registered under a name:

    rewards.register("brevity", lambda answer, term: 1.0 / (1.0 + answer.length_N))
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpost import lookup
from jaxpost.lookup import nearest


class Answer(NamedTuple):
    """What a term may read of N completions."""

    correct_N: jax.Array  # the verifier's score
    length_N: jax.Array  # tokens, the end token included, without context that was forced
    finished_N: jax.Array  # 1 if it ended with its end token, else 0
    tokens_NxT: jax.Array | None = None  # padded behind the end
    budget: jax.Array | None = None  # of a curriculum, tokens: the target of BUDGETED terms in place of their length
    group: int = 1  # adjacent completions that answer one prompt


def soft_overlong(length_N: jax.Array, limit: int, cache: int) -> jax.Array:
    """DAPO's length penalty (arXiv:2503.14476): 0 up to limit - cache tokens, then linear to -1 at the limit, -1 beyond.

      r = clip((limit - cache - n) / cache, -1, 0)
    """
    return jnp.clip((limit - cache - length_N) / cache, -1.0, 0.0)


def cosine_length(correct_N: jax.Array, length_N: jax.Array, limit: int, right: tuple[float, float],
                  wrong: tuple[float, float]) -> jax.Array:
    """Half a cosine from the value of an empty answer to that of one of `limit` tokens (arXiv:2502.03373), held beyond it.

      r = end + (start - end) (1 + cos(pi n / limit)) / 2,  (start, end) = `right` where the score is 1, else `wrong`
    """
    wave_N = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(length_N / limit, 0.0, 1.0)))
    start_N, end_N = (jnp.where(correct_N >= 1, a, b) for a, b in zip(right, wrong, strict=True))
    return end_N + (start_N - end_N) * wave_N


def triangular_length(length_N: jax.Array, target: int, flat: bool = False) -> jax.Array:
    """1 at `target` tokens, falling linearly to 0 at 0 (or, `flat`, 1 up to the target) and at 2 target tokens; 0 beyond."""
    share_N = length_N / target
    return jnp.clip(jnp.where(share_N <= 1, 1.0 if flat else share_N, 2 - share_N), 0.0, 1.0)


def dynamic_length(correct_N: jax.Array, length_N: jax.Array, group: int, target: int) -> jax.Array:
    """VL-Cogito's length term of wrong answers (arXiv:2507.22607), in [-1/2, 0]; 0 for right ones.

      right answers in the group, of mean length m   -(1 + cos(pi n / m)) / 4 up to m, and the same of 2 m - n beyond, to 2 m
      none, n up to `target` tokens                  -(1 + cos(pi n / target)) / 8;  0 beyond

    Differs from the released code in: no penalty of very long answers of groups without a right one, and none of repetition.
    """
    right_BxG = (correct_N >= 1).reshape(-1, group).astype(jnp.float32)
    mean_B = (length_N.reshape(-1, group) * right_BxG).sum(axis=1) / jnp.maximum(right_BxG.sum(axis=1), 1.0)
    mean_N, some_N = jnp.repeat(jnp.maximum(mean_B, 1.0), group), jnp.repeat(right_BxG.any(axis=1), group)
    away_N = jnp.clip(1 - jnp.abs(length_N / mean_N - 1), 0.0, 1.0)
    near_N = -(1 + jnp.cos(jnp.pi * away_N)) / 4
    alone_N = -(1 + jnp.cos(jnp.pi * jnp.clip(length_N / target, 0.0, 1.0))) / 8
    return jnp.where(correct_N >= 1, 0.0, jnp.where(some_N, near_N, alone_N))


def refusal(correct_N: jax.Array, length_N: jax.Array, target: jax.Array | float, spread: float) -> jax.Array:
    """Auto-CEI's reward (arXiv:2410.07627), in [-1, 1]: a refusal is worth more the longer the policy has tried before.

      score 1: 1    score 0: -1    between, which is a refusal (task `refusals`): 2 / (1 + exp(-slope (n - target))) - 1
      slope = ln(10) / (4 spread)

    so that it is 0 at `target` tokens, and -9/11 and 9/11 four spreads before and after it. In the released code the spread is
    the standard deviation of how long the initial policy's refusals are.

    Differs from the released code in: n counts tokens of the answer in place of steps of the reasoning.
    """
    late_N = jnp.tanh(math.log(10) / (8 * spread) * (length_N - target))
    return jnp.where(correct_N >= 1, 1.0, jnp.where(correct_N <= 0, -1.0, late_N))


@dataclasses.dataclass(frozen=True)
class Reward:
    """One term: weight(step) * value.

      correct            the verifier's score
      finished           1 if the completion ended with its end token, else 0
      cosine_length      `cosine_length` with limit `length`
      triangular_length  `triangular_length` with target `length`, or with the length budget of the curriculum
      band_length        the same, flat up to the target
      soft_overlong      `soft_overlong` with limit `length` and cache `cache`
      dynamic_length     `dynamic_length` with target `length`
      refusal            `refusal` with target `length`, or the length budget of the curriculum, and `spread`

    and those that were registered. The weight moves from `weight` to `end_weight` over `horizon` batches (0: constant),
    linearly or, with shape "cosine", by half a cosine (from format to content: Datarus, arXiv:2508.13382, recalled). With
    `stages` it is one of them, each for an equal part of `horizon`, the last one from there on (Time-R1, arXiv:2505.13508, and
    CRAFT-GUI, arXiv:2508.11360, recalled; VL-Cogito's length term is (0, 0, 1)).
    """

    kind: str  # a key of PARTS; also its name in the metrics
    weight: float = 1.0
    end_weight: float | None = None
    horizon: int = 0
    shape: str = "linear"  # or "cosine"
    stages: tuple[float, ...] = ()
    length: int | None = None  # tokens
    cache: int | None = None  # tokens
    spread: float | None = None  # tokens, of refusal
    right: tuple[float, float] = (1.0, 0.5)  # cosine_length: values of a right answer, empty and of `length` tokens
    wrong: tuple[float, float] = (-0.5, 0.0)

    def __post_init__(self):
        if self.kind not in PARTS:
            raise ValueError(f"reward {self.kind!r} is not known{nearest(self.kind, PARTS)}")
        measured = self.kind in _LENGTHS
        if (measured or self.kind in ("correct", "finished")) and measured != (self.length is not None and self.length > 0):
            raise ValueError(f"reward {self.kind!r}: length={self.length}; the length terms need one above 0, "
                             "the others take None")
        if (self.kind == "soft_overlong") != (self.cache is not None and self.cache > 0):
            raise ValueError(f"reward {self.kind!r}: cache={self.cache}; 'soft_overlong' needs one above 0, "
                             "the others take None")
        if (self.kind == "refusal") != (self.spread is not None and self.spread > 0):
            raise ValueError(f"reward {self.kind!r}: spread={self.spread}; 'refusal' needs one above 0, the others take None")
        if (self.end_weight is None and not self.stages) != (self.horizon == 0) or self.stages and self.end_weight is not None:
            raise ValueError(f"reward {self.kind!r}: end_weight={self.end_weight}, stages={self.stages} with "
                             f"horizon={self.horizon}; a schedule needs a horizon and one of the two")
        if self.shape not in ("linear", "cosine"):
            raise ValueError(f"reward {self.kind!r}: shape={self.shape!r} is not known (valid: linear, cosine)")

    def value(self, answer: Answer) -> jax.Array:
        """value_N, without the weight."""
        return PARTS[self.kind](answer, self)

    def at(self, step: jax.Array | int) -> jax.Array | float:
        """The weight at a batch."""
        if self.stages:
            stage = jnp.clip(jnp.asarray(step) * len(self.stages) // self.horizon, 0, len(self.stages) - 1)
            return jnp.asarray(self.stages)[stage]
        if self.end_weight is None:
            return self.weight
        along = jnp.minimum(step / self.horizon, 1.0)
        along = 0.5 * (1 - jnp.cos(jnp.pi * along)) if self.shape == "cosine" else along
        return self.weight + (self.end_weight - self.weight) * along


def _target(answer: Answer, term: Reward) -> jax.Array | int:
    return term.length if answer.budget is None else answer.budget


PARTS: dict[str, Callable[[Answer, Reward], jax.Array]] = {
    "correct": lambda answer, term: answer.correct_N,
    "finished": lambda answer, term: answer.finished_N,
    "cosine_length": lambda answer, term: cosine_length(answer.correct_N, answer.length_N, term.length, term.right, term.wrong),
    "triangular_length": lambda answer, term: triangular_length(answer.length_N, _target(answer, term)),
    "band_length": lambda answer, term: triangular_length(answer.length_N, _target(answer, term), flat=True),
    "soft_overlong": lambda answer, term: soft_overlong(answer.length_N, term.length, term.cache),
    "dynamic_length": lambda answer, term: dynamic_length(answer.correct_N, answer.length_N, answer.group, term.length),
    "refusal": lambda answer, term: refusal(answer.correct_N, answer.length_N, _target(answer, term), term.spread),
}
BUDGETED = ("triangular_length", "band_length", "refusal")
_LENGTHS = ("cosine_length", "soft_overlong", "dynamic_length", *BUDGETED)


def register(kind: str, value: Callable[[Answer, Reward], jax.Array]) -> None:
    """Add a term: (answers, term) -> value_N, traced. Raises: ValueError for a name that is taken."""
    lookup.register("reward", kind, value, PARTS)


def compose(terms: tuple[Reward, ...], answer: Answer, step: jax.Array | int) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(reward_N = sum_k weight_k(step) value_k, the value of each term by its kind).

    Raises:
      ValueError: a kind that appears twice.
    """
    require_once(terms)
    values = {term.kind: term.value(answer) for term in terms}
    return sum(term.at(step) * values[term.kind] for term in terms), values


def require_once(terms: tuple[Reward, ...]) -> None:
    """Refuse a kind that appears twice. Raises: ValueError."""
    if len({term.kind for term in terms}) < len(terms):
        raise ValueError(f"rewards {', '.join(term.kind for term in terms)}: a kind may appear once; give its weights to one "
                         "term")
