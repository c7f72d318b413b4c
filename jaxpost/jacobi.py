"""The exact SVD from plane rotations alone, for compilers that take minutes over their own.

One-sided Jacobi (Hestenes 1958): columns are rotated in pairs until all are orthogonal; then A V = U diag(s). Its loop is a few
operations on two halves of the columns, so that a TPU compiler has it in seconds at any size, where `jnp.linalg.svd` of
896 x 896 took it 112 s. Small singular values are as accurate as large ones (Demmel and Veselic 1992). Pairs follow the circle
method: in n - 1 rounds every column meets every other once.

Legend: M rows, N <= M columns, H = ceil(N / 2) pairs a round.
"""

import jax
import jax.numpy as jnp

SWEEPS = 30  # at most; float32 needs 6 to 12


def svd(a_MxN: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(u [M, Q], s [Q] descending, v [N, Q]), Q = min(M, N), float32; NaN in, NaN out.

    Columns of the longer side's vectors whose singular value is zero are zero. The largest entry is to be near 1, so that
    squares neither vanish nor overflow.
    """
    if a_MxN.shape[0] < a_MxN.shape[1]:
        u, s, v = svd(a_MxN.T)
        return v, s, u
    M, N = a_MxN.shape
    both = jnp.pad(jnp.concatenate([a_MxN, jnp.eye(N, dtype=a_MxN.dtype)]), ((0, 0), (0, N % 2)))  # A V above V
    tolerance = M**0.5 * jnp.finfo(a_MxN.dtype).eps

    def one_round(_, carry):
        left, right, worst = carry
        left, right, cosine = _rotated(left, right, M)
        # The circle: the first column stays, the others move on by one place, down the left half and up the right one.
        left, right = (jnp.concatenate([left[:, :1], right[:, :1], left[:, 1:-1]], axis=1)[:, :left.shape[1]],
                       jnp.concatenate([right[:, 1:], left[:, -1:]], axis=1))
        return left, right, jnp.maximum(worst, jnp.max(cosine))

    def sweep(carry):
        count, left, right, _ = carry
        return count + 1, *jax.lax.fori_loop(0, left.shape[1] * 2 - 1, one_round, (left, right, jnp.zeros((), left.dtype)))

    half = both.shape[1] // 2
    start = jnp.int32(0), both[:, :half], both[:, half:], jnp.asarray(jnp.inf, both.dtype)
    _, left, right, _ = jax.lax.while_loop(lambda carry: (carry[0] < SWEEPS) & (carry[3] > tolerance), sweep, start)
    return _refined(a_MxN, *jnp.split(jnp.concatenate([left, right], axis=1), [M]))


@jax.default_matmul_precision("highest")
def _refined(a_MxN: jax.Array, image_MxN: jax.Array, v_NxN: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The triplets of A V and V, after thousands of rotations.

    Their roundings add up in the lengths of columns: V is off by 120 eps after those of 300 columns, and the directions by 2.
    One Newton-Schulz step makes V orthonormal, and s = u'A v has the square of the vectors' error.
    """
    norm = jnp.linalg.norm(image_MxN, axis=0)
    order = jnp.argsort(-norm, stable=True)[:a_MxN.shape[1]]
    norm, u, v = norm[order], image_MxN[:, order], v_NxN[:, order]
    u = u / jnp.where(norm == 0, 1.0, norm)[None, :]
    v = v - v @ (v.T @ v - jnp.eye(len(v), dtype=v.dtype)) / 2
    s = jnp.abs(jnp.sum(u * (a_MxN @ v), axis=0))
    order = jnp.argsort(-s, stable=True)
    return u[:, order], s[order], v[:, order]


def _rotated(left: jax.Array, right: jax.Array, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pairs of columns with the product of their first `rows` rows rotated to zero, and |cos| of the angles before."""
    x, y = left[:rows], right[:rows]
    xx, yy, xy = jnp.sum(x * x, axis=0), jnp.sum(y * y, axis=0), jnp.sum(x * y, axis=0)
    size = jnp.sqrt(xx) * jnp.sqrt(yy)
    cosine = jnp.where(size > 0, jnp.abs(xy) / jnp.where(size > 0, size, 1.0), size)  # size: 0, or NaN
    zeta = (yy - xx) / (2 * jnp.where(xy == 0, 1.0, xy))
    tangent = jnp.where(zeta < 0, -1.0, 1.0) / (jnp.abs(zeta) + jnp.sqrt(1 + zeta * zeta))
    tangent = jnp.where(xy == 0, 0.0, tangent)[None, :]
    c = 1 / jnp.sqrt(1 + tangent * tangent)
    return c * (left - tangent * right), c * (right + tangent * left), cosine
