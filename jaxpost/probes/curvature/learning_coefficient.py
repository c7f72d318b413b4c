"""The local learning coefficient of a policy on the probe batch, by Langevin chains that have to agree before they count.

    lambda = nb (E L(w) - L(w*)),  w ~ exp(-nb L(w) - g/2 |w - w*|^2),  nb = n / ln n

It is half the number of directions that the loss bounds: P/2 where every direction is curved (a regular model), less at a
degenerate minimum. n is the number of rows, L the mean of their sequence sums. The share of a prior whose loss is within 1/n of
the best falls as n^-lambda, up to powers of ln n: what "The Universality Lens: Why Even Highly Over-Parametrized Models Learn
Well" calls the weight of a hypothesis is absent as a number of its own.

Legend: S seeds, C chains, N draws, P parameters.
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
from jaxpost.probes.curvature import langevin, mixing
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.policy import example_rows
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.stats import Interval

_SOURCE = "Lau et al., arXiv:2308.12108"
_MIXING = "Vehtari et al., arXiv:1903.08008"
_HOW = ("stochastic gradient Langevin dynamics, several chains from w*; numerical error: e/4 E |grad U|^2 / P of the value, "
        "the excess of finite steps over continuous time")
COEFFICIENT = (
    base.Metric("learning_coefficient.local", "nb (E L(w) - L(w*)), w ~ exp(-nb L(w) - g/2 |w - w*|^2), L the mean loss of the "
                "probe rows (sequence sums), nb = n / ln n of n rows unless set; absent where chains disagree or are worth too "
                "few draws", "1", _SOURCE, "regular: P/2, every direction curved", "none",
                _HOW + "; noise floor: nb |L(bf16(w*)) - L(w*)|",
                ci_method="t with the effective draws"),
    base.Metric("learning_coefficient.r_hat", "split R-hat of the loss over chains", "1", _MIXING,
                "none: a diagnostic, 1 where chains have one law", "none", "between and within half chains", ci_method="none"),
    base.Metric("learning_coefficient.effective_draws", "independent draws that the chains' losses are worth", "1", _MIXING,
                "none: a diagnostic", "none", "autocorrelation with Geyer's monotone sequence", ci_method="none"),
)
base.register(*COEFFICIENT)


@dataclass(frozen=True)
class LearningCoefficient:
    """How degenerate the loss is around the policy. No number leaves chains that have not mixed.

    `loss` is (params, row) -> the loss of a row. Settings are part of the value: compare policies under equal ones. A step that
    is too large shows in the numerical error or as values that are not finite; a localisation that is too weak as chains
    that drift apart. Price: chains * (burn_in + draws * thin) gradients of a batch and chains * draws losses of all rows, 20 to
    60 s on a busy CPU core for 22 thousand parameters and 64 rows, so give it few steps of a run.
    """

    loss: gradient_sums.Loss
    chains: int = 4
    burn_in: int = 200
    draws: int = 200
    thin: int = 4
    step: float = 3e-4  # e
    localisation: float = 1000.0  # g
    inverse_temperature: float | None = None  # nb; None: n / ln n
    batch: int = 32  # rows a gradient, at most
    microbatch: int = 32  # rows at once where the loss is read
    most_r_hat: float = 1.05  # beyond which no value is given
    least_draws: float = 100.0  # effective ones, below which no value is given
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=1)
    lane: str = "sidecar"
    id: str = "learning_coefficient"
    version: str = "1"
    definition: str = "arXiv:2308.12108 on the probe batch, refused by R-hat and effective draws"
    metrics: tuple[str, ...] = tuple(metric.id for metric in COEFFICIENT)
    needs: frozenset[base.Need] = frozenset({base.PARAMS, base.PROBE_BATCH})

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"LearningCoefficient runs in lane sidecar (it needs a probe batch); found {self.lane!r}")
        if self.chains < 2 or self.draws < 8 or min(self.thin, self.batch, self.microbatch) < 1 or self.burn_in < 0:
            raise ValueError("LearningCoefficient needs chains >= 2, draws >= 8, thin, batch, microbatch >= 1, burn_in >= 0; "
                             f"found {self.chains}, {self.draws}, {self.thin}, {self.batch}, {self.microbatch}, {self.burn_in}")
        if self.step <= 0 or self.localisation < 0 or (self.inverse_temperature or 1) <= 0:
            raise ValueError("LearningCoefficient needs step > 0, localisation >= 0 and inverse_temperature > 0; found "
                             f"{self.step}, {self.localisation}, {self.inverse_temperature}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the traced program: the loss is the caller's."""
        return tracing.traced(lambda ctx: self.measure(ctx, {}, jax.random.key(0))[1], ctx)

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state. Refuses, before any run, a probe batch of fewer than 3 rows, or that the microbatch does not divide."""
        if (count := len(jax.tree.leaves(ctx[base.PROBE_BATCH])[0])) < 3:
            raise ValueError(f"learning_coefficient: n / ln n needs three rows or more; the probe batch has {count}")
        jax.eval_shape(lambda ctx: self.measure(ctx, {}, key)[1], ctx)
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): excess losses and squared gradients of the chains [C, N], nb, and what bf16 adds to the loss."""
        centre, rows = gradient_sums.wide(ctx[base.PARAMS]), ctx[base.PROBE_BATCH]
        count = len(jax.tree.leaves(rows)[0])
        temperature = count / np.log(count) if self.inverse_temperature is None else self.inverse_temperature
        walk = langevin.Walk(self.chains, self.burn_in, self.draws, self.thin, self.step, self.localisation,
                             min(self.batch, count), min(self.microbatch, count))
        draws = langevin.draws(self.loss, centre, rows, temperature, walk, key)
        stored = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(w.dtype), centre)
        return state, {**draws._asdict(), "inverse_temperature": jnp.float32(temperature),
                       "stored": langevin.excess(self.loss, stored, centre, rows, walk.microbatch)}

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict:
        """Rows of the policy; `infos`: `sums.inventory` of the parameters."""
        del state
        v = {name: np.asarray(x, np.float64) for name, x in values.items()}
        if v["excess_CxN"].shape != (len(seeds), self.chains, self.draws):
            raise ValueError(f"values have [seeds, chains, draws] = {v['excess_CxN'].shape}; expected "
                             f"{(len(seeds), self.chains, self.draws)}")
        size = sum(np.prod(info.shape) for info in infos)
        judged = [self._judged(*one, size) for one in zip(v["excess_CxN"], v["gradient2_CxN"], v["inverse_temperature"],
                                                          strict=True)]
        column = {name: np.asarray([one[name] for one in judged]) for name in judged[0]}
        floor = np.abs(v["inverse_temperature"] * v["stored"])
        buried = np.abs(column["value"]) <= floor  # False where there is no value
        status = np.where(buried, "unresolved", column["status"]).astype(object)
        reason = np.where(buried, "not above what rounding the policy to bf16 changes", column["reason"]).astype(object)
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        params = (f"batch={self.batch};localisation={self.localisation:g};n_beta={v['inverse_temperature'][0]:.6g};"
                  f"step={self.step:g}")
        drawn = {"unit": "effective draw", "params": params, "dtype": "fp32"}
        counted = np.nan_to_num(column["effective_draws"]).astype(int)[:, None]
        example_rows.add(table, "learning_coefficient.local", Interval(column["value"], column["lo"], column["hi"]), counted,
                         null=("regular", size / 2, None, None), floor=floor, status=status, reason=reason,
                         num_err=column["error"][:, None], **drawn)
        for name in ("r_hat", "effective_draws"):
            none = np.full(len(seeds), np.nan)
            example_rows.add(table, f"learning_coefficient.{name}", Interval(column[name], none, none), 1, params=params,
                             unit="seed", dtype="fp32", broken="draws are not finite, or do not vary")
        return table.columns(row_ids)

    def _judged(self, excess_CxN: np.ndarray, gradient2_CxN: np.ndarray, temperature: float, size: int) -> dict[str, Any]:
        """Value, interval and error of one policy's chains; NaN with a status and its reason where they do not count."""
        refused = dict.fromkeys(("value", "lo", "hi", "error", "r_hat", "effective_draws"), np.nan)
        if not (np.isfinite(excess_CxN).all() and np.isfinite(gradient2_CxN).all()):
            return refused | {"status": "nan", "reason": f"a chain left the finite numbers: lower step={self.step:g}"}
        r_hat, effective = mixing.split_r_hat(excess_CxN), mixing.effective_draws(excess_CxN)
        refused |= {"r_hat": r_hat, "effective_draws": effective, "status": "absent"}
        if not r_hat <= self.most_r_hat:
            return refused | {"reason": f"chains disagree: R-hat {r_hat:.3g} is above {self.most_r_hat:g}"}
        if not effective >= self.least_draws:
            return refused | {"reason": f"chains are worth {effective:.0f} draws, fewer than {self.least_draws:g}"}
        x = temperature * excess_CxN
        half = scipy.stats.t.ppf(0.975, effective - 1) * x.std(ddof=1) / np.sqrt(effective)
        value = x.mean()
        return refused | {"value": value, "lo": value - half, "hi": value + half, "status": "ok", "reason": None,
                          "error": abs(value) * self.step / 4 * gradient2_CxN.mean() / size}


