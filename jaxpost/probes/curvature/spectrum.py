"""The curvature probe: leading eigenvalues, sharpness by layer and under Adam's preconditioner, traces and spectral density.

Legend: S seeds, m rows of the probe batch, K eigenvalues, L layers, T tensors, D draws, C thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg, stats
from jaxpost.probes import base, catalog, schedules, tracing
from jaxpost.probes.curvature import krylov, products
from jaxpost.probes.gradients import rows as gradient_rows
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.policy.fisher import Predict
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import RowTable, divide

_H = "H: params matrix=ggn, hessian or empirical_fisher, mean over probe rows of sequence sums"
_MEAN = "isotropic: tr H / P, the mean eigenvalue, what a random direction reads; band: 95 % t over the sign draws of the trace"
_LANCZOS = "block Lanczos with full re-orthogonalisation; numerical error: the residual |Hv - theta v|"
_ROWS = "t over probe rows of v'H_i v at the eigenvector (first order in the sampling of rows)"
_SOURCE = "Ghorbani et al., arXiv:1901.10159"
SPECTRUM = (
    base.Metric("curvature.eigenvalue", f"k-th largest eigenvalue (column k) of {_H}", "nat", _SOURCE, _MEAN, "none", _LANCZOS,
                ci_method=_ROWS),
    base.Metric("curvature.sharpness", f"largest eigenvalue of a layer's diagonal block of {_H}; of the model: "
                "curvature.eigenvalue at k = 1", "nat", "Cohen et al., arXiv:2103.00065", _MEAN, "none", _LANCZOS,
                ci_method=_ROWS),
    base.Metric("curvature.sharpness_adam", "largest eigenvalue of P^-1/2 H P^-1/2, P = diag(sqrt(v) + eps), v the mean over "
                f"chunks of the probe batch of squared mean gradients (params chunk rows each, eps); {_H}", "1",
                "Cohen et al., arXiv:2207.14484", _MEAN + " (of the preconditioned matrix)", "none",
                _LANCZOS + "; v is that of the probe batch, not the optimizer's own", ci_method=_ROWS),
    base.Metric("curvature.trace", f"tr of the diagonal block of {_H}", "nat", _SOURCE,
                "none: a scale, what the others are compared with", "sum over matrices",
                "Hutchinson's estimator with signs, all blocks from the same products", ci_method="t over sign draws"),
    base.Metric("curvature.share_above", "share of the eigenvalues at or above params threshold times the largest, "
                f"{_H}", "1", _SOURCE, "flat: 1, all eigenvalues equal", "none",
                "stochastic Lanczos quadrature; numerical error: Chebyshev-Markov-Stieltjes bound, mean over draws",
                ci_method="t over sign draws"),
)
base.register(*SPECTRUM)


def cross_entropy(predict: Predict) -> gradient_sums.Loss:
    """The loss whose GGN `products.ggn` is: minus the log-probability of a row's targets, summed."""
    def loss(params, row):
        predicted = predict(params, row)
        logp_TxV = jax.nn.log_softmax(predicted.logits_TxV)
        return -(jnp.take_along_axis(logp_TxV, predicted.target_T[:, None], axis=1)[:, 0] * predicted.mask_T).sum()

    return loss


def layer_block(params: Any, layer: jax.Array) -> Any:
    """1 at the parameters of a layer and 0 elsewhere: a tree of arrays that broadcast to the parameters."""
    infos, masks = iter(gradient_sums.inventory(params)), []
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        lead = x.shape[0] if gradient_sums.is_stacked(path) else 1
        layers = jnp.asarray([-1 if info.layer is None else info.layer for _, info in zip(range(lead), infos, strict=False)])
        shape = (lead, *[1] * (x.ndim - 1)) if x.ndim else ()
        masks.append((layers == layer).reshape(shape).astype(gradient_sums.accumulator_dtype(x)))
    return jax.tree.unflatten(jax.tree.structure(params), masks)


