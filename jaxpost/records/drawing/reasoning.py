"""How success depends on how much reasoning there is: cut after so many tokens, or given from the oracle's."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxpost.records.drawing.curves import Drawn, Missing, line, null_kinds, replicates
from jaxpost.records.drawing.style import MUTED, NULL_LINE, arm_styles, legend_below, panels
from jaxpost.records.rows import parse_params, select
from jaxpost.records.tabulating.variants import last_steps

_PANELS = (  # metric, its param on the axis, title, label of the axis
    ("policy.interrupted_success", "budget", "reasoning is cut", "tokens of reasoning before the cut"),
    ("policy.success_given_reasoning", "share", "reasoning is given", "share of the oracle's reasoning that is given"),
)


def reasoning(table: pa.Table, arrays: dict) -> Drawn:
    """Success at the last step on fresh problems against tokens or shares of reasoning, every arm with its null."""
    del arrays
    drawn = []
    for metric, key, *words in _PANELS:
        rows = select(table, metric=metric, role="estimate", split="id")
        rows = last_steps(rows.filter(pc.is_valid(rows["value"])))
        if len(rows):
            drawn.append((rows, key, *words))
    if not drawn:
        raise Missing(f"no estimates of {' or '.join(metric for metric, *_ in _PANELS)} on id")
    styles = arm_styles([arm for rows, *_ in drawn for arm in rows["arm"].unique().to_pylist()])
    figure, axes = panels(len(drawn), 2, 2.9, sharey=True)
    for axis, (rows, key, title, label) in zip(axes, drawn, strict=True):
        for arm, style in styles.items():
            points = sorted((float(parse_params(row["params"])[key]), row["row_id"], row)
                            for row in select(rows, arm=arm).to_pylist())
            x = np.asarray([at for at, *_ in points])
            y, lo, hi, null = (np.asarray([row[column] for *_, row in points], float)
                               for column in ("value", "ci_lo", "ci_hi", "null_value"))
            line(axis, x, y, lo, hi, style)
            axis.plot(x, null, color=style["color"], **NULL_LINE)
        axis.set(title=title, xlabel=label, ylim=(-0.02, 1.02))
    axes[0].set_ylabel("success (share of prompts)")
    legend_below(figure, styles, [("null", {"color": MUTED, **NULL_LINE})])
    tables = [rows for rows, *_ in drawn]
    return Drawn(figure, f"Success on fresh problems at the last step, by how much reasoning there is ({replicates(*tables)}). "
                 f"Dotted: the null of each point ({null_kinds(pa.concat_tables(tables))}).", tables)
