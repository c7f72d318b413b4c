"""What keeps routers apart from collapse, of the whole batch of an update: load balance and z-loss, and what they see.

      balance = mean over layers of X sum_e f_e P_e       f_e = choices of expert e / tokens, P_e = mean over tokens of p_e
      z       = mean over layers and tokens of (log sum_e exp z_e)^2

f sums to k, so the balance of a uniform router is k, and nothing flows through f. Only real tokens count. Sources:
arXiv:2101.03961 (balance), arXiv:2202.08906 (z), `load_balancing_loss_func` of transformers for the convention of f. Differs
from transformers in: a product a layer, then the mean; there the layers' tokens are pooled before the product.

Shapes: L layers, B rows, S positions, X experts, k experts a token.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def measure(k: int, router: Mapping[str, jax.Array], counts_BxS: jax.Array) -> tuple[dict, dict]:
    """(losses, metrics) of one forward pass.

    Args:
      router: "logits" f32[L, B, S, X] and, of a model with bounded capacity, "kept" bool[L, B, S, k].
      counts_BxS: bool, the real tokens.

    Returns:
      {"router_balance", "router_z"} as scalars; (sum, count) pairs of both, of `router_load_max`, the largest expert's load
      over the uniform one (mean over layers), and of `router_dropped`, the share of choices that found no room. Over
      microbatches the balance and the largest load are means of theirs.
    """
    logits = router["logits"]
    L, X = logits.shape[0], logits.shape[-1]
    counts = counts_BxS[None, ..., None].astype(logits.dtype)
    tokens = jnp.maximum(counts.sum(), 1.0)
    routed = jax.nn.one_hot(jax.lax.top_k(logits, k)[1], X, dtype=logits.dtype).sum(axis=-2)
    load_LxX = (routed * counts).sum(axis=(1, 2)) / tokens
    share_LxX = (jax.nn.softmax(logits, axis=-1) * counts).sum(axis=(1, 2)) / tokens
    square = (jax.nn.logsumexp(logits, axis=-1, keepdims=True) ** 2 * counts).sum()
    balance, one = X * (load_LxX * share_LxX).sum(axis=-1).mean(), jnp.ones((), logits.dtype)
    metrics = {"router_balance": (balance, one), "router_z": (square, L * counts.sum()),
               "router_load_max": (load_LxX.max(axis=-1).mean() * X / k, one)}
    if "kept" in router:
        kept = (router["kept"] & counts_BxS[None, ..., None]).sum().astype(logits.dtype)
        metrics["router_dropped"] = (L * k * counts.sum() - kept, L * k * counts.sum())
    return {"router_balance": balance, "router_z": square / (L * tokens)}, metrics
