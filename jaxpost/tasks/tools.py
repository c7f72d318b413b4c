"""Tool calls: choose the tools that a request asks for, fill in their arguments, and be paid in grades.

Prompt `Ax(pq)By(q)...?x:p3q7r1=` in tokens: the schema, for each tool its name, its purpose and its parameters in brackets;
after `?` the purposes of the request; after `:` the facts, a value for every parameter, needed or not. Answer
`A(p=3,q=7);B(q=7)$`: a call for each purpose. The order of calls and of arguments is free. Names, purposes and parameters are
tokens from `vocab.ID` on, drawn anew for every problem; values are digits.

Score of a well-formed answer, 0 for another; G the calls that are due, P those that are made, a call's arguments its
pairs of parameter and value:

    fine          (J(names) + max over pairings of sum_g (J(parameters) + right arguments)) / (1 + sum_g (1 + parameters of g))
    intermediate  (J(names) + max over pairings of how many calls are right) / (1 + number of G)
    coarse        1 if all is right

J is |intersection| / |union|, of names with their number. After ToolRL, arXiv:2504.13958, whose correctness reward, 6 R / S - 3
as recalled, is `fine` on another scale; its format part belongs to the composition of rewards. Reconstructed: the two coarser
granularities, and all of the symbolic form.

Splits: train, id (`tools` in the schema, `calls` to make), ood/tools (two tools more), ood/calls (one call more), ood/names
(names, purposes and parameters from tokens that training never has). Content is the problem with its names numbered in the
order in which they appear.

Difficulty: the number of arguments. Guess baseline: the first tools of the schema with their own parameters and random values.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "tools", 1
PAPER, VERIFIER = "arXiv:2504.13958", "calls against the due ones: fine, intermediate or coarse"
SCORES = ("fine", "intermediate", "coarse")
PARAMETERS = 5  # of all tools together
KNOWN = 16  # tokens of each kind that training may use; as many are held out
TOOL, PURPOSE, PARAMETER = (vocab.ID + 2 * KNOWN * i for i in range(3))
MOST = 3  # parameters of a tool


class Problem(NamedTuple):
    """A schema of up to K tools, which of them are due, values, and the tokens' names."""

    takes_KxP: Any  # bool, parameters of each tool; False from `size` on
    due_G: Any  # i32, tools that are called, -1 from the number of calls on
    value_P: Any  # i32
    tool_K: Any  # i32, token of each
    purpose_K: Any  # i32
    parameter_P: Any  # i32


