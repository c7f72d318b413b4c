"""The decoder in Flax NNX: `nnx.split` once at the boundary, then pure functions of a parameter pytree.

Shapes: B rows, T query tokens, S key positions, P prompt, V vocabulary, D width, H/K query/key-value heads, E head
dimension, L layers, X experts, k experts a token. Rows may be left-padded: rotary embedding depends on position
differences only, so a row's absolute offset does not matter, and padded keys are masked by `valid_BxS`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpost import sharding
from jaxpost.models import declare, moe
from jaxpost.models.declare import TransformerConfig
from jaxpost.models.reader import PLAIN, Reader

_MASKED = -1e30  # finite, so that a fully padded query row gives a uniform, finite softmax


class Cache(NamedTuple):
    """Keys [B, K, E, S] and values [B, K, S, E] of each layer, and how many positions are filled.

    In a loop's carry each array is then updated in place. One array of all layers that is scanned with them is sliced, copied
    and written back whole at every token: a step of 64 rows of 3.7M parameters at 80 positions took 16 instead of 9 ms. Keys
    have positions last, as the product with queries reads them on CPU: with values' order a step took 4.2 instead of 3.7 ms.
    """

    kv_L: tuple[tuple[jax.Array, jax.Array], ...]
    length: jax.Array


class Output(NamedTuple):
    """What the core sees of a forward pass. `taps` has "value" with a value head, and "hidden" where logits were not wanted.

    `router` is empty for a dense model. Of a mixture of experts it has, named by what it is, "logits" f32[L, B, T, X]
    before the softmax, of every position, padding too; and where an expert's capacity is bounded "kept" bool[L, B, T, k].
    """

    logits: jax.Array | None
    cache: Cache | None
    router: dict
    taps: dict


def _declared(table: dict[str, declare.Parameter], key: jax.Array) -> dict[str, nnx.Param]:
    made = {}
    for i, (name, p) in enumerate(sorted(table.items())):
        value = jnp.ones(p.shape) if p.std is None else p.std * jax.random.normal(jax.random.fold_in(key, i), p.shape)
        made[name] = nnx.Param(value)
    return made


def _wide(dtype) -> jnp.dtype:
    """At least float32: where sums and exponentials are taken."""
    return jnp.promote_types(dtype, jnp.float32)


def rms_norm(x: jax.Array, gain: jax.Array, eps: float, reader: Reader = PLAIN, name: str = "") -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * gain over the last axis, in at least float32, back in x's dtype (arXiv:1910.07467)."""
    wide = x.astype(_wide(x.dtype))
    y = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return reader.gain(name, y, gain.astype(wide.dtype)).astype(x.dtype)


def rope(x_BxTxHxE: jax.Array, position_T: jax.Array, theta: float) -> jax.Array:
    """Rotary embedding on half-split pairs (arXiv:2104.09864; the layout of Llama and Qwen), angles in at least float32."""
    half, wide = x_BxTxHxE.shape[-1] // 2, _wide(x_BxTxHxE.dtype)
    frequency = theta ** (-jnp.arange(half, dtype=wide) / half)
    angle_1xTx1xh = position_T.astype(wide)[None, :, None, None] * frequency[None, None, None, :]
    cos, sin = jnp.cos(angle_1xTx1xh), jnp.sin(angle_1xTx1xh)
    a, b = jnp.split(x_BxTxHxE.astype(wide), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxTxHxE.dtype)


