"""Several demonstrations in one row, each of which sees itself alone: the same loss and gradient from fewer padded rows.

Padding is what short demonstrations cost: N rows have the width of the longest prompt and answer, whatever is in them. Packed
rows have that width too, and are filled with whole demonstrations; a token's segment, its demonstration's number in the row,
says what it may attend to. Positions enter attention as differences only (rope), so a demonstration is the same wherever it
lies. A step's demonstrations do not change, only how many rows they take; programs have fixed shapes, so a run takes the rows
of its fullest step at every step.

Host side, numpy. Shapes: N demonstrations, P prompt and T answer tokens, M packed rows of S tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpost.objectives import Batch


class Packed(NamedTuple):
    """Rows of whole demonstrations, padding behind them."""

    token_MxS: np.ndarray  # int32
    counted_MxS: np.ndarray  # float32, 1 on answers, through their end token
    segment_MxS: np.ndarray  # int32, from 1 in each row; 0 is padding


DTYPES = (np.int32, np.float32, np.int32)


def lengths(prompt_NxP: np.ndarray, answer_NxT: np.ndarray, pad: int, ends: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each prompt, behind its padding on the left, and of each answer, through its first end token: int[N] twice.

    Raises:
      ValueError: an answer without an end token.
    """
    ended_NxT = np.isin(answer_NxT, ends)
    if not ended_NxT.any(axis=1).all():
        raise ValueError(f"{int((~ended_NxT.any(axis=1)).sum())} answers have no end token (one of {tuple(ends)})")
    return prompt_NxP.shape[1] - np.argmax(prompt_NxP != pad, axis=1), np.argmax(ended_NxT, axis=1) + 1


def first_fit(length_N: np.ndarray, width: int) -> np.ndarray:
    """Row of each demonstration, int[N]: longest first, each into the first row that has room (at most 11/9 of the fewest
    rows possible, and one more).

    Raises:
      ValueError: one that is longer than a row.
    """
    if (longest := int(np.max(length_N, initial=0))) > width:
        raise ValueError(f"a demonstration of {longest} tokens does not fit in a row of {width}")
    room, row_N = [], np.zeros(len(length_N), int)
    for n in np.argsort(-np.asarray(length_N), kind="stable"):
        row = next((i for i, left in enumerate(room) if left >= length_N[n]), len(room))
        if row == len(room):
            room.append(width)
        room[row] -= int(length_N[n])
        row_N[n] = row
    return row_N


def pack(prompt_NxP: np.ndarray, answer_NxT: np.ndarray, pad: int, ends: Sequence[int], rows: int) -> Packed:
    """The demonstrations in `rows` rows of P + T tokens, in the order given within a row.

    Raises:
      ValueError: they need more rows; as `lengths`.
    """
    (N, P), T = prompt_NxP.shape, answer_NxT.shape[1]
    prompt_N, answer_N = lengths(prompt_NxP, answer_NxT, pad, ends)
    row_N = first_fit(prompt_N + answer_N, P + T)
    if (needed := int(row_N.max()) + 1) > rows:
        raise ValueError(f"{N} demonstrations need {needed} rows of {P + T} tokens; there are {rows}")
    packed = Packed(*(np.full((rows, P + T), fill, dtype) for fill, dtype in zip((pad, 0, 0), DTYPES)))
    used, count = np.zeros(rows, int), np.zeros(rows, int)
    for n, row in enumerate(row_N):
        begin, middle, end = np.cumsum([used[row], prompt_N[n], answer_N[n]])
        packed.token_MxS[row, begin:end] = np.concatenate([prompt_NxP[n, P - prompt_N[n]:], answer_NxT[n, :answer_N[n]]])
        packed.counted_MxS[row, middle:end] = 1
        count[row] += 1
        packed.segment_MxS[row, begin:end], used[row] = count[row], end
    return packed


def batch(packed: Packed) -> Batch:
    """The rows as supervised ones: the first token is the prompt, and what follows counts where it is an answer."""
    token, counted, segment = map(jnp.asarray, packed)
    return Batch(token[:, :1], token[:, 1:], counted[:, 1:], segment_NxS=segment,
                 real_NxT=(segment[:, 1:] > 0).astype(jnp.float32))
