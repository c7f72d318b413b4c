"""The mixture of experts of one layer: a router, its top-k choices, SwiGLU experts, a bound on what an expert takes.

      z_n = x_n R                                   float32, whatever the activations are
      p_n = softmax(z_n)
      K_n = the k largest entries of z_n            ties go to the lower expert
      w_n = p_n on K_n                              divided by its sum over K_n with `renormalise`
      y_n = sum_{e in K_n} w_ne (silu(x_n G_e) * (x_n U_e)) D_e

With `expert_products="dense"` every expert reads every token and the weights of those not chosen are zero: X / k times the
products that are needed, exact under jit, vmap, scan and grad, and split over a mesh by whole experts with one sum at the end.
With "grouped" a token is read by its k experts alone (`models.grouped`). No token is dropped but where
`capacity` is set. Sources: arXiv:2101.03961, arXiv:2409.02060 (OLMoE), the modelling code of transformers for OLMoE and
Qwen3-MoE. Differs from them in: the router is float32 also where activations are bfloat16.

Shapes: N tokens, D width, F width of an expert, X experts, k experts a token.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxpost.models import grouped
from jaxpost.models.declare import TransformerConfig


def choose(config: TransformerConfig, logits_NxX: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(expert_Nxk in descending order of logits, weight_Nxk) of every token."""
    _, expert_Nxk = jax.lax.top_k(logits_NxX, config.experts_per_token)
    weight_Nxk = jnp.take_along_axis(jax.nn.softmax(logits_NxX, axis=-1), expert_Nxk, axis=-1)
    if config.renormalise:
        weight_Nxk = weight_Nxk / weight_Nxk.sum(axis=-1, keepdims=True)
    return expert_Nxk, weight_Nxk


def within_capacity(config: TransformerConfig, expert_Nxk: jax.Array, counts_N: jax.Array) -> jax.Array:
    """kept_Nxk: whether each choice is among the first C of its expert, C = ceil(capacity k tokens / X).

    Only tokens of `counts_N` are counted, queue (earlier ones first, a row after the other) and are kept. What is dropped
    contributes nothing, and the weights of what is kept stay as they are. In int32: 100 capacity k tokens < 2^31.
    """
    chosen_NxX = jax.nn.one_hot(expert_Nxk, config.experts, dtype=jnp.int32).sum(axis=1) * counts_N[:, None]
    place_Nxk = jnp.take_along_axis(jnp.cumsum(chosen_NxX, axis=0), expert_Nxk, axis=1)
    hundredths = round(100 * config.capacity) * config.experts_per_token * counts_N.sum(dtype=jnp.int32)
    return counts_N[:, None] & (place_Nxk <= -(-hundredths // (100 * config.experts)))


def mixture(config: TransformerConfig, x_NxD: jax.Array, weights: Mapping[str, jax.Array],
            counts_N: jax.Array | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(the experts' sum y_NxD, {"logits": [N, X]} and, with `counts_N`, {"kept": [N, k]}).

    Args:
      weights: "router" [D, X] in at least float32; "gate" and "up" [X, D, F] and "down" [X, F, D] in the dtype of x.
      counts_N: bool, tokens that take room in an expert; None bounds nothing.
    """
    router_DxX = weights["router"]
    logits_NxX = jnp.matmul(x_NxD.astype(router_DxX.dtype), router_DxX, precision=jax.lax.Precision.HIGHEST)
    expert_Nxk, weight_Nxk = choose(config, logits_NxX)
    taps = {"logits": logits_NxX}
    if counts_N is not None:
        taps["kept"] = within_capacity(config, expert_Nxk, counts_N)
        weight_Nxk = jnp.where(taps["kept"], weight_Nxk, 0.0)
    if config.expert_products == "grouped":
        return grouped.products(x_NxD, expert_Nxk, weight_Nxk.astype(x_NxD.dtype), weights), taps
    chosen_NxkxX = jax.nn.one_hot(expert_Nxk, config.experts, dtype=weight_Nxk.dtype)
    weight_NxX = (chosen_NxkxX * weight_Nxk[..., None]).sum(axis=1).astype(x_NxD.dtype)
    hidden_NxXxF = jax.nn.silu(jnp.einsum("nd,xdf->nxf", x_NxD, weights["gate"]))
    hidden_NxXxF = hidden_NxXxF * jnp.einsum("nd,xdf->nxf", x_NxD, weights["up"])
    return jnp.einsum("nxf,xfd->nd", hidden_NxXxF * weight_NxX[..., None], weights["down"]), taps
