"""A small model that needs no other room: what the catalogue is priced and documented on where no config is given.

Legend: V vocabulary, D width, F feed-forward width, L layers, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpost.probes import base, ever_changed, fisher

V, D, F, L, T, ROWS = 512, 256, 512, 4, 32, 64
TARGETS = ("label",)
SAID = f"a toy of {L} layers of width {D}, {ROWS} rows of {T} tokens"
_LAYER = {"q": (D, D), "k": (D, D), "v": (D, D), "o": (D, D), "gate": (D, F), "up": (D, F), "down": (F, D)}


def _f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def given() -> dict[base.Need, object]:
    """Need -> ShapeDtypeStructs of the toy."""
    params = {"embed": _f32(V, D), "head": _f32(D, V), "layers": {name: _f32(L, *shape) for name, shape in _LAYER.items()}}
    matrices = {"embed": _f32(V, D), "head": _f32(D, V)} | {
        f"layers/{i}/{name}": _f32(*shape) for i in range(L) for name, shape in _LAYER.items()}
    tokens = jax.ShapeDtypeStruct((ROWS, T), jnp.int32)
    return {base.PARAMS0: params, base.PARAMS: params, base.WEIGHTS0: matrices, base.WEIGHTS: matrices,
            ever_changed.EVER: jax.eval_shape(ever_changed.start, params)[ever_changed.ITEM],
            base.PROBE_BATCH: {"tokens": tokens, "label": tokens}}


def logits(params: dict, tokens_T: jax.Array) -> jax.Array:
    """Logits of a residual stack: linear attention over earlier tokens, then a gated layer; logits_TxV."""
    def layer(x_TxD, w):
        q, k, v = (x_TxD @ w[name] for name in ("q", "k", "v"))
        x_TxD = x_TxD + jnp.tril(q @ k.T) @ v @ w["o"] / D
        return x_TxD + (jax.nn.silu(x_TxD @ w["gate"]) * (x_TxD @ w["up"])) @ w["down"], None

    return jax.lax.scan(layer, params["embed"][tokens_T], params["layers"])[0] @ params["head"]


def loss(params: dict, example: dict) -> jax.Array:
    """Cross-entropy of one example, summed over its tokens."""
    logp_TxV = jax.nn.log_softmax(logits(params, example["tokens"]))
    return -jnp.take_along_axis(logp_TxV, example["label"][:, None], axis=1).sum()


def predict(params: dict, example: dict) -> fisher.Predictions:
    """What the model says at every position of an example."""
    return fisher.Predictions(logits(params, example["tokens"]), example["label"], jnp.ones(example["label"].shape))


def solved(params: dict, example: dict) -> jax.Array:
    """1 if the likeliest token is right everywhere."""
    return (logits(params, example["tokens"]).argmax(-1) == example["label"]).all().astype(jnp.float32)


@dataclass(frozen=True)
class Suite:
    """Fixed problems: agreement of the greedy tokens with the base's."""

    def measure(self, params: dict, base_params: dict, key: jax.Array) -> dict[str, jax.Array]:
        """Share of random prompts' tokens on which both are of one mind."""
        tokens = jax.random.randint(key, (ROWS, T), 0, V)
        ours, theirs = (jax.vmap(lambda t, p=p: logits(p, t).argmax(-1))(tokens) for p in (params, base_params))
        return {"success/id": (ours == theirs).mean()}