def make(tools=3, calls=1, score="fine", style="answer", room=0):
    """Tool calls.

    Args:
        tools: in the schema, 2 to 6.
        calls: due, 1 or 2, at most `tools` - 1.
        score: "fine", "intermediate" or "coarse".
        style, room: see `traces`; answers only.
    """
    base.require(isinstance(tools, int) and 2 <= tools <= 6, NAME, "tools", tools, "an integer from 2 to 6")
    base.require(isinstance(calls, int) and 1 <= calls <= min(2, tools - 1), NAME, "calls", calls,
                 f"an integer from 1 to {min(2, tools - 1)}")
    if score not in SCORES:
        raise ValueError(f"unknown score of task {NAME!r} {score!r}{nearest(score, SCORES)}")
    K, G, P = tools + 2, calls + 1, PARAMETERS
    width = 2 + 4 * MOST + 1  # of a call, with the `;` or EOS after it
    answer_len, prompt_len = G * width, 1 + K * (4 + MOST) + 1 + G + 1 + 2 * P + 1
    pairings = np.asarray(list(itertools.permutations(range(G))))

    def setting(fold, size=tools, count=calls, first=0):
        return base.setting(fold, size=size, calls=count, first=first)

    def sample(key, knobs):
        def draw(take_word, count_word, due_word, value_word, tool_word, purpose_word, parameter_word):
            rank_KxP = jnp.argsort(jnp.argsort(take_word.reshape(K, P), axis=1), axis=1)
            live_K = jnp.arange(K) < knobs["size"]
            takes_KxP = (rank_KxP < 1 + base.below(count_word, MOST)[:, None]) & live_K[:, None]
            due_K = jnp.argsort(jnp.where(live_K, due_word >> 1, jnp.uint32(2**31)))
            due_G = jnp.where(jnp.arange(G) < knobs["calls"], due_K[:G], -1)
            names = [first + knobs["first"] + jnp.argsort(word)[:n]
                     for first, word, n in ((TOOL, tool_word, K), (PURPOSE, purpose_word, K), (PARAMETER, parameter_word, P))]
            return Problem(takes_KxP, due_G, base.below(value_word, 10), *names)

        def accept(made):
            return base.fold_of(_content(made)) == knobs["fold"]

        return base.choose(key, (K * P, K, K, P, KNOWN, KNOWN, KNOWN), draw, accept)

    def prompt(made):
        live_Kx1 = jnp.any(made.takes_KxP, axis=1)[:, None]
        mark_Kx1 = jnp.ones((K, 1), jnp.int32)
        row_KxV = jnp.concatenate([
            made.tool_K[:, None], made.purpose_K[:, None], mark_Kx1 * vocab.TOKEN["("],
            jnp.where(made.takes_KxP, made.parameter_P[None], vocab.PAD), mark_Kx1 * vocab.TOKEN[")"]], axis=1)
        asked_G = jnp.where(made.due_G >= 0, made.purpose_K[made.due_G], vocab.PAD)
        facts = jnp.stack([made.parameter_P, vocab.DIGIT + made.value_P], axis=1).reshape(-1)
        tokens = traces.joined(vocab.BOS, jnp.where(live_Kx1, row_KxV, vocab.PAD).reshape(-1), "?", asked_G, ":", facts, "=")
        return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")

    def written(made, due_G, value_P):
        def call(tool):
            takes_P = made.takes_KxP[tool]
            comma_P = jnp.where(jnp.cumsum(takes_P) < jnp.sum(takes_P), vocab.TOKEN[","], vocab.TOKEN[")"])
            columns = [made.parameter_P, jnp.full(P, vocab.TOKEN["="]), vocab.DIGIT + value_P, comma_P]
            inside = jnp.where(takes_P[:, None], jnp.stack(columns, axis=1), vocab.PAD).reshape(-1)
            row = traces.joined(made.tool_K[tool], "(", inside, ";")
            return jnp.where(tool >= 0, row, vocab.PAD)

        flat = jax.vmap(call)(due_G).reshape(-1)
        flat = vocab.pack(flat, flat != vocab.PAD, answer_len, "left")
        end = jnp.sum(flat != vocab.PAD) - 1  # EOS in place of the last `;`
        return flat.at[end].set(vocab.EOS)

    def verify(made, tokens_A):
        end = jnp.argmax(tokens_A == vocab.EOS)
        before_A = jnp.arange(answer_len) < end
        formed = jnp.any(tokens_A == vocab.EOS) & _grammatical(tokens_A)
        call_A = jnp.cumsum((tokens_A == vocab.TOKEN[";"]) & before_A)
        of_CxA = before_A[None] & (call_A[None] == jnp.arange(G)[:, None])
        tool_CxK = jnp.any(of_CxA[:, :, None] & (tokens_A[:, None] == made.tool_K[None])[None], axis=1)
        tool_CxK &= jnp.any(made.takes_KxP, axis=1)[None]
        name_AxP = tokens_A[:, None] == made.parameter_P[None]
        value_A = jnp.append(tokens_A[2:], jnp.zeros(2, tokens_A.dtype)) - vocab.DIGIT
        given_CxP = jnp.sum(of_CxA[:, :, None] & name_AxP[None], axis=1)
        right_CxP = jnp.any(of_CxA[:, :, None] & (name_AxP & (value_A[:, None] == made.value_P[None]))[None], axis=1)
        strange_C = jnp.sum(of_CxA & (_class(tokens_A) == 3)[None], axis=1) - jnp.sum(given_CxP, axis=1)  # not in the schema
        formed &= jnp.all(given_CxP <= 1) & (call_A[-1] < G)
        is_due_G = made.due_G >= 0
        due_GxK = (made.due_G[:, None] == jnp.arange(K)[None]) & is_due_G[:, None]
        takes_GxP = made.takes_KxP[made.due_G] & is_due_G[:, None]
        made_C = jnp.any(of_CxA, axis=1)
        both = jnp.sum(jnp.minimum(jnp.sum(tool_CxK, axis=0), jnp.sum(due_GxK, axis=0)))
        names = both / (jnp.sum(made_C) + jnp.sum(is_due_G) - both)
        shared_GxC = jnp.sum(takes_GxP[:, None] & (given_CxP > 0)[None], axis=2)
        every_GxC = jnp.sum(takes_GxP[:, None] | (given_CxP > 0)[None], axis=2) + strange_C[None]
        exact_GxC = jnp.sum(takes_GxP[:, None] & right_CxP[None], axis=2)
        paired_GxC = is_due_G[:, None] & made_C[None]
        needed_G = jnp.sum(takes_GxP, axis=1)
        fine_GxC = shared_GxC / jnp.maximum(every_GxC, 1) + exact_GxC
        all_GxC = jnp.any(tool_CxK[None] & due_GxK[:, None], axis=2) & (exact_GxC == needed_G[:, None]) & (
            every_GxC == needed_G[:, None])

        def best(gain_GxC):
            gain_GxC = jnp.where(paired_GxC, gain_GxC, 0)
            return jnp.max(jnp.stack([sum(gain_GxC[g, c] for g, c in enumerate(pairing)) for pairing in pairings]))

        reward = {"fine": (names + best(fine_GxC)) / (1 + jnp.sum(is_due_G) + jnp.sum(needed_G)),
                  "intermediate": (names + best(all_GxC)) / (1 + jnp.sum(is_due_G)),
                  "coarse": (names == 1) & (best(all_GxC) == jnp.sum(is_due_G))}[score]
        return jnp.where(formed, reward, 0).astype(jnp.float32)

    @functools.cache
    def guess(split):
        def one(made, key):
            first_G = jnp.where(made.due_G >= 0, jnp.arange(G), -1)
            return verify(made, written(made, first_G, base.below(base.words(key, P)[0], 10)))

        return float(base.average(task, split, one))

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=answer_len,
        splits={"train": setting(base.TRAIN_FOLD), "id": setting(base.EVAL_FOLD),
                "ood/tools": setting(base.EVAL_FOLD, tools + 2),
                "ood/calls": setting(base.EVAL_FOLD, count=calls + 1), "ood/names": setting(base.EVAL_FOLD, first=KNOWN)},
        sample=sample, prompt=prompt, answer=lambda made: written(made, made.due_G, made.value_P), verify=verify, guess=guess,
        content=_content, difficulty=difficulty, vocab_size=PARAMETER + 2 * KNOWN)
    return task


