"""Router taps: what they hold is declared, checked and refused where full probabilities cannot come of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxpost.probes.routing import taps as router_taps
from jaxpost.probes.routing.taps import RouterTap, probabilities

LOGITS = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)


def test_logits_and_full_probabilities_give_the_same():
    wanted = scipy.special.softmax(LOGITS.astype(np.float64), axis=-1)
    np.testing.assert_allclose(probabilities(RouterTap("logits", jnp.asarray(LOGITS))), wanted, rtol=1e-5)
    np.testing.assert_allclose(probabilities(RouterTap("probs_full", jnp.asarray(wanted))), wanted, rtol=1e-6)
    inside = jax.jit(lambda x: probabilities(RouterTap("logits", x)))(LOGITS)
    np.testing.assert_allclose(inside, wanted, rtol=1e-5)


def test_a_second_softmax_is_refused_and_the_trap_is_explained():
    softmaxed = jax.nn.softmax(jnp.asarray(LOGITS))
    with pytest.raises(ValueError, match="a softmax was taken already.*declare the kind 'probs_full'"):
        probabilities(RouterTap("logits", softmaxed))
    with pytest.raises(ValueError, match="softmax was taken already"):  # stored in bf16
        probabilities(RouterTap("logits", softmaxed.astype(jnp.bfloat16).astype(jnp.float32)))


def test_one_ordinary_row_is_enough_for_logits_and_uncounted_rows_say_nothing():
    softmaxed = np.array(jax.nn.softmax(jnp.asarray(LOGITS)))
    softmaxed[1, 0, 2] = LOGITS[1, 0, 2]
    probabilities(RouterTap("logits", jnp.asarray(softmaxed)))
    counted = np.ones((3, 2, 4), bool)
    counted[1, 0, 2] = False
    with pytest.raises(ValueError, match="softmax was taken already"):
        probabilities(RouterTap("logits", jnp.asarray(softmaxed)), jnp.asarray(counted))


@pytest.mark.parametrize("scale, shift", [(0.5, 0.0), (1.0, 0.25), (-1.0, 0.0)])
def test_full_probabilities_that_are_none_are_refused(scale, shift):
    broken = np.array(jax.nn.softmax(jnp.asarray(LOGITS)))
    broken[0, 1, 2] = scale * broken[0, 1, 2] + shift
    with pytest.raises(ValueError, match=f"1 of 24 counted rows.*sums to {broken[0, 1, 2].sum():.4g}.*declare 'logits'"):
        probabilities(RouterTap("probs_full", jnp.asarray(broken)))
    counted = np.ones((3, 2, 4), bool)
    counted[0, 1, 2] = False
    probabilities(RouterTap("probs_full", jnp.asarray(broken)), jnp.asarray(counted))


@pytest.mark.parametrize("kind", ["topk_idx", "topk_weight_renorm"])
def test_top_k_alone_is_refused(kind):
    with pytest.raises(ValueError, match=f"{kind}.*lacks the experts outside the top k.*expected 'logits' or 'probs_full'"):
        probabilities(RouterTap(kind, jnp.ones((1, 2))))


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ValueError, match="'logit'; expected one of .*nearest is 'logits'"):
        probabilities(RouterTap("logit", jnp.ones((1, 2))))


def test_a_single_expert_is_never_suspect():
    ones = jnp.ones((2, 1, 3, 1))
    assert not router_taps.looks_normalised(ones).any()
    np.testing.assert_array_equal(probabilities(RouterTap("logits", ones)), ones)
    np.testing.assert_array_equal(probabilities(RouterTap("probs_full", ones)), ones)


def test_suspects_are_counted_without_padding():
    softmaxed = jax.nn.softmax(jnp.asarray(LOGITS))
    counted = jnp.asarray(np.arange(4) < np.array([[4], [2], [0]]))
    np.testing.assert_array_equal(router_taps.suspects(softmaxed, counted), [[4, 4], [2, 2], [0, 0]])
    assert router_taps.suspects(jnp.asarray(LOGITS), counted).sum() == 0