class Block(nnx.Module):
    """Pre-norm attention and SwiGLU, or a mixture of experts, with residual connections."""

    def __init__(self, config: TransformerConfig, key: jax.Array):
        self.config = config
        for name, param in _declared(declare.layer_parameters(config), key).items():
            setattr(self, name, param)

    def _weight(self, name: str) -> jax.Array:
        return getattr(self, name)[...].astype(self.config.compute_dtype)

    def _linear(self, reader: Reader, x_NxD: jax.Array, *names: str) -> list[jax.Array]:
        return reader.linear(x_NxD, {name: self._weight(name) for name in names})

    def _norm(self, reader: Reader, name: str, x: jax.Array) -> jax.Array:
        return rms_norm(x, getattr(self, name)[...], self.config.norm_eps, reader, name)

    def _heads(self, reader: Reader, x_BxTxD: jax.Array) -> list[jax.Array]:
        """Queries, keys and values, [B, T, heads, E] each."""
        B, T, D = x_BxTxD.shape
        heads = self._linear(reader, x_BxTxD.reshape(B * T, D), "q", "k", "v")
        if self.config.qkv_bias:
            heads = [reader.bias(n, y, self._weight(n)) for n, y in zip(("q_bias", "k_bias", "v_bias"), heads, strict=True)]
        if self.config.qk_norm_joint:
            heads = [self._norm(reader, "q_norm", heads[0]), self._norm(reader, "k_norm", heads[1]), heads[2]]
        heads = [y.reshape(B, T, -1, self.config.head_dim) for y in heads]
        if self.config.qk_norm and not self.config.qk_norm_joint:
            heads = [self._norm(reader, "q_norm", heads[0]), self._norm(reader, "k_norm", heads[1]), heads[2]]
        return heads

    def attention(self, x_BxTxD, valid_BxS, kv, start, reader: Reader = PLAIN):
        """Grouped-query attention: (output, keys and values, scores [B, K, G, T, S] before the softmax).

        `kv` holds earlier keys and values, written to at `start`, or is None.
        """
        c = self.config
        (B, T, D), K, E = x_BxTxD.shape, c.kv_heads, c.head_dim
        q, k, v = self._heads(reader, self._norm(reader, "attention_norm", x_BxTxD))
        position_T = start + jnp.arange(T)
        q, k = rope(q, position_T, c.rope_theta), rope(k, position_T, c.rope_theta)
        q = q.reshape(B, T, K, -1, E)
        if kv is None:
            k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)  # heads before positions, as the two products below read them
            score = jnp.einsum("btkge,bkse->bkgts", q, k, preferred_element_type=_wide(q.dtype))
        else:
            kv = k, v = tuple(jax.lax.dynamic_update_slice_in_dim(old, new.transpose(order).astype(old.dtype), start, axis)
                              for old, new, order, axis in zip(kv, (k, v), ((0, 2, 3, 1), (0, 2, 1, 3)), (3, 2), strict=True))
            score = jnp.einsum("bkgte,bkes->bkgts", q.transpose(0, 2, 3, 1, 4), k, preferred_element_type=_wide(q.dtype))
        score, S = score * E**-0.5, v.shape[2]
        causal_TxS = position_T[:, None] >= jnp.arange(S)[None, :]
        keep = causal_TxS[None, :, :] & _seen(valid_BxS)
        score = jnp.where(keep[:, None, None], score, _MASKED)
        weight = jax.nn.softmax(score, axis=-1).astype(v.dtype)
        if kv is None:
            y = jnp.einsum("bkgts,bkse->btkge", weight, v)
        else:  # in the order above the product has its operands exchanged on CPU, and a decoding step takes 1.3 times as long
            y = jnp.einsum("bkgts,bkse->bkgte", weight, v).transpose(0, 3, 1, 2, 4)
        (y,) = self._linear(reader, y.reshape(B * T, -1), "o")
        return y.reshape(B, T, D), kv, score

    def _swiglu(self, reader: Reader, h_NxD: jax.Array, prefix: str = "") -> jax.Array:
        gate, up = self._linear(reader, h_NxD, f"{prefix}gate", f"{prefix}up")
        return self._linear(reader, jax.nn.silu(gate) * up, f"{prefix}down")[0]

    def _feed_forward(self, reader: Reader, h_NxD: jax.Array, counts_N: jax.Array | None) -> tuple[jax.Array, dict]:
        """(output, what the router did); `counts_N` are the tokens that take room in an expert, None where it has room."""
        c = self.config
        if not c.experts:
            return self._swiglu(reader, h_NxD), {}
        weights = {"router": self.router[...].astype(_wide(h_NxD.dtype))} | {n: self._weight(n) for n in ("gate", "up", "down")}
        y, router = moe.mixture(c, h_NxD, reader.experts(weights), counts_N)
        return y + self._swiglu(reader, h_NxD, "shared_") if c.shared_ff else y, router

    def __call__(self, x_BxTxD, valid_BxS, kv=None, start=0, reader: Reader = PLAIN, counts_BxT=None, scores: bool = False):
        """(states, keys and values, taps): what the router did, and with `scores` those of "attention" [B, H, T, S]."""
        B, T, D = x_BxTxD.shape
        y, kv, score = self.attention(x_BxTxD, valid_BxS, kv, start, reader)
        x = x_BxTxD + y
        h = self._norm(reader, "mlp_norm", x).reshape(B * T, D)
        y, router = self._feed_forward(reader, h, None if counts_BxT is None else counts_BxT.reshape(B * T) > 0)
        taps = {kind: values.reshape(B, T, -1) for kind, values in router.items()}
        return x + y.reshape(B, T, D), kv, taps | ({"attention": score.reshape(B, -1, *score.shape[3:])} if scores else {})


