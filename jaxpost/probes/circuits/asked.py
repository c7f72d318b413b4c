"""What the circuit probe asks: prompts, what lies on the way to their answers, and prompts that differ in one token.

Legend: N prompts, T positions, D width, V vocabulary, J residual states (the embedding's and one after each layer), K targets
of the lens, C kinds of replaced token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax


class Inputs(NamedTuple):
    """Arrays of one split."""

    tokens_NxT: jax.Array  # i32, without padding
    target_KxN: jax.Array  # i32, tokens that the lens looks for
    other_CxNxT: jax.Array  # i32, the same prompts with one token replaced, so that the right answer is another


@dataclass(frozen=True, eq=False)
class Asked:
    """One split's prompts. Compared and hashed by identity.

    Raises: ValueError when names and arrays do not fit together.
    """

    split: str
    positions: tuple[str, ...]  # names of the T positions
    targets: tuple[tuple[str, int], ...]  # (name, position whose states are read) of the K targets
    replaced: tuple[str, ...]  # names of the C kinds
    inputs: Inputs

    def __post_init__(self):
        (N, T), K, C = self.inputs.tokens_NxT.shape, len(self.targets), len(self.replaced)
        expected = {"positions": (T,), "target_KxN": (K, N), "other_CxNxT": (C, N, T)}
        shapes = {"positions": (len(self.positions),), "target_KxN": self.inputs.target_KxN.shape,
                  "other_CxNxT": self.inputs.other_CxNxT.shape}
        if wrong := next((name for name in expected if expected[name] != shapes[name]), None):
            raise ValueError(f"circuit of split {self.split!r}: {wrong} has shape {shapes[wrong]}; expected {expected[wrong]}, "
                             f"of {N} prompts of {T} tokens, {K} targets and {C} kinds of replaced token")
        if outside := [name for name, position in self.targets if not 0 <= position < T]:
            raise ValueError(f"circuit of split {self.split!r}: target {outside[0]!r} is read at no position of {T}")


class Circuit(NamedTuple):
    """How a policy's residual stream is read and changed, and what is asked of it."""

    # (params, tokens_NxT, edit or None) -> (state_JxNxTxD, logits_NxV of the last position); edit: (state_NxTxD, j) -> state
    run: Callable[[Any, jax.Array, Callable | None], tuple[jax.Array, jax.Array]]
    read: Callable[[Any, jax.Array], jax.Array]  # (params, state_JxNxD) -> logits_JxNxV of the last norm and head
    asked: tuple[Asked, ...]
