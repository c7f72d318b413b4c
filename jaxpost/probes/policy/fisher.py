"""The Fisher information of a policy on fixed rows: its diagonal, lengths in its metric, and Fisher-weighted L2.

With z_t(theta) the logits at a target position of a row, p_t = softmax(z_t) and J_t = dz_t/dtheta, the Fisher of the row is

    F = sum_t J_t' (diag(p_t) - p_t p_t') J_t = sum_t E_{y ~ p_t} [s_ty s_ty'],   s_ty = grad log p_t(y)

summed over the row's target positions and averaged over rows, so that KL(pi_theta || pi_{theta + d}) = d'Fd / 2 + O(|d|^3)
of whole sequences given these prefixes. Three diagonals, each under its own name, none of them a squared mean gradient:

    exact      sum_t sum_y p_ty s_ty^2: T V backward passes a row, for small vocabularies
    sampled    (sum_t s_{t, y_t})^2, y_t ~ p_t independently, mean over draws: unbiased, because scores at different
               positions of fixed prefixes have mean zero and are uncorrelated
    empirical  (sum_t s_{t, target_t})^2, the targets of the data: another matrix, equal to the Fisher only where the data
               are drawn from the policy (arXiv:1905.12558)

Rows fall into K groups whose diagonals are kept apart: their spread is the sampling error of everything made of them.

Legend: m rows, K groups, T target positions of a row (later: tensors), V vocabulary, b gradients held at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import stats
from jaxpost.probes import base, catalog, schedules, tracing
from jaxpost.probes.gradients import rows as gradient_rows
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import RowTable, total
from jaxpost.probes.weights import by_matrix, visibility

RAZOR = "RL's Razor, arXiv:2509.04259"
ESTIMATORS = ("exact", "sampled", "empirical")
_BATCH_MEANS = "t over groups of probe rows (batch means)"
_F = "F the diagonal Fisher of the base on the probe batch, sequence sums, params estimator=exact, sampled or empirical"
FISHER = (
    base.Metric("fisher.trace", f"sum_i F_i, {_F}", "1", RAZOR, "none: a scale, and a property of the base",
                "sum over matrices", "per-row squared scores, float32 sums", ci_method=_BATCH_MEANS),
    base.Metric("fisher.weighted_l2", f"sum_i F_i d_i^2, d = theta - theta0, {_F}", "1", RAZOR,
                "isotropic: |d|^2 mean(F) of each tensor, an update of the same norm in a random direction, 95 % from its "
                "exact variance", "sum over matrices", "float32 sums of non-negative terms", ci_method=_BATCH_MEANS),
)
base.register(*FISHER)


class Predictions(NamedTuple):
    """What a policy says at the positions of one row. Teacher forcing: prefixes are those of the row."""

    logits_TxV: jax.Array
    target_T: jax.Array  # i32, the row's own tokens
    mask_T: jax.Array  # 1 at target positions, 0 elsewhere


Predict = Callable[[Any, Any], Predictions]  # (params, one row) -> Predictions


def _pullback(predict: Predict, params: Any, row: Any):
    """(logits [T, V] in at least float32, target, mask, cotangent of the logits -> gradient in at least float32)."""
    target_T, mask_T = predict(params, row)[1:]
    logits, pull = jax.vjp(lambda w: predict(w, row).logits_TxV, params)
    wide = logits.astype(gradient_sums.accumulator_dtype(logits))
    return wide, target_T, mask_T.astype(wide.dtype), lambda c: gradient_sums.wide(pull(c.astype(logits.dtype))[0])


def _squares(total_: Any, grads_b: Any) -> Any:
    return jax.tree.map(lambda t, g: t + (g**2).sum(axis=0), total_, grads_b)


def _exact(predict: Predict, params: Any, row: Any, microbatch: int) -> Any:
    logits, _, mask, pull = _pullback(predict, params, row)
    p, (T, V) = jax.nn.softmax(logits), logits.shape

    def block(squares, start):
        i = start + jnp.arange(microbatch)
        t, y = jnp.minimum(i // V, T - 1), i % V
        root = jnp.where(i < T * V, jnp.sqrt(p[t, y]) * mask[t], 0.0)
        score = root[:, None] * (jax.nn.one_hot(y, V, dtype=p.dtype) - p[t])
        cotangents = jnp.zeros((microbatch, T, V), p.dtype).at[jnp.arange(microbatch), t].set(score)
        return _squares(squares, jax.vmap(pull)(cotangents)), None

    zero = jax.tree.map(jnp.zeros_like, gradient_sums.wide(params))
    return jax.lax.scan(block, zero, jnp.arange(0, T * V, microbatch))[0]


def _of_targets(predict: Predict, params: Any, row: Any, keys: jax.Array | None) -> Any:
    """Squared score of the row's targets, or the mean over draws from the policy, one for each key."""
    logits, target, mask, pull = _pullback(predict, params, row)
    p = jax.nn.softmax(logits)

    def squared(squares, drawn_T):
        score = (jax.nn.one_hot(drawn_T, p.shape[1], dtype=p.dtype) - p) * mask[:, None]
        return jax.tree.map(lambda f, g: f + g**2, squares, pull(score)), None

    if keys is None:
        drawn = target[None]
    else:
        drawn = jax.vmap(lambda key: jax.random.categorical(key, logits, axis=-1))(keys)
    zero = jax.tree.map(jnp.zeros_like, gradient_sums.wide(params))
    return jax.tree.map(lambda f: f / len(drawn), jax.lax.scan(squared, zero, drawn)[0])


