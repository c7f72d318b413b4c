"""Figures of a run along its steps: accuracy and routing on one time axis, a column an arm."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes

from jaxpost.records.drawing.curves import Drawn, Missing, band, by_arm, null_kinds, replicates
from jaxpost.records.drawing.style import INK, MUTED, arm_styles, legend_below, panels
from jaxpost.records.rows import parse_params, select

MOST_COLUMNS = 5
_ROUTING = (("pathway.distance", "pathway distance (edits)"), ("pathway.cosine", "cosine of layers"))  # metric, label
_TEST = {"linestyle": "-", "linewidth": 1.5}
_TRAIN = {"linestyle": (0, (4, 2)), "linewidth": 1.1}
_MEMORISED = {"linestyle": "-", "linewidth": 1.5}
_ALL = {"linestyle": (0, (1, 1.2)), "linewidth": 1.2}
_NULL = {"color": MUTED, "linestyle": "-", "linewidth": 0.9}


def _estimates(table: pa.Table, metric: str, **wanted: object) -> pa.Table:
    rows = select(table, metric=metric, role="estimate", granularity=["global", "experiment"], **wanted)
    return rows.filter(pc.is_valid(rows["value"]))


def _over(rows: pa.Table, which: str) -> pa.Table:
    """The rows over one set of samples, by `over` in their parameters."""
    texts = [text for text in rows["params"].unique().to_pylist() if parse_params(text).get("over") == which]
    return select(rows, params=texts) if texts else rows.slice(0, 0)


def _draw(axis: Axes, rows: pa.Table, color: str, style: dict, nulls: bool = False) -> None:
    """Curves with their seed bands, and the null of the same rows with its band where it has one."""
    for curve in by_arm(rows, "value", "ci_lo", "ci_hi", "null_value", "null_lo", "null_hi").values():
        if nulls:
            band(axis, curve["step"], curve["null_lo"], curve["null_hi"], MUTED, 0.25)
            axis.plot(curve["step"], curve["null_value"], **_NULL)
        band(axis, curve["step"], curve["ci_lo"], curve["ci_hi"], color)
        axis.plot(curve["step"], curve["value"], color=color, **style)


def pathway_trajectories(table: pa.Table, arrays: dict) -> Drawn:
    """Train and test accuracy, pathway distance and cosine of consecutive layers against log steps, a column an arm."""
    del arrays
    fit = _estimates(table, "fit.accuracy")
    routing = {metric: _estimates(table, metric) for metric, _ in _ROUTING}
    if not len(fit) or not any(map(len, routing.values())):
        raise Missing("fit.accuracy and pathway distances were not both measured")
    styles = arm_styles(fit["arm"].unique().to_pylist())
    arms = list(styles)[:MOST_COLUMNS]
    figure, axes = panels(3 * len(arms), len(arms), 1.75, sharex=True, sharey="row")
    for i, arm in enumerate(arms):
        color, column = styles[arm]["color"], axes[i::len(arms)]
        for split, style in (("train", _TRAIN), ("id", _TEST)):
            _draw(column[0], select(fit, arm=arm, split=split), color, style)
        column[0].set(title=arm, ylim=(-0.02, 1.02))
        for axis, (metric, _) in zip(column[1:], _ROUTING, strict=True):
            _routing_panel(axis, select(routing[metric], arm=arm), color)
            axis.set_ylim(*_limits(routing[metric]))
        column[-1].set_xscale("symlog", linthresh=1, linscale=0.4)
        column[-1].set_xlim(0, max(fit["step"].to_pylist()))
        column[-1].set_xlabel("optimizer step")
    for axis, label in zip(axes[::len(arms)], ("accuracy", *(label for _, label in _ROUTING)), strict=True):
        axis.set_ylabel(label)
    legend_below(figure, {}, [("test accuracy", {"color": INK, **_TEST}), ("train accuracy", {"color": INK, **_TRAIN}),
                              ("memorised samples", {"color": INK, **_MEMORISED}), ("all samples", {"color": INK, **_ALL}),
                              ("null of all samples", _NULL)])
    tables = [select(rows, arm=arms) for rows in (fit, *routing.values())]
    left_out = sorted(set(styles) - set(arms))
    return Drawn(
        figure,
        f"Accuracy over whole tables, and routing of training samples, {replicates(tables[0])}; of memorised samples over the "
        "seeds that have some. Grey: the primary null of the rows over all samples, with its band where it has one "
        f"({null_kinds(pa.concat_tables(tables[1:]))})."
        + (f" Not shown: {', '.join(left_out)}." if left_out else ""),
        tables)


def _limits(rows: pa.Table) -> tuple[float, float]:
    """Of an axis that shows values, nulls and the seed bands of all samples; those of a few memorised ones may leave it."""
    parts = [(rows, ("value", "null_value", "null_lo", "null_hi")), (_over(rows, "all"), ("ci_lo", "ci_hi"))]
    values = np.concatenate([part[name].to_numpy().astype(float) for part, names in parts for name in names])
    low, high = np.nanmin(values), np.nanmax(values)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _routing_panel(axis: Axes, rows: pa.Table, color: str) -> None:
    if not len(rows):
        axis.text(0.5, 0.5, "no router", transform=axis.transAxes, ha="center", va="center", color=MUTED)
        return
    _draw(axis, _over(rows, "all"), color, _ALL, nulls=True)
    _draw(axis, _over(rows, "memorised"), color, _MEMORISED)
