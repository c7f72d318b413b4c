"""Pairs and labelled rows: the oracle against wrong samples of the reference policy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks, training
from jaxpost.training import preferences
from tests import compiled


@pytest.fixture
def other(feed):
    """A reference policy that is not the current one."""
    return lambda run: jax.tree.map(lambda x: 0.9 * x, run.params)


@pytest.mark.parametrize("name", ["dpo", pytest.param("simpo", marks=pytest.mark.slow)])
def test_pairs_are_an_answer_and_a_wrong_sample_of_the_reference(feed, other, name):
    run = feed(name, prompts=8, temperature=0.8)
    reference = other(run)
    batch, metrics, _ = run.batch(run.member, run.state, reference)
    first, second = (jax.tree.map(lambda x, i=i: np.asarray(x)[i::2], batch) for i in (0, 1))
    np.testing.assert_array_equal(first.prompt_NxP, second.prompt_NxP)
    index = jax.random.bits(training.stream(run.member.seed, f"data/{run.task.name}", 0), (16,), "uint32")
    shown = tasks.examples(run.task, "train", index)
    np.testing.assert_array_equal(first.completion_NxT, shown.answer_NxT)
    np.testing.assert_array_equal(first.prompt_NxP, shown.prompt_NxP)
    made = compiled.sample(run.model, reference, shown.prompt_NxP, training.stream(run.member.seed, "rollout", 0), length=4,
                         temperature=0.8, eos=tasks.vocab.EOS)
    np.testing.assert_array_equal(second.completion_NxT, made.tokens_NxT)
    right = second.completion_NxT[:, 0] % 2 == 1  # the NOISY verifier
    assert 0 < right.sum() < 16
    np.testing.assert_array_equal(second.mask_NxT, np.asarray(made.mask_NxT) * ~right[:, None])
    np.testing.assert_array_equal(first.mask_NxT, (np.asarray(shown.answer_NxT) != 0) * ~right[:, None])
    assert tuple(map(float, metrics["reference_reward"])) == (right.sum(), 16)
    assert tuple(map(float, metrics["informative"])) == ((~right).sum(), 16)
    assert (batch.reference_NxT is None) == (name == "simpo")
    objective = run.spec.objective
    loss, count, _ = jax.jit(lambda view, rows: objective.loss(view, objective.balance(objective.prepare(rows)), {}))(
        compiled.view(run.spec, run.state.params, batch, reference), batch)
    assert float(count) == (~right).sum() and np.isfinite(float(loss))


def test_labelled_rows_and_their_mismatched_log_ratio_one_at_a_time(feed, other):
    run = feed("kto")
    reference = other(run)
    batch = run.batch(run.member, run.state, reference)[0]
    np.testing.assert_array_equal(batch.label_N, [1, 0] * 8)
    for i in range(16):
        there = (i + 2) % 16
        assert (np.asarray(batch.prompt_NxP[i]) != np.asarray(batch.prompt_NxP[there])).any()
        row = batch.where(slice(i, i + 1))._replace(prompt_NxP=batch.prompt_NxP[there:there + 1])
        gap = run.logp(run.state.params, row) - run.logp(reference, row)
        assert float(batch.outside_N[i]) == pytest.approx(float((gap * row.mask_NxT).sum()), abs=2e-5)
    assert float(jnp.abs(batch.outside_N).max()) > 1e-3


def test_the_rows_do_not_depend_on_the_objective_or_the_policy(feed, other):
    runs = [feed(name) for name in ("dpo", "orpo", "kto")]
    reference = other(runs[0])
    batches = [run.batch(run.member, run.state._replace(params=jax.tree.map(lambda x, i=i: x * (1 + i), run.state.params)),
                         reference)[0] for i, run in enumerate(runs)]
    for batch in batches[1:]:
        for field in ("prompt_NxP", "completion_NxT", "mask_NxT"):
            np.testing.assert_array_equal(getattr(batch, field), getattr(batches[0], field))


def test_steps_draw_fresh_pairs(feed):
    run = feed("dpo")
    a, b = (run.batch(run.member, run.state._replace(step=jnp.int32(s)), run.params)[0] for s in (0, 1))
    assert (np.asarray(a.prompt_NxP) != np.asarray(b.prompt_NxP)).any()
    assert dataclasses.replace(run.source, pairs=3).rows == 6


def test_a_chunk_of_pairs_counts_pairs(feed, other):
    run = feed("dpo", microbatches=2)
    reference = other(run)
    metrics = jax.jit(lambda s: training.one_step(run.source, run.spec, run.member, s, reference)[1])(run.state)
    rows = jax.eval_shape(lambda s: run.batch(run.member, s, reference)[0], run.state).mask_NxT.shape[0]
    assert float(metrics["chunk_rows"][0]) == rows / 2 / 2


def test_a_ranked_pair_takes_the_sample_of_its_rank(feed, other):
    """Ranks by sorting in Python; the samples themselves are those of one call of the sampler on repeated prompts."""
    run = feed("dpo", prompts=8, temperature=0.8)
    reference, R = other(run), 3
    index = jax.random.bits(training.stream(run.member.seed, f"data/{run.task.name}", 0), (16,), "uint32")
    shown = tasks.examples(run.task, "train", index)
    made = compiled.sample(run.model, reference, np.repeat(shown.prompt_NxP, R, axis=0),
                           training.stream(run.member.seed, "rollout", 0), length=4, temperature=0.8, eos=tasks.vocab.EOS)
    tokens, logp = np.asarray(made.tokens_NxT).reshape(16, R, -1), np.asarray(made.logp_NxT).sum(1).reshape(16, R)
    right = tokens[:, :, 0] % 2 == 1  # the NOISY verifier
    order = [sorted(range(R), key=lambda r, k=k: (right[k, r], logp[k, r])) for k in range(16)]
    assert len({tuple(x) for x in order}) > 3
    of_rank = {}
    for rank in (0, 2):
        source = dataclasses.replace(run.source, ranked=preferences.Ranked(R, rank))
        batch, metrics, _ = jax.jit(lambda s, source=source: source.batch(run.member, s, reference))(run.state)
        of_rank[rank] = np.asarray(batch.completion_NxT)[1::2]
        np.testing.assert_array_equal(of_rank[rank], [tokens[k, order[k][rank]] for k in range(16)])
        assert float(metrics["reference_reward"][0]) == sum(right[k, order[k][rank]] for k in range(16))
    assert source.sampled == 48 and (of_rank[0] != of_rank[2]).any()
    with pytest.raises(ValueError, match="rank=3 of 3 responses; expected 0 to 2, or None"):
        preferences.Ranked(3, 3)


def test_a_rank_that_is_not_said_is_drawn_evenly():
    any_rank = preferences.Ranked(3)
    which = any_rank.chosen(jnp.zeros((3000, 3)), jnp.tile(jnp.asarray([[-1.0, -3.0, -2.0]]), (3000, 1)), jax.random.key(0))
    counts = np.bincount(np.asarray(which), minlength=3)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(3000 * 2 / 9)
