"""Symbolic jigsaw: put the shuffled patches of a picture back in order.

Prompt `2*2:a0112b3344c1223d2334?` (rows and columns of patches, then each patch: its letter and its 2 x 2 cells row by row),
answer the letters row by row, `acdb$`. Cells are digits. Half of the patches, and two at least, are different. Pictures:

    gradient   digits rise, or stay, to the right and downwards
    rings      nested rectangles: a cell's digit depends on its distance to the border alone
    diagonal   one digit along every diagonal from top left to bottom right
    counter    one digit along every diagonal from top right to bottom left

An order that gives any of these pictures is right, whichever it was cut from. After arXiv:2505.23590; reconstructed: the
pictures, in place of photographs; differs from the paper in: the question for the whole order only (there for the relation of
two patches as well), letters in place of indices. Score "exact": 1 or 0; "patches": the share of patches in their place, for
an order of all patches once, and 1 for another right order.

Splits: train, id (`patterns`, `rows` x `columns` patches), ood/larger (one row of patches more), ood/pattern (the other
pictures). Content is the set of patches and the shape; letters are redrawn.

Difficulty: the number of patches. Guess baseline: a random order, measured over 2,048 problems.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "jigsaw", 1
PAPER, VERIFIER = "arXiv:2505.23590", "the picture: any order that gives one"
PATTERNS = ("gradient", "rings", "diagonal", "counter")
SCORES = ("exact", "patches")
B = 2  # cells of a patch's side


class Problem(NamedTuple):
    """Patches in their places, row by row, -1 from rows * columns on; and the patch (by its place) that stands where."""

    patch_PxB2: Any  # i32
    order_P: Any  # i32, place of the i-th patch of the prompt; from rows * columns on those that are not there
    rows: Any  # i32[]


def make(rows=2, columns=2, patterns=("gradient", "rings"), score="exact", style="answer", room=0):
    """Jigsaw puzzles.

    Args:
        rows, columns: of patches in train, 1 to 3; not both 1. ood/larger has one row more.
        patterns: pictures of train, id and ood/larger, names of the list above, not all of them. Patches in a single row or
            column have no rings, so that these cannot be the only pictures of a split there.
        score: "exact" or "patches".
        style, room: see `traces`; answers only.
    """
    for option, value in (("rows", rows), ("columns", columns)):
        base.require(isinstance(value, int) and 1 <= value <= 3, NAME, option, value, "an integer from 1 to 3")
    base.require(rows * columns > 1, NAME, "columns", columns, "2 or 3 where rows is 1")
    patterns = tuple(patterns)
    for name in patterns:
        if name not in PATTERNS:
            raise ValueError(f"unknown pattern of task {NAME!r} {name!r}{nearest(name, PATTERNS)}")
    base.require(0 < len(set(patterns)) == len(patterns) < len(PATTERNS), NAME, "patterns", patterns,
                 f"different names of {PATTERNS}, not all of them")
    others = tuple(name for name in PATTERNS if name not in patterns)
    base.require(min(rows, columns) > 1 or ("rings",) not in (patterns, others), NAME, "patterns", patterns,
                 "'rings' with another name, in the list and among those left out of it, or rows and columns of at least 2")
    if score not in SCORES:
        raise ValueError(f"unknown score of task {NAME!r} {score!r}{nearest(score, SCORES)}")
    M, P = rows + 1, (rows + 1) * columns
    H, W = M * B, columns * B
    y_H, x_W = jnp.arange(H), jnp.arange(W)

    def setting(fold, names, rows=rows):
        index = [PATTERNS.index(name) for name in names]
        return base.setting(fold, pattern_4=(index * 4)[:4], count=len(index), rows=rows)

    def picture(patch_PxB2):
        return patch_PxB2.reshape(M, columns, B, B).transpose(0, 2, 1, 3).reshape(H, W)

    def patches(cell_HxW):
        return cell_HxW.reshape(M, B, columns, B).transpose(0, 2, 1, 3).reshape(P, B * B)

    def ring(rows):
        """A cell's distance to the border of `rows` rows of patches: i32[H, W]."""
        side_H, side_W = jnp.minimum(y_H, rows * B - 1 - y_H), jnp.minimum(x_W, W - 1 - x_W)
        return jnp.minimum(side_H[:, None], side_W[None])

    def matches(cell_HxW, rows):
        """bool[]: whether a picture of so many rows of patches is one of the four."""
        inside_H = y_H < rows * B
        down = (inside_H[:-1] & inside_H[1:])[:, None]
        rises = jnp.all(~down | (cell_HxW[:-1] <= cell_HxW[1:])) & jnp.all(
            ~inside_H[:, None] | (jnp.diff(cell_HxW, axis=1) >= 0))
        first_R = jnp.asarray([cell_HxW[r, r] for r in range(min(H, W))])  # the cell on the diagonal has each distance first
        ringed = jnp.all(~inside_H[:, None] | (cell_HxW == first_R[jnp.clip(ring(rows), 0, min(H, W) - 1)]))
        diagonal = jnp.all(~down | (cell_HxW[:-1, :-1] == cell_HxW[1:, 1:]))
        counter = jnp.all(~down | (cell_HxW[:-1, 1:] == cell_HxW[1:, :-1]))
        return rises | ringed | diagonal | counter

    def sample(key, knobs):
        rows = jnp.asarray(knobs["rows"], jnp.int32)

        def draw(pattern_word, colour_word, step_word, order_word):
            colour_V = base.below(colour_word, 10)
            step_V = base.below(step_word, 3)
            rise_HxW = jnp.cumsum(step_V[:H])[:, None] + jnp.cumsum(step_V[H:])[None]
            every = jnp.stack([jnp.minimum(colour_V[0] // 3 + rise_HxW, 9), colour_V[jnp.maximum(ring(rows), 0)],
                               colour_V[y_H[:, None] - x_W[None] + W], colour_V[y_H[:, None] + x_W[None]]])
            cell_HxW = every[jnp.asarray(knobs["pattern_4"])[base.below(pattern_word[0], knobs["count"])]]
            live_P = jnp.arange(P) < rows * columns
            order_P = jnp.argsort(jnp.where(live_P, order_word >> 1, jnp.uint32(2**31)), stable=True).astype(jnp.int32)
            return Problem(jnp.where(live_P[:, None], patches(cell_HxW), -1), order_P, rows)

        def accept(made):
            code_P = jnp.sort(_codes(made))
            different = jnp.sum((jnp.diff(code_P, prepend=-1) > 0) & (code_P >= 0))
            return (different >= jnp.maximum(rows * columns // 2, 2)) & (base.fold_of(_content(made)) == knobs["fold"])

        return base.choose(key, (1, H + W + 1, H + W, P), draw, accept)

    def letters(made, place_P):
        """Tokens of the patches at places, with EOS: i32[P + 1]."""
        live_P = jnp.arange(P) < made.rows * columns
        tokens = jnp.append(jnp.where(live_P, vocab.LETTER + place_P, vocab.PAD), vocab.EOS)
        return vocab.pack(tokens, tokens != vocab.PAD, P + 1, "left")

    def prompt(made):
        live_Px1 = (jnp.arange(P) < made.rows * columns)[:, None]
        row_PxV = jnp.concatenate([vocab.LETTER + jnp.arange(P)[:, None], vocab.DIGIT + made.patch_PxB2[made.order_P]], axis=1)
        row_V = jnp.where(live_Px1, row_PxV, vocab.PAD).reshape(-1)
        tokens = traces.joined(vocab.BOS, vocab.DIGIT + made.rows, "*", str(columns), ":", row_V, "?")
        return vocab.pack(tokens, tokens != vocab.PAD, 6 + P * (B * B + 1), "right")

    def answer(made):
        return letters(made, jnp.argsort(made.order_P))

    def verify(made, tokens_A):
        live_P = jnp.arange(P) < made.rows * columns
        letter_P = tokens_A[:P] - vocab.LETTER
        known_P = (letter_P >= 0) & (letter_P < made.rows * columns)
        once_P = jnp.sum((letter_P[None] == jnp.arange(P)[:, None]) & live_P[None], axis=1) == 1
        formed = jnp.all(~live_P | (known_P & once_P)) & (tokens_A[made.rows * columns] == vocab.EOS)
        place_P = made.order_P[jnp.clip(letter_P, 0, P - 1)]
        right = matches(picture(jnp.where(live_P[:, None], made.patch_PxB2[place_P], -1)), made.rows)
        share = jnp.sum(live_P & (place_P == jnp.arange(P))) / jnp.sum(live_P) if score == "patches" else 0.0
        return jnp.where(formed, jnp.where(right, 1.0, share), 0.0).astype(jnp.float32)

    @functools.cache
    def guess(split):
        def one(made, key):
            live_P = jnp.arange(P) < made.rows * columns
            word_P = jnp.where(live_P, base.words(key, P)[0] >> 1, jnp.uint32(2**31))
            return verify(made, letters(made, jnp.argsort(word_P, stable=True)))

        return float(base.average(task, split, one))

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=6 + P * (B * B + 1), answer_len=P + 1,
        splits={"train": setting(base.TRAIN_FOLD, patterns), "id": setting(base.EVAL_FOLD, patterns),
                "ood/larger": setting(base.EVAL_FOLD, patterns, rows + 1), "ood/pattern": setting(base.EVAL_FOLD, others)},
        sample=sample, prompt=prompt, answer=answer, verify=verify, guess=guess, content=_content, difficulty=difficulty)
    return task


def difficulty(made):
    """Patches, f32[]."""
    return jnp.sum(made.patch_PxB2[:, 0] >= 0).astype(jnp.float32)


def _codes(made):
    """Patches as numbers of four digits, -1 for none: i32[P]."""
    return jnp.where(made.patch_PxB2[:, 0] >= 0, jnp.sum(made.patch_PxB2 * 10 ** jnp.arange(B * B)[None], axis=1), -1)


def _content(made):
    return jnp.append(jnp.sort(_codes(made)), made.rows)
