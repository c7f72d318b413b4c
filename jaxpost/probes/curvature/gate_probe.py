"""The probe of Gate II: rows of relative curvature along directions of every matrix and along the update (`gate`).

Legend: S seeds, m rows of the probe batch, r rows of the conditioned form, T matrices, C scopes, D null draws, K directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxpost.probes import base, catalog, schedules, tracing
from jaxpost.probes.curvature import gate, krylov
from jaxpost.probes.gradients import rows as gradient_rows
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.policy import example_rows
from jaxpost.probes.policy.fisher import Predict
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import RowTable, divide

PNT = "The Path Not Taken, arXiv:2511.08567"
_R = "r(v) = (v'Fv / v'v) / (tr F_WW / n), F the Fisher (GGN) of the base on the probe batch"
_HOW = "one gradient a row with a target drawn from the base itself, float32 sums"
_ROWS = "delete-one-row jackknife"
_S = "v'S_W v / v'v over its mean along isotropic directions, S_W the damped layer-conditioned Fisher of params rows rows"
_BLIND = ("shuffled (update), 95 % of one more draw, or isotropic directions of the matrix (masks), 95 % of another mean of as "
          "many")
GATE = (
    base.Metric("gate.curvature.mean", "tr F_WW / n, the mean curvature of a matrix's directions, F the Fisher (GGN) of the "
                "base on the probe batch, sequence sums", "nat", PNT + " section 3", "none: a scale", "ratio of sums", _HOW,
                ci_method=_ROWS),
    base.Metric("gate.curvature.mask", f"mean of {_R}, over v with entries in params mask=principal (top alpha of |rank-k W0|) "
                "or low_magnitude (bottom alpha of |W0|): tr F_MM / |M|", "1", PNT + " sections 3 and 4.2",
                "random_mask: as many entries anywhere in the matrix, 95 % of one more draw", "ratio of sums", _HOW,
                ci_method=_ROWS),
    base.Metric("gate.curvature.subspace", f"mean of {_R}, over v = U_k Z V_k' in the leading k singular directions of W0; "
                "in a pool every matrix counts by k^2, also in the null", "1",
                PNT + " section 3", "random_frames: random orthonormal U and V of rank k, 95 % of one more draw",
                "ratio of sums", _HOW, ci_method=_ROWS),
    base.Metric("gate.curvature.update", f"{_R}, along v = W - W0 (of several matrices: along their joint update)", "1", PNT +
                " section 3", "shuffled: the update's entries permuted within each matrix (equal norm, density and "
                "distribution), 95 % of one more draw", "ratio of sums",
                _HOW + "; noise floor: what rounding the policy to bf16 changes", ci_method=_ROWS),
    base.Metric("gate.curvature.conditioned", f"{_S}; params direction=update, principal or low_magnitude (masked Gaussian "
                "directions), damping", "1", PNT + " section 3",
                _BLIND, "ratio of sums", "r x r solves in float64 of float32 inner products",
                ci_method="delete-one-group jackknife over rows"),
    base.Metric("gate.curvature.remaining", "v'S_W v / v'F_WW v of the same rows: the share of the curvature that is left when "
                "all other parameters answer; params as above", "1", PNT + " section 3",
                _BLIND, "ratio of sums", "r x r solves in float64 of float32 inner products",
                ci_method="delete-one-group jackknife over rows"),
)
base.register(*GATE)
UNIT_ROUNDOFF = 2.0**-24
GROUPS = 8  # of the jackknife over rows of the conditioned form


@dataclass(frozen=True)
class GateCurvature:
    """Gate II as a measured quantity: is the curvature of the base larger along its principal directions, and does the update
    avoid it, beyond what blind directions of equal norm, density and rank do?

    `predict` is the policy (`fisher.Predict`). Price in gradients of the batch, in CPU time on a decoder of 0.3
    million parameters and 256 rows: 24 with 8 null draws, 13 with 2; the conditioned form of 64 rows 5 more.
    Rows of the base alone are the same at every step of a seed.
    """

    predict: Predict
    k: int = 8  # rank of the principal subspace and mask
    alpha: float = 0.3  # density of the masks
    null_draws: int = 8
    conditioned: int = 64  # rows of the layer-conditioned form, at most, whose gradients are held; 0: none
    damping: float = 0.1  # of their mean curvature
    microbatch: int = 8  # gradients held at once
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "gate.curvature"
    version: str = "1"
    definition: str = "arXiv:2511.08567 section 3, curvature along directions of the base, with nulls"
    needs: frozenset[base.Need] = frozenset({base.PARAMS0, base.PARAMS, base.PROBE_BATCH})
    stream: str = "gate.curvature"

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"GateCurvature runs in lane sidecar (it needs a probe batch); found {self.lane!r}")
        if not 0 < self.alpha < 1 or min(self.k, self.microbatch) < 1 or self.null_draws < 2 or self.damping <= 0:
            raise ValueError("GateCurvature needs 0 < alpha < 1, k and microbatch >= 1, null_draws >= 2 and damping > 0; found "
                             f"{self.alpha}, {self.k}, {self.microbatch}, {self.null_draws}, {self.damping}")
        if self.conditioned % GROUPS or self.conditioned < 0:
            raise ValueError(f"GateCurvature.conditioned is a multiple of {GROUPS} rows; found {self.conditioned}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Ids of its rows."""
        return tuple(m.id for m in GATE[:4 if self.conditioned == 0 else None])

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the traced program: the policy is the caller's."""
        directions = jax.eval_shape(self._directions, ctx[base.PARAMS0])
        return tracing.traced(lambda *x: self._values(*x, jax.random.key(0)), ctx, directions)

    def _directions(self, params0: Any) -> dict:
        matrices = gate.matrices(params0, params0, self.k)
        return {name: gate.base_directions(w, self.k, self.alpha) for name, w in matrices.items()}

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """Masks and frames of the base, by leaf. Raises: ValueError when k is above every matrix, or rows do not fit."""
        params0, rows = ctx[base.PARAMS0], ctx[base.PROBE_BATCH]
        count = len(jax.tree.leaves(rows)[0])
        if self.conditioned and count < GROUPS:
            raise ValueError(f"gate.curvature: the conditioned form needs {GROUPS} rows or more; the probe batch has {count}")
        if not gate.matrices(params0, params0, self.k):
            raise ValueError(f"gate.curvature: k={self.k} is not below the smaller side of any matrix")
        jax.eval_shape(lambda ctx: self._values(ctx, self._directions(ctx[base.PARAMS0]), key), ctx)
        return jax.jit(self._directions)(params0)

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): per-row sums [m, T] and null sums [m, D, T], squared norms, Gram matrices and slopes of r rows."""
        return state, self._values(ctx, state, key)

    def _values(self, ctx: base.Context, directions: dict, key: jax.Array) -> dict[str, jax.Array]:
        params0, params1 = gradient_sums.wide(ctx[base.PARAMS0]), gradient_sums.wide(ctx[base.PARAMS])
        stored = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(w.dtype), params1)
        d, d_stored = (gate.matrices(jax.tree.map(jnp.subtract, end, params0), params0, self.k) for end in (params1, stored))
        draw, label = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
        blind = {name: gate.null_directions(directions[name], x, self.null_draws, jax.random.fold_in(draw, i))
                 for i, (name, x) in enumerate(d.items())}

        def gradient(params, numbered):
            row, i = numbered
            return gate.sampled_gradient(self.predict, params, row, jax.random.fold_in(label, i))

        def of_row(params, numbered):
            g = gate.matrices(gradient(params, numbered), params, self.k)
            return _joined([gate.of_gradient(x, directions[name], blind[name], d[name], d_stored[name])
                            for name, x in g.items()])

        rows = ctx[base.PROBE_BATCH]
        numbered = rows, jnp.arange(len(jax.tree.leaves(rows)[0]))
        values = example_rows.of_examples(of_row, params0, numbered, self.microbatch)
        values |= _joined([{"norm2": (d[name]**2).sum((1, 2)), "stored_norm2": (d_stored[name]**2).sum((1, 2))} for name in d])
        if self.conditioned:
            r = min(self.conditioned, len(numbered[1])) // GROUPS * GROUPS
            first = jax.tree.map(lambda x: x[:r], numbered)
            held = example_rows.of_examples(gradient, params0, first, self.microbatch)
            values |= self._conditioned(held, params0, directions, blind, d, jax.random.fold_in(key, 2))
        return values

    def _conditioned(self, held, params0, directions, blind, d, key) -> dict[str, jax.Array]:
        """Gram matrices of r gradients and their slopes along K directions of every matrix, with the squared norms of these.

        Order: update, D shuffled updates, then D Gaussian directions each in the principal mask, the low-magnitude mask and
        anywhere.
        """
        parts = []
        by_leaf = jax.vmap(lambda g: gate.matrices(g, params0, self.k))(held)
        for i, (name, g_RxLxMxN) in enumerate(by_leaf.items()):
            z = jax.random.normal(jax.random.fold_in(key, i), blind[name]["update"].shape, d[name].dtype)
            masks = directions[name]["principal"], directions[name]["low_magnitude"]
            v_KxLxMxN = jnp.concatenate([d[name][None], blind[name]["update"], *(z * mask[None] for mask in masks), z])
            flat = [x.reshape(*x.shape[:2], -1) for x in (g_RxLxMxN, v_KxLxMxN)]
            precision = jax.lax.Precision.HIGHEST
            parts.append({"gram": jnp.einsum("rlp,slp->rsl", flat[0], flat[0], precision=precision),
                          "slope": jnp.einsum("klp,rlp->krl", flat[1], flat[0], precision=precision),
                          "slope_norm2": (flat[1] ** 2).sum(-1)})
        return _joined(parts) | {"whole_gram": krylov.inner(held, held)}

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict:
        """Rows of every matrix, kind, layer, body and all matrices; `infos`: `sums.inventory` of the parameters."""
        del state
        infos = [info for info in infos if len(info.shape) == 2 and min(info.shape) > self.k]
        v = {name: np.asarray(x, np.float64) for name, x in values.items()}
        if v["norm2"].shape != (len(seeds), len(infos)):
            raise ValueError(f"values have [seeds, matrices] = {v['norm2'].shape}; expected {(len(seeds), len(infos))}")
        scopes = gradient_rows.scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        sizes = np.asarray([np.prod(info.shape) for info in infos], np.float64)
        depth = (max(gradient_sums.additions(infos)) + 4) * UNIT_ROUNDOFF
        self._add_plain(table, v, sizes, depth)
        if self.conditioned:
            self._add_conditioned(table, v, depth)
        return table.columns(row_ids)

    def _add_plain(self, table: RowTable, v: Mapping[str, np.ndarray], sizes: np.ndarray, depth: float) -> None:
        member = table.scopes.member_CxT.astype(np.float64)
        entries_C = member @ sizes
        kept_C = member @ np.ceil(np.round(self.alpha * sizes, 6))  # entries of a mask, as `base_directions` counts them
        inside_C = member.sum(1) * self.k**2
        norm2, stored2 = (v[name] @ member.T for name in ("norm2", "stored_norm2"))
        m = v["all"].shape[1]

        def pooled(name, squared=False):  # [S, m, (D,) T] -> [S, (D,) C, m]
            x = np.moveaxis(v[name] @ member.T, 1, -1)
            return x**2 if squared else x

        whole = pooled("all")
        common = {"unit": "example", "n_units": m, "dtype": "fp32"}

        def add(metric, x_SxCxM, size, null=None, floor=None, **key):
            """r of sums over rows `x`, whose direction has squared length `size`."""
            interval = example_rows.jackknife(
                lambda a, b: divide(divide(a, np.broadcast_to(size, a.shape)), b / entries_C[:, None]), x_SxCxM, whole)
            still = (size == 0)[..., 0] if np.ndim(size) > 2 else np.zeros(interval.value.shape, bool)
            status, reason = _statuses(interval.value, still)
            if null is not None:
                kind, drawn = null  # [S, D, C]
                mean = divide(whole.mean(-1), entries_C)[:, None]
                with np.errstate(invalid="ignore"):
                    null = (kind, *pooling.prediction_band(np.moveaxis(divide(drawn, mean), 1, -1), 0.0))
            table.add(metric, interval.value, status, reason, null=null, floor=floor, ci_lo=interval.lo, ci_hi=interval.hi,
                      num_err=4 * depth * np.abs(interval.value), **common, **key)
            return interval.value

        mean = example_rows.jackknife(lambda a: a / entries_C[:, None], whole)
        table.add("gate.curvature.mean", mean.value, *_statuses(mean.value, np.zeros(mean.value.shape, bool)), ci_lo=mean.lo,
                  ci_hi=mean.hi, num_err=depth * np.abs(mean.value), **common)
        masked = ("random_mask", pooled("null_mask").mean(-1) / kept_C)
        for name in ("principal", "low_magnitude"):
            rank = {"k": self.k} if name == "principal" else {}
            add("gate.curvature.mask", pooled(name), kept_C[:, None], masked, params=f"alpha={self.alpha:g};mask={name}",
                **rank)
        add("gate.curvature.subspace", pooled("subspace"), inside_C[:, None],
            ("random_frames", pooled("null_subspace").mean(-1) / inside_C), k=self.k)
        drawn = divide(pooled("null_update", squared=True).mean(-1), np.repeat(norm2[:, None], self.null_draws, 1))
        mean_SxC = divide(whole.mean(-1), entries_C)
        along = [divide(divide(pooled(name, squared=True).mean(-1), size), mean_SxC)
                 for name, size in (("update", norm2), ("stored", stored2))]
        add("gate.curvature.update", pooled("update", squared=True), norm2[:, :, None], ("shuffled", drawn),
            floor=np.abs(along[1] - along[0]))

    def _add_conditioned(self, table: RowTable, v: Mapping[str, np.ndarray], depth: float) -> None:
        member = table.scopes.member_CxT.astype(np.float64)
        r, draws = v["whole_gram"].shape[-1], self.null_draws
        norm2 = np.einsum("skt,ct->sck", v["slope_norm2"], member)

        def sums(kept):  # ([S, C, K] plain, conditioned) from some of the rows
            pairs = [gate.conditioned(np.moveaxis(gram, -1, 0)[:, kept][:, :, kept], whole[np.ix_(kept, kept)],
                                      np.moveaxis(slope, -1, 0)[:, :, kept], self.damping)
                     for gram, whole, slope in zip(v["gram"], v["whole_gram"], v["slope"], strict=True)]
            return [np.einsum("stk,ct->sck", np.stack(x), member) for x in zip(*pairs, strict=True)]

        spans = {"update": slice(0, 1), "shuffled": slice(1, 1 + draws)}
        spans |= {name: slice(1 + (i + 1) * draws, 1 + (i + 2) * draws)
                  for i, name in enumerate(("principal", "low_magnitude", "isotropic"))}

        def statistics(kept):  # metric -> [S, C, K]
            plain, left = sums(kept)
            curvature = divide(left, norm2)
            return {"conditioned": divide(curvature, curvature[..., spans["isotropic"]].mean(-1, keepdims=True)),
                    "remaining": divide(left, plain)}

        rows = np.arange(r)
        full, without = statistics(rows), [statistics(rows[rows % GROUPS != i]) for i in range(GROUPS)]
        half = scipy.stats.t.ppf(0.975, GROUPS - 1)
        for metric, curvatures in full.items():
            for name, null in (("update", "shuffled"), ("principal", "isotropic"), ("low_magnitude", "isotropic")):
                value = curvatures[..., spans[name]].mean(-1)
                each = np.stack([x[metric][..., spans[name]].mean(-1) for x in without])
                error = half * np.sqrt((GROUPS - 1) / GROUPS * ((each - each.mean(0)) ** 2).sum(0))
                drawn = curvatures[..., spans[null]]
                if name != "update":  # a mean of D directions is compared with another such mean: s^2 (1 / D + 1 / D)
                    drawn = drawn.mean(-1, keepdims=True) + (drawn - drawn.mean(-1, keepdims=True)) * (2 / (draws + 1)) ** 0.5
                band = pooling.prediction_band(drawn, 0.0)
                status, reason = _statuses(value, norm2[..., spans[name]].sum(-1) == 0)
                table.add(f"gate.curvature.{metric}", value, status, reason, null=(null, *band), ci_lo=value - error,
                          ci_hi=value + error, num_err=depth * (1 + r / self.damping) * np.abs(value), unit="example",
                          n_units=r, params=f"damping={self.damping:g};direction={name};rows={r}", dtype="fp32")


def _joined(parts: Sequence[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """Sums of several leaves side by side on the last axis, T."""
    return {name: jnp.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}


def _statuses(value: np.ndarray, still: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ok, degenerate where nothing moved, nan where a gradient is not finite or vanishes."""
    status = np.select([still, ~np.isfinite(value)], ["degenerate", "nan"], "ok").astype(object)
    reasons = np.asarray([pooling.NO_UPDATE, "no finite, nonzero gradient"], object)
    reason = np.select([still, ~np.isfinite(value)], reasons, None)
    return status, reason


