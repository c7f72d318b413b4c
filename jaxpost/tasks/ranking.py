"""Ranked lists: name the candidates that fit best, best first, under rewards that look at ranks.

Prompt `a012b145c067:025?` (candidates, each with `traits` findings; after the colon the findings of the case), answer `length`
different candidates, `abc$`. A candidate's relevance is the number of its findings that the case has; the best candidate is the
only one of its relevance. Scores of a list, 0 for anything else, 1 for the best:

    reciprocal  1 / rank of the best candidate (0 if it is not there)
    first       1 if the best candidate comes first
    present     1 if the best candidate is there, wherever
    ndcg        sum_r relevance_r / log2(1 + r) over the same sum of the best list

Every order of candidates of one relevance is as good. After arXiv:2509.20866, which trains medical models to answer with ranked
lists and compares rewards for them; reconstructed: all of the symbolic form and the formulas (standard ones), as that paper's
own rewards are not in the sources at hand.

Splits: train, id, ood/candidates (`ood_candidates` of them), ood/findings (one finding more in the case). Content is the set of
candidates' findings and the case's, without the candidates' letters and order. Letters are redrawn, so that constant lists
are not better than random ones.

Difficulty: how many candidates have at least the relevance of the best but one. Guess baseline: a random list, measured over
2,048 problems.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "ranking", 1
PAPER, VERIFIER = "arXiv:2509.20866", "reciprocal rank, first, present or ndcg of the list"
SCORES = ("reciprocal", "first", "present", "ndcg")
FINDINGS = 10


class Problem(NamedTuple):
    """Findings of up to K candidates and of the case, and the candidates' letters."""

    has_KxF: Any  # bool, False from `size` on
    case_F: Any  # bool
    letter_K: Any  # i32
    size: Any  # i32[]


