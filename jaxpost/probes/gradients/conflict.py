"""Conflict of two objectives: the cosine of their mean gradients on the same parameters, and how noisy it is.

    cos = <G_a, G_b> / (|G_a| |G_b|)            G: sum of the per-example gradients of one loss

Noise pulls the cosine of two means towards 0, so it is read against a ceiling: with c the cosine of the mean gradients of
the even and the odd examples of one loss, r = 2 c / (1 + c) is the reliability of its whole mean (Spearman and Brown), and
sqrt(r_a r_b) is what two parallel expected gradients would show. The losses are taken on independent examples.

Legend: m examples of each loss, T tensors, S seeds, C scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxpost.probes import base, catalog
from jaxpost.probes.gradients import rows as gradient_rows
from jaxpost.probes.gradients import statistics
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.gradients.sums import dots
from jaxpost.probes.rows.estimates import Estimate
from jaxpost.probes.rows.inventory import TensorInfo

_BAND = 1.959964


def measure(loss_a: gradient_sums.Loss, loss_b: gradient_sums.Loss, params: Any, examples_a: Any, examples_b: Any,
            microbatch: int) -> dict[str, jax.Array]:
    """Sums behind the cosine, its jackknife and both split halves; jit-pure.

    Args:
      loss_a, loss_b: as in `gradients.sums.per_example`, of the same parameters.
      examples_a, examples_b: independent batches, each an even number of microbatches.

    Returns: "<x><y>_T" for x, y in a, b and, of the half sums, in a0 a1 b0 b1; "<x>.<y>_mxT" for example gradients of x
      against the sum of y, the other loss or a half of x; and "<x>_mxT" their squares.
    Raises: ValueError for an odd number of examples, or a half that microbatches do not divide.
    """
    out, total, halved = {}, {}, {}
    both = (("a", loss_a, examples_a), ("b", loss_b, examples_b))
    for name, _, examples in both:
        if (m := jax.tree.leaves(examples)[0].shape[0]) % 2 or not m:
            raise ValueError(f"conflict: examples_{name} has {m} examples, which have no two equal halves; nearest valid: "
                             f"{max(m - 1, 2)}")
    for name, loss, examples in both:
        halves = [jax.tree.map(lambda x, h=h: x[h::2], examples) for h in (0, 1)]
        (even, even_mxT), (odd, odd_mxT) = (gradient_sums.first_pass(loss, params, half, microbatch) for half in halves)
        out |= {f"{name}{i}{name}{j}_T": dots(x, y) for i, j, x, y in ((0, 0, even, even), (0, 1, even, odd), (1, 1, odd, odd))}
        out[f"{name}_mxT"] = jnp.stack([even_mxT, odd_mxT], axis=1).reshape(-1, even_mxT.shape[-1])
        halved[name], total[name] = (even, odd), jax.tree.map(jnp.add, even, odd)
    for name, loss, examples in both:
        other = "b" if name == "a" else "a"
        products, _ = gradient_sums.second_pass(loss, params, examples, microbatch, (*halved[name], total[other]))
        out |= {f"{name}.{of}_mxT": x for of, x in zip((f"{name}0", f"{name}1", other), products, strict=True)}
    return out | {"aa_T": dots(total["a"], total["a"]), "bb_T": dots(total["b"], total["b"]),
                  "ab_T": dots(total["a"], total["b"])}


def cosine(ab, aa, bb):
    """<a, b> / sqrt(|a|^2 |b|^2), NaN where either is zero."""
    return statistics.ratio(ab, np.sqrt(np.maximum(aa, 0.0) * np.maximum(bb, 0.0)))


def dropped(ab, aa, bb, a_m, b_m) -> tuple[np.ndarray, np.ndarray]:
    """The cosine without each example of the first sample in turn, and of the second: [..., m] each.

    Args: ab, aa, bb: of the sums, [...]; a_m, b_m: (<g_i, own sum>, <g_i, other sum>, |g_i|^2) of each sample, [..., m].
    """
    def of(sample, one, other):
        own, cross, square = sample
        return cosine(ab[..., None] - cross, one[..., None] - 2 * own + square, other[..., None])

    return of(a_m, aa, bb), of(b_m, bb, aa)


def interval(value, *samples, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(lo, hi) from delete-one values of independent samples: their jackknife variances add, t with the fewest less one.

    NaN below three examples in a sample, and where a delete-one value does not exist. Cut to [-1, 1].
    """
    fewest = min(x_m.shape[-1] for x_m in samples)
    if fewest < 3:
        return np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    variance = sum((x_m.shape[-1] - 1) * x_m.var(-1) for x_m in samples)
    half = scipy.stats.t.ppf(0.5 + level / 2, fewest - 1) * np.sqrt(variance)
    return np.maximum(value - half, -1.0), np.minimum(value + half, 1.0)


def reliability(half):
    """r = 2 c / (1 + c) of a whole from the cosine c of its halves (Spearman and Brown)."""
    return statistics.ratio(2 * half, 1 + half)


