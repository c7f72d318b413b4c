"""Reasoning before the answer: the styles in which a family's oracle can write, and tasks whose oracle has them.

A completion with reasoning is `[`, the steps one after the other, `]`, then the answer and EOS. A family gives the steps of a
problem once, and every style is made of them:

    answer        the answer alone
    cot           the steps in order
    backtrack(k)  k wrong steps, each undone by `~`, before the right ones; k = 0 is cot
    filler(k)     as many tokens as backtrack(k), all of them `.`
    shuffled(k)   the steps of backtrack(k) in another order
    wrong(k)      backtrack(k) with the result of every step replaced by a wrong one
    scratchpad    another way of writing the steps, where a family has one

filler, shuffled and wrong are controls: for the same problem, key and k they have exactly as many tokens as backtrack(k); k is
0 where it is not said. The answer after the reasoning is right in every style. With reasoning, a verifier reads what follows
the first `]`, or the whole completion where it does not begin with `[`.

Backtracking with controlled detours: arXiv:2505.24273 (whose traces repeat one error path for k = 2 and 3; here detours differ
while there are enough). Filler tokens as the control of length: arXiv:2404.15758 (recalled). Both as described, not from code.

Legend: S steps of at most W tokens, K detours of at most D, A answer tokens, T completion tokens.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost import roles
from jaxpost.lookup import nearest
from jaxpost.tasks import base, vocab

BEGIN, END, UNDO, FILLER = (vocab.TOKEN[mark] for mark in "[]~.")
CONTROLS = ("filler", "shuffled", "wrong")
KINDS = ("answer", "cot", "backtrack", *CONTROLS)
MOST_DETOURS = 9  # wrong results of one digit


class Steps(NamedTuple):
    """The reasoning of one problem. Tokens are PAD where there is none; a step without a token does not happen."""

    token_SxW: Any  # i32
    result_SxW: Any  # bool, tokens that a wrong step has wrong
    detour_KxD: Any = None  # i32, wrong steps; None: right ones with a wrong result
    before_K: Any = None  # i32, the step that each detour comes before


@dataclasses.dataclass(frozen=True)
class Style:
    """How an oracle writes."""

    kind: str
    detours: int = 0  # K


@dataclasses.dataclass(frozen=True)
class Reasoning:
    """What a family has to say about its steps.

    `steps` is (problem, key, K) -> Steps; K detours are there already or None. `longest` is the largest number of tokens that
    all steps of a problem have together, `detour` that of one detour without its mark.
    """

    steps: Callable[[Any, Any, int], Steps]
    longest: int
    detour: int
    scratchpad: Callable[[Any, Any, int], Steps] | None = None
    scratchpad_longest: int = 0
    kinds: tuple[str, ...] = KINDS
    ids: int = 0  # tokens from vocab.ID on that steps are made of


def parse(text: str, task_name: str, kinds: tuple[str, ...]) -> Style:
    """The style that a text such as "backtrack(3)" names.

    Raises:
      ValueError: a style that the family does not have (the nearest is named), or a number of detours out of range.
    """
    match = re.fullmatch(r"([a-z]+)(?:\((\d+)\))?", str(text))
    kind, count = match.groups() if match else (str(text), None)
    if kind not in kinds:
        valid = [f"{k}(k)" if k == "backtrack" or k in CONTROLS else k for k in kinds]
        raise ValueError(f"unknown style of task {task_name!r} {text!r}{nearest(kind, valid)}")
    if count is not None and kind in ("answer", "cot", "scratchpad"):
        raise ValueError(f"style {text!r} of task {task_name!r} takes no number of detours; write {kind!r}, or "
                         f"backtrack({count})")
    detours = int(count) if count is not None else int(kind == "backtrack")
    if detours > MOST_DETOURS:
        raise ValueError(f"style {text!r} of task {task_name!r}: expected 0 to {MOST_DETOURS} detours")
    return Style(kind, detours)


def length(style: Style, reasoning: Reasoning | None, answer_len: int) -> int:
    """T, the longest completion of a style."""
    if style.kind == "answer":
        return answer_len
    if style.kind == "scratchpad":
        return 2 + reasoning.scratchpad_longest + answer_len
    return 2 + reasoning.longest + style.detours * (reasoning.detour + 1) + answer_len


def completion(style: Style, steps: Steps, answer_A, key, completion_len: int, ids: int = 0):
    """i32[T]: the steps in a style, the answer (with its EOS), PAD."""
    order_key, detour_key, wrong_key = (jax.random.fold_in(key, i) for i in range(3))
    if style.detours and steps.detour_KxD is None:
        steps = _with_wrong_results(steps, detour_key, style.detours, ids)
    token_SxW = steps.token_SxW
    S = token_SxW.shape[0]
    if style.kind == "wrong":
        token_SxW = jnp.where(steps.result_SxW, other(token_SxW, jax.random.bits(wrong_key, token_SxW.shape, "uint32"), ids),
                              token_SxW)
    place_R = jnp.arange(S) * (style.detours + 1) + style.detours
    if style.detours:
        token_SxW, place_R = _interleaved(token_SxW, steps, place_R)
    row_RxW = token_SxW[jnp.argsort(place_R, stable=True)]
    live_R = jnp.any(row_RxW != vocab.PAD, axis=1)
    if style.kind == "shuffled":
        row_RxW = row_RxW[_another_order(live_R, jax.random.bits(order_key, live_R.shape, "uint32"))]
    flat = row_RxW.reshape(-1)
    if style.kind == "filler":
        flat = jnp.where(flat == vocab.PAD, vocab.PAD, FILLER)
    tokens = jnp.concatenate([jnp.asarray([BEGIN]), flat, jnp.asarray([END]), answer_A])
    return vocab.pack(tokens, tokens != vocab.PAD, completion_len, "left")


def _interleaved(token_SxW, steps: Steps, place_S):
    """Steps and detours (with their marks) as rows of one width, and where each row comes."""
    K, D = steps.detour_KxD.shape
    width = max(token_SxW.shape[1], D + 1)
    mark_Kx1 = jnp.where(jnp.any(steps.detour_KxD != vocab.PAD, axis=1, keepdims=True), UNDO, vocab.PAD)
    detour_KxW = jnp.pad(jnp.concatenate([steps.detour_KxD, mark_Kx1], axis=1), ((0, 0), (0, width - D - 1)))
    token_SxW = jnp.pad(token_SxW, ((0, 0), (0, width - token_SxW.shape[1])))
    place_K = steps.before_K * (K + 1) + jnp.arange(K)
    return jnp.concatenate([token_SxW, detour_KxW]), jnp.concatenate([place_S, place_K])


def _with_wrong_results(steps: Steps, key, K: int, ids: int) -> Steps:
    """Detours that are a step of the problem with a wrong result each; those of one step differ in its last token."""
    live_S = jnp.any(steps.token_SxW != vocab.PAD, axis=1)
    step_K, offset_9 = base.words(key, K, MOST_DETOURS)
    live_first_S = jnp.argsort(~live_S, stable=True)
    before_K = live_first_S[base.below(step_K, jnp.maximum(live_S.sum(), 1))]
    token_KxW, result_KxW = steps.token_SxW[before_K], steps.result_SxW[before_K]
    last_KxW = result_KxW & (jnp.cumsum(result_KxW[:, ::-1], axis=1)[:, ::-1] == 1)
    offset_K = jnp.argsort(offset_9)[:K].astype(jnp.uint32)
    detour_KxD = jnp.where(last_KxW, other(token_KxW, offset_K[:, None], ids), token_KxW)
    return steps._replace(detour_KxD=detour_KxD, before_K=before_K)


def other(token, word, ids: int = 0):
    """Another token of the same class (digits, letters, Y and N, ids), chosen by u32 words; the same where it has no class."""
    out = token
    for first, size in ((vocab.DIGIT, 10), (vocab.LETTER, vocab.LETTERS), (vocab.TOKEN["Y"], 2), (vocab.ID, ids)):
        if size > 1:
            inside = (token >= first) & (token < first + size)
            out = jnp.where(inside, first + (token - first + 1 + base.below(word, size - 1)) % size, out)
    return out


def _another_order(live_R, word_R):
    """A random order of the rows with the live ones first, and not as they stand if there are two of them."""
    R = live_R.shape[0]
    place_R = jnp.arange(R)
    order_R = jnp.lexsort((word_R, ~live_R))
    stand_R = jnp.argsort(~live_R, stable=True)
    count = live_R.sum()
    turned_R = stand_R[jnp.where(place_R < count, (place_R + 1) % jnp.maximum(count, 1), place_R)]
    same = jnp.all((order_R == stand_R) | (place_R >= count))
    return jnp.where(same, turned_R, order_R)


def answer_part(tokens_T, answer_len: int):
    """i32[A]: what follows the first END, or the completion where it does not begin with BEGIN; PAD where there is nothing."""
    thought = tokens_T[0] == BEGIN
    ended_T = tokens_T == END
    start = jnp.where(thought, jnp.where(jnp.any(ended_T), jnp.argmax(ended_T) + 1, tokens_T.shape[0]), 0)
    padded = jnp.concatenate([tokens_T, jnp.full((answer_len,), vocab.PAD, tokens_T.dtype)])
    return jax.lax.dynamic_slice(padded, (start,), (answer_len,))


def role(tokens_T):
    """role_T: the reasoning is THINK, its UNDO marks are PLAN, the rest is the answer."""
    role_T = roles.between(tokens_T, BEGIN, END)
    return jnp.where((role_T == roles.THINK) & (tokens_T == UNDO), roles.PLAN, role_T)


def make(*, name: str, version: int, style: str, room: int, prompt_len: int, answer_len: int, splits: Mapping[str, Any],
         sample, prompt, answer, verify, guess, content, difficulty, reasoning: Reasoning | None = None,
         vocab_size: int = vocab.MARKED, **fields) -> base.Task:
    """A task whose oracle writes in a style.

    Args:
      style: see the module; `answer` gives completions of the answer alone.
      room: completions have at least so many tokens, so that tasks of one family in several styles can share a length.
      answer_len: A, the longest answer that is accepted, with its EOS.
      answer: problem -> i32[A], with EOS.
      verify: (problem, i32[A]) -> f32 of the answer alone.
      reasoning: None for a family that writes answers only.

    Raises:
      ValueError: a style that the family does not have, or no whole number of tokens as room.
    """
    kinds = reasoning.kinds if reasoning else ("answer",)
    parsed = parse(style, name, kinds)
    base.require(isinstance(room, int) and room >= 0, name, "room", room, "a number of tokens, or 0 for what the style needs")
    completion_len = max(length(parsed, reasoning, answer_len), room)

    def oracle(problem, key):
        answer_A = answer(problem)
        if parsed.kind == "answer":
            return jnp.pad(answer_A, (0, completion_len - answer_len))
        steps = (reasoning.scratchpad if parsed.kind == "scratchpad" else reasoning.steps)(problem, key, parsed.detours)
        return completion(parsed, steps, answer_A, key, completion_len, reasoning.ids)

    def read(problem, tokens_T):
        base.check_tokens(name, tokens_T, completion_len)
        return verify(problem, tokens_T if completion_len == answer_len else answer_part(tokens_T, answer_len))

    thinking = {} if completion_len == answer_len else {"roles": ("answer", "think", "plan"), "role": role}
    return base.Task(name=name, version=version, prompt_len=prompt_len, completion_len=completion_len, splits=splits,
                     sample=sample, prompt=prompt, oracle=oracle, verify=read, guess=guess, content=content,
                     difficulty=difficulty, vocab_size=vocab_size, styles=kinds, **(thinking | fields))


def table(columns, results, size, rows: int) -> Steps:
    """Steps whose tokens stand in columns.

    Args:
      columns: arrays i32[rows], or a symbol that every step has there.
      results: numbers of the columns that a wrong step has wrong.
      size: how many steps happen; the first ones.
    """
    token_SxW = jnp.stack([jnp.full(rows, vocab.TOKEN[c]) if isinstance(c, str) else c for c in columns], axis=1)
    result_W = jnp.isin(jnp.arange(len(columns)), jnp.asarray(results))
    live_Sx1 = (jnp.arange(rows) < size)[:, None]
    return Steps(jnp.where(live_Sx1, token_SxW, vocab.PAD), jnp.broadcast_to(result_W, token_SxW.shape))


def joined(*pieces):
    """One row of tokens from pieces (arrays, tokens or texts); PAD stays PAD: `pack` takes it out."""
    return jnp.concatenate([jnp.asarray(vocab.encode(p)) if isinstance(p, str) else jnp.atleast_1d(p) for p in pieces])


def number(value, width: int):
    """Decimal digits of a non-negative integer, PAD in place of leading zeros: i32[width]."""
    digits, keep = vocab.decimal(value, width)
    return jnp.where(keep, digits, vocab.PAD)
