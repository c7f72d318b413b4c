"""Gradient statistics of real objectives: a prepared row is an example, advantages are its constants.

Legend: N rows, P prompt and T completion tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, objectives, records, tasks, training
from jaxpost.objectives import Batch
from jaxpost.probes.gradients import conflict as gradient_conflict
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.training.step import view
from tests import compiled

MODEL = models.TransformerConfig(vocab=tasks.vocab.SIZE, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ff=16)


def example_loss(name):
    """(params, prepared row) -> the row's share of the objective's sum."""
    spec = training.StepSpec(MODEL, objectives.get(name), (("name", "adamw"),), group=4)

    def loss(params, row):
        rows = jax.tree.map(lambda x: x[None], row)
        return spec.objective.loss(view(spec, params, rows), rows, {})[0]

    return spec, loss


def batch(params, spec, seed, rows=8):
    """Rows as the step prepares them, for any objective: prompts, completions with uneven masks, rewards."""
    rng = np.random.default_rng(seed)
    prompt, completion = (jnp.asarray(rng.integers(1, MODEL.vocab, size=(rows, n)), jnp.int32) for n in (3, 4))
    mask = jnp.asarray(np.arange(4)[None] < rng.integers(1, 5, size=rows)[:, None], jnp.float32)
    found = Batch(prompt, completion, mask, reward_N=jnp.asarray(rng.integers(0, 2, size=rows), jnp.float32))
    found = found._replace(behaviour_NxT=compiled.token_logp(spec, params, found))
    return jax.jit(lambda x: spec.objective.balance(spec.objective.prepare(x, spec.group)))(found)


@pytest.mark.parametrize("name", [pytest.param("cross_entropy", marks=pytest.mark.slow), "grpo"])
def test_gradients_of_prepared_rows_add_up_to_that_of_the_step(name):
    params = models.init(MODEL, jax.random.key(0))
    spec, loss = example_loss(name)
    rows = batch(params, spec, 0)
    total, square_mxT = jax.jit(lambda p, r: gradient_sums.first_pass(loss, p, r, 4))(params, rows)
    whole = jax.jit(jax.grad(lambda p: spec.objective.loss(view(spec, p, rows), rows, {})[0]))(params)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale), total, whole)
    assert square_mxT.shape == (8, len(gradient_sums.inventory(params))) and float(square_mxT.sum()) > 0


def test_conflict_of_sft_and_rl_reads_1_for_twice_the_same_rows_and_less_for_other_losses():
    params = models.init(MODEL, jax.random.key(0))
    (sft_spec, sft), (rl_spec, rl) = example_loss("cross_entropy"), example_loss("grpo")
    rows = batch(params, sft_spec, 1), batch(params, rl_spec, 2)
    infos = gradient_sums.inventory(params)

    def cosine(loss_a, loss_b, a, b):
        values = jax.jit(lambda p: gradient_conflict.measure(loss_a, loss_b, p, a, b, 2))(params)
        columns = gradient_conflict.finalize(jax.tree.map(lambda x: np.asarray(x)[None], values), names=("sft", "rl"),
                                             infos=infos, arm="a", step=0, seeds=[0], conditional_on="base",
                                             row_ids=records.row_ids)
        table = records.select(records.measurement_table(columns), metric="gradient.conflict.cosine", granularity="global")
        return table.to_pylist()[0]

    assert cosine(sft, sft, rows[0], rows[0])["value"] == pytest.approx(1, abs=1e-6)
    found = cosine(sft, rl, *rows)
    assert abs(found["value"]) < 0.9 and found["ci_lo"] < found["value"] < found["ci_hi"] and found["params"] == "losses=sft+rl"
