"""How much of an update leaves the matrices with the base's singular values (ISO, arXiv:2607.19331).

F(W0) = {U S0 V'}: same spectrum, any frames. The nearest member of F to W = U1 S1 V1' is U1 S0 V1', at distance
||s(W) - s(W0)||_2 exactly (Mirsky). With one frame held, the nearest member is a Procrustes problem:

    iso         {U S0 V'}     U1 S0 V1'
    keep_left   {U0 S0 V'}    V = polar factor of W' U0 S0
    keep_right  {U S0 V0'}    U = polar factor of W V0 S0

Unexplained-update ratio u_h = dist_F(W, family h) / ||W - W0||_F. *Reconstructed*: the source prints medians for mix,
keep-left, keep-right and iso (87, 45, 42 and 1.8 %) without definitions; "mix" could not be reconstructed and is absent.
u_iso is weight.spectral_shift_over_update. rho and kappa are rows of the weight panel.

Legend: M rows, N columns, Q = min(M, N), F families, D draws, S seeds, T matrices.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jaxpost import linalg
from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import OK, RowTable, divide, mean
from jaxpost.probes.updates.stripes import normal_band
from jaxpost.probes.weights import by_matrix, nulls
from jaxpost.probes.weights.cost import svd_flops

ISO = "ISO, arXiv:2607.19331"
FAMILIES = ("iso", "keep_left", "keep_right")
UNEXPLAINED = base.Metric(
    "weight.fixed_spectrum.unexplained", "dist_F(W1, family) / ||W1 - W0||_F: params family = iso {U S0 V'}, keep_left "
    "{U0 S0 V'}, keep_right {U S0 V0'}", "1", ISO + " (reconstructed; its family mix is not defined there and is absent)",
    "isotropic: drawn updates of the same norm (95 % prediction interval); isotropic_first_order a further row: the share of "
    "dimensions "
    "normal to the family, Beta law of its square", "mean over matrices",
    "iso: difference of LAPACK spectra; others: orthogonal Procrustes by SVD, residual formed explicitly; float32")
base.register(UNEXPLAINED)


def tangent_dimension(family: str, shape: tuple[int, int]) -> int:
    """Dimension of a family at a base with distinct non-zero singular values, out of m n.

    keep_left moves V among n x q frames: nq - q(q + 1)/2; keep_right U: mq - q(q + 1)/2; iso everything but the q values.
    """
    m, n = shape
    q = min(shape)
    return {"iso": m * n - q, "keep_left": n * q - q * (q + 1) // 2, "keep_right": m * q - q * (q + 1) // 2}[family]


def polar(a: jax.Array) -> jax.Array:
    """Nearest matrix with orthonormal columns (rows, if wide): L R' of the SVD a = L s R'."""
    left, _, right = linalg.svd(a)
    return linalg.matmul(left, right.T)


def distances(u0_MxQ: jax.Array, s0_Q: jax.Array, v0_NxQ: jax.Array, w: jax.Array) -> jax.Array:
    """Frobenius distances of w from the families of a base U0 S0 V0', in the order of FAMILIES: f32[3]."""
    scaled_left, scaled_right = u0_MxQ * s0_Q[None, :], v0_NxQ * s0_Q[None, :]
    v = polar(linalg.matmul(w.T, scaled_left))
    u = polar(linalg.matmul(w, scaled_right))
    return jnp.stack([
        jnp.linalg.norm(linalg.singular_values(w) - s0_Q),
        jnp.linalg.norm(w - linalg.matmul(scaled_left, v.T)),
        jnp.linalg.norm(w - linalg.matmul(u, scaled_right.T)),
    ])


def spectrum_reset(weights0: Mapping[str, jax.Array], weights1: Mapping[str, jax.Array],
                   a: float = 0.0) -> dict[str, jax.Array]:
    """U1 [(1 - a) S0 + a S1] V1' of every matrix: the update's frames on the base's spectrum (a = 0) or its own (a = 1).

    Values pair by descending order. a = 0 is the nearest matrix of F(W0) to W1. name -> f32[m, n].
    """

    def one(w0, w1):
        u, s, v = linalg.svd(w1)
        return linalg.matmul(u * ((1 - a) * linalg.singular_values(w0) + a * s)[None, :], v.T)

    return by_matrix.each(one, weights0, weights1)


