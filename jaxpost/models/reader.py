"""How a forward pass reads its parameters: through one object, so that a measurement can stand where they are used.

Shapes: B rows, T positions, N = B * T, d inputs, p outputs, V vocabulary, D width. Positions of a row are adjacent.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


class Reader:
    """Every use of a parameter, as plain mathematics. A subclass, or any object with these methods, may add to them.

    `layers` is a pytree with a leading layer axis that is scanned beside the stacked parameters; `inside` is given one
    layer's part of it and returns the reader of that layer. `name` is the parameter's in the declaration table.
    """

    layers: Any = None

    def inside(self, layer: Any) -> "Reader":
        """The reader of one layer."""
        del layer
        return self

    def linear(self, x_Nxd: jax.Array, weights: Mapping[str, jax.Array]) -> list[jax.Array]:
        """x W of every matrix [d, p] that reads this input."""
        return [x_Nxd @ w_dxp for w_dxp in weights.values()]

    def experts(self, weights: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """The router [d, X] and the stacked matrices of X experts, which different positions read in different parts."""
        return weights

    def bias(self, name: str, y_Nxp: jax.Array, b_p: jax.Array) -> jax.Array:
        """y + b."""
        del name
        return y_Nxp + b_p[None, :]

    def gain(self, name: str, y: jax.Array, gain_p: jax.Array) -> jax.Array:
        """y * gain over the last axis."""
        del name
        return y * gain_p.reshape((1,) * (y.ndim - 1) + gain_p.shape)

    def embed(self, table_VxD: jax.Array, tokens_BxT: jax.Array) -> tuple[jax.Array, Any]:
        """(rows of the table, what a head that reads the same table is handed)."""
        return jnp.take(table_VxD, tokens_BxT, axis=0), None

    def head(self, x_NxD: jax.Array, head_DxV: jax.Array, shared: Any, tied: bool, dtype: jnp.dtype) -> jax.Array:
        """Logits, summed in `dtype`; `shared` is the second result of `embed`, meant where `tied`."""
        del shared, tied
        return jnp.matmul(x_NxD, head_DxV, preferred_element_type=dtype)


class MixedInputs(Reader):
    """Inputs are embeddings of two tokens, (1 - share) of the given ones and share of others, without gradient into them.

    Args:
      other_BxT: int32, as the tokens of the pass; where both are the same token the input is as it was.
      share: in [0, 1].
    """

    def __init__(self, other_BxT: jax.Array, share: float):
        self.other_BxT, self.share = other_BxT, share

    def embed(self, table_VxD: jax.Array, tokens_BxT: jax.Array) -> tuple[jax.Array, Any]:
        """As `Reader.embed`."""
        own, other = (jnp.take(jax.lax.stop_gradient(table_VxD), x, axis=0) for x in (tokens_BxT, self.other_BxT))
        return own + self.share * (other - own), None


PLAIN = Reader()
