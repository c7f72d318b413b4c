"""The figure of Fourier progress measures: what the logits know before the test loss shows it, a column an arm."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes

from jaxpost.records.drawing.curves import Drawn, Missing, band, by_arm, null_kinds, replicates
from jaxpost.records.drawing.style import INK, MUTED, arm_styles, legend_below, panels
from jaxpost.records.rows import parse_params, select

MOST_COLUMNS = 4
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


_PANELS = (
    ("accuracy", (_Curve("fit.accuracy", {"split": "train"}, "train", _TRAIN),
                  _Curve("fit.accuracy", {"split": "id"}, "test", _TEST))),
    ("loss (nats)", (_Curve("fit.loss", {"split": "train"}, "train", _TRAIN),
                     _Curve("fit.loss", {"split": "id"}, "test", _TEST),
                     _Curve("fourier.restricted_loss", {}, "restricted", _RESTRICTED, True),
                     _Curve("fourier.excluded_loss", {"which": "all"}, "excluded", _EXCLUDED))),
    ("share of the keys", (_Curve("fourier.logit_share", {}, "restricted", _RESTRICTED, True),)),
    ("Gini", (_Curve("fourier.gini", {"module_kind": "embed"}, "embedding", _EMBED, True),
              _Curve("fourier.gini", {"module_kind": "head"}, "unembedding", _HEAD))),
)
_SHARES = ("accuracy", "share of the keys")


def fourier_progress(table: pa.Table, arrays: dict) -> Drawn:
    """Accuracy, losses, the key frequencies' share and Gini coefficients against log steps, a column an arm."""
    del arrays
    if not len(select(table, metric="fourier.restricted_loss", role="estimate")):
        raise Missing("fourier.restricted_loss was not measured")
    known = list(arm_styles(select(table, metric="fit.loss", role="estimate")["arm"].unique().to_pylist()))
    arms, shown, nulls = known[:MOST_COLUMNS], [], []
    figure, axes = panels(len(_PANELS) * len(arms), len(arms), 1.75, sharex=True)
    for i, axis in enumerate(axes):
        (label, curves), arm = _PANELS[i // len(arms)], arms[i % len(arms)]
        for curve in curves:
            rows = _rows(table, curve.metric, arm=arm, **curve.wanted)
            _draw(axis, rows, curve)
            shown.append(rows)
            nulls += [rows] if curve.nulls else []
        axis.set_xscale("log")
        axis.set_ylim((-0.02, 1.02) if label in _SHARES else (0, None))
        if i < len(arms):
            axis.set_title(arm)
        if i % len(arms) == 0:
            axis.set_ylabel(label)
    highest = max(axis.get_ylim()[1] for axis in axes[-len(arms):])
    for axis in axes[-len(arms):]:
        axis.set(xlabel="optimizer step", ylim=(0, highest))
    named = {curve.legend: curve.style for _, curves in _PANELS for curve in curves}
    legend_below(figure, {}, [*named.items(), ("null", {"color": MUTED, "alpha": 0.35, "linewidth": 6})])
    left_out = f" Not shown: {', '.join(known[MOST_COLUMNS:])}." if known[MOST_COLUMNS:] else ""
    return Drawn(
        figure,
        f"Loss and accuracy over whole tables, and Fourier progress measures with the key frequencies of the last step, "
        f"{replicates(*shown)}; losses have an axis an arm. Grey: range of the primary null of the restricted loss, of the "
        f"share and of the embedding's Gini ({null_kinds(pa.concat_tables(nulls))}).{left_out}",
        [rows for rows in shown if len(rows)])


def _rows(table: pa.Table, metric: str, which: str | None = None, **wanted: object) -> pa.Table:
    """Estimates with a value, after step 0, of one variant of a metric."""
    rows = select(table, metric=metric, role="estimate", **wanted)
    rows = rows.filter(pc.and_(pc.is_valid(rows["value"]), pc.greater(rows["step"], 0)))
    texts = [text for text in rows["params"].unique().to_pylist() if parse_params(text).get("which") == which]
    return select(rows, params=texts) if texts else rows.slice(0, 0)


def _draw(axis: Axes, rows: pa.Table, curve: _Curve) -> None:
    for found in by_arm(rows, "value", "ci_lo", "ci_hi", "null_lo", "null_hi").values():
        if curve.nulls:
            band(axis, found["step"], found["null_lo"], found["null_hi"], MUTED, 0.22)
        band(axis, found["step"], found["ci_lo"], found["ci_hi"], curve.style["color"])
        axis.plot(found["step"], found["value"], **curve.style)
