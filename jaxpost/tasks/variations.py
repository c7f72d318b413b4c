"""Functional variations: word problems whose numbers and names are drawn anew, against their static originals.

Prompt `a=12;b=a+5;c=b*3;d=c-9;d?` (a has 12, b has 5 more than a, c has 3 times as many as b, d has 9 fewer than c; how many
has d?), answer `42$`. A template says to whom each sentence refers, and how; an original is a template with fixed numbers and
names. Splits:

    train           the originals: `originals` of each of `templates` templates, over and over
    id              their templates with other numbers and names (functional variations)
    ood/variables   the originals with other names (variable variations)
    ood/templates   eight other templates

Who has learned the originals by heart solves train alone; `gap` says how far success falls from originals to variations, and
how often all of several variations of one template are solved. `originals=0` draws training problems anew as well, as a
dynamic benchmark does, and there is no ood/variables then.

After Putnam-AXIOM (functional variations, of names alone or of numbers too) and arXiv:2410.15490 (templates, k instances of
each); *reconstructed*: both by description, with symbols instead of text; of the latter's metrics the reliability score, for
which an answer can be declined, is left out. Content is the template, the
numbers and the names. Numbers of id and ood/templates are of the evaluation fold whatever the names; ood/variables has the
originals' numbers on purpose, and none of an original's names.

Reasoning (`traces`): how many each has, `a12;b17;c51;d42;`.

Difficulty: the number of sentences that multiply. Guess baseline: the commonest answer of 2,048 problems.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "variations", 1
PAPER, VERIFIER = "arXiv:2410.15490, after Putnam-AXIOM (see the module)", "the number, digit by digit"
TEMPLATES = 8  # at most, of training; as many others
ORIGINALS = 256  # of a template, at most
SIGNS = "+-*"
LEAST, MOST = (2, 1, 2), (20, 5, 4)  # number by sign; the first sentence's as of +


class Problem(NamedTuple):
    """S sentences: the earlier one that each refers to, its sign, its number, whom it is about, and how many that one has."""

    parent_S: Any  # i32, the first refers to none
    sign_S: Any  # i32, position in SIGNS
    number_S: Any  # i32
    name_S: Any  # i32
    value_S: Any  # i32


def make(sentences=4, templates=8, originals=4, style="answer", room=0):
    """Templates and their originals.

    Args:
        sentences: 3 to 5; the first tells a number, the last is asked about.
        templates: of train, 1 to 8.
        originals: static problems of each template, 1 to 256, or 0 for none.
        style, room: see `traces`.
    """
    for option, value, least, most in (("sentences", sentences, 3, 5), ("templates", templates, 1, TEMPLATES),
                                       ("originals", originals, 0, ORIGINALS)):
        base.require(isinstance(value, int) and least <= value <= most, NAME, option, value,
                     f"an integer from {least} to {most}")
    S = sentences
    width = len(str(MOST[0] * MOST[2] ** (S - 1)))
    answer_len, prompt_len = width + 1, 8 + 7 * (S - 1)
    parent_MxS, sign_MxS = (jnp.asarray(x) for x in templates_of(S))

    def numbers(key, template, fold):
        """The template with numbers of the fold that leave everyone with one at least."""
        parent_S, sign_S = parent_MxS[template], sign_MxS[template]

        def draw(number_word):
            number_S = base.span(number_word, jnp.asarray(LEAST)[sign_S], jnp.asarray(MOST)[sign_S])
            return Problem(parent_S, sign_S, number_S, jnp.zeros(S, jnp.int32), _values(parent_S, sign_S, number_S))

        def accept(made):
            return jnp.all(made.value_S > 0) & (base.fold_of(_content(made)) == fold)

        return base.choose(key, (S,), draw, accept)

    def sample(key, knobs):
        template_word, original_word, name_word = base.words(jax.random.fold_in(key, base.ATTEMPTS), 1, 1, vocab.LETTERS)
        template = knobs["first"] + base.below(template_word[0], knobs["count"])
        original = template * ORIGINALS + base.below(original_word[0], max(originals, 1))
        fixed = jax.random.fold_in(jax.random.key(VERSION, impl="threefry2x32"), original)
        made = numbers(jax.lax.select(knobs["static"] == 1, fixed, key), template, knobs["fold"])
        own_S = jnp.argsort(base.words(jax.random.fold_in(fixed, base.ATTEMPTS), vocab.LETTERS)[0])[:S]
        taken_L = jnp.any(jnp.arange(vocab.LETTERS)[:, None] == own_S[None], axis=1)
        other_S = jnp.argsort(jnp.where(taken_L, jnp.uint32(2**31), name_word >> 1))[:S]
        return made._replace(name_S=jnp.where(knobs["named"] == 1, own_S, other_S).astype(jnp.int32))

    def prompt(made):
        letter_S, number_SxW = vocab.LETTER + made.name_S, jax.vmap(lambda x: traces.number(x, 2))(made.number_S)
        refers_Sx2 = jnp.stack([letter_S[made.parent_S], jnp.asarray(vocab.encode(SIGNS))[made.sign_S]], axis=1)
        refers_Sx2 = jnp.where((jnp.arange(S) > 0)[:, None], refers_Sx2, vocab.PAD)
        equals_Sx1, end_Sx1 = (jnp.full((S, 1), vocab.TOKEN[mark]) for mark in "=;")
        row_SxV = jnp.concatenate([letter_S[:, None], equals_Sx1, refers_Sx2, number_SxW, end_Sx1], axis=1)
        tokens = traces.joined(vocab.BOS, row_SxV.reshape(-1), letter_S[-1], "?")
        return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")

    def answer(made):
        tokens = traces.joined(traces.number(made.value_S[-1], width), vocab.EOS)
        return vocab.pack(tokens, tokens != vocab.PAD, answer_len, "left")

    def steps(made, key, detours):
        del key, detours
        value_WxS = jax.vmap(lambda x: traces.number(x, width))(made.value_S).T
        return traces.table([vocab.LETTER + made.name_S, *value_WxS, ";"], tuple(range(1, width + 1)), S, S)

    def setting(fold, static=0, named=0, first=0, count=templates):
        return base.setting(fold, static=static, named=named, first=first, count=count)

    splits = {"train": setting(base.TRAIN_FOLD, int(originals > 0), int(originals > 0)), "id": setting(base.EVAL_FOLD)}
    if originals:
        splits["ood/variables"] = setting(base.TRAIN_FOLD, static=1)
    splits["ood/templates"] = setting(base.EVAL_FOLD, first=TEMPLATES, count=TEMPLATES)
    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=answer_len, splits=splits,
        sample=sample, prompt=prompt, answer=answer, verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)),
        guess=functools.cache(lambda split: base.best_constant(task, split)),
        content=lambda made: jnp.append(_content(made), made.name_S),
        difficulty=lambda made: jnp.sum(made.sign_S == SIGNS.index("*")).astype(jnp.float32),
        reasoning=traces.Reasoning(steps, longest=S * (width + 2), detour=width + 2))
    return task


def templates_of(sentences):
    """Parents and signs of the templates, those of training first: i32[2 * TEMPLATES, sentences] each."""
    parents = itertools.product(*(range(max(i, 1)) for i in range(sentences)))
    every = [(p, (0, *s)) for p, s in itertools.product(parents, itertools.product(range(3), repeat=sentences - 1))]
    order = np.random.RandomState(sentences).permutation(len(every))[:2 * TEMPLATES]  # a stream that never changes
    return tuple(np.asarray([every[i][side] for i in order], np.int32) for side in (0, 1))


def gap(original_M, variation_MxK):
    """How success falls from originals to variations, and how reliable it is over the variations of one template.

    Args:
        original_M: success on the originals of each template, in [0, 1].
        variation_MxK: success on K variations of each, 0 or 1.
    Returns:
        dict of floats: original, variation (means), gap (their difference), confidence (the share of templates whose K
        variations are all solved: the confidence index), near_miss (the share of those with 80 % or more, but not all).
    """
    original_M, variation_MxK = np.asarray(original_M, float), np.asarray(variation_MxK, float)
    solved_M = variation_MxK.mean(axis=1)
    original, variation = original_M.mean(), variation_MxK.mean()
    return {"original": float(original), "variation": float(variation), "gap": float(original - variation),
            "confidence": float((solved_M == 1).mean()), "near_miss": float(((solved_M >= 0.8) & (solved_M < 1)).mean())}


def _values(parent_S, sign_S, number_S):
    value_S = number_S
    for i in range(1, number_S.shape[0]):
        before = value_S[parent_S[i]]
        value_S = value_S.at[i].set(jnp.stack([before + number_S[i], before - number_S[i], before * number_S[i]])[sign_S[i]])
    return value_S


def _content(made):
    return jnp.concatenate([made.parent_S, made.sign_S, made.number_S])
