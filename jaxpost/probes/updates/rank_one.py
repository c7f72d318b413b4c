"""The leading singular direction of the update: how much of it there is, and whether it stays put.

    s1^2 / ||dW||_F^2 and s1 / ||dW||_F         share of energy and of norm in the leading direction
    |<u1(t), u1(s)>|, |<v1(t), v1(s)>|          the direction at two measured steps
    Sim_K(t, T) = ||V_K(t)' V_K(T)||_F^2 / K    the leading right subspace at two measured steps (arXiv:2606.07082)

A blind walk W_t = W_0 + sum of isotropic increments keeps its direction too, between steps where most of the walk is
shared: it is the primary null, at the ratio of the two norms. Random directions are the further one. What a rank-k
update does to parameters is `low_rank_weights`; whether u1 follows an outcome is in `linearity`.

Legend: M rows, N columns, K leading triplets, P points of the walk's grid, D draws, S seeds, T matrices, C scopes.
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
import scipy.stats

from jaxpost import linalg
from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo, fits
from jaxpost.probes.rows.pooling import ABSENT, NO_UPDATE, OK, RowTable, divide, mean, total
from jaxpost.probes.updates.stripes import normal_band
from jaxpost.probes.weights import by_matrix, nulls
from jaxpost.probes.weights.cost import svd_flops

RLDYN = "On Predictability of RL Dynamics, arXiv:2510.00553"
OPDG = "On the Geometry of On-Policy Distillation, arXiv:2606.07082"
_TOP = "certified block Krylov with exact fallback (linalg.top_k), float32; num_err from residuals over gaps (Wedin, Weyl)"
_GAUSS = ("gaussian_matrix: Tracy-Widom law of s1^2 of a Gaussian matrix of the same shape over its mean energy, corrected "
          "centring (Ma 2012)")
_WALK = ("isotropic_walk: two points of a walk of isotropic increments, at the ratio of their norms; random_directions a "
         "further row")
RANK_ONE = (
    base.Metric("weight.rank_one.energy_share", "s1^2 / ||dW||_F^2", "1", RLDYN, _GAUSS, "ratio of sums", _TOP),
    base.Metric("weight.rank_one.norm_share", "s1 / ||dW||_F; pools: sum s1 / sum ||dW||_F", "1",
                RLDYN + " (as its released script prints it: a ratio of norms, not of energies)", _GAUSS, "ratio of sums",
                _TOP),
    base.Metric("weight.rank_one.cosine", "|<u1(t), u1(s)>| (left), |<v1(t), v1(s)>| (right): params from is the earlier step, "
                "`step` the later", "1", RLDYN, _WALK, "mean over matrices", _TOP),
    base.Metric("weight.rank_one.subspace_similarity", "||V_K(t)'V_K(T)||_F^2 / K of the leading right singular vectors of dW: "
                "params from is the earlier step, `step` the later", "1", OPDG, _WALK, "mean over matrices",
                _TOP),
)
base.register(*RANK_ONE)
METRICS = tuple(metric.id for metric in RANK_ONE)
WALK_SHARED = (0.0, 0.5, 0.8, 0.95, 0.99, 1.0)  # correlation of the two points of a walk: ratio of their norms
_TRACY_WIDOM = (-1.2065, 1.2680)  # mean and standard deviation at beta = 1
_UNRESOLVED = "the leading direction is not resolved against storage rounding"


def leading(dw: jax.Array, k: int) -> linalg.TopK:
    """Leading min(k, min(m, n) - 1) triplets; the sketch is always the same, so that steps can be compared."""
    kept = min(k, min(dw.shape) - 1)
    return linalg.top_k(dw, kept, jax.random.key(0), at=(1, kept))


def _frame(a: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """u1 [M] and the leading right vectors [N, K], exactly."""
    u, _, v = linalg.svd(a)
    return u[:, 0], v[:, :k]


def overlaps(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> jax.Array:
    """|<u1, u1'>|, |<v1, v1'>| and ||V'V'||_F^2 / K of two pairs (u1, V): f32[3]."""
    (u, v_NxK), (other_u, other_NxK) = a, b
    inner = linalg.matmul(v_NxK.T, other_NxK)
    left = jnp.abs(jnp.vdot(u, other_u, precision=linalg.HIGHEST))
    return jnp.minimum(jnp.stack([left, jnp.abs(inner[0, 0]), jnp.sum(inner**2) / inner.shape[0]]), 1.0)


def walk_overlaps(shape: tuple[int, int], k: int, draws: int, key: jax.Array) -> jax.Array:
    """`overlaps` of G1 with c G1 + sqrt(1 - c^2) G2, Gaussian, for c in WALK_SHARED: f32[P, D, 3].

    Gaussian spectra have no gap to certify: exact SVDs, one a point and draw.
    """
    kept = min(k, min(shape) - 1)

    def draw(i):
        one, two = (nulls.direction(key, 2 * i + j, shape) for j in (0, 1))
        shared = jnp.asarray(WALK_SHARED, jnp.float32)
        frames = jax.lax.map(lambda c: _frame(c * one + jnp.sqrt(1 - c**2) * two, kept), shared)
        return jax.vmap(overlaps, (None, 0))(jax.tree.map(lambda x: x[-1], frames), frames)

    return jax.lax.map(draw, jnp.arange(draws)).swapaxes(0, 1)


def gaussian_share(shape: tuple[int, int]) -> tuple[float, float]:
    """Mean and standard deviation of s1^2 / (m n) of a Gaussian matrix with unit entries: Tracy-Widom, beta = 1.

    Centre (sqrt(m - 1/2) + sqrt(n - 1/2))^2 and scale sqrt(centre) (1/sqrt(m - 1/2) + 1/sqrt(n - 1/2))^(1/3).
    Source: Johnstone 2001; Ma 2012 (second-order accurate).
    """
    a, b = np.sqrt(shape[0] - 0.5), np.sqrt(shape[1] - 0.5)
    scale = (a + b) * (1 / a + 1 / b) ** (1 / 3)
    size = shape[0] * shape[1]
    return float(((a + b) ** 2 + _TRACY_WIDOM[0] * scale) / size), float(_TRACY_WIDOM[1] * scale / size)


def random_cosine(n: int) -> tuple[float, float]:
    """Mean and standard deviation of |cos| of random directions in n dimensions: cos^2 ~ Beta(1/2, (n - 1)/2)."""
    first = np.exp(scipy.special.gammaln(n / 2) - scipy.special.gammaln((n + 1) / 2)) / np.sqrt(np.pi)
    return float(first), float(np.sqrt(1 / n - first**2))


def random_similarity(n: int, k: int) -> tuple[float, float]:
    """Mean k / n and standard deviation of ||V'V'||_F^2 / k for random k-dimensional subspaces of n dimensions."""
    variance = 2 * (n - k) ** 2 / (n**2 * (n - 1) * (n + 2))
    return k / n, float(np.sqrt(variance))


def low_rank_weights(weights0: Mapping[str, jax.Array], weights1: Mapping[str, jax.Array], k: int = 1,
                     scale: float = 1.0) -> dict[str, jax.Array]:
    """The norm-rescaled rank-k model W0 + scale (||dW||_F / ||dW_k||_F) dW_k of every matrix handed in: name -> f32[m, n].

    dW_k is the best rank-k approximation of dW = W1 - W0; a zero update gives W0. Which matrices take part is the
    caller's choice (arXiv:2510.00553 takes attention and MLP; it does not say what the others keep). Kept in float32:
    casting the result to bf16 would be another model.
    """

    def one(w0, w1):
        dw = w1 - w0
        if k > min(dw.shape):
            raise ValueError(f"rank {k} of a matrix of shape {dw.shape}; the largest possible is {min(dw.shape)}")
        u, s, v = linalg.svd(dw)
        kept = linalg.matmul(u[:, :k] * s[None, :k], v[:, :k].T)
        norm = jnp.linalg.norm(kept)
        return w0 + jnp.where(norm > 0, scale * jnp.linalg.norm(dw) / jnp.where(norm > 0, norm, 1.0), 0.0) * kept

    return by_matrix.each(one, weights0, weights1)


@dataclass(frozen=True)
class RankOne:
    """Leading triplets of dW = W1 - W0 (masters; what bf16 storage left of it where masters are bf16)."""

    k: int = 16  # of the subspace similarity
    draws: int = 4  # of the isotropic walk; each costs six exact SVDs of every shape, once, in `init`
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "weight.rank_one"
    version: str = "1"
    definition: str = "arXiv:2510.00553, arXiv:2606.07082, with the nulls of jaxpost.probes.updates.rank_one"
    metrics: tuple[str, ...] = METRICS
    needs: frozenset[base.Need] = frozenset({base.WEIGHTS0, base.WEIGHTS})

    def __post_init__(self):
        if self.k < 1 or self.draws < 1:
            raise ValueError(f"RankOne needs k >= 1 and draws >= 1; found k={self.k}, draws={self.draws}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """An exact thin SVD of every matrix: what certification falls back to on a spectrum without a gap."""
        shapes = [w.shape for w in ctx[base.WEIGHTS].values()]
        sizes = [4.0 * m * n for m, n in shapes]
        return base.Cost(products=sum(8.0 * m * n * self.k for m, n in shapes),
                         factorisations=sum(svd_flops(shape) for shape in shapes), streamed=6 * sum(sizes),
                         held=4 * max(sizes) + 2 * sum(sizes))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """name -> "walk": `walk_overlaps` of its shape (one draw a shape, with a key of its own): f32[P, D, 3].

        Raises: ValueError when k is above every matrix.
        """
        shapes = {name: tuple(w.shape) for name, w in ctx[base.WEIGHTS0].items()}
        largest = max(min(shape) for shape in shapes.values()) - 1
        if self.k > largest:
            raise ValueError(f"RankOne: k={self.k} is above every matrix; the largest possible is {largest}")
        draw = jax.jit(walk_overlaps, static_argnums=(0, 1, 2))
        drawn = {shape: draw(shape, self.k, self.draws, jax.random.fold_in(key, zlib.crc32(str(shape).encode())))
                 for shape in set(shapes.values())}
        return {name: {"walk": drawn[shape]} for name, shape in shapes.items()}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): name -> s, u1, v1, v (leading K), norm, gap at 1, error of s1, subspace errors of u1 and v (`turn1`,
        `turn`), rounding edge; deterministic, `key` is not read.
        """

        def one(w0, w1, ref):
            finite = jnp.isfinite(w1).all()
            dw = jnp.where(finite, w1 - w0, 0.0)  # LAPACK: finite only
            top = leading(dw, self.k)
            s = jnp.append(top.s_K, top.next_s)
            edge = linalg.rounding_edge(by_matrix.rounding_rms(w0, w1), *dw.shape)
            values = {"s": top.s_K, "u1": top.u_MxK[:, 0], "v1": top.v_NxK[:, 0], "v": top.v_NxK, "norm": jnp.linalg.norm(dw),
                      "gap": s[0] - s[1], "error": jnp.maximum(top.residual_K[0], linalg.VALUE_ERROR * s[0]),
                      "turn1": linalg.subspace_error(top.residual_K, s, 1),
                      "turn": linalg.subspace_error(top.residual_K, s, len(s) - 1), "edge": edge} | ref
            values = {name: jnp.where(finite, x, jnp.nan) for name, x in values.items()}
            return values | {"n_nonfinite": jnp.sum(~jnp.isfinite(w1), dtype=jnp.int32),
                             "bf16": by_matrix.bf16_master(w1).astype(jnp.int32)}

        return state, by_matrix.each(one, ctx[base.WEIGHTS0], ctx[base.WEIGHTS], state)

    def arrays(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """"statistic/tensor" -> array [S, ...]: leading values and vectors, the walk's overlaps, errors."""
        return by_matrix.flat(values, ("s", "u1", "v1", "v", "norm", "gap", "turn1", "turn", "edge", "walk", "n_nonfinite",
                                       "bf16"))

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None,
                 row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of energy_share and norm_share. Floor: the share that storage rounding alone could lead with, edge / ||dW||."""
        scopes = pooling.scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        read = {name: by_matrix.stacked(values, infos, name) for name in ("norm", "error", "edge", "n_nonfinite", "bf16")}
        s1 = np.stack([np.asarray(values[info.name]["s"], np.float64)[:, 0] for info in infos], 1)
        states = by_matrix.state(read["n_nonfinite"], read["norm"] == 0)
        used = states == OK
        centre, spread = np.asarray([gaussian_share(info.shape) for info in infos]).T
        moments = {2: (centre, spread), 1: (np.sqrt(centre), spread / (2 * np.sqrt(centre)))}
        for metric, power in (("energy_share", 2), ("norm_share", 1)):
            whole = total(read["norm"] ** power, used, scopes)
            status, reason = pooling.statuses(states, scopes, "")
            value = divide(total(s1**power, used, scopes), whole)
            floor = divide(total(read["edge"] ** power, used, scopes), whole)
            error = divide(total(power * s1 ** (power - 1) * read["error"], used, scopes), whole)
            weight = np.where(used, read["norm"] ** power, 0.0)
            expected = divide(total(weight * moments[power][0], used, scopes), whole)
            deviation = divide(np.sqrt(total((weight * moments[power][1]) ** 2, used, scopes)), whole)
            low = (status == "ok") & (value < floor)
            status[low], reason[low] = "unresolved", "below the noise floor"
            value = by_matrix.settled(value, status)
            table.add(f"weight.rank_one.{metric}", value, status, reason, null=("gaussian_matrix", *pooling.around(
                expected, deviation)), floor=floor, num_err=error, dtype=by_matrix.dtypes(read["bf16"]))
        return table.columns(row_ids)

    def across(self, series: Mapping[int, Mapping[str, np.ndarray]], *, infos: Sequence[TensorInfo], arm: str,
               seeds: Sequence[int], conditional_on: str | None,
               row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of cosine and subspace_similarity between measured steps (`by_matrix.pairs`)."""
        scopes, parts = pooling.scopes_of(infos), []
        by_step = {step: by_matrix.regroup(arrays) for step, arrays in series.items()}
        for earlier, later in by_matrix.pairs(series):
            table = RowTable(scopes, seeds, {"arm": arm, "step": later, "conditional_on": conditional_on})
            _add_pair(table, by_step[earlier], by_step[later], infos, self.k, f"from={earlier}")
            parts.append(table.columns(row_ids))
        return by_matrix.concatenate(parts)


def _add_pair(table: RowTable, before, after, infos, k: int, params: str) -> None:
    """Rows of one pair of steps."""
    names = ("norm", "turn1", "turn", "gap", "edge", "n_nonfinite", "bf16")
    ends = [{name: by_matrix.stacked(x, infos, name) for name in names} for x in (before, after)]
    states = by_matrix.state(sum(end["n_nonfinite"] for end in ends), (ends[0]["norm"] == 0) | (ends[1]["norm"] == 0))
    norms = [np.where(states == OK, end["norm"], 1.0) for end in ends]
    shared = np.minimum(*norms) / np.maximum(*norms)
    hidden = ~(sum(divide(end["edge"], np.maximum(end["gap"], 0.0)) for end in ends) < 1)
    common = {"dtype": by_matrix.dtypes(np.minimum(ends[0]["bf16"], ends[1]["bf16"])), "params": params}

    def add(metric, position, value, states, hidden, error, random, **key):
        walks = [np.asarray(after[info.name]["walk"], np.float64)[..., position] for info in infos]
        walk_SxTxD = np.stack([_at(walk, shared[:, t]) for t, walk in enumerate(walks)], 1)
        error = np.minimum(error + linalg.FRAME_ERROR, 1.0)
        _add_overlap(table, metric, np.minimum(value, 1.0), states, hidden, error, walk_SxTxD, np.asarray(random).T,
                     **common, **key)

    angle = sum(np.arcsin(end["turn1"]) for end in ends)
    for position, (side, name) in enumerate((("left", "u1"), ("right", "v1"))):
        cosine = np.stack([_cosine(before[i.name][name], after[i.name][name]) for i in infos], 1)
        random = [random_cosine(i.shape[position]) for i in infos]
        add("cosine", position, cosine, states, hidden, angle, random, side=side)
    similarity = np.stack([_similarity(before[i.name]["v"], after[i.name]["v"]) for i in infos], 1)
    states = np.where([not fits(k, i.shape) for i in infos], ABSENT, states)
    random = [random_similarity(i.shape[1], min(k, min(i.shape) - 1)) for i in infos]
    turned = np.sqrt(2 / k) * sum(end["turn"] for end in ends)
    add("subspace_similarity", 2, similarity, states, np.zeros_like(hidden), turned, random, side="right", k=k)


def _cosine(x_SxN: np.ndarray, y_SxN: np.ndarray) -> np.ndarray:
    return np.abs(np.einsum("sn,sn->s", np.asarray(x_SxN, np.float64), np.asarray(y_SxN, np.float64)))


def _similarity(v0_SxNxK: np.ndarray, v1_SxNxK: np.ndarray) -> np.ndarray:
    inner = np.einsum("snk,snl->skl", np.asarray(v0_SxNxK, np.float64), np.asarray(v1_SxNxK, np.float64))
    return (inner**2).sum((1, 2)) / inner.shape[1]


def _add_overlap(table, metric, value, states, hidden, error, walk_SxTxD, random_2xT, **key) -> None:
    """One overlap of a pair of steps against the walk (range of draws) and random directions (95 % of a normal)."""
    scopes, used = table.scopes, states == OK
    status, reason = pooling.statuses(states, scopes, f"k={key.get('k')} needs min(m, n) > k")
    reason[status == "degenerate"] = f"at one of the steps {NO_UPDATE}"
    unclear = (total((hidden & used) * 1.0, used, scopes) > 0) & (status == "ok")
    status[unclear], reason[unclear] = "unresolved", _UNRESOLVED
    row = table.add(f"weight.rank_one.{metric}", by_matrix.settled(mean(value, used, scopes), status), status, reason,
                    null=("isotropic_walk", *pooling.prediction_band(mean(walk_SxTxD, used, scopes))),
                    num_err=mean(error, used, scopes), **key)
    centre, spread = (np.broadcast_to(x, value.shape) for x in random_2xT)
    centre, lo, hi = normal_band(mean(centre, used, scopes), spread, used, scopes, low=0.0)
    table.add_null(row, "random_directions", centre, lo, np.minimum(hi, 1.0))


def _at(walk_SxPxD: np.ndarray, shared_S: np.ndarray) -> np.ndarray:
    """The walk's overlaps at given ratios of norms, linear between points of the grid: f64[S, D]."""
    return np.stack([[np.interp(c, WALK_SHARED, curve) for curve in walk.T] for walk, c in zip(walk_SxPxD, shared_S)])


catalog.add(
    __name__,
    catalog.Entry("weight.rank_one", "how much of the update is one direction, and whether that direction stays", RankOne),
    catalog.Statistic(
        "rank_one", "The leading direction of the update", ("weight.rank_one",),
        "How much of the update is one direction (energy and norm are different shares), and whether that direction at one "
        "step is that of a later one.",
        "A walk keeps its past: two points of a blind random walk share a direction, more the closer they are. Random "
        "directions are too weak a null for neighbouring steps.",
        "cosine of the leading directions of a blind walk, and of independent updates",
        extremes={
            "weight.rank_one.energy_share": ("the update is nearly one direction", "it is spread over many"),
            "weight.rank_one.norm_share": ("the update is nearly one direction", "it is spread over many"),
            "weight.rank_one.cosine": ("the direction stayed, as that of a blind walk partly does", "it changed"),
            "weight.rank_one.subspace_similarity": (
                "the directions stayed, as those of a blind walk partly do",
                "they changed"),
            "weight.rank_one.linearity": ("the leading direction predicts the outcome", "it does not"),
        }),
)
