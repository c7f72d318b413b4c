"""From a per-token array to (sum, count): the one place where a loss is normalised.

Shapes: N rows, T tokens. A loss is `sum / count`, divided once after every microbatch and device has been added, so
accumulation, padding and the number of devices cannot change it.
"""

import jax
import jax.numpy as jnp

EMPTY = ("default", "counted", "left_out")
FORMULAS = {  # mode -> what stands before the loss x_t of a token, as docs/objectives.md writes it
    "token": "mean_tokens",
    "sequence": "mean_rows mean_t",
    "sequence_sum": "mean_rows sum_t",
    "constant": "1/(N aggregation_length) sum_rows sum_t",
    "constant_total": "1/aggregation_length sum_rows sum_t",
}
MODES = tuple(FORMULAS)


def aggregate(x_NxT: jax.Array, mask_NxT: jax.Array, mode: str, length: int | None = None,
              rows: jax.Array | int | None = None, empty: str = "default",
              absent_N: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Reduce a masked per-token array to a (sum, count) pair of float scalars.

      token           sum(x m) / sum(m)                        token mean
      sequence        sum_n(sum_t(x m) / n_n) / #{n: n_n > 0}  mean over non-empty rows of token means
      sequence_sum    sum(x m) / #{n: n_n > 0}                 mean over non-empty rows of sums
      constant        sum(x m) / (N length)                    Dr. GRPO, arXiv:2503.20783; empty rows count
      constant_total  sum(x m) / length                        verl's "seq-mean-token-sum-norm" before 0.9: not
                                                               divided by the rows, in spite of its name

    Args:
      x_NxT: per-token values; off-mask entries may be anything, even NaN.
      mask_NxT: 1 on counted tokens, else 0; n_n is its row sum.
      mode: one of MODES.
      length: the constant of the modes "constant" and "constant_total", > 0.
      rows: of mode "constant_total": how many rows the whole sum will have (default: the rows here); each contributes
        length / rows to the count, so that the parts of a split batch add up to `length`.
      empty: whether rows without a token count in the sequence modes and in "constant": "counted" (TRL), "left_out" (verl),
        or "default": as said above.
      absent_N: 1 on rows that are not of this loss, as demonstrations are not of a policy gradient: they never count.

    Raises:
      ValueError: unknown mode or rule for empty rows, or a missing / superfluous length.
    """
    if mode not in MODES:
        raise ValueError(f"aggregation {mode!r} is unknown; choose one of {', '.join(MODES)}")
    if empty not in EMPTY:
        raise ValueError(f"aggregation_empty {empty!r} is unknown; choose one of {', '.join(EMPTY)}")
    if mode.startswith("constant") != (length is not None):
        raise ValueError(f"aggregation_length={length!r} with aggregation={mode!r}: "
                         "the constant modes need a length, the others take none")
    mask = mask_NxT.astype(x_NxT.dtype)
    x = jnp.where(mask_NxT > 0, x_NxT, 0.0) * mask
    tokens_N = mask.sum(axis=1)
    here = x.shape[0]
    counted = empty == "counted" or (empty == "default" and mode == "constant")
    full = jnp.asarray(here, x.dtype) if counted else (tokens_N > 0).astype(x.dtype).sum()
    if counted and absent_N is not None:
        full = here - absent_N.astype(x.dtype).sum()
    if mode == "token":
        return x.sum(), tokens_N.sum()
    if mode == "sequence":
        return (x.sum(axis=1) / jnp.maximum(tokens_N, 1.0)).sum(), full
    if mode == "sequence_sum":
        return x.sum(), full
    if mode == "constant":
        return x.sum(), full * length
    return x.sum(), jnp.asarray(length * here / (here if rows is None else rows), x.dtype)