def second_moment(loss: gradient_sums.Loss, params: Any, rows: Any, chunk: int) -> Any:
    """Adam's v as a stationary batch of `chunk` rows would leave it: the mean over chunks of squared mean gradients."""
    def add(total, batch):
        g = jax.grad(lambda w: jax.vmap(lambda row: loss(w, row))(batch).mean())(params)
        return jax.tree.map(lambda t, x: t + x.astype(t.dtype) ** 2, total, g), None

    batches = gradient_sums.microbatches(rows, chunk)
    zero = jax.tree.map(jnp.zeros_like, gradient_sums.wide(params))
    return jax.tree.map(lambda t: t / len(jax.tree.leaves(batches)[0]), jax.lax.scan(add, zero, batches)[0])


@dataclass(frozen=True)
class CurvatureSpectrum:
    """Spectrum of one curvature matrix of the policy's cross-entropy on the probe batch.

    `predict` is the policy (`fisher.Predict`); the targets of the rows enter the Hessian, the empirical Fisher and Adam's v.
    Price, in gradients of the batch: `block * depth` products (GGN: about 1.2 each) for K eigenvalues, as many of
    `block * block_depth` for every layer and for Adam, `draws * density_depth` for the density, 2 `draws` for traces.
    """

    predict: Predict
    matrix: str = "ggn"  # one of products.KINDS
    k: int = 8
    block: int = 2
    depth: int = 16  # of the K eigenvalues
    block_depth: int = 6  # of sharpness by layer and under Adam
    draws: int = 4  # sign vectors of traces and density
    density_depth: int = 10
    thresholds: tuple[float, ...] = (0.1, 0.01)  # of the largest eigenvalue
    microbatch: int = 32  # rows at once
    chunk: int = 16  # rows of a gradient in Adam's v
    eps: float = 1e-8  # of Adam
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "curvature"
    version: str = "1"
    definition: str = "arXiv:1901.10159 (spectrum), arXiv:2103.00065 and arXiv:2207.14484 (sharpness) on the probe batch"
    metrics: tuple[str, ...] = tuple(metric.id for metric in SPECTRUM)
    needs: frozenset[base.Need] = frozenset({base.PARAMS, base.PROBE_BATCH})

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"CurvatureSpectrum runs in lane sidecar (it needs a probe batch); found {self.lane!r}")
        if self.matrix not in products.KINDS:
            raise ValueError(f"CurvatureSpectrum.matrix is one of {', '.join(products.KINDS)}; found {self.matrix!r}")
        if not 1 <= self.k <= self.block * self.depth or min(self.block_depth, self.draws, self.density_depth) < 1:
            raise ValueError("CurvatureSpectrum needs 1 <= k <= block * depth and positive depths and draws; found "
                             f"k={self.k}, block={self.block}, depth={self.depth}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the traced program: the policy is the caller's."""
        return tracing.traced(lambda ctx: self.measure(ctx, {}, jax.random.key(0))[1], ctx)

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state. Refuses, before any run, a probe batch that the microbatch, the chunk or `predict` does not fit."""
        jax.eval_shape(lambda ctx: self.measure(ctx, {}, key)[1], ctx)
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): Ritz values with residuals and rows' quadratics, block traces of every draw, densities."""
        params, rows = gradient_sums.wide(ctx[base.PARAMS]), ctx[base.PROBE_BATCH]
        loss = cross_entropy(self.predict)
        whole = products.of_kind(self.matrix, params, rows, self.microbatch, predict=self.predict, loss=loss)
        start, signs = krylov.gaussian(params, self.block, key), jax.random.fold_in(key, 1)
        values = dict(zip(("value_K", "residual_K", "quadratic_KxM"), self._leading(whole, start, self.k, self.depth),
                          strict=True))

        def of_layer(layer):
            inside = products.scaled(whole, layer_block(params, layer))
            return self._leading(inside, start, 1, self.block_depth)

        layers = jnp.asarray(_layers(gradient_sums.inventory(params)), jnp.int32)
        if layers.size:
            values |= dict(zip(("layer_L", "layer_residual_L", "layer_quadratic_LxM"),
                               (x[:, 0] for x in jax.lax.map(of_layer, layers)), strict=True))
        v = second_moment(loss, params, rows, self.chunk)
        adam = products.scaled(whole, jax.tree.map(lambda x: (jnp.sqrt(x) + self.eps) ** -0.5, v))
        values |= dict(zip(("adam_1", "adam_residual_1", "adam_quadratic_1xM"),
                           self._leading(adam, start, 1, self.block_depth), strict=True))
        for name, made in (("trace_DxT", whole), ("adam_trace_DxT", adam)):
            values[name] = krylov.trace_draws(made.product, params, self.draws, signs, gradient_sums.dots)
        levels_C = jnp.asarray(self.thresholds) * values["value_K"][0]

        def density(sign):
            rule = krylov.quadrature(whole.product, jax.tree.map(lambda x: x[None], sign), self.density_depth)
            return jax.vmap(lambda level: krylov.share_above(rule, level))(levels_C)

        values["share_DxC"], values["share_error_DxC"] = jax.lax.map(density, krylov.rademacher(params, self.draws, signs))
        return state, values

    def _leading(self, made: products.Curvature, start: Any, k: int, depth: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(eigenvalues, residuals, v'H_i v of every row at each eigenvector)."""
        pairs = krylov.top_eigenpairs(made.product, start, k, depth)
        return pairs.values_K, pairs.residual_K, jax.lax.map(made.quadratic, pairs.vectors)

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict:
        """Rows: traces of every scope, the others of layers and the model; `infos`: `sums.inventory` of the parameters."""
        del state
        v = {name: np.asarray(x, np.float64) for name, x in values.items()}
        if v["trace_DxT"].shape[::2] != (len(seeds), len(infos)):
            raise ValueError(f"values have [seeds, draws, tensors] = {v['trace_DxT'].shape}; expected {len(seeds)} seeds and "
                             f"{len(infos)} tensors")
        scopes = gradient_rows.scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        n_C = scopes.member_CxT @ np.asarray([np.prod(info.shape) for info in infos], np.float64)
        kinds = scopes.columns["granularity"]
        model, matrix = kinds == "global", f"matrix={self.matrix}"
        broken_Sx1 = ~(np.isfinite(v["trace_DxT"]) & np.isfinite(v["adam_trace_DxT"])).all((1, 2))[:, None]

        def parts(name):
            return np.einsum("sdt,ct->scd", v[name], scopes.member_CxT.astype(np.float64))

        def add(metric, value, interval_of, only, *, null, residual, unit, count, params=matrix, floor=None, k=None):
            """Rows of the scopes in `only`; arrays [S, C'] and [S, C', units] of those scopes in their order."""
            whole = {}
            half = stats.t_interval(interval_of)
            for name, x in (("value", value), ("lo", value - (half.value - half.lo)), ("hi", value + (half.hi - half.value)),
                            ("error", residual), ("floor", floor)):
                whole[name] = np.full((len(seeds), len(kinds)), np.nan)
                if x is not None:
                    whole[name][:, only] = x
            finite = np.isfinite(whole["value"])
            status = np.where(finite, "ok", np.where(broken_Sx1, "nan", "absent")).astype(object)
            buried = finite & (np.abs(whole["value"]) <= whole["floor"])  # False where there is no floor
            status[buried] = "unresolved"
            reason = np.where(finite, np.where(buried, "not above the rounding of float32 products", None),
                              np.where(broken_Sx1, "a product is not finite", "beyond the rank of the matrix")).astype(object)
            table.add(metric, whole["value"], status, reason, null=null, floor=whole["floor"], only=only, k=k, params=params,
                      num_err=whole["error"], ci_lo=whole["lo"], ci_hi=whole["hi"], unit=unit, n_units=count, dtype="fp32")

        def mean_eigenvalue(name):
            band = stats.t_interval(parts(name))
            return ("isotropic", *(divide(x, np.broadcast_to(n_C, x.shape)) for x in band))

        m, everywhere = v["quadratic_KxM"].shape[-1], np.ones(len(kinds), bool)
        floor = linalg.RESIDUAL_FLOOR * np.abs(v["value_K"][:, :1])
        leading = {"unit": "example", "count": m, "only": model}
        for i in range(self.k):
            add("curvature.eigenvalue", v["value_K"][:, [i]], v["quadratic_KxM"][:, [i]], **leading, k=i + 1, floor=floor,
                residual=v["residual_K"][:, [i]], null=mean_eigenvalue("trace_DxT"))
        if "layer_L" in v:
            add("curvature.sharpness", v["layer_L"], v["layer_quadratic_LxM"], **leading | {"only": kinds == "layer"},
                floor=floor, residual=v["layer_residual_L"], null=mean_eigenvalue("trace_DxT"))
        add("curvature.sharpness_adam", v["adam_1"], v["adam_quadratic_1xM"], **leading, residual=v["adam_residual_1"],
            floor=linalg.RESIDUAL_FLOOR * np.abs(v["adam_1"]), null=mean_eigenvalue("adam_trace_DxT"),
            params=f"chunk={self.chunk};eps={self.eps:g};{matrix}")
        drawn = {"unit": "draw", "count": self.draws}
        depth_T = np.asarray(gradient_sums.additions(list(infos)), np.float64)[None, None, :]
        rounding = np.einsum("sdt,ct->sc", np.abs(v["trace_DxT"]) * (depth_T + 4) * 2.0**-24, scopes.member_CxT * 1.0)
        add("curvature.trace", parts("trace_DxT").mean(-1), parts("trace_DxT"), everywhere, **drawn, null=None,
            residual=rounding / self.draws)
        for i, level in enumerate(self.thresholds):
            share = np.moveaxis(v["share_DxC"][:, :, [i]], 1, 2)
            add("curvature.share_above", share.mean(-1), share, model, **drawn, null=("flat", 1.0, None, None),
                residual=v["share_error_DxC"][:, :, [i]].mean(1), params=f"{matrix};threshold={level:g}")
        return table.columns(row_ids)


def _layers(infos: Sequence[TensorInfo]) -> list[int]:
    return sorted({info.layer for info in infos if info.layer is not None})


catalog.add(
    __name__,
    catalog.Entry("curvature",
                  "leading eigenvalues, sharpness by layer and under Adam, traces and density of the Hessian or GGN",
                  CurvatureSpectrum, ("predict",), by_name=True),
    catalog.Statistic(
        "curvature", "Spectrum of the Hessian or GGN", ("curvature",),
        "The largest eigenvalues (sharpness) bound the step that a gradient method can take without oscillating: 2 / sharpness "
        "for gradient descent, 38 / sharpness_adam for Adam with b1 = 0.9. The trace is the sum of all; share_above says how "
        "few directions carry it.",
        "Sequence sums: longer rows are sharper. The GGN leaves out the residuals' part of the Hessian, which is small only "
        "near a fit. Sharpness changes under a rescaling that leaves the function as it was. A Ritz value lies below its "
        "eigenvalue: read the numerical error.",
        "largest eigenvalue by Lanczos against products spent, with its residual",
        extremes={
            "curvature.eigenvalue": ("the loss is sharp in that direction, or rows are long", "it is flat"),
            "curvature.sharpness": ("the layer is sharp", "it is flat"),
            "curvature.sharpness_adam": ("Adam's steps overshoot beyond 38 / learning rate", "they do not"),
            "curvature.trace": ("the loss is sensitive in many directions, or a few sharply", "it is flat"),
            "curvature.share_above": ("many directions are nearly as sharp as the sharpest", "few carry the curvature"),
        }),
)
