"""Tails and bulk of the spectra of a policy's matrices and of their update: power law and Marchenko-Pastur. Exploratory.

The exponent depends on the fit, so it never stands alone: distance, number of eigenvalues and a test against the
lognormal law stand beside it, and beside each the same statistic of a Gaussian matrix of the same shape and norm.

Legend: S seeds, T matrices, D null draws, Q singular values.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg
from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import OK, RowTable, mean
from jaxpost.probes.updates import tail_fits
from jaxpost.probes.weights import by_matrix, nulls
from jaxpost.probes.weights.cost import svd_flops

SUBJECTS = ("weights", "update")  # W1 and W1 - W0, float32 masters
_PAPER = "Clauset, Shalizi and Newman, arXiv:0706.1062; WeightWatcher"
_MP = "Marchenko and Pastur 1967; Johnstone 2001; WeightWatcher"
_NULL = "gaussian_matrix of the same shape and norm"
_FIT = "float64 on LAPACK float32 singular values; error at the fitted xmin. Floor: none, noise reads as the null"
_BULK = "median matching, spikes left out, float64 on LAPACK float32 singular values. Floor: none, as weight.tail.alpha"
FITS = tuple(
    base.Metric(f"weight.tail.{name}", text, "1", _PAPER, _NULL, "mean over matrices", _FIT)
    for name, text in (
        ("alpha", "exploratory: 1 + n / sum log(x_i / xmin) over eigenvalues x = s^2 >= xmin, xmin of least KS distance"),
        ("alpha_se", "(alpha - 1) / sqrt(n): standard error of alpha if the eigenvalues were independent"),
        ("xmin", "smallest eigenvalue of the fitted tail"),
        ("count", "n, eigenvalues in the fitted tail"),
        ("ks", "Kolmogorov-Smirnov distance of the tail from its power law"),
        ("lognormal_ratio", "Vuong's normalised log likelihood ratio of power law over truncated lognormal; > 0 for it"),
        ("lognormal_p", "two-sided p value of the ratio: large where neither law is preferred"),
        ("goodness_p", "share of synthetic data sets, of a power-law tail on the spectrum's own body, whose own fit has no "
         "smaller KS distance; num_err: its Monte Carlo standard error"),
    )
) + tuple(
    base.Metric(f"weight.mp.{name}", text, "1", _MP, _NULL, "mean over matrices", _BULK)
    for name, text in (
        ("sigma", "exploratory: standard deviation of the entries whose Marchenko-Pastur law has the bulk's median"),
        ("edge", "sigma^2 (sqrt M + sqrt N)^2: largest eigenvalue of that law"),
        ("spikes", "eigenvalues above Johnstone's 95 % Tracy-Widom quantile of the largest"),
        ("soft_rank", "edge / largest eigenvalue"),
        ("ks", "Kolmogorov-Smirnov distance of the eigenvalues up to the edge from the law"),
    )
)
base.register(*FITS)
_FIELDS = tuple(metric.id.removeprefix("weight.") for metric in FITS)
_GOODNESS = "tail.goodness_p"
_SQUARED, _LINEAR = ("tail.xmin", "mp.edge"), ("mp.sigma",)  # how a statistic scales with ||A||_F; the rest not at all
_TOO_FEW = f"fewer than {tail_fits.MIN_VALUES} singular values"
_NO_FIT = "nothing to fit: the matrix is zero, or too few of its eigenvalues are distinct and above numerical error"


def fits(s_Q: np.ndarray, shape: tuple[int, int], bootstrap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Every statistic of one spectrum in the order of `FITS`, and its numerical error; NaN where there are too few values,
    and of the goodness of fit without bootstrap."""
    values = np.asarray(s_Q, np.float64) ** 2
    tail, bulk = tail_fits.power_law(values, bootstrap), tail_fits.marchenko_pastur(values, shape)
    off = tail_fits.errors(tail, bulk, values, bootstrap)
    return np.asarray([*tail, *bulk]), np.asarray([*off[0], *off[1]])