catalog.add(
    __name__,
    catalog.Entry("learning_coefficient", "how degenerate the loss is around the policy: half its number of bounded directions",
                  LearningCoefficient, ("loss",), by_name=True),
    catalog.Statistic(
        "learning_coefficient", "Local learning coefficient", ("learning_coefficient",),
        "Half the number of directions in which the loss of the probe batch grows, counted at the resolution 1 / nb: P/2 for a "
        "regular model of P parameters, 1/(2k) a direction for a loss w^(2k). A fall during training says that the policy "
        "moved to a more degenerate solution. Read R-hat (1) and effective draws (many) first.",
        "Localisation, temperature and step are part of the number: only policies under equal settings compare. A strong "
        "localisation hides flat directions and small curvature alike. Where w* is no minimum of the probe batch's loss the "
        "value may be negative. The numerical error is that of the step on average over directions, less in flat ones.",
        "estimates for losses w^(2k) in three dimensions, against 3 / (2k)",
        extremes={
            "learning_coefficient.local": ("the loss bounds many directions", "the solution is degenerate, or no minimum"),
            "learning_coefficient.r_hat": ("chains disagree: no value", "1: they have one law"),
            "learning_coefficient.effective_draws": ("the interval is narrow", "draws depend on each other: no value"),
        }),
)
