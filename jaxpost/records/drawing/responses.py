"""How statistics at the last step respond to a setting that a sweep varied."""

from collections import defaultdict

import numpy as np
import pyarrow as pa

from jaxpost.records.drawing.curves import Drawn, Missing, line, measured, replicates, variant_suffix
from jaxpost.records.drawing.style import arm_styles, legend_below, panels
from jaxpost.records.rows import select
from jaxpost.records.settings import named, parsed
from jaxpost.records.tabulating.variants import last_steps

_SHOWN = (  # metric, label, variant
    ("policy.success", "success (id)", {"split": "id"}),
    ("policy.success", "success (second)", {"split": "second"}),
    ("policy.kl_forward", "forward KL (nats)", {}),
    ("weight.update_norm", "update norm", {}),
    ("weight.sparsity.bf16", "update sparsity (bf16)", {}),
    ("weight.rotation.mean_sin2", "rotation, mean sin²", {"side": "left"}),
    ("fit.accuracy", "accuracy (id)", {"split": "id"}),
)


def responses(table: pa.Table, arrays: dict) -> Drawn:
    """Estimates at the last step against the first numeric setting that takes several values; other settings are lines."""
    del arrays
    arms = [arm for arm in select(table, role="estimate")["arm"].unique().to_pylist() if arm and parsed(arm)[1]]
    key = _axis(arms)
    drawn = []
    for metric, label, wanted in _SHOWN:
        try:
            rows = last_steps(measured(table, metric, **wanted))
        except Missing:
            continue
        if rows := rows.filter(pa.array([arm in arms for arm in rows["arm"].to_pylist()], pa.bool_())):
            drawn.append((rows, label))
    if not drawn:
        raise Missing("none of the statistics that are drawn against a setting was measured")
    styles = arm_styles(sorted({_line(arm, key) for arm in arms}))
    figure, axes = panels(len(drawn), 3, 2.5)
    values = sorted({float(parsed(arm)[1][key]) for arm in arms})
    log = values[0] > 0 and values[-1] / values[0] > 8
    for axis, (rows, label) in zip(axes, drawn, strict=True):
        lines = defaultdict(list)
        for row in rows.to_pylist():
            lines[_line(row["arm"], key)].append((float(parsed(row["arm"])[1][key]), row))
        for name, points in lines.items():
            points.sort(key=lambda point: point[0])
            y, lo, hi = (np.asarray([row[column] for _, row in points], float) for column in ("value", "ci_lo", "ci_hi"))
            line(axis, np.asarray([x for x, _ in points]), y, lo, hi, styles[name])
        axis.set(title=label, xlabel=key, xscale="log" if log else "linear")
    legend_below(figure, styles)
    tables = [rows for rows, _ in drawn]
    variants = "; ".join(f"{label}{variant_suffix(rows)}" for rows, label in drawn)
    caption = f"Statistics at the last step against {key} ({replicates(*tables)}). Variants shown: {variants}."
    return Drawn(figure, caption, tables)


def _axis(arms: list[str]) -> str:
    """The setting on the axis. Raises: Missing: none takes several numbers."""
    taken = defaultdict(set)
    for arm in arms:
        for key, value in parsed(arm)[1].items():
            taken[key].add(value)
    for key, values in taken.items():
        if len(values) > 1 and all(map(_is_number, values)) and all(key in parsed(arm)[1] for arm in arms):
            return key
    raise Missing("no setting was varied over several numbers")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _line(name: str, key: str) -> str:
    """The arm with every setting but the one on the axis."""
    arm, settings = parsed(name)
    return named(arm, {other: value for other, value in settings.items() if other != key})
