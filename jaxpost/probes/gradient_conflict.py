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

from jaxpost.probes import gradient_rows, gradient_sums
from jaxpost.probes import gradient_statistics as statistics
from jaxpost.probes.gradient_statistics import Estimate
from jaxpost.probes.gradient_sums import dots
from jaxpost.probes.panel import TensorInfo

_BAND = 1.959964


def measure(loss_a: gradient_sums.Loss, loss_b: gradient_sums.Loss, params: Any, examples_a: Any, examples_b: Any,
            microbatch: int) -> dict[str, jax.Array]:
    """Sums behind the cosine, its jackknife and both split halves; jit-pure.

    Args:
      loss_a, loss_b: as in `gradient_sums.per_example`, of the same parameters.
      examples_a, examples_b: independent batches, each an even number of microbatches.

    Returns: "<x><y>_T" for x, y in a, b and, of the half sums, in a0 a1 b0 b1; "<x>.<y>_mxT" for example gradients of x
      against the sum of y, and "<x>_mxT" their squares.
    Raises: ValueError for a half that microbatches do not divide.
    """
    out, total = {}, {}
    both = (("a", loss_a, examples_a), ("b", loss_b, examples_b))
    for name, loss, examples in both:
        halves = [jax.tree.map(lambda x, h=h: x[h::2], examples) for h in (0, 1)]
        (even, even_mxT), (odd, odd_mxT) = (gradient_sums.first_pass(loss, params, half, microbatch) for half in halves)
        out |= {f"{name}{i}{name}{j}_T": dots(x, y) for i, j, x, y in ((0, 0, even, even), (0, 1, even, odd), (1, 1, odd, odd))}
        out[f"{name}_mxT"] = jnp.stack([even_mxT, odd_mxT], axis=1).reshape(-1, even_mxT.shape[-1])
        total[name] = jax.tree.map(jnp.add, even, odd)
    for name, loss, examples in both:
        other = "b" if name == "a" else "a"
        (own, cross), _ = gradient_sums.second_pass(loss, params, examples, microbatch, (total[name], total[other]))
        out |= {f"{name}.{name}_mxT": own, f"{name}.{other}_mxT": cross}
    return out | {"aa_T": dots(total["a"], total["a"]), "bb_T": dots(total["b"], total["b"]),
                  "ab_T": dots(total["a"], total["b"])}


def cosine(ab, aa, bb):
    """<a, b> / sqrt(|a|^2 |b|^2), NaN where either is zero."""
    return statistics.ratio(ab, np.sqrt(np.maximum(aa, 0.0) * np.maximum(bb, 0.0)))


def interval(ab, aa, bb, a_m, b_m, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(lo, hi) of the cosine by the two-sample delete-one jackknife: variances of both samples add, t with min(m) - 1.

    Args: ab, aa, bb: of the sums, [...]; a_m, b_m: (<g_i, own sum>, <g_i, other sum>, |g_i|^2) of each sample, [..., m].
    """
    variance, fewest = 0.0, min(a_m[0].shape[-1], b_m[0].shape[-1])
    if fewest < 3:
        return np.full(ab.shape, np.nan), np.full(ab.shape, np.nan)
    for (own, cross, square), one, other in ((a_m, aa, bb), (b_m, bb, aa)):
        dropped = cosine(ab[..., None] - cross, one[..., None] - 2 * own + square, other[..., None])
        m = dropped.shape[-1]
        variance = variance + (m - 1) / m * ((dropped - dropped.mean(-1, keepdims=True)) ** 2).sum(-1)
    half = scipy.stats.t.ppf(0.5 + level / 2, fewest - 1) * np.sqrt(variance)
    value = cosine(ab, aa, bb)
    return np.maximum(value - half, -1.0), np.minimum(value + half, 1.0)


def finalize(values: Mapping[str, Any], *, names: tuple[str, str], infos: Sequence[TensorInfo], arm: str, step: int,
             seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]],
             dtype: str | None = "fp32", split: str | None = None) -> dict[str, Any]:
    """Columns of rows: cosine with interval, split-half cosine of each loss, and the ceiling.

    Args: values: of `measure`, leading axis over seeds; names: of the two losses, written into `params`.
    """
    rows = gradient_rows.Rows(infos, seeds, arm=arm, step=step, conditional_on=conditional_on, dtype=dtype, split=split)
    v = {name: rows.pooled(np.asarray(x) if name.endswith("_T") else np.moveaxis(np.asarray(x), 1, 2))
         for name, x in values.items()}
    entries = np.asarray([[np.prod(info.shape, dtype=float) for info in infos]] * len(seeds))
    band = _BAND / np.sqrt(rows.pooled(entries))
    isotropic = ("isotropic", np.zeros(band.shape), -band, band)
    sample = {x: (v[f"{x}.{x}_mxT"], v[f"{x}.{y}_mxT"], v[f"{x}_mxT"]) for x, y in (("a", "b"), ("b", "a"))}
    value = cosine(v["ab_T"], v["aa_T"], v["bb_T"])
    lo, hi = interval(v["ab_T"], v["aa_T"], v["bb_T"], sample["a"], sample["b"])
    m = min(sample["a"][0].shape[-1], sample["b"][0].shape[-1])
    pair = {"losses": "+".join(names)}
    found = _judged(value, lo, hi, _rounding(rows, v, sample))
    rows.add("conflict.cosine", found, m, pair, isotropic)
    reliability = []
    for x, name in zip("ab", names, strict=True):
        half = cosine(v[f"{x}0{x}1_T"], v[f"{x}0{x}0_T"], v[f"{x}1{x}1_T"])
        reliability.append(statistics.ratio(2 * half, 1 + half))
        nothing = np.full(half.shape, np.nan)
        rows.add("conflict.split_half", _judged(half, nothing, nothing, nothing), sample[x][0].shape[-1], {"loss": name},
                 isotropic)
    ceiling = np.sqrt(np.where(np.minimum(*reliability) > 0, np.maximum(reliability[0] * reliability[1], 0.0), np.nan))
    missing = _judged(ceiling, *(np.full(ceiling.shape, np.nan),) * 3)
    gone = np.isnan(ceiling)
    missing.status[gone] = "absent"
    missing.reason[gone] = "a split-half cosine is not positive: the sample is too small for a ceiling"
    rows.add("conflict.ceiling", missing, m, pair)
    return rows.columns(row_ids)


def _judged(value, lo, hi, error) -> Estimate:
    """Zero gradients have no cosine ("degenerate")."""
    found = gradient_rows.bare(value, error)._replace(lo=np.where(np.isnan(value), np.nan, lo),
                                                      hi=np.where(np.isnan(value), np.nan, hi))
    gone = np.isnan(value)
    found.status[gone], found.reason[gone] = "degenerate", "a mean gradient is zero or not finite"
    found.reason[~gone & np.isfinite(lo)] = None
    return found


def _rounding(rows, v, sample):
    """First-order bound of the cosine: twice the relative error of each sum of gradients, and the dot's own rounding."""
    depth = (rows.additions_C + 1) * statistics.UNIT_ROUNDOFF
    error = 2 * depth
    for x in "ab":
        square = sample[x][2]
        m = square.shape[-1]
        error = error + 2 * (m - 1) * statistics.UNIT_ROUNDOFF * np.sqrt(
            statistics.ratio(m * square.sum(-1), v[f"{x}{x}_T"]))
    return error
