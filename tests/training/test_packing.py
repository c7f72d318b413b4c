"""Packed rows are the same demonstrations, loss and gradient; every demonstration sees itself alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, objectives, tasks, training
from jaxpost.tasks.text import Row
from jaxpost.training import packing, split

PAD, END, WIDTHS = 0, 1, (6, 5)
MODEL = models.TransformerConfig(vocab=13, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ff=24)


def demonstrations(count=9, seed=0):
    """Prompts padded on the left and answers on the right, of every length there is; prompts may hold the end token."""
    rng, (P, T) = np.random.default_rng(seed), WIDTHS
    prompt, answer = np.full((count, P), PAD, np.int32), np.full((count, T), PAD, np.int32)
    for n in range(count):
        p, t = 1 + n % P, 1 + (2 * n) % T
        prompt[n, P - p:], answer[n, :t] = rng.integers(1, 13, p), np.append(rng.integers(2, 13, t - 1), END)
    return prompt, answer


def test_first_fit_fills_rows_and_never_more_than_its_bound():
    lengths = np.random.default_rng(1).integers(1, 12, 200)
    row = packing.first_fit(lengths, 11)
    used = np.bincount(row, weights=lengths)
    assert used.max() <= 11 and (used > 0).all() and len(used) <= 11 / 9 * np.ceil(lengths.sum() / 11) + 1
    assert packing.first_fit(np.asarray([3, 4, 4, 3]), 7).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="a demonstration of 12 tokens does not fit in a row of 11"):
        packing.first_fit(np.asarray([12]), 11)


def test_every_token_is_there_once_and_answers_count():
    prompt, answer = demonstrations()
    found = packing.pack(prompt, answer, PAD, (END,), 6)
    pieces = []
    for tokens, counted, segment in zip(*found):
        for s in range(1, segment.max() + 1):
            inside = segment == s
            assert np.ptp(np.flatnonzero(inside)) == inside.sum() - 1  # one piece
            pieces.append((tuple(tokens[inside]), tuple(counted[inside])))
        assert (tokens[segment == 0] == PAD).all() and not counted[segment == 0].any()
    expected = []
    for p, a in zip(prompt, answer):
        p, a = p[np.argmax(p != PAD):], a[:np.argmax(a == END) + 1]
        expected.append(((*p, *a), (*[0.0] * len(p), *[1.0] * len(a))))
    assert sorted(pieces) == sorted(expected)
    with pytest.raises(ValueError, match=r"9 demonstrations need \d rows of 11 tokens; there are 4"):
        packing.pack(prompt, answer, PAD, (END,), 4)
    with pytest.raises(ValueError, match="1 answers have no end token"):
        packing.pack(prompt[:1], np.full((1, 5), 3, np.int32), PAD, (END,), 1)


@pytest.mark.parametrize("microbatches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_step_on_packed_rows_is_the_step_on_padded_ones(microbatches):
    prompt, answer = demonstrations(10)
    params = jax.tree.map(lambda w: 2 * w, models.init(MODEL, jax.random.key(0)))
    task = tasks.Task("given", 1, *WIDTHS, {}, None, lambda row: row.prompt_P, lambda row, key: row.answer_T, None, None,
                      vocab_size=13, pad=PAD, eos=END)
    found = {}
    packed = packing.pack(prompt, answer, PAD, (END,), 8)
    assert (packed.segment_MxS.max(axis=1) > 1).any() and not packed.segment_MxS[-1].any()  # shared rows, and an empty one
    for name, rows in (("padded", Row(prompt, answer, np.arange(10))), ("packed", packed)):
        spec = training.StepSpec(MODEL, objectives.get("cross_entropy"), (("name", "sgd"),), microbatches=microbatches, pad=PAD)
        run = split.programs(task, spec)
        member = training.Member(jnp.uint32(0), training.Scalars(jnp.float32(1.0)))
        state, measured = split.supervised_step(run, member, split.start(spec, params, {}), None, rows)
        found[name] = state.params, measured["loss"]
    total, count = (np.asarray(x) for x in zip(*(measured for _, measured in found.values())))
    assert count[0] == count[1] == sum(np.argmax(answer == END, axis=1) + 1)
    np.testing.assert_allclose(total[1], total[0], rtol=1e-6)
    moved = jax.tree.map(lambda new, old: new - old, found["padded"][0], params)
    again = jax.tree.map(lambda new, old: new - old, found["packed"][0], params)
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(again)):
        np.testing.assert_allclose(other, one, atol=2e-6 * max(1.0, float(jnp.abs(one).max())))


def test_what_else_is_in_a_row_changes_nothing():
    prompt, answer = demonstrations()
    params = models.init(MODEL, jax.random.key(0))
    packed = packing.pack(prompt, answer, PAD, (END,), 6)
    row = int(np.argmax(packed.segment_MxS.max(axis=1)))
    other = packed.token_MxS.copy()
    own = packed.segment_MxS == 2
    other[~own] = 7

    def logits(tokens):
        rows = packing.batch(packed._replace(token_MxS=tokens))
        return np.asarray(models.teacher_forced(MODEL, params, rows.prompt_NxP, rows.completion_NxT, PAD,
                                                segment_NxS=rows.segment_NxS).logits)

    inside = own[row, :-1]  # states of the second demonstration
    assert inside.sum() > 1
    np.testing.assert_array_equal(logits(other)[row][inside], logits(packed.token_MxS)[row][inside])
    assert np.abs(logits(other) - logits(packed.token_MxS)).max() > 1e-3
