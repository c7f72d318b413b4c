"""One score a row: the log-probabilities of its tokens, or their ratios to a reference's, summed or averaged and transformed.

Shapes: N rows, T completion tokens.
"""

import jax
import jax.numpy as jnp

FORMULAS = {  # reduction -> s from h = sum_t weight (l - f) and n counted tokens, T the transform
    "sum": "T(h)",
    "mean": "T(h / n)",
    "sum_over_length": "T(h) / n",
}
TRANSFORM_FORMULAS = {  # transform -> T(x)
    "none": "x",
    "forward_kl": "1 - exp(-x)",
    "js": "log 2 + log sigma(x)",
    "alpha": "(exp((alpha - 1) x) - 1) / (alpha - 1)",
    "log_odds": "x - log(1 - exp(x))",
}
REDUCTIONS, TRANSFORMS = tuple(FORMULAS), tuple(TRANSFORM_FORMULAS)

_EXPONENT_CAP = 80.0  # exp of it is still a float32
_LOG_ODDS_CEILING = -1e-7  # the largest log-probability whose odds are taken (Tunix): log odds 16


def token_weights(mask_NxT: jax.Array, discount: float = 1.0, tail_weight: float = 1.0) -> jax.Array:
    """weight_NxT of a row's k-th counted token, k >= 0: discount^k, times tail_weight beyond its partner's length; 0 off-mask.

    Args:
      mask_NxT: 1 on counted tokens; rows 2i and 2i+1 are partners if `tail_weight` is not 1.
      discount: gamma in (0, 1] (CPL, arXiv:2310.13639).
      tail_weight: alpha in [0, 1]; tokens that only the longer completion of a pair has count this much
        (LD-DPO, arXiv:2409.06411).
    """
    counted = mask_NxT > 0
    index_NxT = jnp.cumsum(counted, axis=1) - 1
    weight_NxT = mask_NxT if discount == 1 else mask_NxT * discount ** jnp.maximum(index_NxT, 0).astype(mask_NxT.dtype)
    if tail_weight == 1:
        return weight_NxT
    shared_N = jnp.repeat(counted.sum(axis=1).reshape(-1, 2).min(axis=1), 2)
    return jnp.where(index_NxT < shared_N[:, None], weight_NxT, weight_NxT * tail_weight)


def score(logp_NxT: jax.Array, reference_NxT: jax.Array | None, mask_NxT: jax.Array, weight_NxT: jax.Array, *,
          reduction: str = "sum", transform: str = "none", alpha: float | None = None) -> jax.Array:
    """score_N of each row from h = sum_t weight (l - f), or the same without the reference's f.

      reduction  sum: transform(h);  mean: transform(h / n);  sum_over_length: transform(h) / n,  n = counted tokens
      transform  none        x                          reverse KL, the usual constraint
                 forward_kl  1 - exp(-x)
                 js          log 2 + log sigma(x)
                 alpha       (exp((alpha - 1) x) - 1) / (alpha - 1)     AlphaPO (arXiv:2501.03884) writes 1 - alpha for alpha
                 log_odds    x - log(1 - exp(x)), x < 0               ORPO, arXiv:2403.07691

    The middle three are f'(exp(x)) of a divergence f (arXiv:2309.16240), constants included.

    Args:
      logp_NxT, reference_NxT: log-probabilities l and f, nats; no reference: None.
      mask_NxT: 1 on counted tokens; off-mask entries may be anything.
      weight_NxT: of `token_weights`.
      reduction, transform: one of REDUCTIONS and of TRANSFORMS.
      alpha: of transform "alpha", not 1.

    Returns:
      score_N, finite: exponents are held below 80 (TRL: the same for "alpha", no bound for "forward_kl"), the x of the log odds
      below -1e-7. A row without tokens has the score of x = 0.
    """
    x_NxT = jnp.where(mask_NxT > 0, logp_NxT, 0.0)
    if reference_NxT is not None:
        x_NxT = x_NxT - jnp.where(mask_NxT > 0, reference_NxT, 0.0)
    length_N = jnp.maximum((mask_NxT > 0).sum(axis=1), 1).astype(x_NxT.dtype)
    x_N = (x_NxT * weight_NxT).sum(axis=1)
    if reduction == "mean":
        x_N = x_N / length_N
    y_N = _transformed(x_N, transform, alpha)
    return y_N / length_N if reduction == "sum_over_length" else y_N


def _transformed(x, transform, alpha):
    if transform == "forward_kl":
        return -jnp.expm1(jnp.minimum(-x, _EXPONENT_CAP))
    if transform == "js":
        return jnp.log(2.0).astype(x.dtype) + jax.nn.log_sigmoid(x)
    if transform == "alpha":
        return jnp.expm1(jnp.minimum((alpha - 1) * x, _EXPONENT_CAP)) / (alpha - 1)
    if transform == "log_odds":
        below = jnp.minimum(x, _LOG_ODDS_CEILING)
        return below - jnp.log(-jnp.expm1(below))  # the two are added: only the absolute error of log(1 - e^x) matters
    return x
