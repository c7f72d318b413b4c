"""Figures of statistics layer by layer, drawn from estimates."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.ticker import ScalarFormatter

from jaxpost.records.drawing.curves import Drawn, Missing, band, by_arm, line, replicates, variant_suffix
from jaxpost.records.drawing.style import INK, MUTED, arm_styles, legend_below, panels
from jaxpost.records.rows import select
from jaxpost.records.tabulating.variants import on_path

COHERENCE, PERMUTED = "gradient.m_coherence.plug_in", "label_permuted"
SHOWN_LAYERS = 5  # of a deeper model, evenly spaced


def _families(arms: list[str]) -> dict[str, list[str]]:
    """Arms by the text before their first "-": those of one problem are compared with each other."""
    families: dict[str, list[str]] = {}
    for arm in arms:
        families.setdefault(arm.partition("-")[0], []).append(arm)
    return families


def _estimates(table: pa.Table) -> pa.Table:
    """Estimates of the whole model and of layers, of single examples, in one dtype."""
    rows = select(table, metric=COHERENCE, role="estimate", granularity=["global", "layer"])
    rows = on_path(rows.filter(pc.is_valid(rows["value"])))
    texts = sorted(text for text in rows["params"].unique().to_pylist() if "chunk=1" in (text or "").split(";"))
    if not texts:
        raise Missing(f"no estimates of {COHERENCE} over single examples")
    rows = select(rows, params=texts[0])
    if "layer" not in rows["granularity"].to_pylist():
        raise Missing(f"{COHERENCE} was measured of no layer")
    return rows


def coherence_layers(table: pa.Table, arrays: dict) -> Drawn:
    """m-coherence against steps, a panel a layer and a line of panels a problem, over what permuted labels would read."""
    rows = _estimates(table)
    nulls = select(table, metric=COHERENCE, role="null", null_kind=PERMUTED)
    nulls = nulls.filter(pc.is_in(nulls["of"], rows["row_id"].combine_chunks()))
    styles = arm_styles(rows["arm"].unique().to_pylist())
    families = _families(list(styles))
    drawn = {name: _layers(select(rows, arm=arms)) for name, arms in families.items()}
    columns = max(map(len, drawn.values()))
    figure, axes = panels(len(drawn) * columns, columns, 1.9, sharex=True)
    for i, (name, layers) in enumerate(drawn.items()):
        for j, axis in enumerate(axes[i * columns:(i + 1) * columns]):
            if j >= len(layers):
                axis.set_axis_off()
                continue
            where = {"granularity": "global"} if layers[j] is None else {"granularity": "layer", "layer": layers[j]}
            of_arms = {"arm": families[name], **where}
            _panel(axis, select(rows, **of_arms), select(nulls, **of_arms), styles)
            axis.set_title(f"{name}, {'whole model' if layers[j] is None else f'layer {layers[j]}'}")
            axis.set(ylabel="" if j else "m-coherence", xlabel="step")
            axis.tick_params(labelbottom=True)
    legend_below(figure, styles, [("permuted labels", {"color": MUTED, "linestyle": (0, (1, 1.5)), "linewidth": 0.9}),
                                  ("orthogonal", {"color": INK, "linewidth": 0.8})])
    left_out = sum(len(_layers(select(rows, arm=arms), None)) - len(drawn[name]) for name, arms in families.items())
    return Drawn(
        figure,
        f"m-coherence of per-example gradients{variant_suffix(rows)}, {replicates(rows)}: by how many examples one example is "
        "helped, itself included. Dotted, with the range of its draws: the same parameters with labels permuted between "
        "examples. Line at 1: orthogonal gradients." + (f" {left_out} further layers are in the rows." if left_out else ""),
        [rows, nulls])


def _layers(rows: pa.Table, most: int | None = SHOWN_LAYERS) -> list[int | None]:
    """None for the whole model, then layer numbers, at most `most` of them."""
    layers = sorted(layer for layer in rows["layer"].unique().to_pylist() if layer is not None)
    if most is not None and len(layers) > most:
        layers = [layers[i] for i in np.linspace(0, len(layers) - 1, most).round().astype(int)]
    return [None, *layers]


def _panel(axis, rows: pa.Table, nulls: pa.Table, styles: dict) -> None:
    axis.axhline(1, color=INK, linewidth=0.8)
    for arm, curve in by_arm(nulls, "value", "null_lo", "null_hi").items():
        band(axis, curve["step"], curve["null_lo"], curve["null_hi"], styles[arm]["color"], 0.22)
        axis.plot(curve["step"], curve["value"], color=styles[arm]["color"], linestyle=(0, (1, 1.5)), linewidth=0.9)
    for arm, curve in by_arm(rows, "value", "ci_lo", "ci_hi").items():
        line(axis, curve["step"], curve["value"], curve["ci_lo"], curve["ci_hi"], styles[arm])
    top = max(x for table in (rows, nulls) for x in table["value"].to_pylist() if x is not None)
    axis.set_ylim(0, 1.35 * max(top, 1))  # wide intervals of few seeds may be cut, no curve is
    axis.set_xscale("symlog", linthresh=1)
    axis.xaxis.set_major_formatter(ScalarFormatter())