def spectrum_only(weights0: Mapping[str, jax.Array], weights1: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """U0 S1 V0' of every matrix: the base's frames with the update's spectrum. name -> f32[m, n]."""

    def one(w0, w1):
        u, _, v = linalg.svd(w0)
        return linalg.matmul(u * linalg.singular_values(w1)[None, :], v.T)

    return by_matrix.each(one, weights0, weights1)


@dataclass(frozen=True)
class FixedSpectrum:
    """Unexplained-update ratios of the three families, with drawn isotropic updates of the same norm."""

    draws: int = 4  # isotropic updates a matrix; each costs as much as the measurement
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=1)
    lane: str = "sidecar"
    id: str = "weight.fixed_spectrum"
    version: str = "1"
    definition: str = "arXiv:2607.19331 (reconstructed)"
    metrics: tuple[str, ...] = (UNEXPLAINED.id,)
    needs: frozenset[base.Need] = frozenset({base.WEIGHTS0, base.WEIGHTS})

    def __post_init__(self):
        if self.draws < 1:
            raise ValueError(f"FixedSpectrum needs draws >= 1; found {self.draws}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """For the update and each draw: one spectrum, two thin SVDs of a frame's size and four products."""
        shapes = [sorted(w.shape, reverse=True) for w in ctx[base.WEIGHTS].values()]
        times = 1 + self.draws
        sizes = [4.0 * m * n for m, n in shapes]
        factor = sum(svd_flops((m, n), vectors=False) + svd_flops((m, n)) + svd_flops((n, n)) for m, n in shapes)
        return base.Cost(products=times * sum(2.0 * m * n**2 * 4 for m, n in shapes), factorisations=times * factor,
                         streamed=4 * times * sum(sizes), held=6 * max(sizes) + 3 * sum(sizes))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """name -> u0, s0, v0 of the base, the error of putting it together again, and the key of its draws."""
        keys = {name: {"key": jax.random.key_data(jax.random.fold_in(key, zlib.crc32(name.encode())))}
                for name in ctx[base.WEIGHTS0]}

        def one(w0, ref):
            u, s, v = linalg.svd(w0)
            error = jnp.linalg.norm(w0 - linalg.matmul(u * s[None, :], v.T))
            return {"u0": u, "s0": s, "v0": v, "error": error} | ref

        return jax.jit(lambda *trees: by_matrix.each(one, *trees))(dict(ctx[base.WEIGHTS0]), keys)

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): name -> distance f32[F], blind f32[D, F] (of isotropic updates), norm, error; `key` is not read."""

        def one(w0, w1, ref):
            finite = jnp.isfinite(w1).all()
            w1 = jnp.where(finite, w1, w0)  # LAPACK: finite only
            norm = jnp.linalg.norm(w1 - w0)
            draw_key = jax.random.wrap_key_data(ref["key"])

            def at(i):
                blind = w0 + norm * nulls.direction(draw_key, jnp.maximum(i - 1, 0), w0.shape)
                return distances(ref["u0"], ref["s0"], ref["v0"], jnp.where(i == 0, w1, blind))

            values = jax.lax.map(at, jnp.arange(1 + self.draws))
            values = {"distance": values[0], "blind": values[1:], "norm": norm, "error": 2 * ref["error"],
                      "edge": by_matrix.rounding_rms(w0, w1) * w1.size**0.5}
            values = {name: jnp.where(finite, x, jnp.nan) for name, x in values.items()}
            return values | {"n_nonfinite": 1 - finite.astype(jnp.int32), "bf16": by_matrix.bf16_master(w1).astype(jnp.int32)}

        return state, by_matrix.each(one, ctx[base.WEIGHTS0], ctx[base.WEIGHTS], state)

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None,
                 row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of the unexplained ratio of every family.

        num_err: twice the error of putting the base together from its SVD, over ||dW||. Floor: what storage rounding alone
        leaves unexplained, to first order. A ratio below either is unresolved.
        """
        scopes = pooling.scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        read = {name: by_matrix.stacked(values, infos, name)
                for name in ("distance", "blind", "norm", "error", "edge", "n_nonfinite", "bf16")}
        states = by_matrix.state(read["n_nonfinite"], read["norm"] == 0)
        for f, family in enumerate(FAMILIES):
            _add_family(table, f, np.asarray([first_order(family, info.shape) for info in infos]).T, read, states)
        return table.columns(row_ids)


def first_order(family: str, shape: tuple[int, int]) -> tuple[float, float]:
    """Mean and standard deviation of the ratio for a small isotropic update: its square is Beta((mn - d)/2, d/2).

    d = `tangent_dimension`. Second-order terms make iso read up to some per cent more or less (methods/conventions.md).
    """
    d, size = tangent_dimension(family, shape), shape[0] * shape[1]
    a, half = (size - d) / 2, size / 2
    first = np.exp(scipy.special.gammaln(a + 0.5) - scipy.special.gammaln(a)
                   + scipy.special.gammaln(half) - scipy.special.gammaln(half + 0.5))
    return float(first), float(np.sqrt(max(a / half - first**2, 0.0)))


def _add_family(table: RowTable, f: int, first_order_2xT: np.ndarray, read: Mapping[str, np.ndarray], states) -> None:
    scopes, used = table.scopes, states == OK
    norm = read["norm"]
    centre, spread = (np.broadcast_to(x, norm.shape) for x in first_order_2xT)
    status, reason = pooling.statuses(states, scopes, "")
    value = by_matrix.settled(mean(divide(read["distance"][..., f], norm), used, scopes), status)
    floor = mean(divide(read["edge"], norm) * centre, used, scopes)
    error = mean(divide(read["error"], norm), used, scopes)
    low = (status == "ok") & (value < np.maximum(floor, error))
    status[low], reason[low] = "unresolved", "below the noise floor or the numerical error"
    blind = mean(divide(read["blind"][..., f], norm[..., None]), used, scopes)
    row = table.add(UNEXPLAINED.id, value, status, reason, null=("isotropic", *pooling.prediction_band(blind)), floor=floor,
                    num_err=error, params=f"family={FAMILIES[f]}", dtype=by_matrix.dtypes(read["bf16"]))
    table.add_null(row, "isotropic_first_order", *normal_band(mean(centre, used, scopes), spread, used, scopes, low=0.0))


catalog.add(
    __name__,
    catalog.Entry("weight.fixed_spectrum", "how much of the update leaves matrices with the base's singular values",
                  FixedSpectrum),
    catalog.Statistic(
        "fixed_spectrum", "Updates at a fixed spectrum", ("weight.fixed_spectrum",),
        "The share of the update that no matrix with the base's singular values explains: free frames (iso), or the left or "
        "right frame held as well.",
        "Small random updates hardly change a spectrum, so a small iso share is the null; keep-left and keep-right are "
        "reconstructed from printed numbers.",
        "unexplained share of a rotation, of an isotropic update and of a rescaling",
        extremes={
            "weight.fixed_spectrum.unexplained": (
                "no matrix of that family explains the update",
                "one does, as for small random updates"),
        }),
)
