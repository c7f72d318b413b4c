"""Gate II of "The Path Not Taken": curvature along principal, low-magnitude and random directions, and along the update.

F is the Fisher of the base on the probe batch (the GGN of its cross-entropy), W one matrix, F_WW its diagonal block with n
entries. Every value is relative: r(v) = (v'Fv / v'v) / (tr F_WW / n) is 1 for a random direction of W, and neither the scale of
the loss nor that of F changes it. One gradient a row with targets y ~ p from the base itself gives all of it without bias:
with g that gradient, E (g.v)^2 = v'F v and E sum_M g^2 = tr F_MM, so per-row values have a row's interval.

Layer-conditioned (Gate II's S_W = F_WW - F_W,~W F_~W,~W^-1 F_~W,W): v'S_W v is the least curvature of a step whose part in W
is v while all other parameters answer. F is singular, so the answer u is damped, min_u (v, u)'F(v, u) + lambda |u|^2. For F the
mean of r outer products g_i g_i' and a_i = <g_iW, v> / sqrt(r) it is lambda a' (K + lambda I)^-1 a, K_ij = <g_i~W, g_j~W> / r:
an r x r solve, exact for that F. At most v'Fv; lambda -> 0 is the undamped complement, 0 where r < P.

Legend: m rows, r rows of the conditioned form, T matrices, D null draws, k rank, L layers of a stacked leaf.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.policy.fisher import Predict
from jaxpost.probes.weights import references, spectra
from jaxpost.probes.weights.panel import Panel


def is_matrix(path, x: Any, k: int) -> bool:
    """Whether a leaf holds matrices with more than k singular values: [m, n], or [L, m, n] stacked."""
    shape = x.shape[1:] if gradient_sums.is_stacked(path) else x.shape
    return len(shape) == 2 and min(shape) > k


def matrices(tree: Any, like: Any, k: int) -> dict[str, jax.Array]:
    """Leaves that hold matrices, name -> [L, m, n], in tree order (L = 1 where nothing is stacked)."""
    paths = jax.tree_util.tree_leaves_with_path(like)
    leaves = jax.tree.leaves(tree)
    return {gradient_sums.leaf_name(path): x if gradient_sums.is_stacked(path) else x[None]
            for (path, shape), x in zip(paths, leaves, strict=True) if is_matrix(path, shape, k)}


def base_directions(w_LxMxN: jax.Array, k: int, alpha: float) -> dict[str, jax.Array]:
    """Masks and frames of the matrices of a leaf: the same entries as the weight probes' masks.

    Returns: principal, low_magnitude bool[L, m, n] (top ceil(alpha n) of |rank-k W|, bottom ceil(alpha n) of |W|); u [L, m, k]
      and v [L, n, k], the leading singular vectors.
    """
    wide = w_LxMxN.shape[1] < w_LxMxN.shape[2]
    panel = Panel(ks=(k,), alphas=(alpha,), spectra="top")

    def of_matrix(w):
        tall = w.T if wide else w
        frame = spectra.frame(tall, panel.ks, panel.spectra)
        low, principal, _ = references.reference_masks(panel, tall, frame, jnp.bool_(wide))
        u, v = frame.u_MxR[:, :k], frame.v_NxR[:, :k]
        low, principal = low[0], principal[0, 0]
        return {"principal": principal.T if wide else principal, "low_magnitude": low.T if wide else low,
                "u": v if wide else u, "v": u if wide else v}

    return jax.lax.map(of_matrix, w_LxMxN.astype(jnp.float32))


def null_directions(directions: dict, d_LxMxN: jax.Array, draws: int, key: jax.Array) -> dict[str, jax.Array]:
    """Blind twins of the directions of a leaf, D each on a leading axis.

    mask: random, of the principal mask's density (also that of the low-magnitude mask); u, v: random frames of rank k;
    update: with its entries shuffled, so that norm, density and distribution are equal.
    """
    def shuffled(x, key):
        return jax.vmap(lambda one, key: jax.random.permutation(key, one.reshape(-1)).reshape(one.shape))(
            x, jax.random.split(key, len(x)))

    def frame(like, key):
        return jnp.linalg.qr(jax.random.normal(key, like.shape, like.dtype))[0]

    def one(key):
        keys = jax.random.split(key, 4)
        return {"mask": shuffled(directions["principal"], keys[0]), "u": frame(directions["u"], keys[1]),
                "v": frame(directions["v"], keys[2]), "update": shuffled(d_LxMxN, keys[3])}

    return jax.lax.map(one, jax.random.split(key, draws))


def sampled_gradient(predict: Predict, params: Any, row: Any, key: jax.Array) -> Any:
    """Gradient of sum_t log p(y_t) with y_t ~ p_t independently: its outer product has the Fisher as its mean."""
    mask = predict(params, row).mask_T
    logits, pull = jax.vjp(lambda w: predict(w, row).logits_TxV, params)
    wide = logits.astype(gradient_sums.accumulator_dtype(logits))
    drawn = jax.nn.one_hot(jax.random.categorical(key, wide, axis=-1), wide.shape[-1], dtype=wide.dtype)
    return gradient_sums.wide(pull(((drawn - jax.nn.softmax(wide)) * mask[:, None]).astype(logits.dtype))[0])


def of_gradient(g_LxMxN: jax.Array, directions: dict, blind: dict, d_LxMxN: jax.Array, stored_LxMxN: jax.Array
                ) -> dict[str, jax.Array]:
    """Sums of one row's gradient over the matrices of a leaf, [L] or (null_*) [D, L].

    all: |g|^2. principal, low_magnitude, mask: |g|^2 over a mask. subspace: |U'gV|^2. update, stored: g.d, not squared.
    """
    square = g_LxMxN**2

    def over(mask):
        return jnp.where(mask, square, 0.0).sum((1, 2))

    def inside(u, v):
        return (jnp.einsum("lmk,lmn,lnj->lkj", u, g_LxMxN, v, precision=linalg.HIGHEST) ** 2).sum((1, 2))

    return {"all": square.sum((1, 2)), "principal": over(directions["principal"]),
            "low_magnitude": over(directions["low_magnitude"]), "null_mask": jax.vmap(over)(blind["mask"]),
            "subspace": inside(directions["u"], directions["v"]), "null_subspace": jax.vmap(inside)(blind["u"], blind["v"]),
            "update": (g_LxMxN * d_LxMxN).sum((1, 2)), "stored": (g_LxMxN * stored_LxMxN).sum((1, 2)),
            "null_update": jax.vmap(lambda d: (g_LxMxN * d).sum((1, 2)))(blind["update"])}


def conditioned(gram_TxRxR: np.ndarray, whole_RxR: np.ndarray, slope_TxKxR: np.ndarray, damping: float
                ) -> tuple[np.ndarray, np.ndarray]:
    """(v'F_WW v, v'S_W v) of K directions of every matrix, [T, K] twice; float64 on the host.

    Args:
      gram_TxRxR: <g_iW, g_jW> of every matrix; whole_RxR: of all parameters.
      slope_TxKxR: <g_iW, v>.
      damping: lambda in units of tr K / r, the mean curvature of the rows' own directions outside the matrix.
    """
    r = whole_RxR.shape[0]
    outside = (whole_RxR - gram_TxRxR) / r
    size_T = damping * np.trace(outside, axis1=1, axis2=2) / r
    a = slope_TxKxR / r**0.5
    sized = np.divide(outside, size_T[:, None, None], out=np.zeros_like(outside), where=size_T[:, None, None] != 0)
    answer = np.linalg.solve(sized + np.eye(r), a.swapaxes(1, 2)).swapaxes(1, 2)  # a itself where nothing outside can answer
    return (a**2).sum(-1), (a * answer).sum(-1)