@functools.cache
def _block_graph(config: TransformerConfig):
    return nnx.split(nnx.eval_shape(lambda: Block(config, jax.random.key(0))))[0]


@functools.partial(jax.jit, static_argnums=0)
def init(config: TransformerConfig, key: jax.Array) -> dict:
    """A fresh float32 parameter pytree, blocks stacked on a leading layer axis."""
    def one(layer_key):
        return nnx.to_pure_dict(nnx.split(Block(config, layer_key))[1])

    outer = {n: p[...] for n, p in _declared(declare.outer_parameters(config), jax.random.fold_in(key, 0)).items()}
    return {**outer, "layers": jax.vmap(one)(jax.random.split(jax.random.fold_in(key, 1), config.layers))}


def empty_cache(config: TransformerConfig, rows: int, positions: int) -> Cache:
    """A zero cache for `rows` rows of `positions` positions."""
    values = jnp.zeros((rows, config.kv_heads, positions, config.head_dim), config.compute_dtype)
    return Cache(((values.swapaxes(2, 3), values),) * config.layers, jnp.zeros((), jnp.int32))


def grow(cache: Cache, positions: int) -> Cache:
    """The cache with room for `positions` positions, which are at least as many as it has."""
    def longer(k_BxKxExS, v_BxKxSxE):
        more, none = (0, positions - v_BxKxSxE.shape[2]), (0, 0)
        return jnp.pad(k_BxKxExS, (none, none, none, more)), jnp.pad(v_BxKxSxE, (none, none, more, none))

    return cache._replace(kv_L=tuple(longer(*kv) for kv in cache.kv_L))


def by_layer(params: dict, config: TransformerConfig) -> dict:
    """The parameters with a tuple of the layers in place of their stack, for many calls of `apply` with a cache.

    A loop that is given the stack slices every weight anew at every token: on CPU a step of 64 rows of 3.7M parameters took 4.8
    instead of 4.1 ms. The TPU compiler takes the slices out of the loop itself, in 40 instead of 32 s at 0.5B parameters.
    """
    return params | {"layers": tuple(jax.tree.map(lambda w, i=i: w[i], params["layers"]) for i in range(config.layers))}


def _seen(valid_BxS: jax.Array) -> jax.Array:
    """bool[B, 1 or T, S]: which keys a query may see but for the order, see `apply`."""
    if valid_BxS.dtype == bool:
        return valid_BxS[:, None, :]
    return (valid_BxS[:, :, None] == valid_BxS[:, None, :]) & (valid_BxS > 0)[:, None, :]


