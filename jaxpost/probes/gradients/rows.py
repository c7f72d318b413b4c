"""Rows of the gradient statistics: every tensor, kind, layer, body and the whole model, each from sums of its tensors.

Values are of one parameter vector: the interval's unit is the example, drawn by a delete-one jackknife; intervals over
seeds come from records.

Legend: S seeds, T tensors, C scopes, m examples, D null draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxpost import stats
from jaxpost.probes.base import Metric, register
from jaxpost.probes.gradients import statistics
from jaxpost.probes.gradients.sums import additions
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.estimates import Estimate
from jaxpost.probes.rows.inventory import OUTSIDE_BODY, TensorInfo

MCOH = "arXiv:2008.01217, arXiv:2203.10036"
GNS = "McCandlish et al., arXiv:1812.06162"
QUANTILES = (0.1, 0.5, 0.9)
PERMUTED = "label_permuted"
OF_SUMS = (*statistics.NAMES, "sum_norm2", "norm2_sum", "example_norm", "gsnr", "gsnr_eps")  # what one batch of one loss gives
_SUMS = "float32 sums over per-example gradients, two-level dots; the error bound counts these sums, not the gradients' own"
_JACKKNIFE = "delete-one jackknife over the row's units (examples; steps, of accumulation chunks), t with one less"
_HALVES = "delete-one-example jackknife of this one split, each half a sample of its own"
_ORTHOGONAL = "orthogonal gradients: {}; label_permuted (targets permuted between examples, a random cycle) as a further row"


def _metric(name, definition, paper, null, ci=_JACKKNIFE, pooled="ratio of sums"):
    return Metric(f"gradient.{name}", definition, "1", paper, null, pooled, _SUMS, ci_method=ci)


register(
    _metric("sum_norm2", "S1 = |sum_i g_i|^2", MCOH, "none: a sum that the others are made of"),
    _metric("norm2_sum", "S2 = sum_i |g_i|^2", MCOH, "none: a sum that the others are made of", "t over examples"),
    _metric("alpha.plug_in", "S1 / (m S2)", MCOH, _ORTHOGONAL.format("1 / m")),
    _metric("alpha.unbiased", "(S1 - S2) / ((m - 1) S2), negative values as they come (reconstructed: pairs i != j)", MCOH,
            _ORTHOGONAL.format("0")),
    _metric("m_coherence.plug_in", "S1 / S2 = m alpha: how many examples one helps, itself included", MCOH,
            _ORTHOGONAL.format("1")),
    _metric("m_coherence.unbiased", "m (S1 - S2) / ((m - 1) S2) (reconstructed: pairs i != j)", MCOH,
            _ORTHOGONAL.format("0")),
    _metric("mean_norm2", "|E g|^2, unbiased: (S1 - S2) / (m (m - 1))", GNS, "orthogonal gradients: 0"),
    _metric("noise_trace", "tr Cov(g_i), unbiased: (S2 - S1 / m) / (m - 1)", GNS, "none: a scale"),
    _metric("noise_scale", "B_simple = tr Cov / |E g|^2 = 1 / alpha - 1, in examples", GNS,
            "none: infinite at orthogonal gradients", "the interval of alpha.unbiased mapped; open where alpha may be <= 0"),
    _metric("gsnr", "mean over coordinates of mean(g)^2 / var(g), var with divisor m - 1; coordinates without variance left "
            "out (no constant in the denominator)", "arXiv:2001.07384", "zero_mean: (m - 1) / ((m - 3) m), Gaussian "
            "coordinates of mean 0"),
    _metric("gsnr_eps", "mean over all coordinates of mean(g)^2 / (mean(g^2) - mean(g)^2 + eps), population variance; params "
            "eps", "Cockpit, arXiv:2102.06604 (mean GSNR), arXiv:2001.07384", "zero_mean: Gaussian coordinates of mean 0 with "
            "the coordinates' own spreads and the same eps (1 / (m - 3) where eps is nothing beside them)"),
    _metric("example_norm", "|g_i|: params statistic=mean or a quantile over examples", "arXiv:1510.01799",
            "none: a scale", "t over examples (mean), binomial order statistics (quantiles)", "quadrature"),
    _metric("conflict.cosine", "<mean g^a, mean g^b> / (|mean g^a| |mean g^b|) of two losses on the same parameters",
            "arXiv:2001.06782", "isotropic: 0, 95 % band of the cosine of random directions, 1.96 / sqrt(P)",
            "two-sample delete-one-example jackknife"),
    _metric("conflict.split_half", "cosine of the mean gradients of even and odd examples of one loss", "Spearman 1904",
            "isotropic: 0, 95 % band 1.96 / sqrt(P)", _HALVES),
    _metric("conflict.ceiling", "sqrt(r_a r_b), r = 2 c / (1 + c) of each loss's split-half cosine c: what the cosine of "
            "two noisy means would read if the expected gradients were parallel", "Spearman 1904",
            "none: a ceiling of conflict.cosine", _HALVES),
)


def scopes_of(infos: Sequence[TensorInfo]) -> pooling.Scopes:
    """`pooling.scopes_of` and one scope a layer: granularity "layer", its tensors without embeddings and head."""
    scopes = pooling.scopes_of(infos)
    layers = sorted({info.layer for info in infos if info.layer is not None})
    members = [[info.layer == i and info.kind not in OUTSIDE_BODY for info in infos] for i in layers]
    added = {"granularity": "layer", "tensor": None, "module_kind": None}
    columns = {name: np.concatenate([column, np.asarray(layers if name == "layer" else [added[name]] * len(layers), object)])
               for name, column in scopes.columns.items()}
    return pooling.Scopes(np.concatenate([scopes.member_CxT, np.asarray(members, bool).reshape(-1, len(infos))]), columns)


class Rows:
    """Rows of one measurement under construction: every statistic is an array [S, C]."""

    def __init__(self, infos: Sequence[TensorInfo], seeds: Sequence[int], **constant: object):
        self.infos, self.seeds, self.constant = list(infos), list(seeds), constant
        self.scopes = scopes_of(infos)
        depth = np.asarray(additions(self.infos))
        self.additions_C = np.asarray([depth[member].max() for member in self.scopes.member_CxT])
        self._rows: list[dict] = []
        self._nulls: list[tuple[int, dict]] = []

    @property
    def entries_SxC(self) -> np.ndarray:
        """Parameters of each scope, for every seed."""
        return self.pooled(np.asarray([[np.prod(info.shape, dtype=float) for info in self.infos]] * len(self.seeds)))

    def pooled(self, x_SxT: np.ndarray) -> np.ndarray:
        """Sums over the tensors of each scope: [S, T, ...] -> [S, C, ...] in float64."""
        x = np.asarray(x_SxT, np.float64)
        return pooling.total(x, np.ones(x.shape[:2], bool), self.scopes)

    def add(self, metric: str, estimate: Estimate, m: int, params: Mapping[str, object], null=None, further=None,
            unit: str = "example") -> None:
        """Append a statistic, one row a seed and scope.

        Args:
          m: units that the interval is over, each a `unit`.
          null: (kind, value, lo, hi), the last three arrays [S, C] or None.
          further: (kind, value, lo, hi) of a further null, as rows of role "null".
        """
        text = ";".join(f"{key}={params[key]}" for key in sorted(params)) or None
        for s, seed in enumerate(self.seeds):
            for c in range(len(self.additions_C)):
                row = self.constant | {name: column[c] for name, column in self.scopes.columns.items()}
                row |= {"metric": f"gradient.{metric}", "role": "seed", "seed": seed, "params": text, "unit": unit,
                        "n_units": m, "value": estimate.value[s, c], "ci_lo": estimate.lo[s, c], "ci_hi": estimate.hi[s, c],
                        "status": estimate.status[s, c], "status_reason": estimate.reason[s, c],
                        "noise_floor": estimate.error[s, c], "num_err": estimate.error[s, c]}
                if null is not None:
                    row |= _null_columns(null, s, c)
                self._rows.append(row)
                if further is not None:
                    self._nulls.append((len(self._rows) - 1, _null_columns(further, s, c)))

    def columns(self, row_ids: Callable[[dict], Sequence[str]]) -> dict[str, list]:
        """All rows; `row_ids` gives the identity of every row of a dict of columns (records owns it)."""
        merged = _columns(self._rows)
        if not self._nulls:
            return merged
        ids, nulls = row_ids(merged), []
        for of, columns in self._nulls:
            kept = {name: x for name, x in self._rows[of].items() if name in (
                *self.constant, *self.scopes.columns, "metric", "seed", "params", "n_units", "unit")}
            finite = np.isfinite(columns["null_value"])
            nulls.append(kept | columns | {"role": "null", "of": ids[of], "value": columns["null_value"],
                                           "status": "ok" if finite else "absent",
                                           "status_reason": None if finite else self._rows[of]["status_reason"]})
        return _columns(self._rows + nulls)


def _null_columns(null, s: int, c: int) -> dict:
    """Cells of one row from (kind, value, lo, hi): arrays [S, C], numbers, or None for nothing."""
    kind, *ends = null
    cells = [np.nan if x is None else float(x if np.ndim(x) == 0 else x[s, c]) for x in ends]
    return {"null_kind": kind} | dict(zip(("null_value", "null_lo", "null_hi"), cells, strict=True))


def _columns(rows: Sequence[dict]) -> dict[str, list]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def bare(value: np.ndarray, error=np.nan, reason: str = "no interval") -> Estimate:
    """An estimate without an interval; "nan" where it is not finite."""
    value = np.asarray(value, np.float64)
    status = np.where(np.isfinite(value), "ok", "nan").astype(object)
    reasons = np.where(status == "ok", reason, "the value is not finite").astype(object)
    nothing = np.full(value.shape, np.nan)
    return Estimate(value, nothing, nothing, np.broadcast_to(error, value.shape), status, reasons)


def without_value(estimate: Estimate, broken: np.ndarray, why_broken: str, why_not: str) -> None:
    """Mark in place what has no value (NaN): "nan" where something is not finite (`broken`), else "degenerate"."""
    gone = np.isnan(estimate.value)
    for where, status, why in ((gone & broken, "nan", why_broken), (gone & ~broken, "degenerate", why_not)):
        estimate.status[where], estimate.reason[where] = status, why


def coherence(rows: Rows, s1_SxT, square_SxTxm, dot_SxTxm=None, *, permuted=None, params=None, chunk: int = 1) -> None:
    """Append every statistic of the sums.

    Args:
      dot: d_i, or None (no intervals).
      permuted: (s1_SxTxD, s2_SxTxD) of the same examples with permuted targets.
      chunk: examples behind each gradient; recorded in `params` of every row.
    """
    s1, square = rows.pooled(s1_SxT), rows.pooled(square_SxTxm)
    dot = None if dot_SxTxm is None else rows.pooled(dot_SxTxm)
    m, params = square.shape[-1], {**(params or {}), "chunk": chunk}
    estimates = statistics.estimates(s1, square, dot, additions=rows.additions_C, chunk=chunk)
    drawn = {}
    if permuted is not None:
        s1_D, s2_D = (rows.pooled(x) for x in permuted)
        drawn = statistics.point(s1_D, s2_D, m, chunk)
    for name, estimate in estimates.items():
        null, further = _orthogonal(name, m), None
        if name in drawn and name.startswith(("alpha", "m_coherence")):
            further = (PERMUTED, *pooling.prediction_band(drawn[name]))
        rows.add(name, estimate, m, params, null, further)


def _orthogonal(name: str, m: int):
    at_zero = statistics.ORTHOGONAL.get(name)
    return None if at_zero is None else ("orthogonal", at_zero(m), None, None)


def chunks(rows: Rows, s1_SxTxn, s2_SxTxn, m: int, chunk: int, params=None) -> None:
    """Append every statistic of the sums over m chunks of `chunk` examples in each of n steps, and alpha of one example.

    alpha of single examples is that of chunk gradients mapped through alpha / (k - (k - 1) alpha), k = `chunk`; its rows
    have chunk=1 and from_chunk=k.
    """
    n, params = np.shape(s1_SxTxn)[-1], params or {}
    estimates = statistics.over_steps(rows.pooled(s1_SxTxn), rows.pooled(s2_SxTxn), m, additions=rows.additions_C, chunk=chunk)
    for name, estimate in estimates.items():
        rows.add(name, estimate, n, {**params, "chunk": chunk}, _orthogonal(name, m), unit="step")
    if chunk > 1:
        alpha = estimates["alpha.unbiased"]
        value, lo, hi = (statistics.alpha_of_one(np.minimum(x, 1.0), chunk) for x in alpha[:3])  # above 1 it changes sign
        slope = chunk / (chunk - (chunk - 1) * alpha.value) ** 2
        one = alpha._replace(value=value, lo=lo, hi=hi, error=alpha.error * slope)
        rows.add("alpha.unbiased", one, n, {**params, "chunk": 1, "from_chunk": chunk}, _orthogonal("alpha.unbiased", m),
                 unit="step")


def norms(rows: Rows, square_SxTxm, params=None) -> None:
    """Append the distribution of per-example norms: mean and QUANTILES."""
    square = rows.pooled(square_SxTxm)
    norm, m = np.sqrt(square), square.shape[-1]
    error = (rows.additions_C + 1) * statistics.UNIT_ROUNDOFF
    for label, (value, lo, hi) in {"statistic=mean": stats.t_interval(norm),
                                   **{f"quantile={q:g}": statistics.quantile(norm, q) for q in QUANTILES}}.items():
        key, _, text = label.partition("=")
        plain = bare(value, error * np.abs(value), statistics.FEW if m < 3 else "no interval: too few examples for it")
        reason = np.where(np.isfinite(lo) & np.isfinite(hi) & (plain.status == "ok"), None, plain.reason)
        rows.add("example_norm", plain._replace(lo=lo, hi=hi, reason=reason), m, {**(params or {}), "chunk": 1, key: text})


def gsnr(rows: Rows, total_SxT, count_SxT, m: int, params=None, without=None) -> None:
    """Append the mean GSNR of the coordinates of each scope that vary.

    Args: without: (total, count) without each example in turn, [S, T, m], for the delete-one interval; or None.
    """
    count = rows.pooled(count_SxT)
    value = pooling.divide(rows.pooled(total_SxT), count)
    estimate = bare(value, reason=statistics.FEW if m < 4 else "no interval")
    if without is not None and m > 3:
        lo, hi = statistics.jackknife(pooling.divide(*map(rows.pooled, without)), value)
        estimate = estimate._replace(lo=lo, hi=hi, reason=np.where(np.isfinite(lo), None, estimate.reason))
    none = count == 0
    estimate.status[none], estimate.reason[none] = "absent", "no coordinate varies over the examples"
    rows.add("gsnr", estimate, m, {**(params or {}), "chunk": 1}, ("zero_mean", statistics.gsnr_at_zero_mean(m), None, None))


def gsnr_eps(rows: Rows, total_SxT, null_SxT, m: int, eps: float, params=None, without_SxTxm=None) -> None:
    """Append the mean over all coordinates of mean^2 / (population variance + eps), its null and delete-one interval."""
    count = rows.entries_SxC
    value, null = pooling.divide(rows.pooled(total_SxT), count), pooling.divide(rows.pooled(null_SxT), count)
    estimate = bare(value, reason=statistics.FEW if m < 4 else "no interval")
    if without_SxTxm is not None and m > 3:
        lo, hi = statistics.jackknife(rows.pooled(without_SxTxm) / count[..., None], value)
        estimate = estimate._replace(lo=lo, hi=hi, reason=np.where(np.isfinite(lo), None, estimate.reason))
    rows.add("gsnr_eps", estimate, m, {**(params or {}), "chunk": 1, "eps": f"{eps:g}"}, ("zero_mean", null, None, None))