def difficulty(made):
    """Arguments of the due calls, f32[]."""
    return jnp.sum(made.takes_KxP[made.due_G] & (made.due_G >= 0)[:, None]).astype(jnp.float32)


def _class(tokens_A):
    """0 another token, 1 a tool, 2 `(`, 3 a parameter, 4 `=`, 5 a digit, 6 `,`, 7 `)`, 8 `;`, 9 EOS."""
    out = jnp.zeros_like(tokens_A)
    for number, first, size in ((1, TOOL, 2 * KNOWN), (2, vocab.TOKEN["("], 1), (3, PARAMETER, 2 * KNOWN),
                                (4, vocab.TOKEN["="], 1), (5, vocab.DIGIT, 10), (6, vocab.TOKEN[","], 1),
                                (7, vocab.TOKEN[")"], 1), (8, vocab.TOKEN[";"], 1), (9, vocab.EOS, 1)):
        out = jnp.where((tokens_A >= first) & (tokens_A < first + size), number, out)
    return out


_FOLLOWS = np.zeros((10, 10), bool)
for _before, _after in ((1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (5, 7), (6, 3), (7, 8), (7, 9), (8, 1)):
    _FOLLOWS[_before, _after] = True


def _grammatical(tokens_A):
    """bool[]: calls `A(p=3,...)` with `;` between them up to the first EOS. The language is decided by neighbouring tokens."""
    class_A = _class(tokens_A)
    ended_A = jnp.cumsum(class_A == 9) > 0
    return (class_A[0] == 1) & jnp.all(ended_A[:-1] | jnp.asarray(_FOLLOWS)[class_A[:-1], class_A[1:]])


def _content(made):
    size = jnp.sum(jnp.any(made.takes_KxP, axis=1))
    first_P = jnp.where(jnp.any(made.takes_KxP, axis=0), jnp.argmax(made.takes_KxP, axis=0), made.takes_KxP.shape[0])
    row_P = jnp.argsort(first_P, stable=True)
    place_P = 2 ** jnp.arange(PARAMETERS)
    takes_K = jnp.sum(made.takes_KxP[:, row_P] * place_P[None], axis=1)
    return jnp.concatenate([takes_K, made.due_G, made.value_P[row_P], size[None]])
