"""Small models for the gradient tests: a linear regression with known gradients, and the project's decoder by rows.

Legend: m examples, T positions, L layers, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import models


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


def config(tied=True, layers=2, **more):
    """A decoder that is cheap to differentiate."""
    return models.TransformerConfig(vocab=11, width=8, layers=layers, heads=2, kv_heads=1, head_dim=4, ff=12, tied=tied, **more)


def row_loss(c):
    """(params, examples, reader) -> sums of token losses, [B]; with a value head, its squares as well."""

    def loss(params, examples, reader=models.PLAIN):
        out = models.apply(c, params, examples["tokens"], valid_BxS=examples["valid"], reader=reader)
        logp = jnp.take_along_axis(jax.nn.log_softmax(out.logits), examples["target"][..., None], axis=-1)[..., 0]
        counted = examples["mask"] > 0
        found = -jnp.where(counted, logp, 0.0).sum(1)
        return found + (jnp.where(counted, out.taps["value"], 0.0) ** 2).sum(1) if c.value_head else found

    return loss


def token_loss(c):
    """(params, example) -> the loss of one row."""
    return lambda params, example: row_loss(c)(params, jax.tree.map(lambda x: x[None], example))[0]


def decoder_case(c, m=8, T=6, seed=0, dtype=jnp.float32):
    """(params, token examples with repeated tokens, uneven masks and left padding)."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 5, size=(m, T + 1))  # few tokens: they repeat inside an example
    mask = (np.arange(T)[None] < rng.integers(1, T + 1, size=m)[:, None]).astype(np.float64)
    valid = np.arange(T)[None] >= rng.integers(0, 3, size=m)[:, None]
    start = models.init(c, jax.random.key(seed))
    params = jax.tree.map(lambda x: jnp.asarray(x + 0.1 * rng.normal(size=x.shape), dtype), start)
    examples = {"tokens": jnp.asarray(tokens[:, :-1], jnp.int32), "target": jnp.asarray(tokens[:, 1:], jnp.int32),
                "mask": jnp.asarray(mask, dtype), "valid": jnp.asarray(valid)}
    return params, examples
