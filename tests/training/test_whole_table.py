"""The full batch: every problem of a split at every step, and gradient descent on it without sampling noise."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, objectives, tasks, training
from tests import compiled

TASK = tasks.get("modular", modulus=5, train_fraction=0.6)
MODEL = models.TransformerConfig(vocab=TASK.vocab_size, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, ff=8)
SPEC = training.StepSpec(MODEL, objectives.get("cross_entropy"), (("name", "adamw"),))

PARAMS = functools.cache(lambda: models.init(MODEL, jax.random.key(0)))


def state():
    return training.create(SPEC, PARAMS(), {})


def test_every_step_and_seed_has_every_row_of_the_split_once():
    source = training.WholeTable(TASK, tokens=1)
    made = jax.jit(source.batch)
    rows = [made(training.Member(jnp.uint32(seed), training.Scalars(1e-3)), state()._replace(step=jnp.int32(step)), None)[0]
            for seed, step in ((1, 0), (2, 7))]
    shown = tasks.table(TASK, "train")
    for batch in rows:
        np.testing.assert_array_equal(batch.prompt_NxP, shown.prompt_NxP)
        np.testing.assert_array_equal(batch.completion_NxT, shown.answer_NxT[:, :1])
        np.testing.assert_array_equal(batch.mask_NxT, 1.0)
    assert source.rows == len(shown.prompt_NxP) and source.lengths == (4, 1) and source.sampled == 0
    assert hash(source) == hash(dataclasses.replace(source)) and not source.needs_reference


def test_without_a_limit_the_end_token_is_trained_on_too():
    batch = training.WholeTable(TASK, "id").table()
    assert batch.mask_NxT.shape[1] == 2 and batch.mask_NxT.all() and (batch.completion_NxT[:, 1] == TASK.eos).all()


def test_a_step_descends_the_mean_loss_of_the_whole_table():
    source = training.WholeTable(TASK, tokens=1)
    batch, before = source.table(), state()

    def mean_loss(params):
        logits = compiled.token_logits(MODEL, params, batch.prompt_NxP, batch.completion_NxT)[:, 0]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.completion_NxT, axis=1).mean()

    member = training.Member(jnp.uint32(3), training.Scalars(1e-3))
    _, measured = jax.jit(lambda s: training.one_step(source, SPEC, member, s, None))(before)
    loss, grads = jax.jit(jax.value_and_grad(mean_loss))(before.params)
    assert float(measured["loss"][0] / measured["loss"][1]) == pytest.approx(float(loss), rel=1e-5)
    norm = float(jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads))))
    assert float(measured["grad_norm"][0]) == pytest.approx(norm, rel=1e-5)


def test_what_it_cannot_do_is_said_before_anything_is_traced():
    with pytest.raises(ValueError, match="task 'addition' cannot list its problems"):
        training.WholeTable(tasks.get("addition"))
    with pytest.raises(ValueError, match="tokens=3 of the answers of task 'modular'; expected 1 to 2"):
        training.WholeTable(TASK, tokens=3)
    with pytest.raises(ValueError, match="task 'modular': split 'tset' is not known"):
        training.WholeTable(TASK, "tset")
    spec = dataclasses.replace(SPEC, objective=objectives.get("dpo"))
    with pytest.raises(ValueError, match="'dpo' trains on pairs"):
        training.WholeTable(TASK, spec=spec)


def test_the_rows_are_an_argument_of_the_program_and_no_constant_of_it():
    """What the compiler could fold through masks and embeddings; the same numbers as a step that holds them as constants."""
    source = training.WholeTable(TASK, tokens=1)
    member = training.Member(jnp.uint32(3), training.Scalars(1e-3))
    program, states = training.segment_program(source, SPEC, 2), training.stack([state()])
    lowered = program.lower(states, training.stack([member]), 2, None)
    shape = rf"tensor<(?:\d+x)*{source.rows}(?:x\d+)*x[a-z]+\d+>"
    held = re.findall(rf"stablehlo.constant dense<[^>]*> : {shape}", lowered.program.as_text())
    assert not [text for text in held if '"0x' in text or "[" in text]  # splats are no data
    plain = jax.jit(lambda s: training.one_step(source, SPEC, member, s, None)[0])(state())
    for run in (program, lowered.compile()):
        found, history = training.run_segment(run, training.stack([state()]), training.stack([member]), 1, None)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-7), found.params, plain.params)
        assert history["loss"].shape == (1, 1)


def test_what_aligned_models_say_is_filled_in_parts():
    spec = dataclasses.replace(SPEC, objective=objectives.get("poft"), microbatches=3)
    source, reference = training.WholeTable(TASK, spec=spec), models.init(MODEL, jax.random.key(1))
    batch = jax.jit(source.batch)(training.Member(jnp.uint32(3), training.Scalars(1e-3)), state(), reference)[0]
    logits = compiled.token_logits(MODEL, reference, batch.prompt_NxP, batch.completion_NxT)
    logp = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(batch.completion_NxT)[..., None], 2)[..., 0]
    np.testing.assert_allclose(batch.outside_N, logp.mean(axis=1), atol=1e-5)  # every token counts
