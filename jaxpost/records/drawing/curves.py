"""Figures over steps, tolerances and update norm, drawn from estimates."""

import math
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxpost.records.drawing.style import INK, MUTED, NULL_LINE, arm_styles, legend_below, panels
from jaxpost.records.rows import parse_params, select
from jaxpost.records.tabulating.variants import last_steps, on_path, variant, variant_label


class Missing(Exception):
    """A figure whose ingredients are not in the bundle; the message says which."""


@dataclass
class Drawn:
    """A figure with what its caption must say and where its points came from."""

    figure: Figure
    caption: str
    rows: list[pa.Table] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)


def measured(table: pa.Table, metric: str, **wanted: object) -> pa.Table:
    """The preferred variant of a metric with a value in every row; raises Missing when there is none."""
    rows = select(table, metric=metric, role="estimate")
    rows = variant(rows.filter(pc.is_valid(rows["value"])), metric, **wanted)
    if not len(rows):
        filters = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise Missing(f"no estimates of {metric}{f' with {filters}' if filters else ''}")
    return rows


def by_arm(rows: pa.Table, *names: str) -> dict[str, dict[str, np.ndarray]]:
    """arm -> column -> values sorted by step, missing as NaN."""
    curves = {}
    rows = rows.sort_by([("arm", "ascending"), ("step", "ascending")])
    for arm in arm_styles(rows["arm"].unique().to_pylist()):
        part = select(rows, arm=arm)
        curves[arm] = {name: part[name].to_numpy().astype(float) for name in ("step", *names)}
    return curves


def replicates(*tables: pa.Table) -> str:
    """How many replicates the trained arms have, for a caption."""
    counts = sorted(
        {
            (n, unit)
            for rows in tables
            for n, unit, arm in zip(*(rows[name].to_pylist() for name in ("n_units", "unit", "arm")), strict=True)
            if arm != "base"
        },
        key=str,
    )
    text = " or ".join(f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in counts)
    spread = any(rows["ci_lo"].null_count < len(rows) for rows in tables)
    return f"mean over {text} with 95% interval" if spread else f"{text}, no interval"


def variant_suffix(rows: pa.Table, with_dtype: bool = True) -> str:
    """ " (fp32, k=16)": the variant shown, for a caption or a title."""
    text = variant_label(rows.slice(0, 1).to_pylist()[0], with_dtype)
    return f" ({text})" if text else ""


def band(axis: Axes, x: np.ndarray, lo: np.ndarray, hi: np.ndarray, color: str, alpha: float = 0.13) -> None:
    """A shaded interval where both ends exist."""
    if np.isfinite(lo).any():
        axis.fill_between(x, lo, hi, color=color, alpha=alpha, linewidth=0)


def line(axis: Axes, x: np.ndarray, y: np.ndarray, lo: np.ndarray, hi: np.ndarray, style: dict) -> None:
    """A curve with its interval: a band, or a bar where the curve is one point."""
    if np.isfinite(y).sum() > 1:
        band(axis, x, lo, hi, style["color"])
    else:
        axis.vlines(x, lo, hi, color=style["color"], linewidth=1.0)
    axis.plot(x, y, **style)


def sparsity_tolerance(table: pa.Table, arrays: dict) -> Drawn:
    """Share of entries that moved by at most a tolerance, against the tolerance, per family of arms."""
    rows = select(table, metric="weight.sparsity.abs", role="estimate", granularity="global")
    rows = last_steps(on_path(rows.filter(pc.is_valid(rows["value"]))))
    if rows["conditional_on"].null_count:  # several bases: estimates over them
        rows = select(rows, conditional_on=None)
    points = [(row, parse_params(row["params"])) for row in rows.to_pylist()]
    points = [
        (row, float(params["tol"]))
        for row, params in points
        if float(params["tol"]) > 0 and params.get("weighting") in (None, "by_param")
    ]
    if len({tol for _, tol in points}) < 2:
        raise Missing("weight.sparsity.abs was measured at fewer than two tolerances")
    styles = arm_styles([row["arm"] for row, _ in points])
    families = {"RL": [a for a in styles if a.startswith(("rlvr", "grpo"))], "SFT": [a for a in styles if a.startswith("sft")]}
    families["controls"] = [a for a in styles if a not in families["RL"] + families["SFT"]]
    families = {name: arms for name, arms in families.items() if arms}
    figure, axes = panels(len(families), 3, 2.7, sharey=True, sharex=True)
    for axis, (name, arms) in zip(axes, families.items(), strict=True):
        for arm in arms:
            mine = sorted(((tol, row) for row, tol in points if row["arm"] == arm), key=lambda point: point[0])
            x = np.array([tol for tol, _ in mine])
            value, lo, hi, null_lo, null_hi = (
                np.array([row[key] for _, row in mine], float)
                for key in ("value", "ci_lo", "ci_hi", "null_lo", "null_hi")
            )
            band(axis, x, null_lo, null_hi, MUTED, 0.18)
            line(axis, x, value, lo, hi, styles[arm])
        axis.set(title=name, xscale="log", ylim=(-0.02, 1.02), xlabel="absolute tolerance")
    axes[0].set_ylabel("update sparsity (share of entries)")
    legend_below(figure, styles, [("null band", {"color": MUTED, "alpha": 0.35, "linewidth": 6})])
    ids = pa.array([row["row_id"] for row, _ in points])
    rows = rows.filter(pc.is_in(rows["row_id"], ids))
    return Drawn(
        figure,
        "Share of weights that changed by at most the tolerance, at the last step, all matrices "
        f"({replicates(rows)}). Grey: band of the row's primary null ({null_kinds(rows)}).",
        [rows],
    )


