"""Small models for the gradient tests: a linear regression with known gradients, and a decoder that taps its matrices.

Legend: m examples, T positions, L layers, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import models
from jaxpost.models import transformer
from jaxpost.probes.gradient_ghost import Site


def cast(tree, dtype):
    """Floating leaves in `dtype`."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def regression(params, example):
    """(x . w + c - y)^2 / 2, w in a stack of two layers: x [2, 3]."""
    return 0.5 * ((params["layers"]["w"] * example["x"]).sum() + params["c"].sum() - example["y"]) ** 2


def regression_case(m=12, seed=0, dtype=np.float64):
    """(params, examples, per-example gradients [m, 3 tensors as a list] by hand)."""
    rng = np.random.default_rng(seed)
    w, c = rng.normal(size=(2, 3)), rng.normal(size=(2,))
    x, y = rng.normal(size=(m, 2, 3)), rng.normal(size=m)
    residual = (w * x).sum((1, 2)) + c.sum() - y
    grads = [residual[:, None] * np.ones((m, 2)), residual[:, None] * x[:, 0], residual[:, None] * x[:, 1]]
    params = {"c": jnp.asarray(c, dtype), "layers": {"w": jnp.asarray(w, dtype)}}
    return params, {"x": jnp.asarray(x, dtype), "y": jnp.asarray(y, dtype)}, grads


def config(tied=True, layers=2):
    """A decoder that is cheap to differentiate."""
    return models.TransformerConfig(vocab=11, width=8, layers=layers, heads=2, kv_heads=1, head_dim=4, ff=12, tied=tied)


def sites(c):
    """The matrices of the decoder."""
    found = {name: Site(f"layers/{name}", "linear") for name in ("q", "k", "v", "o", "gate", "up", "down")}
    found["embed"] = Site("embed", "embedding")
    return found | {"head": Site("embed", "unembedding") if c.tied else Site("head", "linear")}


def tapped(c):
    """(params, perturbations, example) -> (sum of token losses, inputs): the forward pass of models.apply, tapped."""

    def block(x, layer):
        w, p = layer
        seen, T = {}, x.shape[0]

        def linear(name, h):
            seen[name] = h
            return h @ w[name] + p[name]

        h = transformer.rms_norm(x, w["attention_norm"], c.norm_eps)
        q = linear("q", h).reshape(1, T, c.heads, c.head_dim)
        k, v = (linear(n, h).reshape(1, T, c.kv_heads, c.head_dim) for n in "kv")
        q, k = (transformer.rope(z, jnp.arange(T), c.rope_theta) for z in (q, k))
        k, v = (jnp.repeat(z[0], c.heads // c.kv_heads, axis=1) for z in (k, v))
        score = jnp.einsum("the,she->hts", q[0], k) * c.head_dim**-0.5
        keep = jnp.arange(T)[:, None] >= jnp.arange(T)[None, :]
        weight = jax.nn.softmax(jnp.where(keep[None], score, -1e30), axis=-1)
        x = x + linear("o", jnp.einsum("hts,she->the", weight, v).reshape(T, -1))
        h = transformer.rms_norm(x, w["mlp_norm"], c.norm_eps)
        return x + linear("down", jax.nn.silu(linear("gate", h)) * linear("up", h)), seen

    def loss(params, perturbations, example):
        tokens, target, mask = example["tokens"], example["target"], example["mask"]
        x = params["embed"][tokens] + perturbations["embed"]
        inside = {n: perturbations[n] for n in params["layers"] if n in perturbations}
        x, seen = jax.lax.scan(block, x, (params["layers"], inside))
        x = transformer.rms_norm(x, params["final_norm"], c.norm_eps)
        logits = x @ (params["embed"].T if c.tied else params["head"]) + perturbations["head"]
        logp = jax.nn.log_softmax(logits)[jnp.arange(len(target)), target]
        return -(jnp.where(mask > 0, logp, 0.0)).sum(), seen | {"embed": tokens, "head": x}

    return loss


def token_loss(c):
    """(params, example) -> the same loss through models.apply."""

    def loss(params, example):
        out = models.apply(c, params, example["tokens"][None], valid_BxS=jnp.ones((1, len(example["tokens"])), bool))
        logp = jax.nn.log_softmax(out.logits[0])[jnp.arange(len(example["target"])), example["target"]]
        return -(jnp.where(example["mask"] > 0, logp, 0.0)).sum()

    return loss


def decoder_case(c, m=8, T=6, seed=0, dtype=jnp.float32):
    """(params, token examples with repeated tokens and uneven masks)."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 5, size=(m, T + 1))  # few tokens: they repeat inside an example
    mask = (np.arange(T)[None] < rng.integers(1, T + 1, size=m)[:, None]).astype(np.float64)
    params = cast(models.init(c, jax.random.key(seed)), dtype)
    examples = {"tokens": jnp.asarray(tokens[:, :-1], jnp.int32), "target": jnp.asarray(tokens[:, 1:], jnp.int32),
                "mask": jnp.asarray(mask, dtype)}
    return params, examples
