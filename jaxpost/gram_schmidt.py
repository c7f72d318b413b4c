"""Orthonormal columns of a tall block by Gram and Schmidt, for compilers that take minutes over a QR of their own.

Column by column, three times off the columns before it (twice is enough, Giraud et al. 2005, and once more for columns that are
numerically dependent). Its loop is a few operations, which a TPU's compiler has in 6 s for a block of 4,864 x 876, where
`jnp.linalg.qr` takes it 121 s; 26 s instead of 178 for 151,936 x 876.

Legend: N rows, B <= N columns.
"""

import jax
import jax.numpy as jnp


@jax.default_matmul_precision("highest")
def qr(y_NxB: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(q [N, B], r [B, B]) with y = q r and orthonormal q, float32; NaN in, NaN out.

    A column that is zero, or a copy of what stands before it to the last bit, may give a zero column of q. r is q'y: below its
    diagonal stand roundings.
    """
    size_1xB = jnp.max(jnp.abs(y_NxB), axis=0, keepdims=True)
    unit_NxB = y_NxB / jnp.where(size_1xB == 0, 1.0, size_1xB)  # so that no square vanishes or overflows

    def column(i, q_NxB):
        x_Nx1 = jax.lax.dynamic_slice_in_dim(unit_NxB, i, 1, axis=1)
        for _ in range(3):
            x_Nx1 = x_Nx1 - q_NxB @ (q_NxB.T @ x_Nx1)
        length = jnp.linalg.norm(x_Nx1)
        return jax.lax.dynamic_update_slice_in_dim(q_NxB, x_Nx1 / jnp.where(length == 0, 1.0, length), i, axis=1)

    q_NxB = jax.lax.fori_loop(0, y_NxB.shape[1], column, jnp.zeros_like(y_NxB))
    return q_NxB, q_NxB.T @ y_NxB
