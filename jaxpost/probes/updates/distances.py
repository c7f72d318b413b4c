"""How far the weights went, as RL's Razor measures it: L1 and spectral norms of the update (arXiv:2509.04259).

The paper asks which distance from the base predicts forgetting. Its other predictors are rows elsewhere: ||dW||_F is
`weight.update_norm`, forward and reverse KL are `policy.kl_*`, Fisher-weighted L2 is `fisher.weighted_l2`. How well each of
them predicts is `forgetting_fit`.

Formulas are those of a replication's notes: L1 = mean |d|, spectral = sum over matrices of sigma_max(dW). The paper's own
code was not found (*reconstructed*: which tensors enter; here every 2-D weight).

Legend: M rows, N columns, S seeds, T matrices, C scopes, D null draws; the view axis is `panel.VIEWS`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg
from jaxpost.probes import base, catalog, schedules, tracing
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import RowTable, total
from jaxpost.probes.weights import by_matrix, gaussian_spectra, visibility
from jaxpost.probes.weights.panel import VIEWS

RAZOR = "RL's Razor, arXiv:2509.04259"
EXACT_UP_TO = 512  # smaller side: LAPACK below, block Krylov above
BLOCK, DEPTH = 8, 12
_SUMMED = "two-level float32 sums, both ends cast before subtracting"
_GAUSSIAN = "gaussian_equal_norm: an update of the same Frobenius norm a matrix in a random direction, sqrt(2/pi) rms, 95 %"
DISTANCES = (
    base.Metric("weight.l1_mean", "mean |w1 - w0|", "1", RAZOR, _GAUSSIAN, "ratio of sums", _SUMMED),
    base.Metric("weight.l1_sum", "sum |w1 - w0|", "1", RAZOR + " (sum named beside the mean)", _GAUSSIAN, "sum over matrices",
                _SUMMED),
    base.Metric("weight.spectral_norm", "sum over matrices of sigma_max(dW)", "1", RAZOR,
                "gaussian_matrix: drawn matrices of the same shapes and Frobenius norms, range of the draws",
                "sum over matrices", f"LAPACK gesdd up to {EXACT_UP_TO} columns, above it block Krylov (block {BLOCK}, depth "
                f"{DEPTH}) with its residual as num_err; both ends cast before subtracting"),
)
base.register(*DISTANCES)


def spectral_norm(a_MxN: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sigma_max, error bound): LAPACK's, or the residual of block Krylov where that is larger.

    Some singular value lies within the residual of the Krylov estimate, which never exceeds sigma_max by more than rounding.
    """
    if min(a_MxN.shape) <= EXACT_UP_TO:
        s = linalg.singular_values(a_MxN)[0]
        return s, linalg.ALONE * linalg.VALUE_ERROR * s
    leading = linalg.block_krylov(a_MxN, 1, key, BLOCK, DEPTH)
    return leading.s_K[0], jnp.maximum(leading.residual_K[0], linalg.VALUE_ERROR * leading.s_K[0])


UNCALIBRATED = "no calibrated null: what bf16 shows of an update is not Gaussian"


def _of_views(view: Callable[[jax.Array], dict], views_VxMxN: jax.Array) -> dict[str, jax.Array]:
    """`view` of each, one program; the second takes over the first's where both are the same numbers (a run stored in bf16)."""
    same = (views_VxMxN[0] == views_VxMxN[1]).all()

    def one(before, i):
        read = jax.lax.cond((i > 0) & same, lambda: before, lambda: view(views_VxMxN[i]))
        return read, read

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(view, views_VxMxN[0]))
    return jax.lax.scan(one, nothing, jnp.arange(len(VIEWS)))[1]


def _l1(dw: jax.Array) -> jax.Array:
    return jnp.sum(jax.lax.optimization_barrier(jnp.sum(jnp.abs(dw), axis=1)))


