"""From a per-token array to (sum, count): the one place where a loss is normalised.

Shapes: N rows, T tokens. A loss is `sum / count`, divided once on the host after every microbatch and device has been
added, so accumulation, padding and the number of devices cannot change it.
"""

import jax
import jax.numpy as jnp

MODES = ("token", "sequence", "sequence_sum", "constant")


def aggregate(x_NxT: jax.Array, mask_NxT: jax.Array, mode: str, length: int | None = None) -> tuple[jax.Array, jax.Array]:
    """Reduce a masked per-token array to a (sum, count) pair of float scalars.

      token         sum(x m) / sum(m)                        token mean
      sequence      sum_n(sum_t(x m) / n_n) / #{n: n_n > 0}  mean over non-empty rows of token means
      sequence_sum  sum(x m) / #{n: n_n > 0}                 mean over non-empty rows of sums
      constant      sum(x m) / (N length)                    Dr. GRPO, arXiv:2503.20783; empty rows count

    Args:
      x_NxT: per-token values; off-mask entries may be anything finite.
      mask_NxT: 1 on counted tokens, else 0; n_n is its row sum.
      mode: one of MODES.
      length: the constant of mode "constant", > 0.

    Raises:
      ValueError: unknown mode, or a missing / superfluous length.
    """
    if mode not in MODES:
        raise ValueError(f"aggregation {mode!r} is unknown; choose one of {', '.join(MODES)}")
    if (mode == "constant") != (length is not None):
        raise ValueError(f"aggregation_length={length!r} with aggregation={mode!r}: "
                         "'constant' needs a length, the others take none")
    mask = mask_NxT.astype(x_NxT.dtype)
    x = jnp.where(mask_NxT > 0, x_NxT, 0.0) * mask
    tokens_N = mask.sum(axis=1)
    rows = (tokens_N > 0).astype(x.dtype).sum()
    if mode == "token":
        return x.sum(), tokens_N.sum()
    if mode == "sequence":
        return (x.sum(axis=1) / jnp.maximum(tokens_N, 1.0)).sum(), rows
    if mode == "sequence_sum":
        return x.sum(), rows
    return x.sum(), jnp.asarray(x.shape[0] * length, x.dtype)