def diagonal(predict: Predict, params: Any, rows: Any, *, estimator: str = "exact", groups: int = 1, microbatch: int = 8,
             draws: int = 1, key: jax.Array | None = None) -> Any:
    """Mean diagonal of the Fisher over the rows of each group; jit-pure.

    Args:
      predict: (params, row) -> Predictions; only its logits are differentiated.
      rows: a tree with leading axis m. Group k has rows k, k + K, ...
      estimator: one of ESTIMATORS.
      groups: K, divides m.
      microbatch: gradients held at once (exact only; the others hold one).
      draws, key: targets drawn a row (sampled only).
    Returns: a tree like params in at least float32, every leaf with a leading axis K; its mean over K is the estimate.
    Raises: ValueError for an unknown estimator, a K that does not divide m, or sampling without a key.
    """
    _check_settings(estimator, groups, microbatch, draws)
    if estimator == "sampled" and key is None:
        raise ValueError("a sampled Fisher needs a random key")
    m = jax.tree.leaves(rows)[0].shape[0]
    if m % groups:
        near = min((k for k in range(1, m + 1) if m % k == 0), key=lambda k: abs(k - groups))
        raise ValueError(f"groups={groups} does not divide the {m} rows; nearest valid: {near}")

    def one(row, i):
        if estimator == "exact":
            return _exact(predict, params, row, microbatch)
        keys = None if estimator == "empirical" else jax.random.split(jax.random.fold_in(key, i), draws)
        return _of_targets(predict, params, row, keys)

    def group(group_rows):
        def add(squares, x):
            return jax.tree.map(jnp.add, squares, one(*x)), None

        zero = jax.tree.map(jnp.zeros_like, gradient_sums.wide(params))
        squares = jax.lax.scan(add, zero, group_rows)[0]
        return jax.tree.map(lambda f: f / (m // groups), squares)

    strided = jax.tree.map(lambda x: x.reshape(m // groups, groups, *x.shape[1:]).swapaxes(0, 1), (rows, jnp.arange(m)))
    return jax.lax.map(group, strided)


def _check_settings(estimator: str, groups: int, microbatch: int, draws: int) -> None:
    if estimator not in ESTIMATORS:
        raise ValueError(f"Fisher estimator {estimator!r} is unknown; expected one of {', '.join(ESTIMATORS)}")
    if min(groups, microbatch, draws) < 1:
        raise ValueError(f"a Fisher needs groups, microbatch and draws >= 1; found {groups}, {microbatch}, {draws}")


def squared_length(predict: Predict, params: Any, row: Any, direction: Any) -> jax.Array:
    """d'Fd of one row with its whole Fisher, not the diagonal: sum_t Var_{y ~ p_t}[(J_t d)_y], by one forward derivative."""
    mask = predict(params, row).mask_T
    logits, z = jax.jvp(lambda w: predict(w, row).logits_TxV, (params,), (direction,))
    p, z = jax.nn.softmax(logits), z.astype(gradient_sums.accumulator_dtype(z))
    centred = z - (p * z).sum(axis=-1, keepdims=True)
    return ((p * centred**2).sum(axis=-1) * mask).sum()


@dataclass(frozen=True)
class FisherDistance:
    """Fisher-weighted L2 of an update: sum_i F_i d_i^2 with the diagonal Fisher of the base, computed once.

    `predict` is the policy (see `Predict`). Differs from the paper in: the Fisher's rows, estimator and per-sequence sum
    are stated (the replication notes give sum F_i d_i^2 and nothing more).
    """

    predict: Predict
    estimator: str = "exact"
    groups: int = 8  # of probe rows, for the sampling error; one diagonal each is held
    microbatch: int = 8  # gradients held at once
    draws: int = 1  # targets drawn a row, where sampled
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "fisher"
    version: str = "1"
    definition: str = "arXiv:2509.04259, Fisher-weighted L2 with a diagonal Fisher of the base"
    metrics: tuple[str, ...] = tuple(metric.id for metric in FISHER)
    needs: frozenset[base.Need] = frozenset({base.PARAMS0, base.PARAMS, base.PROBE_BATCH})

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"FisherDistance runs in lane sidecar (it needs a probe batch); found {self.lane!r}")
        _check_settings(self.estimator, self.groups, self.microbatch, self.draws)

    def cost(self, ctx: base.Context) -> base.Cost:
        """Of one `measure`: the base, the policy and K diagonals are read once. The Fisher itself is paid for in `init`."""
        size = 4.0 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(ctx[base.PARAMS]))
        return base.Cost(streamed=size * (2 + self.groups), held=size * 2)

    def cost_of_init(self, ctx: base.Context) -> base.Cost:
        """Of the diagonal, once a base."""
        return tracing.traced(lambda params, rows: self._diagonal(params, rows, jax.random.key(0)), ctx[base.PARAMS0],
                              ctx[base.PROBE_BATCH])

    def _diagonal(self, params, rows, key):
        return diagonal(self.predict, params, rows, estimator=self.estimator, groups=self.groups,
                        microbatch=self.microbatch, draws=self.draws, key=key)

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """The diagonals of the base, K a leaf. Raises: ValueError when they are not finite, or K does not divide the rows."""
        fisher_K = jax.jit(self._diagonal)(ctx[base.PARAMS0], ctx[base.PROBE_BATCH], key)
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(fisher_K)):
            raise ValueError("the diagonal Fisher of the base is not finite: the base or the probe batch is broken")
        return {"fisher_K": fisher_K, "rows": len(jax.tree.leaves(ctx[base.PROBE_BATCH])[0])}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): sum F d^2 by group and tensor, |d|^2, moments of F, rounding floor; `key` is not read."""
        del key
        params0, params = gradient_sums.wide(ctx[base.PARAMS0]), gradient_sums.wide(ctx[base.PARAMS])
        square = jax.tree.map(lambda a, b: (b - a) ** 2, params0, params)
        stored = jnp.stack([by_matrix.bf16_master(w.astype(jnp.float32)) for w in jax.tree.leaves(params)]).all()
        rounding = jax.tree.map(lambda a, b: _rounding_square(b, stored | jnp.any(a != b)), params0, params)
        fisher = jax.tree.map(lambda f: f.mean(axis=0), state["fisher_K"])

        def of_group(fisher_k):
            return gradient_sums.dots(fisher_k, square), gradient_sums.per_tensor(fisher_k)

        weighted_KxT, trace_KxT = jax.lax.map(of_group, state["fisher_K"])
        return state, {
            "weighted_KxT": weighted_KxT, "trace_KxT": trace_KxT, "fisher2_T": gradient_sums.dots(fisher, fisher),
            "square_T": gradient_sums.per_tensor(square), "floor_T": gradient_sums.dots(fisher, rounding),
        }

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict:
        """Rows of every tensor, kind, layer, body and the model; the unit of the interval is the probe row.

        Args: values: of `measure`, leading axis over seeds; infos: `gradients.sums.inventory` of the parameters.
        Raises: ValueError when values, seeds and infos do not fit together.
        """
        v = {name: np.asarray(x, np.float64) for name, x in values.items()}
        if v["square_T"].shape != (len(seeds), len(infos)):
            raise ValueError(f"values have [seeds, tensors] = {v['square_T'].shape}; expected {(len(seeds), len(infos))}")
        scopes = gradient_rows.scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        states = by_matrix.state(~np.isfinite(v["square_T"]), np.zeros(v["square_T"].shape, bool))
        used = np.ones(states.shape, bool)
        status, reason = pooling.statuses(states, scopes, "")
        depth_T = np.asarray(gradient_sums.additions(list(infos)), np.float64)[None, :]
        common = {"params": f"estimator={self.estimator}", "unit": "example", "n_units": int(state["rows"]), "dtype": "fp32"}

        def add(metric, name, status, reason, **more):
            parts = total(np.moveaxis(v[name], 1, 2), used, scopes)  # [S, C, K]
            interval = stats.t_interval(parts)
            error = total((depth_T + 4) * 2.0**-24 * v[name].mean(1), used, scopes)
            table.add(metric, interval.value, status, reason, ci_lo=interval.lo, ci_hi=interval.hi, num_err=error,
                      **more, **common)

        add("fisher.trace", "trace_KxT", "ok", None, floor=None)
        add("fisher.weighted_l2", "weighted_KxT", status, reason, floor=total(v["floor_T"], used, scopes),
            null=("isotropic", *isotropic(v, infos, used, scopes)))
        return table.columns(row_ids)


def _rounding_square(w: jax.Array, told: jax.Array) -> jax.Array:
    """Expected squared rounding error of each stored entry, ulp^2 / 12, in the dtype the tensor was stored in.

    That is bf16 where every entry is on its grid and this tells something (`told`): the tensor moved, or all the others are
    on it too. A float32 tensor that has not moved is still on the grid of its base.
    """
    codes = visibility.bf16_codes(w.astype(jnp.float32))
    bf16 = by_matrix.bf16_master(w.astype(jnp.float32)) & told
    ulp = jnp.where(bf16, visibility.ulp(codes), visibility.ulp(codes, "fp32"))
    return ulp**2 / 12


def isotropic(v: Mapping[str, np.ndarray], infos: Sequence[TensorInfo], used: np.ndarray, scopes: pooling.Scopes):
    """(value, lo, hi) of sum F_i d_i^2 for d uniform on each tensor's sphere of radius |d|: 95 % of a normal law.

    E = |d|^2 mean(F); Var = |d|^4 2 / (n (n + 2)) (sum F^2 - (sum F)^2 / n), exact for one tensor, added over tensors.
    """
    n = np.asarray([np.prod(info.shape) for info in infos], np.float64)[None, :]
    trace, square = v["trace_KxT"].mean(1), v["square_T"]
    spread = np.maximum(v["fisher2_T"] - trace**2 / n, 0.0)
    expected = total(square * trace / n, used, scopes)
    half = 1.959964 * np.sqrt(total(square**2 * 2 / (n * (n + 2)) * spread, used, scopes))
    return expected, np.maximum(expected - half, 0.0), expected + half


catalog.add(
    __name__,
    catalog.Entry("fisher", "the update's length in the base's diagonal Fisher", FisherDistance, ("predict",)),
    catalog.Statistic(
        "fisher", "Fisher-weighted length", ("fisher",),
        "The length of the update where the base's own predictions are sensitive: about twice the KL of a small step if the "
        "Fisher were diagonal.",
        "The diagonal leaves out all interaction; the empirical Fisher is another matrix; a far policy is beyond the "
        "quadratic. Compare with the same norm in a random direction.",
        "KL of a softmax policy against half its Fisher length",
        extremes={
            "fisher.trace": ("the base's predictions are sensitive", "they are not"),
            "fisher.weighted_l2": (
                "the update went where the base's predictions are sensitive",
                "it is short, or went elsewhere"),
        }),
)
