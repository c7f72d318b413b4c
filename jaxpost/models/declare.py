"""The transformer's configuration and its one table of parameters (shape, logical axes, initialiser, module kind).

Shapes: V vocabulary, D width, H query heads, K key/value heads, E head dimension, F feed-forward width, L layers.
Everything that needs to know a parameter by name (initialisation, sharding rules, probes, name maps) reads this table.
"""

import dataclasses
import math

MATRIX_KINDS = ("q", "k", "v", "o", "gate", "up", "down", "embed", "head")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A dense decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU. Covers Llama, Qwen2/2.5 (qkv_bias), Qwen3 (qk_norm)."""

    vocab: int  # V, number of tokens
    width: int = 128  # D
    layers: int = 2  # L, scanned
    heads: int = 4  # H
    kv_heads: int = 2  # K, divides H
    head_dim: int = 32  # E
    ff: int = 256  # F
    rope_theta: float = 10_000.0  # base of the rotary frequencies
    norm_eps: float = 1e-6  # inside the root of RMSNorm
    qkv_bias: bool = False  # Qwen2 style
    qk_norm: bool = False  # Qwen3 style, over the head dimension
    tied: bool = False  # output head = embedding transposed
    value_head: bool = False  # a critic beside the output head: one number a state
    compute_dtype: str = "float32"  # of activations and matrix products; parameters keep their own storage dtype

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}; "
                             f"nearest valid: {math.gcd(self.heads, self.kv_heads)}")
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim={self.head_dim} is odd; rotary embedding needs an even number, "
                             f"nearest valid: {self.head_dim + 1}")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One declared parameter. `std` None means ones (norm gains); 0.0 means zeros (biases)."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]  # logical axis names, resolved by jaxpost.sharding
    kind: str  # module kind: q k v o gate up down embed head value norm bias
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
        "gate": Parameter((D, F), ("embed", "mlp"), "gate", D**-0.5),
        "up": Parameter((D, F), ("embed", "mlp"), "up", D**-0.5),
        "down": Parameter((F, D), ("mlp", "embed"), "down", (2 * c.layers * F) ** -0.5),
    }
    if c.qkv_bias:
        table |= {f"{n}_bias": Parameter((w,), (a,), "bias", 0.0)
                  for n, w, a in (("q", HE, "heads"), ("k", KE, "kv_heads"), ("v", KE, "kv_heads"))}
    if c.qk_norm:
        table |= {f"{n}_norm": Parameter((c.head_dim,), (None,), "norm", None) for n in ("q", "k")}
    return table


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