def distances(w0: jax.Array, w1: jax.Array, reference: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """L1, spectral and Frobenius norms of the update of one matrix in both views: f32[views] each, and what they rest on.

    Returns also the rounding floors `l1_floor` (mean error of one rounding, ULP / 4, summed) and `spectral_floor` (edge of
    pure rounding noise), the bound `spectral_error`, and `n_nonfinite`.
    """
    finite = jnp.isfinite(w1).all()
    codes0, codes1 = visibility.bf16_codes(w0), visibility.bf16_codes(w1)
    key = jax.random.wrap_key_data(reference["sketch"])

    def view(dw):
        spectral, error = spectral_norm(dw, key)
        return {"l1": _l1(dw), "spectral": spectral, "spectral_error": error, "frobenius": jnp.linalg.norm(dw)}

    visible = visibility.bf16_values(codes1) - visibility.bf16_values(codes0)
    out = _of_views(view, jnp.where(finite, jnp.stack([w1 - w0, visible]), 0.0))
    stored_bf16 = by_matrix.bf16_master(w1)
    coarse = jnp.stack([jnp.where(stored_bf16, 1.0, 2.0**-16), 1.0])  # float32 ULPs are 2^-16 of bf16's
    out["l1_floor"] = coarse * _l1(visibility.ulp(codes1)) / 4
    q_rms = jnp.sqrt(visibility.rounding_variance(codes0, codes1))
    out["spectral_floor"] = linalg.rounding_edge(q_rms * coarse, *w1.shape)
    out = {name: jnp.where(finite, x, jnp.nan) for name, x in out.items()}
    return out | {"n_nonfinite": jnp.sum(~jnp.isfinite(w1), dtype=jnp.int32), "bf16": stored_bf16.astype(jnp.int32)}


@dataclass(frozen=True)
class WeightDistances:
    """L1 and spectral norms of the update, each against an update of the same Frobenius norm without structure.

    The L1 norm of a given Frobenius norm falls with sparsity, the spectral norm rises with low rank: the nulls are what
    the Frobenius norm alone explains.
    """

    null_draws: int = 4
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "distance"
    version: str = "1"
    definition: str = "arXiv:2509.04259, weight-space predictors of forgetting"
    metrics: tuple[str, ...] = tuple(metric.id for metric in DISTANCES)
    needs: frozenset[base.Need] = frozenset({base.WEIGHTS0, base.WEIGHTS})

    def __post_init__(self):
        if self.lane not in ("sidecar", "offline"):
            raise ValueError(f"WeightDistances runs in lane sidecar or offline; found {self.lane!r}")
        if self.null_draws < 1:
            raise ValueError(f"WeightDistances needs null_draws >= 1; found {self.null_draws}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """Two leading singular values a matrix and about ten passes; one group of equal shapes is stacked."""
        cost = base.Cost()
        for w in ctx[base.WEIGHTS].values():
            (n, m), size = sorted(w.shape), 4.0 * math.prod(w.shape)
            if n <= EXACT_UP_TO:
                cost += base.Cost(factorisations=2 * tracing.svd_flops(m, n, vectors=False), streamed=10 * size, held=6 * size)
            else:
                basis = BLOCK * DEPTH
                cost += base.Cost(2 * (4.0 * m * n * basis + 12.0 * n * basis**2), 2 * 6.0 * m * basis**2,
                                  (10 + 4 * DEPTH) * size, 6 * size)
        return cost

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """name -> key of the sketch and spectral norms of Gaussian matrices of norm 1, f32[D]; by the tensor's name."""
        return {name: _references(self.null_draws, tuple(np.shape(w)), jax.random.fold_in(key, zlib.crc32(name.encode())))
                for name, w in ctx[base.WEIGHTS0].items()}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): name -> `distances`; the sketch is fixed in the state, so `key` is not read."""
        del key
        references = {name: state[name] for name in ctx[base.WEIGHTS]}
        return state, by_matrix.each(distances, ctx[base.WEIGHTS0], ctx[base.WEIGHTS], references)

    def finalize(self, values: Mapping[str, Any], state: Mapping[str, Any], *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict:
        """Rows of every matrix, kind, body and the model, in both views."""
        scopes = pooling.scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        states = by_matrix.state(by_matrix.stacked(values, infos, "n_nonfinite"), np.zeros((len(seeds), len(infos)), bool))
        status, reason = pooling.statuses(states, scopes, "")
        used, n_T = np.ones(states.shape, bool), np.asarray([np.prod(info.shape) for info in infos], np.float64)[None, :]
        depth_T = np.asarray([sum(info.shape) for info in infos], np.float64)[None, :]
        draws_TxD = np.stack([np.asarray(state[info.name]["spectral"], np.float64) for info in infos])
        stored_bf16 = by_matrix.stacked(values, infos, "bf16").any(1)[:, None]
        for i, dtype in enumerate(VIEWS):
            # what bf16 shows of a Gaussian update is not Gaussian, and of a bf16 run the law is unknown; no update has no law
            moved = total(by_matrix.stacked(values, infos, "frobenius")[..., i], used, scopes) > 0
            unknown = moved & (stored_bf16 if dtype == "fp32" else True)
            why = np.where(unknown & (status == "ok"), UNCALIBRATED, reason)

            def known(null, unknown=unknown):
                return tuple(np.where(unknown, np.nan, x) for x in null)

            v = {name: by_matrix.stacked(values, infos, name)[..., i]
                 for name in ("l1", "l1_floor", "spectral", "spectral_error", "spectral_floor", "frobenius")}

            def pooled(x):
                return total(x, used, scopes)

            expected = pooled(l1_of_a_direction(n_T) * v["frobenius"])
            half = 1.959964 * np.sqrt(pooled((1 - 3 / np.pi) * v["frobenius"] ** 2))
            error, count = pooled((depth_T + 2) * 2.0**-24 * v["l1"]), pooled(np.broadcast_to(n_T, states.shape))
            null = known((expected, np.maximum(expected - half, 0.0), expected + half))
            for metric, over in (("weight.l1_mean", count), ("weight.l1_sum", 1.0)):
                table.add(metric, pooled(v["l1"]) / over, status, why, floor=pooled(v["l1_floor"]) / over, dtype=dtype,
                          num_err=error / over, null=("gaussian_equal_norm", *(x / over for x in null)))
            drawn = known(pooling.prediction_band(pooled(v["frobenius"][..., None] * draws_TxD[None]), low=0.0))
            table.add("weight.spectral_norm", pooled(v["spectral"]), status, why, null=("gaussian_matrix", *drawn),
                      floor=pooled(v["spectral_floor"]), num_err=pooled(v["spectral_error"]), dtype=dtype)
        return table.columns(row_ids)


def l1_of_a_direction(n: np.ndarray) -> np.ndarray:
    """Mean L1 norm of a random direction of n entries, sqrt(2 n / pi) (1 + 1 / (4 n) + O(n^-2)); its variance is 1 - 3/pi."""
    return np.sqrt(2 * n / np.pi) * (1 + 1 / (4 * n))


def _references(draws: int, shape: tuple[int, int], key: jax.Array) -> dict[str, jax.Array]:
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return {"spectral": jnp.asarray(gaussian_spectra.draw(shape, draws, rng, leading=1)[:, 0], jnp.float32),
            "sketch": jax.random.key_data(jax.random.fold_in(key, 0))}


catalog.add(
    __name__,
    catalog.Entry("distance", "L1 and spectral norm of the update, against its Frobenius norm alone", WeightDistances),
    catalog.Statistic(
        "distance", "L1 and spectral norm of the update", ("weight.l1_mean", "weight.l1_sum", "weight.spectral_norm"),
        "Predictors of forgetting in weight space. Beside the Gaussian null: a small L1 for its Frobenius norm is a "
        "concentrated update, a large spectral norm a low-rank one.",
        "All of them follow the Frobenius norm first; a predictor that beats the others in one sweep of learning rates may "
        "only be the one that follows the learning rate best.",
        "L1 over Frobenius norm against the density of the update",
        extremes={
            "weight.l1": ("for its Frobenius norm: a spread update", "for its Frobenius norm: a concentrated one"),
            "weight.spectral_norm": (
                "for its Frobenius norm: an update of low rank",
                "for its Frobenius norm: many directions"),
        }),
)
