"""Progress beside the fit, a column an arm: what Fourier measures and the neural tangent kernel show along training."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes

from jaxpost.records.drawing.curves import Drawn, Missing, band, by_arm, null_kinds, replicates
from jaxpost.records.drawing.style import INK, MUTED, arm_styles, legend_below, panels
from jaxpost.records.rows import parse_params, select

MOST_COLUMNS = {"fourier": 4, "kernel": 6}  # with fewer panels a column may be narrower
_TRAIN = {"color": MUTED, "linestyle": (0, (4, 2)), "linewidth": 1.2}
_TEST = {"color": INK, "linestyle": "-", "linewidth": 1.5}
_RESTRICTED = {"color": "#0072b2", "linestyle": "-", "linewidth": 1.4}
_EXCLUDED = {"color": "#d55e00", "linestyle": (0, (5, 1.5, 1, 1.5)), "linewidth": 1.3}
_EMBED = {"color": "#009e73", "linestyle": "-", "linewidth": 1.4}
_HEAD = {"color": "#009e73", "linestyle": (0, (4, 2)), "linewidth": 1.2}


class _Curve(NamedTuple):
    metric: str
    wanted: dict  # columns, and `which` in the parameters
    legend: str
    style: dict
    nulls: bool = False  # whether the range of its primary null is shown


class _Panel(NamedTuple):
    label: str
    curves: tuple[_Curve, ...]
    limits: tuple[float | None, float | None]
    scale: str = "linear"


_SHARE = (-0.02, 1.02)
_FOURIER = (
    _Panel("accuracy", (_Curve("fit.accuracy", {"split": "train"}, "train", _TRAIN),
                        _Curve("fit.accuracy", {"split": "id"}, "test", _TEST)), _SHARE),
    _Panel("loss (nats)", (_Curve("fit.loss", {"split": "train"}, "train", _TRAIN),
                           _Curve("fit.loss", {"split": "id"}, "test", _TEST),
                           _Curve("fourier.restricted_loss", {}, "restricted", _RESTRICTED, True),
                           _Curve("fourier.excluded_loss", {"which": "all"}, "excluded", _EXCLUDED)), (0, None)),
    _Panel("share of the keys", (_Curve("fourier.logit_share", {}, "restricted", _RESTRICTED, True),), _SHARE),
    _Panel("Gini", (_Curve("fourier.gini", {"module_kind": "embed"}, "embedding", _EMBED, True),
                    _Curve("fourier.gini", {"module_kind": "head"}, "unembedding", _HEAD)), (0, None)),
)
_KERNEL = (
    _Panel("R squared", (_Curve("fit.r2", {"split": "train"}, "train", _TRAIN),
                         _Curve("fit.r2", {"split": "id"}, "test", _TEST)), (-1.05, 1.05)),
    _Panel("relative distance", (_Curve("kernel.drift", {}, "drift of the kernel", _RESTRICTED, True),
                                 _Curve("kernel.linearised", {}, "distance to the linearised model", _EXCLUDED)),
           (1e-4, 1e2), "log"),
    _Panel("alignment with labels", (_Curve("kernel.alignment.labels", {}, "alignment", _EMBED, True),), _SHARE),
)


def fourier_progress(table: pa.Table, arrays: dict) -> Drawn:
    """Accuracy, losses, the key frequencies' share and Gini coefficients against log steps, a column an arm."""
    del arrays
    if not len(select(table, metric="fourier.restricted_loss", role="estimate")):
        raise Missing("fourier.restricted_loss was not measured")
    return _drawn(table, _FOURIER, select(table, metric="fit.loss", role="estimate"), (
        "Loss and accuracy over whole tables, and Fourier progress measures with the key frequencies of the last step, "
        "{replicates}; losses have an axis an arm. Grey: range of the primary null of the restricted loss, of the share and "
        "of the embedding's Gini ({nulls})."), MOST_COLUMNS["fourier"])


def kernel_progress(table: pa.Table, arrays: dict) -> Drawn:
    """Fit, drift of the neural tangent kernel and its alignment against log steps, a column an arm."""
    del arrays
    measured = select(table, metric="kernel.drift", role="estimate")
    if not len(measured) or not len(select(table, metric="fit.r2", role="estimate")):
        raise Missing("kernel.drift and fit.r2 were not both measured")
    return _drawn(table, _KERNEL, measured, (
        "Fit on training and test rows (values below -1 are not shown), drift of the neural tangent kernel from the initial "
        "one and distance of the outputs to those of the linearised model, and alignment of the kernel with the labels of "
        "test rows, {replicates}. Grey: range of the primary null of drift and alignment ({nulls})."), MOST_COLUMNS["kernel"])


def _drawn(table: pa.Table, panels_of: tuple[_Panel, ...], of_arms: pa.Table, caption: str, most: int) -> Drawn:
    """The panels one below the other, a column an arm of the rows `of_arms`, at most `most`; `caption` has {replicates} and
    {nulls}.
    """
    known = list(arm_styles(of_arms["arm"].unique().to_pylist()))
    arms, tables, nulls = known[:most], [], []
    figure, axes = panels(len(panels_of) * len(arms), len(arms), 1.75, sharex=True)
    for i, axis in enumerate(axes):
        panel, arm = panels_of[i // len(arms)], arms[i % len(arms)]
        for curve in panel.curves:
            rows = _rows(table, curve.metric, arm=arm, **curve.wanted)
            _draw(axis, rows, curve)
            tables.append(rows)
            nulls += [rows] if curve.nulls else []
        axis.set(xscale="log", yscale=panel.scale, ylim=panel.limits)
        if i < len(arms):
            axis.set_title(arm)
        if i % len(arms) == 0:
            axis.set_ylabel(panel.label)
    highest = max(axis.get_ylim()[1] for axis in axes[-len(arms):])
    for axis in axes[-len(arms):]:
        axis.set(xlabel="optimizer step", ylim=(axis.get_ylim()[0], highest))
    named = {curve.legend: curve.style for panel in panels_of for curve in panel.curves}
    legend_below(figure, {}, [*named.items(), ("null", {"color": MUTED, "alpha": 0.35, "linewidth": 6})])
    left_out = f" Not shown: {', '.join(known[most:])}." if known[most:] else ""
    described = caption.format(replicates=replicates(*tables), nulls=null_kinds(pa.concat_tables(nulls)))
    return Drawn(figure, described + left_out, [rows for rows in tables if len(rows)])


def _rows(table: pa.Table, metric: str, which: str | None = None, **wanted: object) -> pa.Table:
    """Estimates with a value, after step 0, of one variant of a metric."""
    rows = select(table, metric=metric, role="estimate", **wanted)
    rows = rows.filter(pc.and_(pc.is_valid(rows["value"]), pc.greater(rows["step"], 0)))
    texts = [text for text in rows["params"].unique().to_pylist() if parse_params(text).get("which") == which]
    return select(rows, params=texts) if texts else rows.slice(0, 0)


def _draw(axis: Axes, rows: pa.Table, curve: _Curve) -> None:
    for arm in by_arm(rows, "value", "ci_lo", "ci_hi", "null_lo", "null_hi").values():
        if curve.nulls:
            band(axis, arm["step"], arm["null_lo"], arm["null_hi"], MUTED, 0.22)
        band(axis, arm["step"], arm["ci_lo"], arm["ci_hi"], curve.style["color"])
        axis.plot(arm["step"], arm["value"], **curve.style)
