"""The gradient probe: coherence, noise scale, norms and GSNR of a fixed probe batch, with the label-permuted null.

A sidecar: a program of its own over the parameters and a fixed batch, so that the training executable never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes import base, catalog, schedules, tracing
from jaxpost.probes.gradients import ghost as gradient_ghost
from jaxpost.probes.gradients import rows as gradient_rows
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.rows.inventory import TensorInfo


def permuted(examples: Any, targets: Sequence[str], key: jax.Array) -> Any:
    """The examples with their `targets` (fields of a NamedTuple, keys of a dict) moved along a random cycle.

    Every example gets another example's target: no fixed point, for m >= 2. Equal targets stay equal by chance.
    """
    fields = examples._asdict() if hasattr(examples, "_asdict") else dict(examples)
    if unknown := [name for name in targets if fields.get(name) is None]:
        raise ValueError(f"targets {unknown} are not in the examples; they have "
                         f"{', '.join(name for name, x in fields.items() if x is not None)}")
    m = jax.tree.leaves(examples)[0].shape[0]
    order = jax.random.permutation(key, m)
    source = jnp.zeros_like(order).at[order].set(jnp.roll(order, 1))
    moved = {name: jax.tree.map(lambda x: x[source], fields[name]) for name in targets}
    return examples._replace(**moved) if hasattr(examples, "_replace") else {**fields, **moved}


@dataclass(frozen=True)
class GradientCoherence:
    """Gradient statistics of one loss on a fixed probe batch.

    `loss(params, example) -> scalar` is the example's own loss, the sum over its target tokens. `rows(params, examples,
    reader) -> [B]` is the same loss by rows, with parameters used through a reader: where it is given, norms and dots come
    from ghosts (`gradients.ghost`). `targets` names what is permuted between examples for the drawn null; without it, or
    with draws=0, that null is left out. `held` names what couples examples and was made a constant of each (such as
    normalised advantages); it is written into every row.

    Price in plain gradients of the batch at the same microbatch, in CPU time: alpha, m-coherence, noise scale and norms per
    tensor with `rows` 1.0 to 1.2 (1.4 to 1.5 at width 64 and 16 tokens with 128 rows held at once, 1.0 with 32), without 1.7
    to 2.9; each drawn null as much again; `intervals` 0.8 more with `rows`, 1.3 to 1.6 without; `gsnr` shares the pass of the
    intervals without `rows`, takes one pass of materialised gradients with them, and a third for its own intervals.
    """

    loss: Callable[[Any, Any], jax.Array]
    rows: gradient_ghost.RowLoss | None = None
    microbatch: int = 8  # examples whose gradients (with `rows`: activations) are held at once
    targets: tuple[str, ...] = ()
    draws: int = 2  # permutations of the drawn null
    held: tuple[str, ...] = ()
    intervals: bool = True  # of what |sum g|^2 enters, and of GSNR
    gsnr: bool = True
    gsnr_eps: float = gradient_sums.GSNR_EPS  # added to the variances of `gradient.gsnr_eps`: a squared gradient
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "gradient"
    version: str = "2"
    definition: str = "arXiv:2008.01217 and arXiv:1812.06162 from (S1, S2), per tensor"
    metrics: tuple[str, ...] = tuple(f"gradient.{name}" for name in gradient_rows.OF_SUMS)
    needs: frozenset[base.Need] = frozenset({base.PARAMS, base.PROBE_BATCH})

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"GradientCoherence runs in lane sidecar (it needs a probe batch); found {self.lane!r}")
        if self.microbatch < 1 or self.draws < 0 or not self.gsnr_eps > 0:
            raise ValueError(f"GradientCoherence needs microbatch >= 1, draws >= 0 and gsnr_eps > 0; found {self.microbatch}, "
                             f"{self.draws}, {self.gsnr_eps}")

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state. Refuses, before any run, a probe batch that the microbatch or the targets do not fit."""
        del key
        jax.eval_shape(lambda batch: gradient_sums.microbatches(batch, self.microbatch), ctx[base.PROBE_BATCH])
        if self.targets:
            permuted(ctx[base.PROBE_BATCH], self.targets, jax.random.key(0))
        return {}

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the traced program: the loss is the caller's."""
        return tracing.traced(lambda ctx: self.measure(ctx, {}, jax.random.key(0))[1], ctx)

    def _first_pass(self, params, batch):
        if self.rows is not None:
            return gradient_ghost.Ghost(self.rows).first_pass(params, batch, self.microbatch)
        return gradient_sums.first_pass(self.loss, params, batch, self.microbatch)

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): the sums of the batch and, of each of D permutations, S1 and S2; jit-pure."""
        params, batch = ctx[base.PARAMS], ctx[base.PROBE_BATCH]
        total, square_mxT = self._first_pass(params, batch)
        values = {"s1_T": gradient_sums.dots(total, total), "square_mxT": square_mxT}
        if self.gsnr or (self.intervals and self.rows is None):
            values |= gradient_sums.further(self.loss, params, batch, self.microbatch, total, self.intervals, self.gsnr,
                                            self.gsnr_eps)
        elif self.intervals:
            values["dot_mxT"] = gradient_ghost.Ghost(self.rows).second_pass(params, batch, self.microbatch, total)

        def null(key):
            moved = permuted(batch, self.targets, key)
            total, square_mxT = self._first_pass(params, moved)
            return gradient_sums.dots(total, total), square_mxT.sum(axis=0)

        if self.targets and self.draws:
            values["null_s1_DxT"], values["null_s2_DxT"] = jax.lax.map(null, jax.random.split(key, self.draws))
        return state, values

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]],
                 dtype: str | None = "fp32", split: str | None = None) -> dict[str, Any]:
        """Columns of measurement rows of every tensor, kind, layer, body and the model.

        Args:
          values: of `measure`, every leaf with a leading axis over `seeds`.
          infos: `gradients.sums.inventory` of the parameters.
          dtype: that of the parameters; split: of the probe batch.

        Raises: ValueError when values, seeds and infos do not fit together.
        """
        v = {name: np.asarray(x, np.float64) for name, x in values.items()}
        wanted = (len(seeds), len(infos))
        if v["s1_T"].shape != wanted:
            raise ValueError(f"values have [seeds, tensors] = {v['s1_T'].shape}; expected {wanted}")
        rows = gradient_rows.Rows(infos, seeds, arm=arm, step=step, conditional_on=conditional_on, dtype=dtype, split=split)
        params = {"held": "+".join(self.held)} if self.held else {}
        last = {name: np.moveaxis(x, 1, 2) for name, x in v.items() if name.endswith(("_mxT", "_DxT"))}
        null = (last["null_s1_DxT"], last["null_s2_DxT"]) if "null_s1_DxT" in v else None
        square = last["square_mxT"]
        gradient_rows.coherence(rows, v["s1_T"], square, last.get("dot_mxT"), permuted=null, params=params)
        gradient_rows.norms(rows, square, params)
        if "gsnr_T" in v and square.shape[-1] > 1:
            without = (last["gsnr_mxT"], last["gsnr_count_mxT"]) if "gsnr_mxT" in v else None
            gradient_rows.gsnr(rows, v["gsnr_T"], v["gsnr_count_T"], square.shape[-1], params, without)
            gradient_rows.gsnr_eps(rows, v["gsnr_eps_T"], v["gsnr_eps_null_T"], square.shape[-1], self.gsnr_eps, params,
                                   last.get("gsnr_eps_mxT"))
        return rows.columns(row_ids)


catalog.add(
    __name__,
    catalog.Entry("gradient", "how much the gradients of single examples agree, and how noisy they are", GradientCoherence,
                  ("loss",), ("rows", "targets")),
    catalog.Statistic(
        "coherence", "Gradient coherence", ("gradient.alpha", "gradient.m_coherence", "gradient.sum_norm2",
        "gradient.norm2_sum"),
        "alpha is 1 when all examples have one gradient and about 0 (unbiased) when they are orthogonal; m-coherence is how "
        "many examples one example helps, itself included.",
        "The plug-in value is 1/m for orthogonal gradients and depends on m and on the chunk; a mean-reduced loss or a shared "
        "output bias makes gradients agree about nothing. Compare with permuted labels.",
        "plug-in and unbiased alpha at planted coherence",
        extremes={
            "gradient.alpha.plug_in": ("1: all examples have one gradient", "1/m: they are orthogonal"),
            "gradient.alpha.unbiased": ("1: all examples have one gradient", "about 0: they are orthogonal"),
            "gradient.m_coherence.plug_in": ("one example helps many", "1: only itself"),
            "gradient.m_coherence.unbiased": ("one example helps many", "about 0: they are orthogonal"),
        }),
    catalog.Statistic(
        "noise", "Gradient noise", ("gradient.mean_norm2", "gradient.noise_trace", "gradient.noise_scale", "gradient.gsnr",
        "gradient.gsnr_eps"),
        "The noise scale is the batch, in examples, at which signal and noise of the mean gradient are equal.",
        "It is a ratio with a denominator that may be noise: unresolved rows are not large noise scales. GSNR is a mean of "
        "ratios and is dominated by coordinates that hardly vary; gsnr_eps bounds them by eps, which has the units of a "
        "squared gradient: where variances are below it, it measures the scale of the loss.",
        "noise scale against the number of examples",
        extremes={
            "gradient.noise_trace": ("single gradients scatter", "they are alike"),
            "gradient.noise_scale": (
                "noise outweighs the signal up to large batches, or the row is unresolved",
                "small batches show the signal"),
            "gradient.gsnr": ("means exceed their spread, in coordinates that hardly vary first", "noise outweighs them"),
        }),
    catalog.Statistic(
        "example_norm", "Norms of single examples' gradients", ("gradient.example_norm",),
        "Who makes the gradient: a few examples with large norms, or all alike.",
        "Norms follow the length of a row where losses are summed over tokens.",
        "norms of examples of unequal length"),
)
