"""One-dimensional ARC: find the rule from three examples and apply it, with rules that training never shows.

Prompt `00110>01100;02200>22000;30011>00110;00440=` (three examples, then a row; digits are colours, 0 is the ground), answer
the row that the rule makes of it, `04400$`. After the 1-D ARC of arXiv:2505.24273 (reasoning-gym's arc_1d); reconstructed: the
rules, 22 in place of about 65; differs from the paper in: rows of random segments, no partial reward.

    move_{left,right}_{1,2,3}   every cell so many places on; what leaves the row is lost
    wrap_{left,right}_{1,2,3}   the same, and what leaves comes in on the other side
    gravity_{left,right}        coloured cells slide to that end
    grow_{left,right}           a ground cell takes the colour of the cell on its other side, so that blocks grow that way
    mirror                      the row backwards
    sort                        colours in ascending order
    hollow                      the inside of a block, all but its two ends, becomes ground
    starts, ends                of every block only the first or the last cell stays
    denoise                     blocks of one cell vanish

Exactly one of all 22 rules fits the examples, and it changes the row that is asked for, so that the answer is the only right
one; the rule is drawn uniformly and rows again until that holds (at most 512 times; of the rarest rule one draw in five does).
`held="right"` keeps the rules that move or grow to the right for ood/rule (their parts, how far and whether to wrap, are
trained to the left), "wrap" those that wrap (moves in both directions are trained). Content is the examples in any order, and
the row that is asked for.

Splits: train, id (rules that are not held out, rows of `length`), ood/rule (the held-out ones), ood/length (`ood_length`).

Reasoning (`traces`): the rule applied to the examples, a step each, `{rule}01100=`, where `=` says that the result is the
example's. A detour is a wrong rule that is not held out, on all three, with `!` where the result is not the example's, which
happens once at least.

Difficulty: the number of cells that the rule changes. Guess baseline: the best single rule for every problem.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "arc", 1
PAPER, VERIFIER = "arXiv:2505.24273", "the row, cell by cell"
EXAMPLES = 3
_SHIFTS = [(f"{kind}_{side}_{n}", n if side == "right" else -n, kind == "wrap")
           for kind in ("move", "wrap") for side in ("left", "right") for n in (1, 2, 3)]
RULES = (*(name for name, _, _ in _SHIFTS), "gravity_left", "gravity_right", "grow_left", "grow_right", "mirror", "sort",
         "hollow", "starts", "ends", "denoise")
HELD = ("right", "wrap")


class Problem(NamedTuple):
    """Rows of up to W cells, 0 from `size` on: three examples and the row that is asked for."""

    before_4xW: Any  # i32
    after_4xW: Any  # i32
    rule: Any  # i32[]
    size: Any  # i32[]


def make(length=(8, 10), ood_length=(11, 14), held="right", style="answer", room=0):
    """1-D ARC.

    Args:
        length, ood_length: (low, high) cells of train, id and ood/rule, and of ood/length; 8 to 20, the second above the first.
        held: "right" or "wrap", the rules of ood/rule.
        style, room: see `traces`.
    """
    low, high = base.length_range(NAME, "length", length, 8, 19)
    W = base.length_range(NAME, "ood_length", ood_length, high + 1, 20)[1]
    base.require(held in HELD, NAME, "held", held, f"one of {HELD}")
    outside = [i for i, name in enumerate(RULES) if held in name]
    inside = [i for i in range(len(RULES)) if i not in outside]
    prompt_len, answer_len = 1 + EXAMPLES * (2 * W + 2) + W + 1, W + 1

    def setting(fold, rules, low=low, high=high):
        return base.setting(fold, rule_R=(rules * len(RULES))[:len(RULES)], count=len(rules), low=low, high=high)

    def sample(key, knobs):
        rule_word, size_word = base.words(jax.random.fold_in(key, base.ATTEMPTS), 1, 1)  # not drawn again: rules are uniform
        rule = jnp.asarray(knobs["rule_R"])[base.below(rule_word[0], knobs["count"])]
        size = base.span(size_word[0], knobs["low"], knobs["high"])

        def draw(palette_word, cut_word, colour_word):
            palette_4 = jnp.append(0, 1 + jnp.argsort(palette_word)[:3])
            cut_4xW = base.below(cut_word.reshape(4, W), 5) < 2
            start_4xW = jax.lax.cummax(jnp.where(cut_4xW, jnp.arange(W)[None], 0), axis=1)
            colour_4xW = base.below(colour_word.reshape(4, W), 6)  # ground half of the time
            colour_4xW = palette_4[jnp.where(colour_4xW < 3, 0, colour_4xW - 2)]
            row_4xW = jnp.take_along_axis(colour_4xW, start_4xW, axis=1)
            before_4xW = jnp.where((jnp.arange(W) < size)[None], row_4xW, 0)
            return Problem(before_4xW, applied(before_4xW, size)[rule], rule, size)

        def accept(made):
            every_Rx4xW = applied(made.before_4xW, size)
            fits_R = jnp.all(every_Rx4xW[:, :EXAMPLES] == made.after_4xW[None, :EXAMPLES], axis=(1, 2))
            return (jnp.sum(fits_R) == 1) & (difficulty(made) > 0) & (base.fold_of(_content(made)) == knobs["fold"])

        return base.choose(key, (9, 4 * W, 4 * W), draw, accept)

    def written(made, row_W):
        return jnp.where(jnp.arange(W) < made.size, vocab.DIGIT + row_W, vocab.PAD)

    def prompt(made):
        pieces = [piece for i in range(EXAMPLES)
                  for piece in (written(made, made.before_4xW[i]), ">", written(made, made.after_4xW[i]), ";")]
        tokens = traces.joined(vocab.BOS, *pieces, written(made, made.before_4xW[EXAMPLES]), "=")
        return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")

    def answer(made):
        tokens = jnp.append(written(made, made.after_4xW[EXAMPLES]), vocab.EOS)
        return vocab.pack(tokens, tokens != vocab.PAD, answer_len, "left")

    def tested(made, rule, row_3xW):
        """A rule's token, what it makes of each example and whether that is right: i32[3, W + 2]."""
        right_3 = jnp.all(row_3xW == made.after_4xW[:EXAMPLES], axis=1)
        mark_3 = jnp.where(right_3, vocab.TOKEN["="], vocab.TOKEN["!"])
        row_3xW = jax.vmap(lambda row_W: written(made, row_W))(row_3xW)
        return jnp.concatenate([jnp.full((EXAMPLES, 1), vocab.ID + rule), row_3xW, mark_3[:, None]], axis=1)

    def steps(made, key, K):
        token_3xV = tested(made, made.rule, made.after_4xW[:EXAMPLES])
        result_V = (jnp.arange(W + 2) > 0) & (jnp.arange(W + 2) <= W)
        steps_of = traces.Steps(token_3xV, jnp.broadcast_to(result_V, token_3xV.shape))
        if not K:
            return steps_of
        known_R = jnp.asarray(inside)
        word_R = jnp.where(known_R == made.rule, jnp.uint32(2**31), base.words(key, len(inside))[0] >> 1)
        wrong_K = known_R[jnp.argsort(word_R)[:K]]
        row_Kx3xW = applied(made.before_4xW, made.size)[wrong_K, :EXAMPLES]
        detour_KxD = jax.vmap(lambda rule, row_3xW: tested(made, rule, row_3xW).reshape(-1))(wrong_K, row_Kx3xW)
        return steps_of._replace(detour_KxD=detour_KxD, before_K=jnp.zeros(K, jnp.int32))

    @functools.cache
    def guess(split):
        def right(made, key):
            row_RxW = applied(made.before_4xW, made.size)[:, EXAMPLES]
            return jnp.all(row_RxW == made.after_4xW[EXAMPLES][None], axis=1)

        return float(base.average(task, split, right).max())

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=answer_len,
        splits={"train": setting(base.TRAIN_FOLD, inside), "id": setting(base.EVAL_FOLD, inside),
                "ood/rule": setting(base.EVAL_FOLD, outside), "ood/length": setting(base.EVAL_FOLD, inside, *ood_length)},
        sample=sample, prompt=prompt, answer=answer, verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)),
        guess=guess, content=_content, difficulty=difficulty, vocab_size=vocab.ID + len(RULES),
        reasoning=traces.Reasoning(steps, longest=EXAMPLES * (W + 2), detour=EXAMPLES * (W + 2), ids=len(RULES)))
    return task