def ceiling(r_a, r_b):
    """sqrt(r_a r_b), NaN where one is not positive."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.where(np.minimum(r_a, r_b) > 0, r_a * r_b, np.nan))


def finalize(values: Mapping[str, Any], *, names: tuple[str, str], infos: Sequence[TensorInfo], arm: str, step: int,
             seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]],
             dtype: str | None = "fp32", split: str | None = None) -> dict[str, Any]:
    """Columns of rows: cosine with interval, split-half cosine of each loss, and the ceiling.

    Args: values: of `measure`, leading axis over seeds; names: of the two losses, written into `params`.
    """
    rows = gradient_rows.Rows(infos, seeds, arm=arm, step=step, conditional_on=conditional_on, dtype=dtype, split=split)
    v = {name: rows.pooled(np.asarray(x) if name.endswith("_T") else np.moveaxis(np.asarray(x), 1, 2))
         for name, x in values.items()}
    band = _BAND / np.sqrt(rows.entries_SxC)
    isotropic = ("isotropic", np.zeros(band.shape), -band, band)
    square = {x: v[f"{x}_mxT"] for x in "ab"}
    sample = {x: (v[f"{x}.{x}0_mxT"] + v[f"{x}.{x}1_mxT"], v[f"{x}.{y}_mxT"], square[x]) for x, y in (("a", "b"), ("b", "a"))}
    sums = v["ab_T"], v["aa_T"], v["bb_T"]
    value = cosine(*sums)
    lo, hi = interval(value, *dropped(*sums, sample["a"], sample["b"]))
    m = min(x.shape[-1] for x in square.values())
    pair = {"losses": "+".join(names)}
    broken = {x: ~np.isfinite(v[f"{x}{x}_T"]) for x in "ab"}
    either = broken["a"] | broken["b"]
    rows.add("conflict.cosine", _judged(value, lo, hi, _rounding(rows, v, square), either), m, pair, isotropic)
    whole, without = {}, {}
    for x, name in zip("ab", names, strict=True):
        sums = v[f"{x}0{x}1_T"], v[f"{x}0{x}0_T"], v[f"{x}1{x}1_T"]
        half = cosine(*sums)
        left = dropped(*sums, *((v[f"{x}.{x}{h}_mxT"][..., h::2], v[f"{x}.{x}{1 - h}_mxT"][..., h::2], square[x][..., h::2])
                                for h in (0, 1)))
        whole[x], without[x] = reliability(half), [reliability(c_m) for c_m in left]
        estimate = _judged(half, *interval(half, *left), np.full(half.shape, np.nan), broken[x])
        rows.add("conflict.split_half", estimate, square[x].shape[-1], {"loss": name}, isotropic)
    top = ceiling(whole["a"], whole["b"])
    left = [ceiling(r_m, whole[y][..., None]) for x, y in (("a", "b"), ("b", "a")) for r_m in without[x]]
    estimate = _judged(top, *interval(top, *left), np.full(top.shape, np.nan), either)
    gone = np.isnan(top) & ~either
    estimate.status[gone] = "absent"
    estimate.reason[gone] = "a split-half cosine is not positive: the sample is too small for a ceiling"
    rows.add("conflict.ceiling", estimate, m, pair)
    return rows.columns(row_ids)


def _judged(value, lo, hi, error, broken) -> Estimate:
    """Zero gradients have no cosine ("degenerate"), and those that are not finite (`broken`) neither ("nan")."""
    gone = np.isnan(value)
    estimate = gradient_rows.bare(value, error)._replace(lo=np.where(gone, np.nan, lo), hi=np.where(gone, np.nan, hi))
    gradient_rows.without_value(estimate, broken, "a mean gradient is not finite", "a mean gradient is zero")
    estimate.reason[~gone & np.isfinite(lo)] = None
    return estimate


def _rounding(rows, v, square):
    """First-order bound of the cosine: twice the relative error of each sum of gradients, and the dot's own rounding."""
    depth = (rows.additions_C + 1) * statistics.UNIT_ROUNDOFF
    error = 2 * depth
    for x in "ab":
        m = square[x].shape[-1]
        error = error + 2 * (m - 1) * statistics.UNIT_ROUNDOFF * np.sqrt(
            statistics.ratio(m * square[x].sum(-1), v[f"{x}{x}_T"]))
    return error


catalog.add(
    __name__,
    catalog.Entry("conflict", "whether two losses pull the same parameters in one direction", lane="sidecar",
                  where="a function of two losses on one batch (gradient_conflict)",
                  needs=frozenset({base.PARAMS, base.PROBE_BATCH}),
                  metrics=tuple(name for name in base.METRICS if name.startswith("gradient.conflict."))),
    catalog.Statistic(
        "conflict", "Conflict between losses", ("gradient.conflict",),
        "The cosine of two losses' mean gradients on the same parameters. Read it against the ceiling: what two noisy means "
        "would show if their expectations were parallel.",
        "Noise pulls every cosine to 0: a small cosine of small batches is no conflict.",
        "cosine of parallel gradients under noise, and its ceiling",
        extremes={
            "gradient.conflict.cosine": ("the losses pull in one direction", "they do not, or noise hides it"),
            "gradient.conflict.split_half": ("the mean gradient is resolved", "it is noise"),
            "gradient.conflict.ceiling": ("agreement would be seen", "noise would hide it"),
        }),
)