catalog.add(
    __name__,
    catalog.Entry("gate.curvature",
                  "whether the base's principal directions are the curved ones, and whether the update avoids them",
                  GateCurvature, ("predict",)),
    catalog.Statistic(
        "gate_curvature", "Gate II: curvature along directions of the base", ("gate.curvature",),
        "Curvature of the base's own predictions along a direction, relative to a random direction of the same matrix: 1 is "
        "nothing special. Principal masks and subspaces above their null say that the leading directions of W0 are the curved "
        "ones; an update below its shuffled twin avoids curvature beyond what its size and density do.",
        "A principal mask is a proxy of curvature that need not hold: published tests with Hessian products contradict each "
        "other (geometry of RLVR, 48 cells of which none cleared two standard errors). The conditioned form depends on its "
        "damping and rows: without damping it is 0. Many matrices are compared at once: one outside its band is expected in "
        "twenty. Targets are drawn from the base, so rows' noise is in the interval.",
        "relative curvature of a planted principal subspace and of random frames, against the strength of the plant",
        extremes={
            "gate.curvature.mean": ("the base's predictions are sensitive to this matrix", "they are not"),
            "gate.curvature.mask": ("above 1 and its null: the mask holds the curved entries", "below: the flat ones"),
            "gate.curvature.subspace": ("above 1 and its null: the leading directions are curved", "below: they are flat"),
            "gate.curvature.update": ("above its null: the update goes where the base is curved", "below: it avoids curvature"),
            "gate.curvature.conditioned": (
                "above its null: curved even if all else answers",
                "below: other parameters make up for it"),
            "gate.curvature.remaining": ("1: no other parameter can answer", "0: others undo it; also without damping"),
        }),
)
