"""The kernel probe: drift of the neural tangent kernel from the initial one, alignment, effective rank, linearised model.

Legend: S seeds, N rows of the probe batch, O outputs, M sketches, D null draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes import base, catalog, schedules, tracing
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.kernels import rows as kernel_rows
from jaxpost.probes.kernels import tangent
from jaxpost.probes.policy import example_rows
from jaxpost.probes.policy.fisher import Predict
from jaxpost.probes.rows.inventory import TensorInfo

KUMAR = "Kumar et al., arXiv:2310.06110"
_K = "K the empirical neural tangent kernel on the probe batch (params outputs, projection), K0 that of the initial parameters"
_BLIND = ("shuffled: after the update with entries permuted within each matrix (equal norm, density and distribution), 95 % "
          "of one more draw")
_STORED = "noise floor: what rounding the policy to bf16 changes"
_HOW = ("gradients of rows in float32, inner products on device, statistics in float64; numerical error: rounding, and of "
        f"sketched kernels bias and t errors over independent sketches; {_STORED}")
_ROWS = "delete-one-group jackknife over rows"
KERNEL = (
    base.Metric("kernel.drift", f"|K - K0|_F / |K0|_F, {_K}", "1", KUMAR, _BLIND, "none", _HOW, ci_method=_ROWS),
    base.Metric("kernel.alignment.initial", f"<K_c, K0_c>_F / (|K_c|_F |K0_c|_F), both axes centred, {_K}", "1", KUMAR, _BLIND,
                "none", _HOW, ci_method=_ROWS),
    base.Metric("kernel.alignment.labels", "<K_c, L_c>_F / (|K_c|_F |L_c|_F), L = Y Y' of the labels, both axes centred "
                f"(of one label y: y_c' K_c y_c / (|K_c|_F |y_c|^2)), {_K}", "1", KUMAR,
                "permuted_labels: the exact mean over all orders of the labels, 95 % from fixed draws", "none",
                _HOW, ci_method=_ROWS),
    base.Metric("kernel.effective_rank", f"exp(-sum p log p), p the shares of the positive eigenvalues of K, {_K}", "direction",
                "jaxpost", _BLIND, "none", _HOW, ci_method=_ROWS),
    base.Metric("kernel.trace", f"tr K / N, the mean squared norm of a row's gradient, {_K}", "output^2", "jaxpost", _BLIND,
                "mean over examples", _HOW, ci_method=_ROWS),
    base.Metric("kernel.linearised", "|f(w) - f0 - J0 (w - w0)|_F / |f(w) - f0|_F over rows and outputs, f0 and J0 = df/dw at "
                "the initial parameters w0", "1", f"{KUMAR} (the linearised model as control)", _BLIND, "none",
                "one Jacobian-vector product, float32; numerical error: rounding of the outputs; " + _STORED, ci_method=_ROWS),
)
base.register(*KERNEL)


@dataclass(frozen=True)
class NeuralTangentKernel:
    """Is a policy's training lazy (its kernel that of the initial parameters, the model linear in its parameters) or rich?

    `read` gives outputs and label of a row (`tangent.Read`). The gradients of all rows are held where they take at most `held`
    bytes; beyond, each is sketched to `width` numbers by `sketches` independent random projections. Price of a measurement:
    `null_draws` + 2 kernels, each a gradient of every row (of every output with outputs="each"), and N^2 P products.
    """

    read: tangent.Read
    outputs: str = "sum"  # or each: see `tangent`
    rows: int = 64  # of the probe batch, at most: the first
    held: float = 2.0**28  # bytes of gradients that are held at once
    sketches: int = 4
    width: int = 1024
    null_draws: int = 2
    microbatch: int = 8  # rows whose gradients are taken at once
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "kernel"
    version: str = "1"
    definition: str = "arXiv:2310.06110: empirical neural tangent kernel on the probe batch, against the initial one"
    metrics: tuple[str, ...] = tuple(metric.id for metric in KERNEL)
    needs: frozenset[base.Need] = frozenset({base.PARAMS0, base.PARAMS, base.PROBE_BATCH})

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"NeuralTangentKernel runs in lane sidecar (it needs a probe batch); found {self.lane!r}")
        if self.outputs not in tangent.OUTPUTS:
            raise ValueError(f"NeuralTangentKernel.outputs is one of {', '.join(tangent.OUTPUTS)}; found {self.outputs!r}")
        if self.rows < 2 or self.null_draws < 2 or self.sketches < 2 or min(self.width, self.microbatch) < 1:
            raise ValueError("NeuralTangentKernel needs rows, null_draws and sketches >= 2, width and microbatch >= 1; found "
                             f"{self.rows}, {self.null_draws}, {self.sketches}, {self.width} and {self.microbatch}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the traced program: the policy is the caller's."""
        state = jax.eval_shape(lambda ctx: self.init(ctx, None), ctx)
        return tracing.traced(lambda ctx, state: self.measure(ctx, state, jax.random.key(0))[1], ctx, state)

    def _batch(self, ctx: base.Context) -> Any:
        return jax.tree.map(lambda x: x[:self.rows], ctx[base.PROBE_BATCH])

    def _how(self, params: Any, rows: Any) -> tangent.Jacobian:
        """Exact where the gradients fit, else sketched; from shapes alone."""
        shape = jax.eval_shape(self.read, params, jax.tree.map(lambda x: x[0], rows)).output_O.shape
        held = sum(x.size for x in jax.tree.leaves(params)) * 4.0 * len(jax.tree.leaves(rows)[0])
        exact = held * (shape[0] if self.outputs == "each" else 1) <= self.held
        return tangent.Jacobian(self.outputs, self.microbatch, 0 if exact else self.sketches, 0 if exact else self.width)

    def _kernel(self, params: Any, rows: Any) -> jax.Array:
        return tangent.kernel(self.read, params, rows, self._how(params, rows), jax.random.key(0))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """The initial kernel. Raises: ValueError where the microbatch does not divide the rows."""
        return {"kernel0_MxNxN": self._kernel(gradient_sums.wide(ctx[base.PARAMS0]), self._batch(ctx))}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): kernels [M, N, N] of the policy, its bf16 rounding and D blind updates; outputs and labels."""
        params0, params, rows = gradient_sums.wide(ctx[base.PARAMS0]), gradient_sums.wide(ctx[base.PARAMS]), self._batch(ctx)

        def read_at(w):
            start, line = tangent.linearised(self.read, params0, w, rows, self.microbatch)
            answer = example_rows.of_examples(self.read, w, rows, self.microbatch)
            return {"kernel": self._kernel(w, rows), "moved": answer.output_O - start, "line": line - start}

        def blind(key):
            return read_at(jax.tree.map(jnp.add, params0, _shuffled(jax.tree.map(jnp.subtract, params, params0), key)))

        answer = example_rows.of_examples(self.read, params, rows, self.microbatch)
        stored = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(w.dtype), params)
        by_policy = {"policy": read_at(params), "stored": read_at(stored),
                     "blind": jax.lax.map(blind, jax.random.split(key, self.null_draws))}
        flat = {f"{name}/{part}": x for name, parts in by_policy.items() for part, x in parts.items()}
        return state, flat | {"initial/kernel": state["kernel0_MxNxN"], "label": answer.label_C, "output": answer.output_O}

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict:
        """Rows of the policy; `infos`: `sums.inventory` of the parameters, for their number."""
        del state
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        unit = kernel_rows.rounding(sum(math.prod(info.shape) for info in infos))
        members = [kernel_rows.Member({name: np.asarray(x[s], np.float64) for name, x in values.items()}, unit)
                   for s in range(len(seeds))]
        for metric in self.metrics:
            kernel_rows.add(table, metric, members, None if metric == "kernel.linearised" else self._label(members[0]))
        return table.columns(row_ids)

    def _label(self, member: kernel_rows.Member) -> str:
        sketches = len(member.values["initial/kernel"])
        projection = f"{sketches}x{self.width}" if sketches > 1 else "none"
        return f"outputs={self.outputs};projection={projection}"


def _shuffled(update: Any, key: jax.Array) -> Any:
    """The update with its entries permuted within each matrix, or vector, of every layer."""
    def of_leaf(i, path, x):
        lead = x.shape[0] if gradient_sums.is_stacked(path) else 1
        keys = jax.random.split(jax.random.fold_in(key, i), lead)
        return jax.vmap(jax.random.permutation)(keys, x.reshape(lead, -1)).reshape(x.shape)

    leaves, tree = jax.tree_util.tree_flatten_with_path(update)
    return jax.tree.unflatten(tree, [of_leaf(i, path, x) for i, (path, x) in enumerate(leaves)])


def _of_policy(predict: Predict, outputs: str = NeuralTangentKernel.outputs, rows: int = NeuralTangentKernel.rows,
               held: float = NeuralTangentKernel.held, sketches: int = NeuralTangentKernel.sketches,
               width: int = NeuralTangentKernel.width, null_draws: int = NeuralTangentKernel.null_draws,
               microbatch: int = NeuralTangentKernel.microbatch, **settings: Any) -> NeuralTangentKernel:
    return NeuralTangentKernel(tangent.of_policy(predict), outputs, rows, held, sketches, width, null_draws, microbatch,
                               **settings)


catalog.add(
    __name__,
    catalog.Entry("kernel",
                  "whether training is lazy or rich: drift and alignment of the neural tangent kernel, the linearised model",
                  _of_policy, ("predict",), by_name=True),
    catalog.Statistic(
        "kernel", "Neural tangent kernel: lazy or rich", ("kernel",),
        "A kernel that stays and a small distance to the linearised model say that training is lazy: it solves a linear "
        "problem in the features of the initial parameters. Drift above its shuffled twin says that the update changed the "
        "features more than a blind one of its size does; alignment with labels above permuted ones, that rows with equal "
        "labels have like gradients.",
        "Drift counts a change of scale as well: read the alignment with the initial kernel beside it. A kernel that moved is "
        "no sign of generalisation: it also moves where training only memorises. Of a policy, the outputs are the logits of "
        "the first target position, by default their sum, which sees only what changes all logits together. Values are of the "
        "probe batch: alignment falls and rank grows with more rows.",
        "drift and linearised distance of a small network along one direction, against the length of the step",
        extremes={
            "kernel.drift": ("features changed, or their scale did", "lazy: the kernel is the initial one"),
            "kernel.alignment.initial": ("the kernel is the initial one up to scale", "other features"),
            "kernel.alignment.labels": ("rows with equal labels have like gradients", "gradients do not know the labels"),
            "kernel.effective_rank": ("gradients of rows point in many directions", "few directions carry them"),
            "kernel.trace": ("outputs are sensitive to the parameters", "they are not"),
            "kernel.linearised": ("the model left its tangent plane: rich", "lazy: linear in its parameters"),
        }),
)
