"""The exact SVD from plane rotations alone, for compilers that take minutes over their own.

One-sided Jacobi (Hestenes 1958): columns are rotated in pairs until all are orthogonal; then A V = U diag(s). Its loop is a few
operations on two halves of the columns, so that a TPU compiler has it in seconds at any size, where `jnp.linalg.svd` of
896 x 896 took it 112 s. Small singular values are as accurate as large ones (Demmel and Veselic 1992). Pairs follow the circle
method: in n - 1 rounds every column meets every other once.

Legend: M rows, N <= M columns, H = ceil(N / 2) pairs a round.
"""

import jax
import jax.numpy as jnp

from jaxpost import sharding

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
    tolerance = M**0.5 * jnp.finfo(a_MxN.dtype).eps
    a_MxN = _by_rows(a_MxN)

    def halves(x):
        return tuple(map(_by_rows, jnp.split(jnp.pad(x, ((0, 0), (0, N % 2))), 2, axis=1)))

    def one_round(_, carry):
        image, v, worst = carry
        tangent_H, cosine_H = _angles(*image)
        image, v = (_moved_on(*_turned(*pair, tangent_H)) for pair in (image, v))
        return image, v, jnp.maximum(worst, jnp.max(cosine_H))

    def sweep(carry):
        count, image, v, _ = carry
        return count + 1, *jax.lax.fori_loop(0, N + N % 2 - 1, one_round, (image, v, jnp.zeros((), a_MxN.dtype)))

    start = jnp.int32(0), halves(a_MxN), halves(jnp.eye(N, dtype=a_MxN.dtype)), jnp.asarray(jnp.inf, a_MxN.dtype)
    _, image, v, _ = jax.lax.while_loop(lambda carry: (carry[0] < SWEEPS) & (carry[3] > tolerance), sweep, start)
    return _refined(a_MxN, jnp.concatenate(image, axis=1), jnp.concatenate(v, axis=1))


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


def _by_rows(x: jax.Array) -> jax.Array:
    """Split over the chips by rows: a round then sends their sums, where matrices split by columns would change places."""
    return sharding.constrain(x, ("matrix_rows",))


def _angles(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of pairs of columns the tangent of the rotation that makes them orthogonal, and |cos| of the angle between them."""
    xx, yy, xy = jnp.sum(x * x, axis=0), jnp.sum(y * y, axis=0), jnp.sum(x * y, axis=0)
    size = jnp.sqrt(xx) * jnp.sqrt(yy)
    cosine = jnp.where(size > 0, jnp.abs(xy) / jnp.where(size > 0, size, 1.0), size)  # size: 0, or NaN
    zeta = (yy - xx) / (2 * jnp.where(xy == 0, 1.0, xy))
    tangent = jnp.where(zeta < 0, -1.0, 1.0) / (jnp.abs(zeta) + jnp.sqrt(1 + zeta * zeta))
    return jnp.where(xy == 0, 0.0, tangent), cosine


def _turned(left: jax.Array, right: jax.Array, tangent_H: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pairs of columns, rotated."""
    tangent = tangent_H[None, :]
    c = 1 / jnp.sqrt(1 + tangent * tangent)
    return c * (left - tangent * right), c * (right + tangent * left)


def _moved_on(left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The circle: the first column stays, the others move on by one place, down the left half and up the right one."""
    return (jnp.concatenate([left[:, :1], right[:, :1], left[:, 1:-1]], axis=1)[:, :left.shape[1]],
            jnp.concatenate([right[:, 1:], left[:, -1:]], axis=1))
