"""The transformer's configuration and its one table of parameters (shape, logical axes, initialiser, module kind).

Shapes: V vocabulary, D width, H query heads, K key/value heads, E head dimension, F feed-forward width, L layers; of a mixture
of experts X experts, F the width of one of them, S that of the shared one.
Everything that needs to know a parameter by name (initialisation, sharding rules, probes, name maps) reads this table.
"""

import dataclasses
import math

from jaxpost.lookup import nearest

MATRIX_KINDS = ("q", "k", "v", "o", "gate", "up", "down", "router", "embed", "head")
REMAT = ("none", "layer", "dots")  # what of a layer the backward pass computes again
EXPERT_PRODUCTS = ("dense", "grouped")  # which experts read a token: all of them, or its own
# Fields that only a mixture of experts reads.
MIXTURE = ("experts_per_token", "shared_ff", "renormalise", "capacity", "expert_products")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU, dense or a mixture of experts in every layer.

    Covers Llama, Qwen2/2.5 (qkv_bias), Qwen3 (qk_norm), OLMoE (experts, qk_norm, qk_norm_joint), Qwen3-MoE (experts, qk_norm,
    renormalise where its config.json says norm_topk_prob).
    """

    vocab: int  # V, number of tokens
    width: int = 128  # D
    layers: int = 2  # L, scanned
    heads: int = 4  # H
    kv_heads: int = 2  # K, divides H
    head_dim: int = 32  # E
    ff: int = 256  # F, of each routed expert where there are experts
    rope_theta: float = 10_000.0  # base of the rotary frequencies
    norm_eps: float = 1e-6  # inside the root of RMSNorm
    qkv_bias: bool = False  # Qwen2 style
    qk_norm: bool = False  # Qwen3 style, over the head dimension
    qk_norm_joint: bool = False  # with qk_norm: over all heads of a position together (OLMoE)
    tied: bool = False  # output head = embedding transposed
    value_head: bool = False  # a critic beside the output head: one number a state
    compute_dtype: str = "float32"  # of activations and matrix products; parameters keep their own storage dtype
    remat: str = "none"  # computed again for the gradient: nothing, the whole layer, or all but its products ("dots")
    logprob_chunk: int = 0  # a larger vocabulary is read about so many entries at a time by what trains; 0: whole
    experts: int = 0  # X, routed experts of a layer; 0 is dense
    experts_per_token: int = 2  # k
    shared_ff: int = 0  # S, width of an expert that every token takes, unweighted; 0 is none
    renormalise: bool = False  # divide the weights of a token's k experts by their sum (Qwen3-MoE; OLMoE does not)
    capacity: float = 0.0  # an expert takes ceil(capacity k tokens / X) tokens of a pass, whole hundredths; 0 is dropless
    expert_products: str = "dense"  # every expert reads every token, or "grouped": a token costs its k experts

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}; "
                             f"nearest valid: {math.gcd(self.heads, self.kv_heads)}")
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim={self.head_dim} is odd; rotary embedding needs an even number, "
                             f"nearest valid: {self.head_dim + 1}")
        if self.qk_norm_joint and not self.qk_norm:
            raise ValueError("model.qk_norm_joint=True without model.qk_norm; set qk_norm=True as well")
        if self.remat not in REMAT:
            raise ValueError(f"model.remat={self.remat!r} is not known{nearest(self.remat, REMAT)}")
        if self.logprob_chunk < 0:
            raise ValueError(f"model.logprob_chunk={self.logprob_chunk} is negative; 0 holds the logits of a token whole")
        self._check_mixture()

    @property
    def in_parts(self) -> bool:
        """Whether log-probabilities are taken a part of the vocabulary at a time."""
        return 0 < self.logprob_chunk < self.vocab

    def _check_mixture(self) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if self.experts == 0:
            for name in MIXTURE:
                if (value := getattr(self, name)) != defaults[name]:
                    raise ValueError(f"model.{name}={value} is of a mixture of experts, and model.experts=0 is dense; "
                                     f"leave it at {defaults[name]}, or set experts")
        elif not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(f"model.experts_per_token={self.experts_per_token} is not between 1 and model.experts="
                             f"{self.experts}; nearest valid: {min(max(self.experts_per_token, 1), max(self.experts, 1))}")
        if self.expert_products not in EXPERT_PRODUCTS:
            raise ValueError(f"model.expert_products={self.expert_products!r} is not known"
                             f"{nearest(self.expert_products, EXPERT_PRODUCTS)}")
        if self.shared_ff < 0 or self.capacity < 0 or round(self.capacity, 2) != self.capacity:
            raise ValueError(f"model.shared_ff={self.shared_ff} and model.capacity={self.capacity} must be at least 0, the "
                             f"capacity in whole hundredths; nearest valid: {max(self.shared_ff, 0)} and "
                             f"{max(round(self.capacity, 2), 0.0)}")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One declared parameter. `std` None means ones (norm gains); 0.0 means zeros (biases)."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]  # logical axis names, resolved by jaxpost.sharding
    kind: str  # module kind: q k v o gate up down router embed head value norm bias
    std: float | None


def layer_parameters(c: TransformerConfig) -> dict[str, Parameter]:
    """Parameters of one block; the model stacks them on a leading `layers` axis."""
    D, F, HE, KE = c.width, c.ff, c.heads * c.head_dim, c.kv_heads * c.head_dim
    table = {
        "attention_norm": Parameter((D,), (None,), "norm", None),
        "q": Parameter((D, HE), ("embed", "heads"), "q", D**-0.5),
        "k": Parameter((D, KE), ("embed", "kv_heads"), "k", D**-0.5),
        "v": Parameter((D, KE), ("embed", "kv_heads"), "v", D**-0.5),
        "o": Parameter((HE, D), ("heads", "embed"), "o", (2 * c.layers * HE) ** -0.5),
        "mlp_norm": Parameter((D,), (None,), "norm", None),
        **(_experts(c) if c.experts else _feed_forward(c, F)),
    }
    if c.qkv_bias:
        table |= {f"{n}_bias": Parameter((w,), (a,), "bias", 0.0)
                  for n, w, a in (("q", HE, "heads"), ("k", KE, "kv_heads"), ("v", KE, "kv_heads"))}
    if c.qk_norm:
        sizes = (HE, KE) if c.qk_norm_joint else (c.head_dim, c.head_dim)
        table |= {f"{n}_norm": Parameter((size,), (None,), "norm", None) for n, size in zip("qk", sizes)}
    return table


def _feed_forward(c: TransformerConfig, F: int, prefix: str = "") -> dict[str, Parameter]:
    return {f"{prefix}gate": Parameter((c.width, F), ("embed", "mlp"), "gate", c.width**-0.5),
            f"{prefix}up": Parameter((c.width, F), ("embed", "mlp"), "up", c.width**-0.5),
            f"{prefix}down": Parameter((F, c.width), ("mlp", "embed"), "down", (2 * c.layers * F) ** -0.5)}


def _experts(c: TransformerConfig) -> dict[str, Parameter]:
    """Router, routed experts on a leading axis of their own, shared expert."""
    routed = {name: dataclasses.replace(p, shape=(c.experts, *p.shape), axes=("expert", *p.axes))
              for name, p in _feed_forward(c, c.ff).items()}
    shared = _feed_forward(c, c.shared_ff, "shared_") if c.shared_ff else {}
    return {"router": Parameter((c.width, c.experts), ("embed", None), "router", c.width**-0.5), **routed, **shared}


def outer_parameters(c: TransformerConfig) -> dict[str, Parameter]:
    """Parameters outside the stack of blocks."""
    table = {
        "embed": Parameter((c.vocab, c.width), ("vocab", "embed"), "embed", 1.0),
        "final_norm": Parameter((c.width,), (None,), "norm", None),
    }
    if not c.tied:
        table["head"] = Parameter((c.width, c.vocab), ("embed", "vocab"), "head", c.width**-0.5)
    if c.value_head:
        table["value"] = Parameter((c.width, 1), ("embed", None), "value", 0.0)
    return table


def parameter_table(c: TransformerConfig) -> dict:
    """The tree of declarations, shaped like the parameter pytree; stacked entries carry the leading `layers` axis."""
    stacked = {n: dataclasses.replace(p, shape=(c.layers, *p.shape), axes=("layers", *p.axes))
               for n, p in layer_parameters(c).items()}
    return {**outer_parameters(c), "layers": stacked}


def count_parameters(c: TransformerConfig) -> int:
    """Number of scalars in the model."""
    outer = sum(math.prod(p.shape) for p in outer_parameters(c).values())
    return outer + c.layers * sum(math.prod(p.shape) for p in layer_parameters(c).values())