def make(candidates=5, ood_candidates=7, traits=4, findings=4, length=3, score="reciprocal", style="answer", room=0):
    """Ranked lists.

    Args:
        candidates, ood_candidates: of train, id and ood/findings, and of ood/candidates; 3 to 12, the second above the first.
        traits: findings of a candidate, 2 to 6.
        findings: of the case, 2 to 6; ood/findings has one more.
        length: of the list, 1 to `candidates`.
        score: "reciprocal", "first", "present" or "ndcg".
        style, room: see `traces`; answers only.
    """
    for option, value, least, most in (
            ("candidates", candidates, 3, 11), ("traits", traits, 2, 6), ("findings", findings, 2, 6)):
        valid = f"an integer from {least} to {most}"
        base.require(isinstance(value, int) and least <= value <= most, NAME, option, value, valid)
    base.require(isinstance(ood_candidates, int) and candidates < ood_candidates <= 12, NAME, "ood_candidates", ood_candidates,
                 f"an integer from candidates + 1 = {candidates + 1} to 12")
    base.require(isinstance(length, int) and 1 <= length <= candidates, NAME, "length", length,
                 f"an integer from 1 to candidates = {candidates}")
    if score not in SCORES:
        raise ValueError(f"unknown score of task {NAME!r} {score!r}{nearest(score, SCORES)}")
    K, answer_len = ood_candidates, length + 1
    prompt_len = 1 + K * (traits + 1) + 1 + findings + 1 + 1
    discount_L = 1 / np.log2(2 + np.arange(length, dtype=np.float32))

    def setting(fold, size=candidates, count=findings):
        return base.setting(fold, size=size, findings=count)

    def sample(key, knobs):
        def draw(has_word, case_word, letter_word):
            live_Kx1 = (jnp.arange(K) < knobs["size"])[:, None]
            has_KxF = (jnp.argsort(jnp.argsort(has_word.reshape(K, FINDINGS), axis=1), axis=1) < traits) & live_Kx1
            case_F = jnp.argsort(jnp.argsort(case_word)) < knobs["findings"]
            letter_K = jnp.argsort(letter_word)[:K].astype(jnp.int32)
            return Problem(has_KxF, case_F, letter_K, jnp.asarray(knobs["size"], jnp.int32))

        def accept(made):
            relevance_K = jnp.sort(relevance(made))
            return (relevance_K[-1] > relevance_K[-2]) & (base.fold_of(_content(made)) == knobs["fold"])

        return base.choose(key, (K * FINDINGS, FINDINGS, vocab.LETTERS), draw, accept)

    def prompt(made):
        live_K = jnp.arange(K) < made.size
        digit_F = vocab.DIGIT + jnp.arange(FINDINGS)
        letter_K = jnp.where(live_K, vocab.LETTER + made.letter_K, vocab.PAD)
        row_KxV = jnp.concatenate([letter_K[:, None], jnp.where(made.has_KxF, digit_F[None], vocab.PAD)], axis=1)
        tokens = traces.joined(vocab.BOS, row_KxV.reshape(-1), ":", jnp.where(made.case_F, digit_F, vocab.PAD), "?")
        return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")

    def best(made):
        """The candidates of a best list, by number: i32[length]."""
        return jnp.argsort(jnp.where(jnp.arange(K) < made.size, -relevance(made), 1), stable=True)[:length]

    def answer(made):
        return jnp.append(vocab.LETTER + made.letter_K[best(made)], vocab.EOS)

    def verify(made, tokens_A):
        is_LxK = (tokens_A[:length, None] == (vocab.LETTER + made.letter_K)[None]) & (jnp.arange(K) < made.size)[None]
        formed = jnp.all(jnp.sum(is_LxK, axis=1) == 1) & jnp.all(jnp.sum(is_LxK, axis=0) <= 1) & (tokens_A[length] == vocab.EOS)
        relevance_K = relevance(made)
        gain_L = jnp.sum(jnp.where(is_LxK, relevance_K[None], 0), axis=1)
        is_best_L = jnp.any(is_LxK & (relevance_K == jnp.max(relevance_K))[None], axis=1)
        if score == "ndcg":
            reward = jnp.sum(gain_L * discount_L) / jnp.sum(relevance_K[best(made)] * discount_L)
        else:
            weight_L = {"reciprocal": 1 / (1 + jnp.arange(length)), "first": jnp.arange(length) == 0,
                        "present": jnp.ones(length)}[score]
            reward = jnp.sum(jnp.where(is_best_L, weight_L, 0))
        return jnp.where(formed, reward, 0).astype(jnp.float32)

    @functools.cache
    def guess(split):
        def one(made, key):
            order_K = jnp.argsort(jnp.where(jnp.arange(K) < made.size, base.words(key, K)[0] >> 1, jnp.uint32(2**31)))
            return verify(made, jnp.append(vocab.LETTER + made.letter_K[order_K[:length]], vocab.EOS))

        return float(base.average(task, split, one))

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=answer_len,
        splits={"train": setting(base.TRAIN_FOLD), "id": setting(base.EVAL_FOLD),
                "ood/candidates": setting(base.EVAL_FOLD, size=ood_candidates),
                "ood/findings": setting(base.EVAL_FOLD, count=findings + 1)},
        sample=sample, prompt=prompt, answer=answer, verify=verify, guess=guess, content=_content, difficulty=difficulty)
    return task


def relevance(made):
    """Findings that each candidate shares with the case: i32[K], 0 where there is no candidate."""
    return jnp.sum(made.has_KxF & made.case_F[None], axis=1)


def difficulty(made):
    """Candidates with at least the relevance of the best but one, f32[]."""
    relevance_K = jnp.where(jnp.arange(made.has_KxF.shape[0]) < made.size, relevance(made), -1)
    return jnp.sum(relevance_K >= jnp.sort(relevance_K)[-2]).astype(jnp.float32)


def _content(made):
    place_F = 2 ** jnp.arange(FINDINGS)
    return jnp.append(jnp.sort(jnp.sum(made.has_KxF * place_F[None], axis=1)), jnp.sum(made.case_F * place_F))