def null_kinds(rows: pa.Table) -> str:
    """The kinds of primary null in these rows, for a caption."""
    return ", ".join(sorted(filter(None, rows["null_kind"].unique().to_pylist()))) or "no null"


_AGAINST_NORM = (  # metric, label, variant, minus its null, scale
    ("weight.sparsity.bf16", "update sparsity", {}, False, "linear"),
    ("weight.spectral_shift", "spectral shift", {}, False, "log"),
    ("weight.rotation.mean_sin2", "rotation, mean sin²", {"side": "left"}, False, "log"),
    ("weight.overlap.principal", "principal overlap − null", {}, True, "linear"),
    ("policy.kl_forward", "forward KL (nats)", {}, False, "log"),
)


def against_update_norm(table: pa.Table, arrays: dict) -> Drawn:
    """Geometry and policy statistics against the update norm: what is left of a difference at equal distance."""
    norm = measured(table, "weight.update_norm")
    drawn = []
    for metric, label, wanted, minus_null, scale in _AGAINST_NORM:
        try:
            drawn.append((measured(table, metric, **wanted), label, minus_null, scale))
        except Missing:
            continue
    if not drawn:
        raise Missing("none of the statistics that are drawn against update norm was measured")
    x_of = {(row["arm"], row["step"]): row["value"] for row in norm.to_pylist() if row["value"] > 0}
    if not x_of:
        raise Missing("no update has a norm above 0, where this figure's axis is logarithmic")
    styles = arm_styles(norm["arm"].unique().to_pylist())
    figure, axes = panels(len(drawn), 3, 2.35)
    for axis, (rows, label, minus_null, scale) in zip(axes, drawn, strict=True):
        for arm, curve in by_arm(rows, "value", "ci_lo", "ci_hi", "null_value").items():
            if arm not in styles:  # the base has no update
                continue
            shift = curve["null_value"] if minus_null else 0.0
            x = np.array([x_of.get((arm, int(step)), np.nan) for step in curve["step"]])
            order = np.argsort(x)
            x, y = x[order], (curve["value"] - shift)[order]
            lo, hi = ((curve[end] - shift)[order] for end in ("ci_lo", "ci_hi"))
            lo = np.where(lo <= 0, y / 10, lo) if scale == "log" else lo
            if not minus_null:
                axis.plot(x, curve["null_value"][order], color=styles[arm]["color"], **NULL_LINE)
            line(axis, x, y, lo, hi, styles[arm])
        if minus_null:
            axis.axhline(0, color=INK, linewidth=0.8)
        axis.set(xscale="log", yscale=scale, xlabel="update norm", title=label)
    legend_below(figure, styles, [("null", {"color": MUTED, **NULL_LINE})])
    tables = [norm, *(rows for rows, *_ in drawn)]
    variants = "; ".join(f"{label}{variant_suffix(rows)}" for rows, label, *_ in drawn)
    return Drawn(
        figure,
        f"Statistics against the Frobenius norm of the update, one point a measured step ({replicates(*tables)}); "
        f"dotted: the primary null at the same point; overlap minus null has the interval of the overlap. "
        f"On a logarithmic axis an interval that reaches 0 is drawn down to a tenth of its estimate. "
        f"Variants shown: {variants}.",
        tables,
    )


def angles(table: pa.Table, arrays: dict) -> Drawn:
    """Largest principal angle of the left top-k subspace against step, in fp32 and in bf16, with the noise floor."""
    sides = []
    for dtype in ("fp32", "bf16"):
        try:
            sides.append(measured(table, "weight.rotation.max_angle", side="left", dtype=dtype))
        except Missing:
            continue
    if not sides:
        raise Missing("no estimates of weight.rotation.max_angle with side=left")
    styles = arm_styles([arm for rows in sides for arm in rows["arm"].to_pylist()])
    figure, axes = panels(len(sides), 2, 2.9, sharey=True)
    for axis, rows in zip(axes, sides, strict=True):
        floors = []
        for arm, curve in by_arm(rows, "value", "ci_lo", "ci_hi", "noise_floor").items():
            degrees = {name: np.degrees(values) for name, values in curve.items() if name != "step"}
            line(axis, curve["step"], degrees["value"], degrees["ci_lo"], degrees["ci_hi"], styles[arm])
            floors += list(zip(curve["step"], degrees["noise_floor"], strict=True))
        steps = sorted({step for step, floor in floors if math.isfinite(floor)})
        if steps:
            highest = [max(floor for at, floor in floors if at == step and math.isfinite(floor)) for step in steps]
            axis.fill_between(steps, 0, highest, color=MUTED, alpha=0.2, linewidth=0)
        axis.set(title=f"read in {rows['dtype'][0].as_py()}", xlabel="optimizer step", ylim=(0, None))
    axes[0].set_ylabel("largest principal angle (degrees)")
    legend_below(figure, styles, [("noise floor", {"color": MUTED, "alpha": 0.35, "linewidth": 6})])
    return Drawn(
        figure,
        f"Largest principal angle between the left top-k subspaces of the base and the tuned weights"
        f"{variant_suffix(sides[0], with_dtype=False)}, {replicates(*sides)}. Grey: what rounding of the stored weights "
        "alone reads (highest over arms).",
        sides,
    )
