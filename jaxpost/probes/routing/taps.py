"""What a router says, with its kind declared: raw logits and full probabilities are told apart before anything is measured.

The name `router_logits` is not stable between libraries: several Mixture-of-Experts routers return softmaxed values under it
(transformers issue 45111), and a second softmax of them is nearly uniform whatever the routing. So a tap says what it holds,
`probabilities` checks it, and values that cannot give full probabilities are refused.

Legend: N samples, L layers with a router, T positions, E routed experts, k experts a token.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

import jax
import jax.numpy as jnp

KINDS = ("logits", "probs_full", "topk_idx", "topk_weight_renorm")
_SUM_ERROR = 2.0**-8  # twice what rounding every entry to bf16 can make of a sum of 1


class RouterTap(NamedTuple):
    """Values of routers, [..., E] or for top-k kinds [..., k], and what they are."""

    kind: str  # one of KINDS
    values: jax.Array


def looks_normalised(values: jax.Array) -> jax.Array:
    """Whether a row is a distribution: no entry below 0, sum 1 within bf16 rounding; never of a single expert. bool[...]"""
    if values.shape[-1] == 1:
        return jnp.zeros(values.shape[:-1], bool)
    return (values >= 0).all(-1) & (jnp.abs(values.sum(-1) - 1.0) <= _SUM_ERROR)


def probabilities(tap: RouterTap, counted: jax.Array | None = None) -> jax.Array:
    """Full routing probabilities in float32: softmax of logits, probabilities as they are.

    Args:
      tap: what was found. counted: bool, broadcastable to [...]: tokens that count; others are not checked.

    Inside jit values are not known and not checked: there `suspects` counts what would be refused.

    Raises:
      ValueError: an unknown kind, one without full probabilities, logits all of whose rows are distributions (a softmax was
        taken already), or probabilities that are negative or do not sum to 1.
    """
    if tap.kind not in KINDS:
        near = (difflib.get_close_matches(str(tap.kind), KINDS, n=1) or ["logits"])[0]
        raise ValueError(f"router tap of kind {tap.kind!r}; expected one of {', '.join(KINDS)}: nearest is {near!r}")
    if tap.kind not in ("logits", "probs_full"):
        raise ValueError(f"router tap of kind {tap.kind!r} lacks the experts outside the top k, and full probabilities cannot "
                         "be made of it; expected 'logits' or 'probs_full': take the router's output before its top k")
    values = jnp.asarray(tap.values, jnp.float32)
    if not isinstance(values, jax.core.Tracer):
        _check(tap.kind, values, jnp.ones(values.shape[:-1], bool) if counted is None else counted)
    return jax.nn.softmax(values, axis=-1) if tap.kind == "logits" else values


def suspects(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Counted tokens whose row is a distribution, int32[N, L]: all of them, in logits, means a softmax was taken already.

    Args: values [N, L, T, E]; counted bool[N, T].
    """
    return (looks_normalised(values) & counted[:, None]).sum(-1, dtype=jnp.int32)


def refuse_softmaxed(layers: str) -> ValueError:
    """What to raise where every row of a layer's logits is a distribution."""
    return ValueError(f"router tap of kind 'logits': every counted row of {layers} is non-negative and sums to 1, so a softmax "
                      "was taken already, and a second one would make the routing look uniform; declare the kind "
                      "'probs_full', or hand over the values before the softmax")


def _check(kind: str, values: jax.Array, counted: jax.Array) -> None:
    normalised = looks_normalised(values)
    counted = jnp.broadcast_to(counted, normalised.shape)
    if kind == "logits":
        if counted.any() and (normalised | ~counted).all():
            raise refuse_softmaxed("the tap")
    elif values.shape[-1] > 1 and (bad := counted & ~normalised).any():
        row = jnp.where(bad[..., None], values, 0.0).reshape(-1, values.shape[-1])[int(bad.reshape(-1).argmax())]
        raise ValueError(f"router tap of kind 'probs_full': {int(bad.sum())} of {int(counted.sum())} counted rows are no "
                         f"distributions; the first sums to {float(row.sum()):.4g}, smallest entry {float(row.min()):.4g}; "
                         "expected entries >= 0 that sum to 1: declare 'logits' if no softmax was taken")
