"""Further passes: the prompt's own log-probabilities under left padding, and inputs mixed with the policy's guesses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.training import step
from tests import compiled


@pytest.mark.parametrize("chunk", [0, 16])
def test_prompt_tokens_are_predicted_as_in_one_unpadded_sequence(feed, chunk):
    run = feed("orpo_prompt_nll")
    batch = run.batch(run.member, run.state, run.params)[0]
    padded = batch._replace(prompt_NxP=jnp.pad(batch.prompt_NxP, ((0, 0), (3, 0))),
                            prompt_mask_NxQ=jnp.pad(batch.prompt_mask_NxQ, ((0, 0), (3, 0))))
    spec = dataclasses.replace(run.spec, model=dataclasses.replace(run.model, logprob_chunk=chunk))
    seen = [jax.jit(lambda p, b: step.view(spec, p, b))(run.params, b) for b in (batch, padded)]
    real = np.asarray(batch.prompt_mask_NxQ) > 0
    lead = int((np.asarray(batch.prompt_NxP) != 0).argmax(axis=1).max())
    bare = batch.prompt_NxP[:, lead:]  # every prompt of this task has as many tokens
    whole = compiled.token_logits(run.model, run.params, bare[:, :1], bare[:, 1:])
    plain = jnp.take_along_axis(jax.nn.log_softmax(whole), bare[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(np.asarray(seen[0].prompt_logp_NxQ)[:, lead:], plain, atol=2e-5)
    np.testing.assert_allclose(np.asarray(seen[1].prompt_logp_NxQ)[:, 3:][real], np.asarray(seen[0].prompt_logp_NxQ)[real],
                               atol=2e-5)
    assert real[:, lead:].all() and not real[:, :lead].any() and not np.asarray(padded.prompt_mask_NxQ)[:, :3].any()
    np.testing.assert_allclose(seen[1].logp_NxT, seen[0].logp_NxT, atol=2e-5)


def test_mixed_inputs_are_the_policy_s_guesses_and_carry_no_gradient(feed):
    run = feed("ift")
    batch = run.batch(run.member, run.state, None)[0]
    plain = dataclasses.replace(run.spec, objective=dataclasses.replace(run.spec.objective, mixture=0.0))
    seen = compiled.view(plain, run.params, batch)
    np.testing.assert_allclose(seen.mixed_logp_NxT, seen.logp_NxT, atol=2e-6)  # no guess, no change

    whole = dataclasses.replace(run.spec, objective=dataclasses.replace(run.spec.objective, mixture=0.5))
    logits = compiled.token_logits(run.model, run.params, batch.prompt_NxP, batch.completion_NxT)
    guess = jnp.where(batch.mask_NxT > 0, logits.argmax(-1), batch.completion_NxT)
    table = {**run.params, "embed": jnp.concatenate([run.params["embed"], 0 * run.params["embed"][:1]])}
    own, other = (run.params["embed"][x] for x in (batch.completion_NxT, guess))
    expected = []
    for n in range(2):  # a table whose rows are the mixed embeddings of one row, read by their numbers
        tokens = batch.completion_NxT[n].size
        mixed = table | {"embed": jnp.concatenate([run.params["embed"], 0.5 * (own[n] + other[n])])}
        config = dataclasses.replace(run.model, vocab=run.model.vocab + tokens)
        heads = mixed | {"head": jnp.pad(run.params["head"], ((0, 0), (0, tokens)), constant_values=-1e9)} \
            if "head" in run.params else mixed
        index = run.model.vocab + jnp.arange(tokens)
        out = compiled.token_logits(config, heads, batch.prompt_NxP[n:n + 1], index[None])[0, :, :run.model.vocab]
        expected.append(jnp.take_along_axis(jax.nn.log_softmax(out), batch.completion_NxT[n][:, None], -1)[:, 0])
    got = compiled.view(whole, run.params, batch).mixed_logp_NxT[:2]
    np.testing.assert_allclose(got, jnp.stack(expected), atol=2e-5)
    slope = jax.jit(jax.grad(lambda p: step.view(whole, p, batch).mixed_logp_NxT.sum()))(run.params)
    assert not np.any(slope["embed"]) and np.any(slope["head"])
