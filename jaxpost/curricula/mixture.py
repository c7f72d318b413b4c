"""Gaussian mixtures with masked components, by expectation-maximisation. Shapes: N points, D dimensions, K components."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

RIDGE = 1e-6  # added to the diagonal of a covariance, as scikit-learn does


class Mixture(NamedTuple):
    """Weights (0 for a component that is not there), means and covariances."""

    weight_K: jax.Array
    mean_KxD: jax.Array
    covariance_KxDxD: jax.Array


def log_density(mixture: Mixture, x_NxD: jax.Array) -> jax.Array:
    """log( weight_k N(x_n; mean_k, covariance_k) ), [N, K]; -inf for a component that is not there."""
    chol_KxDxD = jnp.linalg.cholesky(mixture.covariance_KxDxD)
    from_mean_KxNxD = x_NxD[None] - mixture.mean_KxD[:, None]
    solved_KxDxN = jax.scipy.linalg.solve_triangular(chol_KxDxD, jnp.swapaxes(from_mean_KxNxD, 1, 2), lower=True)
    log_root_K = jnp.log(jnp.diagonal(chol_KxDxD, axis1=1, axis2=2)).sum(axis=1)
    constant = 0.5 * x_NxD.shape[1] * jnp.log(2 * jnp.pi)
    return (jnp.log(mixture.weight_K)[:, None] - 0.5 * (solved_KxDxN**2).sum(axis=1) - log_root_K[:, None] - constant).T


def log_likelihood(mixture: Mixture, x_NxD: jax.Array) -> jax.Array:
    """Summed over the points."""
    return jax.nn.logsumexp(log_density(mixture, x_NxD), axis=1).sum()


def fit(key: jax.Array, x_NxD: jax.Array, active_K: jax.Array, iterations: int) -> Mixture:
    """Expectation-maximisation of the active components, from points drawn at random and the covariance of all."""
    points, dim = x_NxD.shape
    ridge_1xDxD = RIDGE * jnp.eye(dim)[None]
    start_K = jax.random.choice(key, points, active_K.shape, replace=False)
    centred_NxD = x_NxD - x_NxD.mean(axis=0, keepdims=True)
    whole_1xDxD = (centred_NxD.T @ centred_NxD / points)[None] + ridge_1xDxD
    first = Mixture(active_K / active_K.sum(), x_NxD[start_K], jnp.broadcast_to(whole_1xDxD, (active_K.shape[0], dim, dim)))

    def step(_, mixture):
        share_NxK = jax.nn.softmax(log_density(mixture, x_NxD), axis=1)
        mass_K = share_NxK.sum(axis=0) + 10 * jnp.finfo(jnp.float32).eps
        mean_KxD = share_NxK.T @ x_NxD / mass_K[:, None]
        from_mean_KxNxD = x_NxD[None] - mean_KxD[:, None]
        weighted_KxNxD = share_NxK.T[:, :, None] * from_mean_KxNxD
        covariance = jnp.swapaxes(weighted_KxNxD, 1, 2) @ from_mean_KxNxD / mass_K[:, None, None] + ridge_1xDxD
        return Mixture(jnp.where(active_K > 0, mass_K / points, 0.0), mean_KxD, covariance)

    return jax.lax.fori_loop(0, iterations, step, first)


def best(key: jax.Array, x_NxD: jax.Array, fewest: int, most: int, iterations: int) -> Mixture:
    """The mixture of `fewest` to `most` components with the lowest AIC = 2 parameters - 2 log likelihood."""
    dim, count_C = x_NxD.shape[1], jnp.arange(fewest, most + 1)
    active_CxK = (jnp.arange(most)[None] < count_C[:, None]).astype(jnp.float32)
    key_C = jax.random.split(key, len(count_C))
    fitted = jax.vmap(lambda key, active_K: fit(key, x_NxD, active_K, iterations))(key_C, active_CxK)
    parameters_C = count_C * (1 + dim + dim * (dim + 1) // 2) - 1
    likelihood_C = jax.vmap(log_likelihood, in_axes=(0, None))(fitted, x_NxD)
    aic_C = 2 * parameters_C - 2 * likelihood_C
    return jax.tree.map(lambda x: x[jnp.nanargmin(aic_C)], fitted)


def draw(key: jax.Array, mixture: Mixture, logit_K: jax.Array) -> jax.Array:
    """[D], a draw from the component that softmax(logit) chooses."""
    which_key, normal_key = jax.random.split(key)
    k = jax.random.categorical(which_key, logit_K)
    normal_D = jax.random.normal(normal_key, mixture.mean_KxD.shape[1:])
    return mixture.mean_KxD[k] + jnp.linalg.cholesky(mixture.covariance_KxDxD[k]) @ normal_D