def apply(config: TransformerConfig, params: dict, tokens_BxT: jax.Array, *, valid_BxS: jax.Array,
          cache: Cache | None = None, first: int = 0, reader: Reader = PLAIN,
          counts_BxT: jax.Array | None = None, logits: bool = True) -> Output:
    """Forward pass.

    Args:
      config: static architecture.
      params: the pytree of `init`, in any floating storage dtype; with a cache also that of `by_layer`.
      tokens_BxT: int32 tokens; with a cache they are positions `cache.length .. cache.length + T - 1`.
      valid_BxS: bool, which key positions are real (False for padding); S = T without a cache, else the cache's size. Or,
        without a cache, int32 segments of rows that hold several texts: a position sees its own segment; 0 is padding.
      cache: keys and values to extend, or None.
      first: logits are returned for query positions `first ..` only (static; saves the head on prompt tokens).
      reader: how parameters are used; another than the plain one sees inputs and output cotangents of every use, which is
        what per-example gradient norms are made of (`probes.gradients.ghost`).
      counts_BxT: bool, the tokens that take room in an expert of bounded capacity; None is `valid_BxS`. Read by nothing else,
        and not with a cache: decoding is dropless, as the tokens of one step know nothing of the others' queue.
      logits: False leaves them out and taps "hidden" [B, T - first, D], the states that the head reads (`vocabulary`).

    Returns:
      Output with at least float32 `logits_Bx(T-first)xV` and the extended cache (None without one). A model with a value
      head taps "value", at least float32 [B, T - first]: of the state whose next token the logits at that place are for.
      Parameters without the head (a base, a reference policy) are fine: then there is no such tap.
    """
    graph = _block_graph(config)
    start = 0 if cache is None else cache.length
    x, shared = reader.embed(params["embed"], tokens_BxT)
    # Rows of a table that fsdp splits by width: they change places from there, or the compiler copies all of them everywhere.
    x = sharding.constrain(x.astype(config.compute_dtype), ("batch_by_data", None, "embed"))
    counts_BxT = None if cache is not None or not config.capacity else valid_BxS if counts_BxT is None else counts_BxT

    def block(x, layer, kv=None):
        weights, seen = layer
        return nnx.merge(graph, weights)(x, valid_BxS, kv, start, reader.inside(seen), counts_BxT)

    if cache is None:  # many tokens: move weights to the rows; cached decoding has few, so there rows move to weights
        def body(x, layer):
            x, _, router = block(sharding.constrain(x, ("batch",)), layer)
            return sharding.constrain(x, ("batch",)), router  # or rows are split by width, and the widest are copied everywhere

        x, router = jax.lax.scan(_again(config.remat, body), x, (params["layers"], reader.layers))
        new = None
    else:  # not scanned, so that the keys and values of a layer stay arrays of their own
        layers = params["layers"] if isinstance(params["layers"], tuple) else by_layer(params, config)["layers"]
        kv_L, router_L = [], []
        for i, (layer, kv) in enumerate(zip(layers, cache.kv_L, strict=True)):
            x, kv, router = block(x, (layer, jax.tree.map(lambda w, i=i: w[i], reader.layers)), kv)
            kv_L.append(kv)
            router_L.append(router)
        router = jax.tree.map(lambda *r: jnp.stack(r), *router_L)
        new = Cache(tuple(kv_L), cache.length + tokens_BxT.shape[1])
    x = rms_norm(x[:, first:], params["final_norm"], config.norm_eps, reader, "final_norm")
    B, T, D = x.shape
    taps = {} if logits else {"hidden": x}
    if config.value_head and "value" in params:
        wide = _wide(x.dtype)
        (value,) = reader.linear(x.reshape(B * T, D).astype(wide), {"value": params["value"].astype(wide)})
        taps["value"] = value.reshape(B, T)
    if not logits:
        return Output(None, new, router, taps)
    return Output(head_logits(config, params, x, reader, shared), new, router, taps)


def head_logits(config: TransformerConfig, params: dict, hidden_BxTxD: jax.Array, reader: Reader = PLAIN, shared=None
                ) -> jax.Array:
    """At least float32 logits_BxTxV of states after the last norm; `shared` is the second result of the reader's `embed`."""
    B, T, D = hidden_BxTxD.shape
    head = params["embed"].T if config.tied else params["head"]
    logits = reader.head(hidden_BxTxD.reshape(B * T, D), head.astype(config.compute_dtype), shared, config.tied,
                         _wide(hidden_BxTxD.dtype))
    return logits.reshape(B, T, -1)


def _again(remat: str, body):
    """The body of the layer scan, of which the backward pass computes again what `remat` says.

      none   nothing: every activation of every layer is kept
      layer  all of it: the layers' inputs are kept
      dots   all but the products with weights: their outputs are kept
    """
    if remat == "none":
        return body
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(body, policy=policy, prevent_cse=False)


def matrices(params: dict, config: TransformerConfig) -> dict[str, jax.Array]:
    """Every 2-D weight once, by name; a tied head is the embedding.

    Names: `embed`, `head`, `layers/<i>/<parameter>`, and `layers/<i>/experts/<e>/<parameter>` of a routed expert.
    """
    kinds = declare.MATRIX_KINDS
    flat = {n: params[n] for n, p in declare.outer_parameters(config).items() if p.kind in kinds}
    for name, p in declare.layer_parameters(config).items():
        stack = params["layers"].get(name)
        if p.axes[0] == "expert":
            flat |= {f"layers/{i}/experts/{e}/{name}": stack[i, e] for i in range(config.layers) for e in range(config.experts)}
        elif p.kind in kinds:
            flat |= {f"layers/{i}/{name}": stack[i] for i in range(config.layers)}
    return flat
