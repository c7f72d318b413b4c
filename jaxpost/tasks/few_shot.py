"""Few-shot classification over symbols: which class is an item of, when the classes could be memorised or read?

Prompt `{n}031220{m}133012...?031320=` (options in random order, each a class's name and its prototype, digits 0 to 3; then an
item), answer the name of the class, `{n}$`. An item is its class's prototype with `flips` attributes changed; its class is the
one whose prototype differs least, which is unique and the right one. Names are tokens from `vocab.ID` on. The data set that
training has is fixed (names and prototypes), so that the classes can be learned by heart; that fails where

    ood/names    its prototypes have each other's names, turned by one: who has learned the names by heart scores 0
    ood/dataset  every problem has prototypes and names of its own, the names from tokens that training never has
    ood/flips    one attribute more is changed

Few shots are a pool: `tasks.distinct(task, "train", shots * classes)` as the indices of a uniform curriculum. After CLS-RL:
Image Classification with Rule-Based Reinforcement Learning, against supervised training (overfitting, transfer to other data
sets); reconstructed: all of the symbolic form; its reward for not thinking belongs to the composition of rewards.

Splits: train, id, and the three above. Content is the item and the prototypes, without names and order. Labels are balanced:
the class is drawn uniformly, and items again until they are right.

Difficulty: how much farther the second nearest prototype is than the nearest (smaller is harder), negated. Guess baseline: a
random option, 1 / classes.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "few_shot", 1
PAPER, VERIFIER = "after CLS-RL (see the module)", "the name of the class, one token"
VALUES = 4
KNOWN = 16  # names that training may have; as many are held out


class Problem(NamedTuple):
    """K classes with F attributes each, in the order of the prompt, an item and its class."""

    prototype_KxF: Any  # i32
    name_K: Any  # i32
    item_F: Any  # i32
    label: Any  # i32[]


def make(classes=4, attributes=6, flips=1, style="answer", room=0):
    """Classification among options.

    Args:
        classes: 2 to 8, with 4 attributes up to 7.
        attributes: of an item, 4 to 12.
        flips: attributes of an item that differ from its prototype's, 1 to (attributes - 2) // 2 (without any, a class has
            one item only); ood/flips has one more.
        style, room: see `traces`; answers only.
    """
    base.require(isinstance(classes, int) and 2 <= classes <= 8, NAME, "classes", classes, "an integer from 2 to 8")
    base.require(isinstance(attributes, int) and 4 <= attributes <= 12, NAME, "attributes", attributes,
                 "an integer from 4 to 12")
    base.require(classes < 8 or attributes > 4, NAME, "classes", classes, "at most 7 with 4 attributes")
    base.require(isinstance(flips, int) and 1 <= flips <= (attributes - 2) // 2, NAME, "flips", flips,
                 f"an integer from 1 to (attributes - 2) // 2 = {(attributes - 2) // 2}")
    K, F = classes, attributes
    world = fixed(K, F)

    def setting(fold, flips=flips, turned=0, fresh=0):
        return base.setting(fold, flips=flips, turned=turned, fresh=fresh)

    def sample(key, knobs):
        label = base.below(base.words(jax.random.fold_in(key, base.ATTEMPTS), 1)[0][0], K)  # not drawn again: balanced

        def draw(order_word, flip_word, change_word, prototype_word, name_word):
            prototype_KxF = jnp.where(knobs["fresh"] == 1, base.below(prototype_word, VALUES).reshape(K, F), world)
            own_K, turned_K = KNOWN + jnp.argsort(name_word)[:K], (jnp.arange(K) + knobs["turned"]) % K
            name_K = jnp.where(knobs["fresh"] == 1, own_K, turned_K).astype(jnp.int32)
            order_K = jnp.argsort(order_word)
            flipped_F = jnp.argsort(jnp.argsort(flip_word)) < knobs["flips"]
            item_F = prototype_KxF[label]
            item_F = jnp.where(flipped_F, (item_F + 1 + base.below(change_word, VALUES - 1)) % VALUES, item_F)
            return Problem(prototype_KxF[order_K], name_K[order_K], item_F, jnp.argmax(order_K == label).astype(jnp.int32))

        def accept(made):
            distance_K = distances(made)
            unique = jnp.sum(distance_K <= distance_K[made.label]) == 1
            return unique & (base.fold_of(_content(made)) == knobs["fold"])

        return base.choose(key, (K, F, F, K * F, KNOWN), draw, accept)

    def prompt(made):
        row_KxV = jnp.concatenate([vocab.ID + made.name_K[:, None], vocab.DIGIT + made.prototype_KxF], axis=1)
        return traces.joined(vocab.BOS, row_KxV.reshape(-1), "?", vocab.DIGIT + made.item_F, "=")

    def answer(made):
        return jnp.stack([vocab.ID + made.name_K[made.label], jnp.int32(vocab.EOS)])

    def guess(split):
        base.knobs(task, split)
        return 1 / K

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=3 + K * (F + 1) + F, answer_len=2,
        splits={"train": setting(base.TRAIN_FOLD), "id": setting(base.EVAL_FOLD),
                "ood/names": setting(base.EVAL_FOLD, turned=1), "ood/dataset": setting(base.EVAL_FOLD, fresh=1),
                "ood/flips": setting(base.EVAL_FOLD, flips + 1)},
        sample=sample, prompt=prompt, answer=answer, verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)),
        guess=guess, content=_content, difficulty=difficulty, vocab_size=vocab.ID + 2 * KNOWN)
    return task


def fixed(classes, attributes):
    """The prototypes of the fixed data set, all different: i32[classes, attributes]; class i has the name i."""
    for seed in itertools.count():
        prototype_KxF = np.random.RandomState(seed).randint(0, VALUES, (classes, attributes))  # a stream that never changes
        if len(np.unique(prototype_KxF, axis=0)) == classes:
            return prototype_KxF.astype(np.int32)


def distances(made):
    """Attributes in which the item differs from each prototype, i32[K]."""
    return jnp.sum(made.prototype_KxF != made.item_F[None], axis=1)


def difficulty(made):
    """The nearest prototype's distance less the second nearest's, f32[], -1 at the hardest."""
    distance_K = jnp.sort(distances(made))
    return (distance_K[0] - distance_K[1]).astype(jnp.float32)


def _content(made):
    place_F = VALUES ** jnp.arange(made.item_F.shape[0])
    codes_K = jnp.sort(jnp.sum(made.prototype_KxF * place_F[None], axis=1))
    return jnp.append(codes_K, jnp.sum(made.item_F * place_F))
