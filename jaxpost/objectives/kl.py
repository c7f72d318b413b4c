"""Kullback-Leibler terms from log-probabilities. Shapes: N rows, T tokens, V vocabulary."""

import math

import jax
import jax.numpy as jnp

from jaxpost.objectives import clipping

FORMULAS = {  # estimator -> k, as docs/objectives.md writes it
    "k1": "d",
    "k2": "d^2 / 2",
    "k3": "exp(-d) - 1 + d",
    "full": "sum_v pi(v) (log pi(v) - log ref(v))",
}
GRADIENT_FORMULAS = {"value": "k", "straight_through_k2": "(sg(k - (l - f)^2 / 2) + (l - f)^2 / 2)", "ratio_weighted": "r k"}
PLACE_FORMULAS = {
    "none": "no KL",
    "loss": "the loss of a token + kl_coef k, gradient as kl_gradient says",
    "reward": "R - kl_coef sum_t k, or with credit_unit=\"token\" s_t - kl_coef k; no gradient",
}
ESTIMATORS, GRADIENTS, PLACES = tuple(FORMULAS), tuple(GRADIENT_FORMULAS), tuple(PLACE_FORMULAS)
NOWHERE = -1e30  # a finite log-probability that is none
FINITE = 80.0  # exp of it is finite in float32, with room for a sum


def estimate(logp_NxT: jax.Array, reference_NxT: jax.Array, estimator: str, clamp: float | None = None,
             log_ratio_clamp: float | None = None) -> jax.Array:
    """Per-token estimate of KL(pi || ref) from samples of pi, with d = l - f:

      k1 = d    k2 = d^2 / 2    k3 = exp(-d) - 1 + d        (Schulman, "Approximating KL divergence", 2020)

    As loss terms their expected on-policy gradients are 0, grad KL(pi||ref) and grad KL(ref||pi) respectively; as a
    (stopped) reward k1 gives the unbiased gradient of KL(pi||ref).

    Args:
      logp_NxT, reference_NxT: l and f.
      estimator: k1, k2 or k3.
      clamp: the estimate is held in [-clamp, clamp], without gradient beyond (verl's k3: 10).
      log_ratio_clamp: d is held in [-log_ratio_clamp, log_ratio_clamp] first (verl's k3: 20). Without it the -d of the
        exponential is held below 80, where float32 is still finite: from d = -80 down k3 is constant and has no gradient.
        TRL 1.16 does not hold it and overflows there (d = -88 in float32).

    Raises:
      ValueError: unknown estimator.
    """
    sampled = ESTIMATORS[:3]
    if estimator not in sampled:
        raise ValueError(f"KL estimator {estimator!r} is unknown; choose one of {', '.join(sampled)}")
    d = logp_NxT - reference_NxT
    if log_ratio_clamp is not None:
        d = clipping.within(d, -log_ratio_clamp, log_ratio_clamp)
    if estimator == "k3":
        d = jnp.maximum(d, -FINITE)
    k = d if estimator == "k1" else d * d / 2 if estimator == "k2" else jnp.expm1(-d) + d
    return k if clamp is None else clipping.within(k, -clamp, clamp)


def penalty(logp_NxT: jax.Array, reference_NxT: jax.Array, estimator: str, gradient: str,
            ratio_NxT: jax.Array | None = None, clamp: float | None = None,
            log_ratio_clamp: float | None = None) -> jax.Array:
    """`estimate` as a loss term with a choice of gradient.

      value                that of the estimator itself
      straight_through_k2  value of the estimator, gradient d * grad l of k2 (verl's "k3+"), whose expectation on policy is
                           grad KL(pi||ref)
      ratio_weighted       estimator times the differentiable, unclipped ratio: unbiased off policy, and its gradient too
                           (TRL's use_bias_correction_kl)

    Args:
      logp_NxT, reference_NxT: l and f.
      estimator: k1, k2 or k3.
      gradient: one of GRADIENTS.
      ratio_NxT: of "ratio_weighted".
      clamp, log_ratio_clamp: of the estimate; the gradient of "straight_through_k2" is not held.
    """
    value_NxT = estimate(logp_NxT, reference_NxT, estimator, clamp, log_ratio_clamp)
    if gradient == "value":
        return value_NxT
    if gradient == "ratio_weighted":
        return value_NxT * ratio_NxT
    k2_NxT = estimate(logp_NxT, reference_NxT, "k2")
    return jax.lax.stop_gradient(value_NxT - k2_NxT) + k2_NxT


def full_vocabulary(logits_NxTxV: jax.Array, other_NxTxV: jax.Array) -> jax.Array:
    """Exact KL(softmax(logits) || softmax(other)) per token, nats: kl_NxT = sum_v p_v (log p_v - log q_v)."""
    logp, logq = jax.nn.log_softmax(logits_NxTxV, axis=-1), jax.nn.log_softmax(other_NxTxV, axis=-1)
    there = logp > -jnp.inf  # an entry that the policy cannot take adds 0, and passes no gradient
    return jnp.sum(jnp.exp(logp) * jnp.where(there, jnp.where(there, logp, 0.0) - jnp.where(there, logq, 0.0), 0.0), axis=-1)


def entropy(logits_NxTxV: jax.Array) -> jax.Array:
    """Entropy of softmax(logits) per token, nats."""
    logp = jax.nn.log_softmax(logits_NxTxV, axis=-1)
    return -jnp.sum(jnp.exp(logp) * jnp.where(logp > -jnp.inf, logp, 0.0), axis=-1)


def collision(logits_NxTxV: jax.Array) -> jax.Array:
    """sum_v p_v^2 of p = softmax(logits) per token: the probability that two draws are the same token."""
    return jnp.exp(jax.nn.logsumexp(2 * logits_NxTxV, axis=-1) - 2 * jax.nn.logsumexp(logits_NxTxV, axis=-1))


def mean_logp(logits_NxTxV: jax.Array) -> jax.Array:
    """Mean over the vocabulary of log softmax(logits) per token, nats."""
    return logits_NxTxV.mean(axis=-1) - jax.nn.logsumexp(logits_NxTxV, axis=-1)


def jensen_shannon(logits_NxTxV: jax.Array, other_NxTxV: jax.Array, weight: float) -> jax.Array:
    """Generalised Jensen-Shannon divergence per token, nats: w KL(q || m) + (1 - w) KL(p || m), m = w q + (1 - w) p.

    Args:
      logits_NxTxV, other_NxTxV: of p and of q.
      weight: w, in (0, 1).

    Source: arXiv:2306.13649; divided by w it tends to KL(q || p) for w -> 0, divided by 1 - w to KL(p || q) for w -> 1.
    """
    logp, logq = jax.nn.log_softmax(logits_NxTxV, axis=-1), jax.nn.log_softmax(other_NxTxV, axis=-1)
    p_NxTxV, q_NxTxV = jnp.exp(logp), jnp.exp(logq)
    logp, logq = (jnp.where(x > -jnp.inf, x, NOWHERE) for x in (logp, logq))  # such an entry adds 0, and passes no gradient
    logm = jnp.logaddexp(logq + math.log(weight), logp + math.log1p(-weight))
    return jnp.sum(weight * q_NxTxV * (logq - logm) + (1 - weight) * p_NxTxV * (logp - logm), axis=-1)