def applied(row_BxW, size):
    """What every rule makes of rows that are 0 from `size` on: i32[R, B, W]."""
    W = row_BxW.shape[1]
    place_W = jnp.arange(W)
    in_1xW = (place_W < size)[None]

    def at(index_W):
        """The cells at places of the row, 0 outside."""
        found_BxW = row_BxW[:, jnp.clip(index_W, 0, W - 1)]
        return jnp.where(in_1xW & ((index_W >= 0) & (index_W < size))[None], found_BxW, 0)

    def ordered(rank_BxW):
        """Cells by rank, those outside last."""
        return jnp.take_along_axis(row_BxW, jnp.argsort(jnp.where(in_1xW, rank_BxW, 99), axis=1, stable=True), axis=1)

    ground_BxW = row_BxW == 0
    left_BxW, right_BxW = at(place_W - 1), at(place_W + 1)
    starts_BxW, ends_BxW = left_BxW != row_BxW, right_BxW != row_BxW
    shifts = [at((place_W - n) % jnp.maximum(size, 1) if wraps else place_W - n) for _, n, wraps in _SHIFTS]
    return jnp.stack([
        *shifts, ordered(ground_BxW), ordered(~ground_BxW), jnp.where(ground_BxW, right_BxW, row_BxW),
        jnp.where(ground_BxW & in_1xW, left_BxW, row_BxW), at(size - 1 - place_W), ordered(row_BxW),
        jnp.where(starts_BxW | ends_BxW, row_BxW, 0), jnp.where(starts_BxW, row_BxW, 0), jnp.where(ends_BxW, row_BxW, 0),
        jnp.where(starts_BxW & ends_BxW, 0, row_BxW)])


def difficulty(made):
    """Cells of the row asked for that the rule changes, f32[]."""
    return jnp.sum(made.before_4xW[EXAMPLES] != made.after_4xW[EXAMPLES]).astype(jnp.float32)


def _content(made):
    row_4xV = jnp.concatenate([made.before_4xW, made.after_4xW], axis=1)
    order_3 = jnp.argsort(jax.vmap(base.hash_of)(row_4xV[:EXAMPLES]))
    return jnp.concatenate([row_4xV[order_3].reshape(-1), made.before_4xW[EXAMPLES], made.size[None]])
