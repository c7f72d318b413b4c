"""The straight path between a base and a policy: loss and success along it, its barrier, what averaging solves anew.

    theta(a) = (1 - a) theta0 + a theta1,   a on a grid of 11 points (WiSE-FT, arXiv:2109.01903)

Barrier: the largest loss above the chord (1 - a) L(theta0) + a L(theta1) on the grid, hence never below zero; noise alone
makes it positive, so its null is what random signs of each row's excess would read. FalseFalseTrue (arXiv:2309.17230): rows
that the average solves and neither end does, beside what chance alignment of the same counts gives.

BANG (balanced averaging, arXiv:2309.17230) is known here from its abstract only: a tuned model is over-confident, so its
confidence is corrected before averaging; the paper does so while tuning (label smoothing, mixup: *recalled*). What is
measured here is *reconstructed*: logits of the tuned end divided by the temperature at which its mean confidence equals
the base's, then averaged; it is output averaging, and no claim about the paper's numbers follows from it.

Legend: A grid points, m rows of the probe batch, T positions, V vocabulary, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxpost import stats
from jaxpost.probes import base, catalog, schedules, tracing
from jaxpost.probes.policy import example_rows
from jaxpost.probes.policy.fisher import Predict

WISE = "WiSE-FT, arXiv:2109.01903"
BANG = "arXiv:2309.17230"
_ROWS = "float32 losses of single rows, float64 means; params alpha"
_PATH = {
    "loss": (
        base.Metric("interpolation.loss", "mean loss of the probe rows at theta(alpha)", "nat", WISE, "chord: the linear "
                    "interpolation of the ends' losses", "mean over examples", _ROWS, ci_method="t over probe rows"),
        base.Metric("interpolation.barrier", "max over the grid of L(theta(a)) - (1 - a) L(theta0) - a L(theta1)", "nat",
                    "arXiv:1912.05671", "chord: 0; sign_flips as a further row: largest mean excess when each row's excess has "
                    "a random sign", "mean over examples", _ROWS + "; noise floor: standard error of the excess, paired by row",
                    ci_method="t over probe rows at the grid point of the maximum, taken as given", higher_is_better=False),
        base.Metric("interpolation.barrier_at", "alpha of the barrier on the grid", "1", "arXiv:1912.05671",
                    "none: a location; absent where nothing lies above the chord", "none", _ROWS, ci_method="none"),
    ),
    "solved": (
        base.Metric("interpolation.success", "share of probe rows solved at theta(alpha)", "1", WISE,
                    "chord: the linear interpolation of the ends' shares", "mean over examples", _ROWS,
                    ci_method="t over probe rows", higher_is_better=True),
        base.Metric("interpolation.false_false_true", "share of rows solved at alpha = 1/2 and at neither end", "1", BANG,
                    "independence: share solved at 1/2 times share solved at neither end, 95 % hypergeometric; all_independent "
                    "(all three) as a further row", "mean over examples", _ROWS, ci_method="t over probe rows"),
    ),
    "predict": (
        base.Metric("interpolation.balanced_temperature", "T at which the mean largest probability of softmax(z1 / T) at "
                    "target positions is that of softmax(z0): above 1 where the policy is more confident", "1",
                    BANG + " (reconstructed from the abstract)", "equal_confidence: 1", "none",
                    "40 bisections of log T in [0.05, 20]", ci_method="none"),
        base.Metric("interpolation.balanced_loss", "mean over rows of -sum log softmax((z0 + z1 / T) / 2)[target]", "nat",
                    BANG + " (reconstructed from the abstract)", "plain_average: the same at T = 1", "mean over examples",
                    "float32 logits; noise floor: standard error of the paired difference from the null",
                    ci_method="t over probe rows", higher_is_better=False),
    ),
}
base.register(*(metric for group in _PATH.values() for metric in group))
TEMPERATURES = (0.05, 20.0)
FLIPS = 499
HALF_ULP = 2.0**-24  # relative rounding of a stored float32 loss; what the loss itself lost is not known here


def between(params0: Any, params1: Any, alpha: jax.Array) -> Any:
    """(1 - alpha) theta0 + alpha theta1; the ends exactly, also beside entries that are not finite."""
    def mix(w0, w1):
        mixed = (1 - alpha) * w0 + alpha * w1
        return jnp.where(alpha == 0, w0, jnp.where(alpha == 1, w1, mixed)).astype(w1.dtype)

    return jax.tree.map(mix, params0, params1)


def along(function: Callable, params0: Any, params1: Any, rows: Any, alphas: np.ndarray, microbatch: int) -> jax.Array:
    """function(theta(alpha), row) -> scalar, at every alpha and row: f32[A, m]. One program for all alphas."""
    def at(alpha):
        return example_rows.of_examples(function, between(params0, params1, alpha), rows, microbatch)

    return jax.lax.map(at, jnp.asarray(alphas, jnp.float32))


def confidence(logits: jax.Array, mask: jax.Array, temperature: jax.Array) -> jax.Array:
    """Mean over target positions of the largest probability of softmax(logits / temperature)."""
    largest = jax.nn.softmax(logits / temperature, axis=-1).max(axis=-1)
    return (largest * mask).sum() / mask.sum()


def matching_temperature(logits0: jax.Array, logits1: jax.Array, mask: jax.Array) -> jax.Array:
    """T with confidence(logits1, T) = confidence(logits0, 1), by bisection of log T; an end of the range where there is none.

    Args: logits [m, T, V]; mask [m, T]. Confidence falls with T, so T is unique unless logits1 are constant.
    """
    wanted = confidence(logits0, mask, 1.0)

    def halve(_, ends):
        middle = 0.5 * (ends[0] + ends[1])
        sure = confidence(logits1, mask, jnp.exp(middle)) > wanted
        return jnp.where(sure, middle, ends[0]), jnp.where(sure, ends[1], middle)

    ends = tuple(jnp.asarray(np.log(t), logits0.dtype) for t in TEMPERATURES)
    low, high = jax.lax.fori_loop(0, 40, halve, ends)
    return jnp.exp(0.5 * (low + high))


def balanced(predict: Predict, params0: Any, params1: Any, rows: Any, microbatch: int) -> dict[str, jax.Array]:
    """Losses of averaged logits, confidences matched (`balanced_m`) and not (`plain_m`), and the `temperature`."""
    ends = [example_rows.of_examples(predict, params, rows, microbatch) for params in (params0, params1)]
    z0, z1 = (end.logits_TxV.astype(jnp.promote_types(end.logits_TxV.dtype, jnp.float32)) for end in ends)
    mask, target = ends[0].mask_T, ends[0].target_T
    temperature = matching_temperature(z0, z1, mask)

    def loss_m(logits):
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
        return -(logp * mask).sum(axis=-1)

    return {"temperature": temperature, "balanced_m": loss_m((z0 + z1 / temperature) / 2), "plain_m": loss_m((z0 + z1) / 2)}


@dataclass(frozen=True)
class Interpolation:
    """The path from the base to a policy on the probe batch.

    `loss(params, row) -> scalar` is always measured; with `solved(params, row) -> 0 or 1` success and FalseFalseTrue too,
    with `predict(params, row) -> fisher.Predictions` the temperature-matched average.
    """

    loss: Callable[[Any, Any], jax.Array]
    solved: Callable[[Any, Any], jax.Array] | None = None
    predict: Predict | None = None
    points: int = 11  # of the grid, both ends included; odd
    microbatch: int = 8  # rows at once
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "interpolation"
    version: str = "1"
    definition: str = "arXiv:2109.01903 and the barrier of arXiv:1912.05671, 11 points on the straight line from the base"
    needs: frozenset[base.Need] = frozenset({base.PARAMS0, base.PARAMS, base.PROBE_BATCH})

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"Interpolation runs in lane sidecar (it needs a probe batch); found {self.lane!r}")
        if self.points < 3 or self.points % 2 == 0 or self.microbatch < 1:
            raise ValueError(f"Interpolation needs an odd number of points >= 3 (1/2 is one of them) and microbatch >= 1; "
                             f"found points={self.points}, microbatch={self.microbatch}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Ids of the rows that these functions give."""
        return tuple(metric.id for name, group in _PATH.items() if getattr(self, name) is not None for metric in group)

    @property
    def alphas(self) -> np.ndarray:
        """The grid, float64[A]."""
        return np.linspace(0.0, 1.0, self.points)

    def cost(self, ctx: base.Context) -> base.Cost:
        """A forward pass of every row at every grid point, counted from the functions themselves."""
        return tracing.traced(self._values, ctx[base.PARAMS0], ctx[base.PARAMS], ctx[base.PROBE_BATCH])

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state. Refuses, before any run, a probe batch that the microbatch or the functions do not fit."""
        del key
        shapes = jax.eval_shape(self._values, ctx[base.PARAMS0], ctx[base.PARAMS0], ctx[base.PROBE_BATCH])
        for name in ("loss", "solved"):
            if (x := shapes.get(f"{name}_AxM")) is not None and x.ndim != 2:
                raise ValueError(f"`{name}` must give a scalar a row; found shape {x.shape[2:]}")
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): per-row losses, successes and averaged losses; `key` is not read."""
        del key
        return state, self._values(ctx[base.PARAMS0], ctx[base.PARAMS], ctx[base.PROBE_BATCH])

    def _values(self, params0, params1, rows) -> dict[str, jax.Array]:
        values = {"loss_AxM": along(self.loss, params0, params1, rows, self.alphas, self.microbatch)}
        if self.solved is not None:
            score = along(self.solved, params0, params1, rows, self.alphas, self.microbatch)
            values["solved_AxM"] = score.astype(jnp.float32)
        if self.predict is not None:
            values |= balanced(self.predict, params0, params1, rows, self.microbatch)
        return values

    def arrays(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The curves of every row: loss [S, A, m], and solved where it is measured."""
        return {name.removesuffix("_AxM"): np.asarray(x) for name, x in values.items() if name.endswith("_AxM")}

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Any = None, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of granularity "policy"; `infos` is not read. Values have a leading axis over seeds.

        Raises: ValueError when values and seeds do not fit together.
        """
        del infos, state
        v = {name: np.asarray(x, np.float64) for name, x in values.items()}
        v = {name: np.where(np.isfinite(x), x, np.nan) for name, x in v.items()}
        if len(v["loss_AxM"]) != len(seeds):
            raise ValueError(f"values of {len(v['loss_AxM'])} seeds; expected {len(seeds)}")
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        _add_curve(table, "interpolation.loss", v["loss_AxM"], self.alphas)
        _add_barrier(table, v["loss_AxM"], self.alphas)
        if "solved_AxM" in v:
            _add_curve(table, "interpolation.success", v["solved_AxM"], self.alphas)
            _add_false_false_true(table, v["solved_AxM"])
        if "temperature" in v:
            _add_balanced(table, v)
        return table.columns(row_ids)


def _excess(x_SxAxM: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """x minus the chord between its ends, row by row: exactly 0 at the ends."""
    chord = (1 - alphas)[None, :, None] * x_SxAxM[:, :1] + alphas[None, :, None] * x_SxAxM[:, -1:]
    excess = x_SxAxM - chord
    excess[:, [0, -1]] = np.where(np.isfinite(x_SxAxM[:, [0, -1]]), 0.0, np.nan)
    return excess


def _add_curve(table, metric: str, x_SxAxM: np.ndarray, alphas: np.ndarray) -> None:
    excess = _excess(x_SxAxM, alphas)
    for i, alpha in enumerate(alphas):
        chord = (1 - alpha) * x_SxAxM[:, 0].mean(-1) + alpha * x_SxAxM[:, -1].mean(-1)
        example_rows.add(table, metric, stats.t_interval(x_SxAxM[:, i]), x_SxAxM.shape[-1], params=f"alpha={alpha:g}",
                         null=("chord", chord, None, None), floor=example_rows.standard_error(excess[:, i]),
                         num_err=HALF_ULP * np.abs(x_SxAxM[:, i]).mean(-1)[:, None],
                         broken="not finite on some row")


def barrier(loss_AxM: np.ndarray, alphas: np.ndarray) -> tuple[float, float, np.ndarray]:
    """(height, location, excess of every row there) of one policy; the height is 0 and the location NaN without a barrier."""
    excess_AxM = _excess(loss_AxM[None], alphas)[0]
    mean_A = excess_AxM.mean(-1)
    top = int(np.argmax(mean_A))
    return float(mean_A[top]), float(alphas[top]) if mean_A[top] > 0 else np.nan, excess_AxM[top]


def sign_flips(loss_AxM: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Barriers [FLIPS] when the excess of each row, the same at every grid point, has a random sign (fixed draws)."""
    excess_AxM = _excess(loss_AxM[None], alphas)[0]
    m = excess_AxM.shape[1]
    signs_FxM = np.random.default_rng(0).choice([-1.0, 1.0], size=(FLIPS, m))
    return (signs_FxM @ excess_AxM.T / m).max(axis=1)


def _add_barrier(table, loss_SxAxM: np.ndarray, alphas: np.ndarray) -> None:
    S, _, m = loss_SxAxM.shape
    height, where, flips = np.full(S, np.nan), np.full(S, np.nan), np.full((S, 3), np.nan)
    top_SxM, reason = np.full((S, m), np.nan), np.full(S, None, object)
    for s, loss_AxM in enumerate(loss_SxAxM):
        bad = ~np.isfinite(loss_AxM).all(-1)
        if bad.any():
            reason[s] = "the loss is not finite at alpha " + ", ".join(f"{a:g}" for a in alphas[bad])
            continue
        height[s], where[s], top_SxM[s] = barrier(loss_AxM, alphas)
        drawn = sign_flips(loss_AxM, alphas)
        flips[s] = drawn.mean(), *np.quantile(drawn, (0.025, 0.975))
    finite = np.isfinite(height)
    status = np.where(finite, "ok", "nan").astype(object)
    row = example_rows.add(table, "interpolation.barrier", stats.t_interval(top_SxM), m, status=status, reason=reason,
                           null=("chord", np.where(finite, 0.0, np.nan), None, None),
                           floor=example_rows.standard_error(top_SxM),
                           num_err=2 * HALF_ULP * np.abs(loss_SxAxM).mean(-1).max(-1)[:, None])
    table.add_null(row, "sign_flips", *(x[:, None] for x in flips.T))
    flat = finite & np.isnan(where)
    at = stats.Interval(where, np.full(S, np.nan), np.full(S, np.nan))
    example_rows.add(table, "interpolation.barrier_at", at, m, status=np.where(flat, "absent", status).astype(object),
                     reason=np.where(flat, "no grid point lies above the chord", reason).astype(object))


def _add_false_false_true(table, solved_SxAxM: np.ndarray) -> None:
    start, middle, end = (solved_SxAxM[:, i] > 0.5 for i in (0, solved_SxAxM.shape[1] // 2, -1))
    neither, m = ~start & ~end, solved_SxAxM.shape[-1]
    law = scipy.stats.hypergeom(m, neither.sum(-1), middle.sum(-1))
    expected = middle.mean(-1) * neither.mean(-1)
    row = example_rows.add(table, "interpolation.false_false_true", stats.t_interval(middle & neither), m, floor=0.0,
                           null=("independence", expected, law.ppf(0.025) / m, law.ppf(0.975) / m))
    alone = middle.mean(-1) * (1 - start.mean(-1)) * (1 - end.mean(-1))
    table.add_null(row, "all_independent", alone[:, None], None, None)


def _add_balanced(table, v: Mapping[str, np.ndarray]) -> None:
    m, temperature = v["plain_m"].shape[-1], v["temperature"]
    log_low, log_high = np.log(TEMPERATURES)
    with np.errstate(invalid="ignore"):
        inside = (np.log(temperature) > log_low + 1e-4) & (np.log(temperature) < log_high - 1e-4)
    broken = ~np.isfinite(v["balanced_m"]).all(-1)
    status = np.where(broken, "nan", np.where(inside, "ok", "unresolved")).astype(object)
    reason = np.where(broken, "logits are not finite", np.where(
        inside, None, f"no temperature in [{TEMPERATURES[0]:g}, {TEMPERATURES[1]:g}] matches the confidences")).astype(object)
    nothing = np.full(temperature.shape, np.nan)
    at = stats.Interval(np.where(broken, np.nan, temperature), nothing, nothing)
    example_rows.add(table, "interpolation.balanced_temperature", at, m, status=status, reason=reason,
                     null=("equal_confidence", 1.0, None, None))
    example_rows.add(table, "interpolation.balanced_loss", stats.t_interval(v["balanced_m"]), m, status=status, reason=reason,
                     null=("plain_average", v["plain_m"].mean(-1), None, None),
                     floor=example_rows.standard_error(v["balanced_m"] - v["plain_m"]))


catalog.add(
    __name__,
    catalog.Entry("interpolation", "what lies on the straight line from the base to the policy: loss, barrier, success",
                  Interpolation, ("loss",), ("solved", "predict")),
    catalog.Statistic(
        "interpolation", "The line between base and policy", ("interpolation",),
        "The loss along (1 - a) base + a policy, how far it rises above the chord of its ends, what the average solves that "
        "neither end does, and the average of logits at matched confidence.",
        "A chord is no theory: a convex bowl lies below it without any meaning, and eleven points miss a narrow ridge. "
        "FalseFalseTrue at chance is not emergence.",
        "loss along the line inside one bowl and between two",
        extremes={
            "interpolation.barrier": ("the loss rises above the chord", "0: nowhere on the grid"),
            "interpolation.success": ("most probe rows are solved there", "few are"),
            "interpolation.false_false_true": (
                "the average solves what neither end does; at chance it is nothing",
                "it does not"),
            "interpolation.balanced_temperature": ("above 1: the policy is more confident than the base", "below 1: less"),
        }),
)
