"""Rewards as a weighted sum of named terms, each logged on its own. Shapes: N rows.

A term reads what every task can say of a completion: the verifier's score, its length, whether it was finished.
"""

import dataclasses

import jax
import jax.numpy as jnp

KINDS = ("correct", "finished", "cosine_length", "triangular_length", "band_length", "soft_overlong")


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


@dataclasses.dataclass(frozen=True)
class Reward:
    """One term: weight(step) * value.

      correct            the verifier's score
      finished           1 if the completion ended with its end token, else 0
      cosine_length      `cosine_length` with limit `length`
      triangular_length  `triangular_length` with target `length`
      band_length        the same, flat up to the target
      soft_overlong      `soft_overlong` with limit `length` and cache `cache`

    The weight moves linearly from `weight` to `end_weight` over `horizon` batches (0: constant).
    """

    kind: str  # KINDS; also its name in the metrics
    weight: float = 1.0
    end_weight: float | None = None
    horizon: int = 0
    length: int | None = None  # tokens
    cache: int | None = None  # tokens
    right: tuple[float, float] = (1.0, 0.5)  # cosine_length: values of a right answer, empty and of `length` tokens
    wrong: tuple[float, float] = (-0.5, 0.0)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"reward {self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        measured = self.kind not in ("correct", "finished")
        if measured != (self.length is not None and self.length > 0):
            raise ValueError(f"reward {self.kind!r}: length={self.length}; the length terms need one above 0, "
                             "the others take None")
        if (self.kind == "soft_overlong") != (self.cache is not None and self.cache > 0):
            raise ValueError(f"reward {self.kind!r}: cache={self.cache}; 'soft_overlong' needs one above 0, "
                             "the others take None")
        if (self.end_weight is None) != (self.horizon == 0):
            raise ValueError(f"reward {self.kind!r}: end_weight={self.end_weight} with horizon={self.horizon}; "
                             "a schedule needs both")

    def value(self, correct_N: jax.Array, length_N: jax.Array, finished_N: jax.Array) -> jax.Array:
        """value_N, without the weight."""
        if self.kind == "correct":
            return correct_N
        if self.kind == "finished":
            return finished_N
        if self.kind == "cosine_length":
            return cosine_length(correct_N, length_N, self.length, self.right, self.wrong)
        if self.kind == "soft_overlong":
            return soft_overlong(length_N, self.length, self.cache)
        return triangular_length(length_N, self.length, flat=self.kind == "band_length")

    def at(self, step: jax.Array | int) -> jax.Array | float:
        """The weight at a batch."""
        if self.end_weight is None:
            return self.weight
        return self.weight + (self.end_weight - self.weight) * jnp.minimum(step / self.horizon, 1.0)


def compose(terms: tuple[Reward, ...], correct_N: jax.Array, length_N: jax.Array, finished_N: jax.Array,
            step: jax.Array | int) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(reward_N, the value of each term by its kind). Raises: ValueError for a kind that appears twice."""
    if len({term.kind for term in terms}) < len(terms):
        raise ValueError(f"rewards {', '.join(term.kind for term in terms)}: a kind may appear once; give its weights to one "
                         "term")
    values = {term.kind: term.value(correct_N, length_N, finished_N) for term in terms}
    return sum(term.at(step) * values[term.kind] for term in terms), values
