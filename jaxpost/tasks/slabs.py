"""Slabs: a label that a simple feature and several complex ones all tell; which of them does a model use?

Prompt `^3 0 5 1...?` with a level for each of d coordinates, answer `Y$` or `N$`. A coordinate with k slabs has levels 0 to k
- 1, which belong to the two labels in turn; one with 2 slabs is the simple (linear) feature. Every coordinate alone tells the
label, but a noisy one, which is another label's with probability `noise`. Levels are single tokens, `vocab.ID` + 16 i + level
for coordinate i.

    the paper's LMS-5         simple=2, complex_slabs=5
    MS-(5,7)                  simple=5, complex_slabs=7
    noisy LMS-7               simple=2, complex_slabs=7, noise=0.1

Splits: train, id, ood/simple_random (the simple coordinate is replaced by that of an independent problem: success at 0.5 says
that the model used it alone; "S-randomised"), ood/complex_random (the complex ones are: success near 1 says the same;
"S^c-randomised"). The label stays that of the coordinates that are left. With noise, the label in ood/complex_random is the
one that the noise was applied to, so that 1 - noise is the best there. After arXiv:2006.07710; differs from the paper in:
levels in place of real numbers in slabs.

Difficulty: the number of slabs of the complex coordinates. Guess baseline: a constant answer, 1/2; content is all levels.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "slabs", 1
PAPER, VERIFIER = "arXiv:2006.07710", "the label, one token"
LEVELS = 16


class Problem(NamedTuple):
    """Levels of the coordinates, the simple one first, and the label."""

    level_D: Any  # i32
    label: Any  # i32[], 1 is Y


def make(coordinates=8, simple=2, complex_slabs=5, noise=0.0, style="answer", room=0):
    """Slabs.

    Args:
        coordinates: d, 2 to 32, the first of which is the simple one.
        simple, complex_slabs: k of the simple and of the other coordinates, 2 to 16, and simple < complex_slabs. All
            coordinates together have at least 5 problems of each label, so that both folds have some.
        noise: share of problems whose simple coordinate is the other label's; 0 to 0.5.
        style, room: see `traces`; answers only.
    """
    base.require(isinstance(coordinates, int) and 2 <= coordinates <= 32, NAME, "coordinates", coordinates,
                 "an integer from 2 to 32")
    good = isinstance(simple, int) and isinstance(complex_slabs, int) and 2 <= simple < complex_slabs <= LEVELS
    base.require(good, NAME, "simple, complex_slabs", (simple, complex_slabs),
                 f"integers with 2 <= simple < complex <= {LEVELS}")
    fewest = (simple // 2) * (complex_slabs // 2) ** (coordinates - 1)
    base.require(fewest >= 5, NAME, "complex_slabs", complex_slabs,
                 f"more slabs or coordinates: the label Y has {fewest} problems, at least 5 are needed")
    base.require(0 <= noise <= 0.5, NAME, "noise", noise, "a share from 0 to 0.5")
    slabs_D = np.asarray([simple] + [complex_slabs] * (coordinates - 1), np.int32)

    def levels(word_D, label):
        """A random level of each coordinate that belongs to the label: label, label + 2, ..."""
        return label + 2 * base.below(word_D, (slabs_D - label + 1) // 2)

    def sample(key, knobs):
        label = base.below(base.words(jax.random.fold_in(key, base.ATTEMPTS), 1)[0][0], 2)  # not drawn again: balanced

        def draw(level_word, other_word, noise_word):
            flipped = noise_word[0] < jnp.uint32(noise * (2**32 - 1))
            level_D = levels(level_word, label)
            level_D = level_D.at[0].set(jnp.where(flipped, levels(level_word, 1 - label)[0], level_D[0]))
            other_D = jnp.where(noise_word[1] % 2 == 1, levels(other_word, 1), levels(other_word, 0))
            first_D = jnp.arange(coordinates) == 0
            random_D = jnp.where(first_D, knobs["simple_random"], knobs["complex_random"]) == 1
            return Problem(jnp.where(random_D, other_D, level_D), label)

        return base.choose(key, (coordinates, coordinates, 2), draw, lambda made: base.fold_of(made.level_D) == knobs["fold"])

    def prompt(made):
        return traces.joined(vocab.BOS, vocab.ID + LEVELS * jnp.arange(coordinates) + made.level_D, "?")

    def answer(made):
        return jnp.stack([jnp.where(made.label == 1, vocab.TOKEN["Y"], vocab.TOKEN["N"]), vocab.EOS]).astype(jnp.int32)

    def setting(fold, simple_random=0, complex_random=0):
        return base.setting(fold, simple_random=simple_random, complex_random=complex_random)

    def guess(split):
        base.knobs(task, split)
        return 0.5

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=coordinates + 2, answer_len=2,
        splits={"train": setting(base.TRAIN_FOLD), "id": setting(base.EVAL_FOLD),
                "ood/simple_random": setting(base.EVAL_FOLD, simple_random=1),
                "ood/complex_random": setting(base.EVAL_FOLD, complex_random=1)},
        sample=sample, prompt=prompt, answer=answer, verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)),
        guess=guess, content=lambda made: made.level_D,
        difficulty=lambda made: jnp.float32(complex_slabs), vocab_size=vocab.ID + LEVELS * coordinates)
    return task
