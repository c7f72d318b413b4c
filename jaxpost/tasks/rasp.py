"""RASP-L suite: small algorithms on sequences, trained on short ones and tested on longer ones.

    problem            prompt            answer                                   length generalisation in the paper
    copy_unique        `abc=`            the symbols again, all different         works
    copy_repeats       `aba=`            the same with two symbols only           fails
    sort               `cab=`            the symbols in their order               works
    count              `c>f=`            `cdef`, all from the first to the last   works
    mode               `abb=`            the commonest symbol                     works
    parity             `0110=`           the parity of the ones                   fails; works with a scratchpad of hints
    addition           `12+34=`          the sum, most significant digit first    needs hints
    addition_reversed  `12+34=`          the sum, least significant digit first   works with hints

Symbols are single tokens from `vocab.ID` on. `hints="index"` puts a mark before every digit of an addition, the same mark for
the same place in both operands and in the answer; marks are consecutive from a random first one, so that all are trained.
`hints="shuffled"` is the control: as many marks, in no order. After arXiv:2310.16028; reconstructed: sizes, and which problems
generalise, are recalled. Differs from the paper in: short lengths, left-padded prompts instead of packed contexts.

Splits: train, id (lengths in `length`, uniform), ood/length (lengths in `ood_length`). Content is the sequence without its
marks.

Reasoning (`traces`): parity one bit a step, `1>0;` (bit, parity so far), and as `scratchpad` with an index mark before each;
additions one place a step, `3+4+1=08;` (digits, carry, new carry, digit). The other problems have answers only.

Difficulty: the length. Guess baseline: the commonest answer of 2,048 problems; parities are balanced.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost import roles
from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "rasp", 1
PAPER, VERIFIER = "arXiv:2310.16028", "the whole answer, token by token"
PROBLEMS = ("copy_unique", "copy_repeats", "sort", "count", "mode", "parity", "addition", "addition_reversed")
HINTS = ("none", "index", "shuffled")
LONGEST = 64
SYMBOLS = 64  # token of the i-th symbol is vocab.ID + i
HINT = vocab.ID + SYMBOLS  # token of the i-th mark is HINT + i
FEW = 4  # symbols of mode


class Problem(NamedTuple):
    """A sequence of up to W entries, zero from `size` on: symbols, bits, or digits with the least significant first."""

    row_2xW: Any  # i32; the second row is that of an addition
    size: Any  # i32[]
    hint_2xW: Any  # i32, marks of the operands' places
    sum_hint: Any  # i32[W + 1], marks of the answer's places


def make(problem="copy_unique", length=(1, 8), ood_length=(9, 16), hints="none", style="answer", room=0):
    """One problem of the RASP-L suite.

    Args:
        problem: a name of the table above.
        length, ood_length: (low, high) entries or digits of train and id, and of ood/length; 1 to 64. `high` of `length` is
            at least 4 for copy_repeats and parity and 3 for mode, or one of both folds could have no problem.
        hints: "none", "index" or "shuffled", for additions.
        style, room: see `traces`; reasoning is for parity and additions.
    Returns:
        Task with symbols and, where there are any, marks in its vocabulary.
    """
    if problem not in PROBLEMS:
        raise ValueError(f"unknown problem of task {NAME!r} {problem!r}{nearest(problem, PROBLEMS)}")
    adds = problem.startswith("addition")
    low, high = base.length_range(NAME, "length", length, 1, LONGEST)
    least = {"copy_repeats": 4, "parity": 4, "mode": 3}.get(problem, 1)
    base.require(high >= least, NAME, "length", length, f"(low, high) with high at least {least} for {problem}")
    W = base.length_range(NAME, "ood_length", ood_length, high + 1, LONGEST)[1]
    base.require(hints in HINTS and (adds or hints == "none"), NAME, "hints", hints,
                 f"one of {HINTS}" if adds else "'none', as only additions have marks")
    marked = adds and hints != "none"
    marks = 2 * (W + 1)
    prompt_len = {"count": 5}.get(problem, (1 + marked) * 2 * W + 3 if adds else W + 2)
    answer_len = {"mode": 2, "parity": 2}.get(problem, (1 + marked) * (W + 1) + 1 if adds else W + 1)

    def setting(fold, low, high):
        return base.setting(fold, low=low, high=high)

    def answer(drawn):
        tokens, keep = _answer(drawn, problem)
        if marked:
            hint = drawn.sum_hint if problem == "addition_reversed" else drawn.sum_hint[::-1]
            tokens, keep = jnp.stack([HINT + hint, tokens], axis=1).reshape(-1), jnp.repeat(keep, 2)
        tokens = jnp.append(jnp.where(keep, tokens, vocab.PAD), vocab.EOS)
        return vocab.pack(tokens, tokens != vocab.PAD, answer_len, "left")

    def verify(drawn, tokens_A):
        return base.exact(tokens_A, answer(drawn))

    @functools.cache
    def guess(split):
        return 0.5 if problem == "parity" and base.knobs(task, split) else base.best_constant(task, split)

    reasoning = None
    if adds:
        reasoning = traces.Reasoning(_addition_steps, longest=9 * W, detour=9)
    elif problem == "parity":
        reasoning = traces.Reasoning(_parity_steps, longest=4 * W, detour=4, kinds=(*traces.KINDS, "scratchpad"),
                                     scratchpad=functools.partial(_parity_steps, marked=True), scratchpad_longest=5 * W)
    roled = {} if not marked else {"roles": ("answer", "hint", "think", "plan"), "role": _role}
    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=answer_len,
        splits={"train": setting(base.TRAIN_FOLD, low, high), "id": setting(base.EVAL_FOLD, low, high),
                "ood/length": setting(base.EVAL_FOLD, *ood_length)},
        sample=lambda key, knobs: _sample(key, knobs, problem, W, hints == "shuffled"),
        prompt=lambda drawn: _prompt(drawn, problem, marked, prompt_len),
        answer=answer, verify=verify, guess=guess, content=_content,
        difficulty=lambda drawn: drawn.size.astype(jnp.float32), reasoning=reasoning,
        vocab_size=HINT + (marks if marked or reasoning else 0), **roled)
    return task


def _sample(key, knobs, problem, W, shuffled):
    label = base.below(base.words(jax.random.fold_in(key, base.ATTEMPTS), 1)[0][0], 2)  # not drawn again: labels are balanced

    def draw(size_word, row_word, order_word, hint_word):
        size = base.span(size_word[0], knobs["low"], knobs["high"])
        if problem.startswith("addition"):
            row_2xW = base.below(row_word.reshape(2, W), 10)
        elif problem == "count":
            first = base.below(row_word[0], SYMBOLS - size + 1)
            row_2xW = jnp.stack([first + jnp.arange(W), jnp.zeros(W, jnp.int32)])
        elif problem in ("copy_unique", "sort"):
            row_2xW = jnp.stack([jnp.argsort(order_word)[:W].astype(jnp.int32), jnp.zeros(W, jnp.int32)])
        else:
            row_2xW = jnp.stack([base.below(row_word[:W], FEW if problem == "mode" else 2), jnp.zeros(W, jnp.int32)])
        row_2xW = jnp.where(jnp.arange(W) < size, row_2xW, 0)
        if shuffled:
            hints = jnp.argsort(hint_word[:3 * (W + 1)].reshape(3, W + 1), axis=1).astype(jnp.int32)
        else:
            hints = jnp.broadcast_to(base.below(hint_word[0], W + 2) + jnp.arange(W + 1), (3, W + 1))
        return Problem(row_2xW, size, hints[:2, :W], hints[2])

    def accept(drawn):
        once = True
        if problem == "mode":
            count = jnp.sort(_counts(drawn))
            once = count[-1] > count[-2]
        if problem == "parity":
            once = jnp.sum(drawn.row_2xW) % 2 == label
        return once & (base.fold_of(_content(drawn)) == knobs["fold"])

    return base.choose(key, (1, 2 * W, SYMBOLS, 3 * (W + 1)), draw, accept)


def _counts(drawn):
    inside_W = jnp.arange(drawn.row_2xW.shape[1]) < drawn.size
    return jnp.sum((drawn.row_2xW[:1] == jnp.arange(FEW)[:, None]) & inside_W[None], axis=1)


def _content(drawn):
    return jnp.append(drawn.row_2xW.reshape(-1), drawn.size)


def _prompt(drawn, problem, marked, prompt_len):
    W = drawn.row_2xW.shape[1]
    keep_W = jnp.arange(W) < drawn.size
    if problem == "count":
        row = drawn.row_2xW[0]
        tokens = traces.joined(vocab.BOS, vocab.ID + row[0], ">", vocab.ID + row[drawn.size - 1], "=")
    elif problem.startswith("addition"):
        keep_W = keep_W[::-1]
        operands = [jnp.where(keep_W, vocab.DIGIT + row[::-1], vocab.PAD) for row in drawn.row_2xW]
        if marked:
            operands = [jnp.stack([jnp.where(keep_W, HINT + hint[::-1], vocab.PAD), x], axis=1).reshape(-1)
                        for hint, x in zip(drawn.hint_2xW, operands)]
        tokens = traces.joined(vocab.BOS, operands[0], "+", operands[1], "=")
    else:
        first = vocab.DIGIT if problem == "parity" else vocab.ID
        tokens = traces.joined(vocab.BOS, jnp.where(keep_W, first + drawn.row_2xW[0], vocab.PAD), "=")
    return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")


def _answer(drawn, problem):
    """(tokens, which of them count), without EOS."""
    row_W, W = drawn.row_2xW[0], drawn.row_2xW.shape[1]
    keep_W = jnp.arange(W) < drawn.size
    if problem == "sort":
        return vocab.ID + jnp.sort(jnp.where(keep_W, row_W, SYMBOLS)), keep_W
    if problem == "mode":
        return vocab.ID + jnp.argmax(_counts(drawn))[None], jnp.ones(1, bool)
    if problem == "parity":
        return vocab.DIGIT + (jnp.sum(row_W) % 2)[None], jnp.ones(1, bool)
    if problem.startswith("addition"):
        digit_V = jnp.append(_carried(drawn)[0], _carried(drawn)[1][-1])
        digit_V = jnp.where(jnp.arange(W + 1) == drawn.size, _carried(drawn)[1][drawn.size - 1], digit_V)
        keep_V = jnp.arange(W + 1) <= drawn.size
        back = slice(None, None, -1 if problem == "addition" else 1)
        return (vocab.DIGIT + digit_V)[back], keep_V[back]
    return vocab.ID + row_W, keep_W


def _carried(drawn):
    """(digit_W, carry out of each place W) of the sum."""
    total_W = jnp.sum(drawn.row_2xW, axis=0)
    out, carry = [], jnp.int32(0)
    for place in range(total_W.shape[0]):
        value = total_W[place] + carry
        carry = value // 10
        out.append((value % 10, carry))
    digit, carries = zip(*out)
    return jnp.stack(digit), jnp.stack(carries)


def _addition_steps(drawn, key, detours):
    digit_W, carry_W = _carried(drawn)
    W = len(digit_W)
    before_W = jnp.concatenate([jnp.zeros(1, jnp.int32), carry_W[:-1]])
    columns = [vocab.DIGIT + drawn.row_2xW[0], "+", vocab.DIGIT + drawn.row_2xW[1], "+", vocab.DIGIT + before_W, "=",
               vocab.DIGIT + carry_W, vocab.DIGIT + digit_W, ";"]
    return traces.table(columns, (6, 7), drawn.size, W)


def _parity_steps(drawn, key, detours, marked=False):
    row_W = drawn.row_2xW[0]
    W = row_W.shape[0]
    columns = [vocab.DIGIT + row_W, ">", vocab.DIGIT + jnp.cumsum(row_W) % 2, ";"]
    if marked:
        columns = [HINT + drawn.hint_2xW[0], *columns]
    return traces.table(columns, (2 + marked,), drawn.size, W)


def _role(tokens_T):
    role_T = traces.role(tokens_T)
    return jnp.where((role_T == roles.ANSWER) & (tokens_T >= HINT), roles.HINT, role_T)