@dataclass(frozen=True)
class SpectrumTails:
    """Power-law and Marchenko-Pastur fits of every matrix, weights and update, as a probe (exploratory).

    State: shape -> {"gaussian": f32[D, statistics], those of Gaussian matrices of norm 1}. Values: tensor ->
    {"spectrum": f32[2 SUBJECTS, Q], "n_nonfinite": i32[]}; the fits are made on the host. The bootstrap fits a spectrum that
    often again: 0.1, 0.4, 2.5 and 34 ms a fit of 128, 256, 512 and 2048 values.
    """

    draws: int = 4  # Gaussian matrices a shape
    bootstrap: int = 100  # synthetic data sets a spectrum, for p within 0.05; 0: no goodness of fit
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=1)
    lane: str = "sidecar"
    id: str = "tails"
    version: str = "2"
    definition: str = "Clauset fit of the spectral tail (arXiv:0706.1062) and Marchenko-Pastur fit of the bulk; exploratory"
    needs: frozenset[base.Need] = frozenset({base.WEIGHTS0, base.WEIGHTS})

    def __post_init__(self):
        if self.lane not in ("sidecar", "offline") or self.draws < 1 or self.bootstrap < 0:
            raise ValueError(f"SpectrumTails: lane sidecar or offline, draws >= 1, bootstrap >= 0; found {self.lane!r}, "
                             f"{self.draws}, {self.bootstrap}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that are made."""
        return tuple(f"weight.{name}" for name in self._fields)

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(name for name in _FIELDS if self.bootstrap or name != _GOODNESS)

    def cost(self, ctx: base.Context) -> base.Cost:
        """Two spectra without vectors a matrix, and their fits."""
        total = base.Cost()
        for w in ctx[base.WEIGHTS].values():
            m, n = w.shape
            total += base.Cost(0.0, 2 * svd_flops((m, n), vectors=False), 16.0 * m * n + 2 * self._fitted_bytes(w.shape),
                               12.0 * m * n)
        return total

    def cost_of_init(self, ctx: base.Context) -> base.Cost:
        """`draws` spectra without vectors a shape, and their fits."""
        shapes = {_tall(w.shape) for w in ctx[base.WEIGHTS0].values()}
        return base.Cost(0.0, self.draws * sum(svd_flops(shape, vectors=False) for shape in shapes),
                         self.draws * sum(map(self._fitted_bytes, shapes)))

    def _fitted_bytes(self, shape: Sequence[int]) -> float:
        """Bytes of the passes of one spectrum's fits: eight over every pair of a candidate and a value."""
        return (1 + self.bootstrap) * 64.0 * min(shape) ** 2

    def init(self, ctx: base.Context, key: jax.Array) -> dict[str, dict[str, jax.Array]]:
        """Fits of drawn Gaussian matrices; the draws of a shape depend on the key and the shape only."""
        return {_group(shape): {"gaussian": self._drawn(shape, key)}
                for shape in sorted({_tall(w.shape) for w in ctx[base.WEIGHTS0].values()})}

    def _drawn(self, shape: tuple[int, int], key: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, zlib.crc32(_group(shape).encode()))
        spectra_DxQ = jax.lax.map(lambda d: linalg.singular_values(nulls.direction(own, d, shape)), jnp.arange(self.draws))
        return jnp.asarray(np.stack([fits(s_Q, shape, self.bootstrap)[0] for s_Q in np.asarray(spectra_DxQ)]), jnp.float32)

    def measure(self, ctx: base.Context, state: Any, key: jax.Array) -> tuple[Any, dict]:
        """(state, values); deterministic, so `key` is not read."""
        return state, by_matrix.each(_spectra, ctx[base.WEIGHTS0], ctx[base.WEIGHTS])

    def finalize(
        self, values: Mapping, state: Mapping, *, infos: Sequence[TensorInfo], arm: str, step: int, seeds: Sequence[int],
        conditional_on: str, row_ids: Callable[[dict], Sequence[str]],
    ) -> dict[str, np.ndarray]:
        """Rows for every matrix, kind, body and global; params say of which subject."""
        scopes = pooling.scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        nonfinite = by_matrix.stacked(values, infos, "n_nonfinite")
        for i, subject in enumerate(SUBJECTS):
            value, error, norm = _fitted(values, infos, i, self.bootstrap)
            drawn = _scaled(np.stack([np.asarray(state[_group(_tall(info.shape))]["gaussian"]) for info in infos]), norm)
            small = np.asarray([min(info.shape) < tail_fits.MIN_VALUES for info in infos])
            state_SxT = by_matrix.state(nonfinite, norm == 0, small)
            for name in self._fields:
                f = _FIELDS.index(name)
                own_SxT = np.where((state_SxT == OK) & np.isnan(value[..., f]), pooling.DEGENERATE, state_SxT)
                used = own_SxT == OK
                status, reason = pooling.statuses(own_SxT, scopes, _TOO_FEW)
                for s, c in np.argwhere(reason.astype(bool)):
                    reason[s, c] = reason[s, c].replace(pooling.NO_UPDATE, _NO_FIT)
                null = ("gaussian_matrix", *pooling.prediction_band(mean(drawn[..., f], used, scopes)))
                table.add(f"weight.{name}", by_matrix.settled(mean(value[..., f], used, scopes), status), status, reason,
                          null=null, num_err=mean(error[..., f], used, scopes), dtype="fp32", params=f"of={subject}")
        return table.columns(row_ids)

    def arrays(self, values: Mapping) -> dict[str, np.ndarray]:
        """"spectrum/<tensor>": f32[S, 2 SUBJECTS, Q]."""
        return by_matrix.flat(values, ("spectrum",))


def _spectra(w0: jax.Array, w1: jax.Array) -> dict[str, jax.Array]:
    finite = jnp.isfinite(w1).all()
    read = jnp.stack([jnp.where(finite, w1, w0), jnp.where(finite, w1 - w0, 0.0)])  # LAPACK: finite only
    s_2xQ = jax.lax.map(linalg.singular_values, read)
    return {"spectrum": jnp.where(finite, s_2xQ, jnp.nan), "n_nonfinite": jnp.sum(~jnp.isfinite(w1), dtype=jnp.int32)}


def _fitted(values: Mapping, infos: Sequence[TensorInfo], subject: int, bootstrap: int
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Statistics and their errors f64[S, T, statistics], and Frobenius norms [S, T], of one subject."""
    spectra = [np.asarray(values[info.name]["spectrum"], np.float64)[:, subject] for info in infos]
    nothing = np.full((2, len(FITS)), np.nan)
    fitted = [[np.stack(fits(s_Q, info.shape, bootstrap)) if np.isfinite(s_Q).all() and s_Q[0] > 0 else nothing
               for s_Q in s_SxQ] for s_SxQ, info in zip(spectra, infos, strict=True)]
    both = np.moveaxis(np.asarray(fitted), 0, 1)  # [S, T, 2, statistics]
    return both[:, :, 0], both[:, :, 1], np.stack([np.linalg.norm(s_SxQ, axis=-1) for s_SxQ in spectra], axis=1)


def _scaled(drawn_TxDxF: np.ndarray, norm_SxT: np.ndarray) -> np.ndarray:
    """Null draws at the norm of what was measured: f64[S, T, D, statistics]."""
    power = np.asarray([2.0 if name in _SQUARED else 1.0 if name in _LINEAR else 0.0 for name in _FIELDS])
    return drawn_TxDxF[None] * norm_SxT[..., None, None] ** power


def _tall(shape: Sequence[int]) -> tuple[int, int]:
    return max(shape), min(shape)


def _group(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"


catalog.add(
    __name__,
    catalog.Entry("tails", "power law of the spectrum's tail and Marchenko-Pastur law of its bulk (exploratory)",
                  SpectrumTails),
    catalog.Statistic(
        "tails", "Tails and bulk of the spectrum", ("weight.tail", "weight.mp"),
        "Exploratory. A power-law exponent of the largest eigenvalues with its fit quality, and the Marchenko-Pastur bulk with "
        "what sticks out of it.",
        "Any spectrum gets an exponent: read it beside KS, the goodness of fit, the number of values in the tail and the "
        "lognormal alternative. The cut at xmin chooses what is a tail, and a short tail passes for a power law of almost any "
        "spectrum. The goodness of fit takes eigenvalues for independent draws, which they are not: they repel each other.",
        "spectrum of a Gaussian matrix with three planted spikes, and its bulk edge",
        extremes={
            "weight.tail.alpha": ("a light tail", "a heavy one"),
            "weight.tail.ks": ("the tail is no power law", "it is close to one"),
            "weight.tail.lognormal_ratio": ("above 0: for the power law", "below 0: for the lognormal"),
            "weight.tail.lognormal_p": ("neither law is preferred", "one is"),
            "weight.tail.goodness_p": ("a power law is not ruled out", "below 0.1 it is"),
            "weight.mp.spikes": ("many eigenvalues stick out of the bulk", "0: none does"),
            "weight.mp.soft_rank": ("near 1: nothing sticks out of the bulk", "the largest eigenvalue is far beyond it"),
            "weight.mp.ks": ("the bulk does not follow the law", "it does"),
        }),
)
