"""Problems of another family whose answer may be a refusal: `?` in place of the answer, or after the reasoning.

    completion         without reasoning `?`; with it `[3+4=7]?`: any part of the reasoning, then the refusal

A policy that may refuse can be wrong less often than one that has to answer; the curriculum `auto_cei` moves how much reasoning
a refusal has to have before it is rewarded. `score` says what `verify` returns:

    score      right answer  refusal  anything else
    graded     1             1/2      0
    right      1             0        0
    refused    0             1        0
    not_wrong  1             1        0

Precision, the share of right ones among answers that are no refusal, is right / (1 - refused).

Splits, problems, their folds and content are the member's. The oracle writes the member's answer, and refuses every problem for
`score="refused"`, after a part of the member's reasoning that is drawn from its first token to all of it; a mixture of the two
is what teaches a policy to refuse the problems of one of them. After Automatic Curriculum Expert Iteration (arXiv:2410.07627),
whose refusals are sentences of a language model that was tuned to say what it does not know; reconstructed: the symbolic form.

Difficulty: the member's. Guess baseline: the member's, or that of a refusal for every problem where it is higher (1/2 for
"graded", 1 for "refused" and "not_wrong").
"""

import functools

import jax
import jax.numpy as jnp

from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab
from jaxpost.tasks.members import task_of

NAME, VERSION = "refusals", 1
PAPER, VERIFIER = "arXiv:2410.07627", "the member's, and whether the answer is a refusal"
REFUSED = vocab.TOKEN["?"]
VALUES = {"graded": (1.0, 0.5), "right": (1.0, 0.0), "refused": (0.0, 1.0), "not_wrong": (1.0, 1.0)}  # right, refused


def family(get):
    """`make` of the refusals over the families that `get` (name, **options) -> Task finds."""

    def make(member="arithmetic(style='cot')", score="graded"):
        """Another family with refusals.

        Args:
            member: a family with its options, `NAME` or `NAME(OPTION=VALUE, ...)`.
            score: of the table above.
        Raises: ValueError: as `get` for the member; one with a vocabulary or a host verifier of its own; an unknown score.
        """
        if score not in VALUES:
            raise ValueError(f"unknown score of task {NAME!r} {score!r}{nearest(score, VALUES)}")
        return _with_refusals(task_of(get, NAME, "member", member), score)

    return make


def _with_refusals(member, score):
    of_right, of_refused = VALUES[score]

    def verify(problem, tokens_T):
        return jnp.where(refused(tokens_T), of_refused, of_right * member.verify(problem, tokens_T))

    def oracle(problem, key):
        answer_T = member.oracle(problem, key)
        return refusal(answer_T, base.words(jax.random.fold_in(key, 3), 1)[0][0]) if score == "refused" else answer_T

    @functools.cache
    def guess(split):
        return max(of_refused, member.guess(split))

    return base.Task(
        name=NAME, version=VERSION, prompt_len=member.prompt_len, completion_len=member.completion_len, splits=member.splits,
        sample=member.sample, prompt=member.prompt, oracle=oracle, verify=verify, guess=guess,
        vocab_size=max(member.vocab_size, vocab.MARKED), roles=member.roles, role=member.role, content=member.content,
        difficulty=member.difficulty)


def refused(tokens_T):
    """bool[]: a refusal and EOS are all of the completion, or all that comes after its reasoning."""
    live_T = jnp.where(base.through(tokens_T, vocab.EOS) > 0, tokens_T, vocab.PAD)
    return base.exact(traces.answer_part(live_T, 2), jnp.asarray([REFUSED, vocab.EOS])) > 0


def refusal(answer_T, word):
    """i32[T]: a refusal after a part of the answer's reasoning, at least one token where it has any; `word` draws how much."""
    place_T = jnp.arange(answer_T.shape[0])
    thought = answer_T[0] == traces.BEGIN
    reasoning = jnp.maximum(jnp.argmax(answer_T == traces.END) - 1, 0)  # tokens
    kept = jnp.where(thought, 1 + base.span(word, jnp.minimum(reasoning, 1), reasoning), 0)
    begun_T = jnp.where(place_T < kept, answer_T, vocab.PAD)
    tokens = traces.joined(begun_T, jnp.where(thought, traces.END, vocab.PAD), REFUSED, vocab.EOS)
    return vocab.pack(tokens, tokens != vocab.PAD, answer_T.shape[0], "left")
