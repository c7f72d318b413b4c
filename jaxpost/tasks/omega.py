"""OMEGA templates: harder problems of a kind, compositions of two kinds, and kinds that need another method.

Every skill is a template with levels, and every answer an exact rational number, `-7$`, `21$`, `3/10$` (any fraction of that
value is right). A policy trains on skills at level 1 and is asked, from the same task, along three axes:

    skill   prompt                    answer
    paths   `p..%|...|%..|=`          ways from top left to bottom right, one cell right or down a step, past the cells `%`
    rank    `k+1+0-2|...|=`           the rank of an integer matrix
    draws   `daabab:2=`               the chance that so many letters, drawn at once, are the same
    gcd     `g48,36=`                 the greatest common divisor
    roots   `r2-1-3=`                 the largest root of 2 x^2 - x - 3; roots are rational

    ood/level         exploratory: level 2 (paths: 5 or 6 rows instead of 3 or 4; rank: 4 instead of 3; draws: 2 or 3 of 9 to
                      12 letters instead of 2 of 5 to 8; gcd: numbers below 1000 instead of 100; roots: not only integers)
    ood/composed      compositional: `kd+1+0-2|...|aabab=`, draws of as many letters as a matrix has rank, 2 or 3;
                      `rg1-5+6,1-9+8=`, the greatest common divisor of the largest roots. Only where both skills are trained
    ood/transformed   transformative: paths in a 6 x 6 maze with so many blocked cells that cases are counted where sums are
                      not; the rank of a 6 x 6 matrix that is a product of two thin ones. Only where paths or rank is trained

After arXiv:2506.18880; *reconstructed*: that roots go with gcd and rank with chances is the paper's, but the compositional and
transformative problems are ours (its generators of these are not public), and so are all sizes and the text.

Splits: train, id, and those above. Content is the problem up to what does not change its answer: a grid mirrored along either
diagonal, the rows of a matrix in another order, the names and the order of letters, the order of two numbers or polynomials.

Difficulty: the number of tokens of the prompt. Guess baseline: the commonest answer of 2,048 problems.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab
from jaxpost.tasks.omega_templates import COMPOSED, CONTENT, SKILLS, TRANSFORMED, WORDS

NAME, VERSION = "omega", 1
PAPER, VERIFIER = "arXiv:2506.18880", "a fraction of the right value"
ANSWER = 9  # -ddd/ddd and EOS


class Problem(NamedTuple):
    """A prompt without BOS, its answer in lowest terms, and what is the same for equal problems in another form."""

    token_P: Any  # i32, left aligned
    numerator: Any  # i32[]
    denominator: Any  # i32[], positive
    content_C: Any  # i32, the template first


def make(skills=("rank", "draws"), style="answer", room=0):
    """Templates.

    Args:
        skills: of training, different names of the table; ("rank", "draws") and ("roots", "gcd") have a composition.
        style, room: see `traces`; answers only.
    """
    skills = tuple(skills)
    for name in skills:
        if name not in SKILLS:
            raise ValueError(f"unknown skill of task {NAME!r} {name!r}{nearest(name, SKILLS)}")
    base.require(0 < len(set(skills)) == len(skills), NAME, "skills", skills, f"different names of {tuple(SKILLS)}")
    composed = [form for pair, form in COMPOSED.items() if set(pair) <= set(skills)]
    form = [*(SKILLS[name][:2] for name in skills), *composed]
    transformed = [i for i, name in enumerate(skills) if SKILLS[name][2]]
    prompt_len = 1 + max(length for _, *lengths in [*(SKILLS[name] for name in skills), *composed] for length in lengths)

    def setting(fold, indices, level):
        return base.setting(fold, form_F=(list(indices) * len(form))[:len(form)], count=len(indices), level=level)

    def sample(key, knobs):
        which = base.words(jax.random.fold_in(key, base.ATTEMPTS), 1)[0][0]  # not drawn again: skills are balanced
        index = jnp.asarray(knobs["form_F"])[base.below(which, knobs["count"])]

        def of(template, word):
            tokens, numerator, denominator, content = template(*word, knobs["level"])
            divisor = jnp.gcd(numerator, denominator)
            token_P = vocab.pack(tokens, tokens != vocab.PAD, prompt_len - 1, "left")
            return jax.tree.map(jnp.int32, Problem(token_P, numerator // divisor, denominator // divisor,
                                                   jnp.pad(content, (0, CONTENT - len(content)))))

        def draw(*word):
            every = [of(template, word) for template, _ in form]
            made = jax.tree.map(lambda *leaf: jnp.stack(leaf)[index], *every)
            return made._replace(content_C=jnp.append(index, made.content_C))

        def accept(made):
            return (made.numerator != 0) & (base.fold_of(made.content_C) == knobs["fold"])

        return base.choose(key, WORDS, draw, accept)

    def prompt(made):
        tokens = traces.joined(vocab.BOS, made.token_P)
        return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")

    learned = range(len(skills))
    splits = {"train": setting(base.TRAIN_FOLD, learned, 1), "id": setting(base.EVAL_FOLD, learned, 1),
              "ood/level": setting(base.EVAL_FOLD, learned, 2)}
    if composed:
        splits["ood/composed"] = setting(base.EVAL_FOLD, range(len(skills), len(form)), 1)
    if transformed:
        splits["ood/transformed"] = setting(base.EVAL_FOLD, transformed, TRANSFORMED)
    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=ANSWER, splits=splits,
        sample=sample, prompt=prompt, answer=_answer, verify=_verify,
        guess=functools.cache(lambda split: base.best_constant(task, split)), content=lambda made: made.content_C,
        difficulty=lambda made: jnp.sum(made.token_P != vocab.PAD).astype(jnp.float32))
    return task


def _answer(made):
    whole = made.denominator == 1
    tokens = traces.joined(jnp.where(made.numerator < 0, vocab.TOKEN["-"], vocab.PAD), traces.number(abs(made.numerator), 3),
                           jnp.where(whole, vocab.PAD, vocab.TOKEN["/"]),
                           jnp.where(whole, vocab.PAD, traces.number(made.denominator, 3)), vocab.EOS)
    return vocab.pack(tokens, tokens != vocab.PAD, ANSWER, "left")


def _verify(made, tokens_A):
    """Whether -?n or -?n/m, numbers without leading zeros, has the right value."""

    def read(state, token):
        value_2, length_2, side, good, done = state  # numerator and denominator so far
        digit, slash = token - vocab.DIGIT, token == vocab.TOKEN["/"]
        is_digit, end = (digit >= 0) & (digit < 10), token == vocab.EOS
        zero_first = (length_2[side] > 0) & (value_2[side] == 0)
        allowed = jnp.where(is_digit, ~zero_first, (slash & (side == 0) | end) & (length_2[side] > 0))
        here_2 = (jnp.arange(2) == side) & is_digit
        after = (jnp.where(here_2, jnp.minimum(10 * value_2 + digit, 99_999), value_2), length_2 + here_2,
                 side | (slash & (side == 0)).astype(jnp.int32), good & allowed, end)
        return jax.tree.map(lambda old, new: jnp.where(done, old, new), state, after), None

    negative = tokens_A[0] == vocab.TOKEN["-"]
    zero_2 = jnp.zeros(2, jnp.int32)
    start = (zero_2, zero_2, jnp.int32(0), jnp.bool_(True), jnp.bool_(False))
    (value_2, _, side, good, done), _ = jax.lax.scan(read, start, jnp.where(negative, jnp.roll(tokens_A, -1), tokens_A))
    numerator, denominator = jnp.where(negative, -value_2[0], value_2[0]), jnp.where(side == 1, value_2[1], 1)
    same = numerator * made.denominator == made.numerator * denominator
    return (good & done & same & (denominator > 0)).astype(jnp.float32)
