"""Turing-machine imitation: algorithms whose reasoning writes every step of a machine with the operands fetched before use.

    problem        prompt             answer                     a step
    comparison     `321>305?`         `<`, `=` or `>`            `2:0>;` digits of a place and their order, up to the first
            that differ
    bubble_sort    `dbac?`            `abcd`                     `db>bdac;` the pair compared, then the row after it
    word_flip      `ab,cd,e?`         `e,cd,ab`                  `e,`: a word fetched from the end
    letter_count   `abca.a?`          how often the letter is    `a:1;` letter fetched, count so far
                                      there, one token
    subsequence    `abc,bdc?`         length of the longest      a row of the table of lengths, `0122;`
                                      common subsequence
    binary_search  `acdfh.d?`         the place of the letter    `<` low middle high `:` letter `;` until it is found
                                      in the ascending row

Letters are drawn from 26; counts and places are single tokens, `vocab.ID` + n. After TAIL, arXiv:2507.13332 (its linear
transition, atomic state and memory fetcher); reconstructed: the traces, as there is no official code. Differs from the paper
in: 6 of its 18 problems (addition is in `rasp`), one token a symbol, exact match in place of a language model's judgement.

Splits: train, id (sizes in `size`), ood/medium, ood/long (the paper's M and L in small). Content is the prompt.

Reasoning (`traces`): the steps above as `cot`.

Difficulty: the size. Guess baseline: the commonest answer of 2,048 problems.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "machine", 1
PAPER, VERIFIER = "arXiv:2507.13332", "the whole answer, token by token"
SIZES = {
    "comparison": ((2, 5), (6, 8), (9, 12)),
    "bubble_sort": ((2, 4), (5, 5), (6, 6)),
    "word_flip": ((2, 5), (6, 8), (9, 12)),
    "letter_count": ((2, 6), (7, 10), (11, 14)),
    "subsequence": ((3, 4), (5, 6), (7, 8)),
    "binary_search": ((3, 8), (9, 14), (15, 20)),
}
PROBLEMS = tuple(SIZES)
FEW = 4  # letters of letter_count and subsequence


class Problem(NamedTuple):
    """Two rows of W symbols each, numbers from 0 on, -1 from their length on; what they are depends on the problem."""

    row_2xW: Any  # i32
    size: Any  # i32[]


def make(problem="comparison", size=None, style="answer", room=0):
    """One of the machine's problems.

    Args:
        problem: a name of the table above.
        size: ((low, high), (low, high), (low, high)) of train and id, ood/medium and ood/long, each above the one before; None:
            small ones of the problem. At most 24.
        style, room: see `traces`.
    """
    if problem not in PROBLEMS:
        raise ValueError(f"unknown problem of task {NAME!r} {problem!r}{nearest(problem, PROBLEMS)}")
    sizes = SIZES[problem] if size is None else size
    good = isinstance(sizes, tuple) and len(sizes) == 3 and all(isinstance(pair, tuple) for pair in sizes)
    base.require(good, NAME, "size", size, "three pairs (low, high)")
    above = 2
    for pair in sizes:
        above = base.length_range(NAME, "size", pair, above, 24)[1] + 1
    W = above - 1
    kind = {"comparison": _comparison, "bubble_sort": _bubble_sort, "word_flip": _word_flip, "letter_count": _letter_count,
            "subsequence": _subsequence, "binary_search": _binary_search}[problem](W)

    def sample(key, knobs):
        def draw(size_word, row_word, order_word):
            count = base.span(size_word[0], knobs["low"], knobs["high"])
            row_2xW = kind.draw(row_word.reshape(2, W), order_word, count)
            return Problem(row_2xW.astype(jnp.int32), count)

        def accept(made):
            return base.fold_of(_content(made)) == knobs["fold"]

        return base.choose(key, (1, 2 * W, vocab.LETTERS + 1), draw, accept)

    def prompt(made):
        tokens = traces.joined(vocab.BOS, kind.prompt(made), "?")
        return vocab.pack(tokens, tokens != vocab.PAD, kind.prompt_len, "right")

    def answer(made):
        tokens = traces.joined(kind.answer(made), vocab.EOS)
        return vocab.pack(tokens, tokens != vocab.PAD, kind.answer_len, "left")

    def setting(fold, pair):
        return base.setting(fold, low=pair[0], high=pair[1])

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=kind.prompt_len, answer_len=kind.answer_len,
        splits={"train": setting(base.TRAIN_FOLD, sizes[0]), "id": setting(base.EVAL_FOLD, sizes[0]),
                "ood/medium": setting(base.EVAL_FOLD, sizes[1]), "ood/long": setting(base.EVAL_FOLD, sizes[2])},
        sample=sample, prompt=prompt, answer=answer, verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)),
        guess=functools.cache(lambda split: base.best_constant(task, split)), content=_content,
        difficulty=lambda made: made.size.astype(jnp.float32),
        reasoning=traces.Reasoning(lambda made, key, detours: kind.steps(made), longest=kind.longest, detour=kind.detour,
                                   ids=W + 1),
        vocab_size=vocab.ID + W + 1)
    return task


def _content(made):
    return jnp.append(made.row_2xW.reshape(-1), made.size)


class _Kind(NamedTuple):
    """What differs between the problems: functions of a Problem, and lengths."""

    draw: Any  # (words [2, W], words, size) -> rows
    prompt: Any
    answer: Any
    steps: Any
    prompt_len: int
    answer_len: int
    longest: int
    detour: int


def _letters(row_W):
    return jnp.where(row_W >= 0, vocab.LETTER + row_W, vocab.PAD)


def _upto(row_W, size):
    return jnp.where(jnp.arange(row_W.shape[-1]) < size, row_W, -1)


def _comparison(W):
    def draw(word, other, size):
        a_W, b_W = base.below(word[0], 10), base.below(word[1], 10)
        shared = base.below(other[0], size + 1)  # the digits that agree before the rest is drawn
        return _upto(jnp.stack([a_W, jnp.where(jnp.arange(W) < shared, a_W, b_W)]), size)

    def prompt(made):
        a_W, b_W = jnp.where(made.row_2xW >= 0, vocab.DIGIT + made.row_2xW, vocab.PAD)
        return traces.joined(a_W, ">", b_W)

    def signs(order):
        return jnp.asarray(vocab.encode("<=>"))[1 + order]

    def order(made):
        return jnp.sign(made.row_2xW[0] - made.row_2xW[1])

    def answer(made):
        differ_W = order(made) != 0
        return signs(jnp.where(jnp.any(differ_W), order(made)[jnp.argmax(differ_W)], 0))

    def steps(made):
        differ_W = order(made) != 0
        size = jnp.where(jnp.any(differ_W), jnp.argmax(differ_W) + 1, made.size)
        columns = [vocab.DIGIT + made.row_2xW[0], ":", vocab.DIGIT + made.row_2xW[1], signs(order(made)), ";"]
        return traces.table(columns, (0, 2), size, W)

    return _Kind(draw, prompt, answer, steps, prompt_len=2 * W + 3, answer_len=2, longest=5 * W, detour=5)


def _bubble_sort(W):
    pairs = [(i, i + 1) for end in range(W - 1, 0, -1) for i in range(end)]  # of the longest row; others leave places out

    def draw(word, other, size):
        return jnp.stack([_upto(jnp.argsort(other[:vocab.LETTERS])[:W], size), jnp.full(W, -1)])

    def steps(made):
        row_W, token = made.row_2xW[0], []
        for i, j in pairs:
            happens = j < made.size
            a, b = row_W[i], row_W[j]
            row_W = jnp.where(happens & (a > b), row_W.at[i].set(b).at[j].set(a), row_W)
            after = traces.joined(vocab.LETTER + a, vocab.LETTER + b, ">", _letters(row_W), ";")
            token.append(jnp.where(happens, after, vocab.PAD))
        token_SxW = _skipping_rounds(jnp.stack(token), made.size)
        result_W = (jnp.arange(W + 4) >= 3) & (jnp.arange(W + 4) < W + 3)
        return traces.Steps(token_SxW, (token_SxW >= vocab.LETTER) & result_W[None])

    def _skipping_rounds(token_SxW, size):
        """A row of `size` needs size - 1 rounds only, of falling length: round r compares places up to size - 1 - r."""
        keep = jnp.asarray([[r, j] for r, end in enumerate(range(W - 1, 0, -1)) for _, j in [(i, i + 1) for i in range(end)]])
        return jnp.where((keep[:, 1] < size - keep[:, 0])[:, None], token_SxW, vocab.PAD)

    def answer(made):
        row_W = made.row_2xW[0]
        sorted_W = jnp.sort(jnp.where(row_W >= 0, row_W, vocab.LETTERS))
        return _letters(jnp.where(sorted_W < vocab.LETTERS, sorted_W, -1))

    return _Kind(draw, lambda made: _letters(made.row_2xW[0]), answer, steps, prompt_len=W + 2, answer_len=W + 1,
                 longest=len(pairs) * (W + 4), detour=W + 4)


def _word_flip(W):
    """Words of one or two letters: the second row holds the second letters, or -1."""

    def draw(word, other, size):
        first_W, second_W = base.below(word[0], vocab.LETTERS), base.below(word[1], 2 * vocab.LETTERS)
        return _upto(jnp.stack([first_W, jnp.where(second_W < vocab.LETTERS, second_W, -1)]), size)

    def text(first_W, second_W):
        comma_W = jnp.where(first_W >= 0, vocab.TOKEN[","], vocab.PAD)
        return jnp.stack([_letters(first_W), _letters(second_W), comma_W], axis=1)

    def flipped(made):
        order_W = jnp.where(jnp.arange(W) < made.size, made.size - 1 - jnp.arange(W), W - 1)
        return jnp.where(jnp.arange(W) < made.size, made.row_2xW[:, order_W], -1)

    def without_last_comma(word_Wx3, size):
        return word_Wx3.at[size - 1, 2].set(vocab.PAD).reshape(-1)

    def steps(made):
        token_SxW = text(*flipped(made))
        return traces.Steps(token_SxW, token_SxW >= vocab.LETTER)

    return _Kind(draw, lambda made: without_last_comma(text(*made.row_2xW), made.size),
                 lambda made: without_last_comma(text(*flipped(made)), made.size), steps, prompt_len=3 * W + 1,
                 answer_len=3 * W, longest=3 * W, detour=3)


def _letter_count(W):
    """The second row holds the letter that is asked for, first."""

    def draw(word, other, size):
        return jnp.stack([_upto(base.below(word[0], FEW), size), _upto(base.below(word[1], FEW), 1)])

    def counted(made):
        return jnp.cumsum(made.row_2xW[0] == made.row_2xW[1, 0])

    def steps(made):
        return traces.table([vocab.LETTER + made.row_2xW[0], ":", vocab.ID + counted(made), ";"], (2,), made.size, W)

    return _Kind(draw, lambda made: traces.joined(_letters(made.row_2xW[0]), ".", vocab.LETTER + made.row_2xW[1, 0]),
                 lambda made: vocab.ID + counted(made)[-1], steps, prompt_len=W + 4, answer_len=2, longest=4 * W, detour=4)


def _subsequence(W):
    def draw(word, other, size):
        return _upto(base.below(word, FEW), size)

    def lengths(made):
        """Table i32[W + 1, W + 1] of the lengths for the first i and j letters."""
        a_W, b_W = made.row_2xW
        alive = (a_W[:, None] >= 0) & (a_W[:, None] == b_W[None])

        def row(above, same_W):
            def cell(left, j):
                value = jnp.where(same_W[j], above[j] + 1, jnp.maximum(left, above[j + 1]))
                return value, value

            _, cells = jax.lax.scan(cell, jnp.int32(0), jnp.arange(W))
            below = jnp.concatenate([jnp.zeros(1, jnp.int32), cells])
            return below, below

        return jax.lax.scan(row, jnp.zeros(W + 1, jnp.int32), alive)[1]

    def steps(made):
        table_WxV = lengths(made)
        token = jnp.where((jnp.arange(W + 1) <= made.size)[None], vocab.ID + table_WxV, vocab.PAD)
        token = jnp.concatenate([token, jnp.full((W, 1), vocab.TOKEN[";"])], axis=1)
        token = jnp.where((jnp.arange(W) < made.size)[:, None], token, vocab.PAD)
        return traces.Steps(token, token >= vocab.ID)

    return _Kind(draw, lambda made: traces.joined(_letters(made.row_2xW[0]), ",", _letters(made.row_2xW[1])),
                 lambda made: vocab.ID + lengths(made)[-1, -1], steps, prompt_len=2 * W + 3, answer_len=2,
                 longest=W * (W + 2), detour=W + 2)


def _binary_search(W):
    """The second row holds the letter that is searched, first."""
    rounds = W.bit_length()

    def draw(word, other, size):
        letters = jnp.argsort(other[:vocab.LETTERS])[:W]
        row_W = jnp.sort(jnp.where(jnp.arange(W) < size, letters, vocab.LETTERS))
        row_W = jnp.where(row_W < vocab.LETTERS, row_W, -1)
        return jnp.stack([row_W, jnp.full(W, -1).at[0].set(row_W[base.below(word[1, 0], size)])])

    def place(made):
        return jnp.argmax(made.row_2xW[0] == made.row_2xW[1, 0])

    def steps(made):
        low, high, happens, rows = jnp.int32(0), made.size - 1, jnp.bool_(True), []
        for _ in range(rounds):
            middle = (low + high) // 2
            fetched = made.row_2xW[0, middle]
            text = traces.joined("<", vocab.ID + low, vocab.ID + middle, vocab.ID + high, ":", vocab.LETTER + fetched, ";")
            rows.append(jnp.where(happens, text, vocab.PAD))
            happens &= fetched != made.row_2xW[1, 0]
            below = fetched < made.row_2xW[1, 0]
            low, high = jnp.where(below, middle + 1, low), jnp.where(below, high, middle - 1)
        token_SxW = jnp.stack(rows)
        return traces.Steps(token_SxW, jnp.broadcast_to(jnp.arange(7) == 2, token_SxW.shape))

    return _Kind(draw, lambda made: traces.joined(_letters(made.row_2xW[0]), ".", vocab.LETTER + made.row_2xW[1, 0]),
                 lambda made: vocab.ID + place(made), steps, prompt_len=W + 4, answer_len=2, longest=7 * rounds, detour=7)
