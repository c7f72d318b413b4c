"""Figures of what the policy does: learning curves, and forgetting against learning and divergence."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxpost.records.drawing.curves import Drawn, Missing, by_arm, line, measured, replicates, variant_suffix
from jaxpost.records.drawing.style import MUTED, arm_styles, legend_below, panels
from jaxpost.records.tabulating.variants import SOLVED, solved_by_split

MOST_SPLITS = 6


def learning_curves(table: pa.Table, arrays: dict) -> Drawn:
    """Success, or where it was not measured pass@1, against optimizer step, one panel a split."""
    label, by_split = solved_by_split(table.filter(pc.is_valid(table["value"])))
    if not by_split:
        raise Missing(f"no estimates of {' or '.join(metric for metric, _, _ in SOLVED)}")
    splits, drawn = list(by_split), list(by_split.items())[:MOST_SPLITS]
    styles = arm_styles([arm for _, rows in drawn for arm in rows["arm"].to_pylist()])
    figure, axes = panels(len(drawn), 3, 2.4, sharey=True, sharex=True)
    for axis, (split, rows) in zip(axes, drawn, strict=True):
        for arm, curve in by_arm(rows, "value", "ci_lo", "ci_hi").items():
            line(axis, curve["step"], curve["value"], curve["ci_lo"], curve["ci_hi"], styles[arm])
        guess = rows["null_value"].to_numpy()
        guess = guess[np.isfinite(guess)]
        if len(guess):
            axis.axhline(float(guess.mean()), color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.set(title=split, ylim=(-0.02, 1.02))
        if axis.xaxis.get_tick_params()["labelbottom"]:
            axis.set_xlabel("optimizer step")
        if axis.yaxis.get_tick_params()["labelleft"]:
            axis.set_ylabel(f"{label} (share of prompts)")
    legend_below(figure, styles)
    kinds = sorted({kind for _, rows in drawn for kind in rows["null_kind"].to_pylist() if kind})
    guess = f" Dashed: {', '.join(kinds)}." if kinds else ""
    left_out = f" Not shown: {', '.join(splits[MOST_SPLITS:])}." if splits[MOST_SPLITS:] else ""
    rows = [rows for _, rows in drawn]
    return Drawn(
        figure,
        f"{label[0].upper()}{label[1:]} on the trained task (id), out of distribution (ood) and on the second task, "
        f"where measured ({replicates(*rows)}).{guess}{left_out}",
        rows,
    )


def forgetting(table: pa.Table, arrays: dict) -> Drawn:
    """Success on the second task against success on the trained one and against forward KL: paths over steps."""
    second = measured(table, "policy.success", split="second")
    horizontal = []
    for metric, wanted, label, scale in (
        ("policy.success", {"split": "id"}, "success, trained task", "linear"),
        ("policy.kl_forward", {}, "forward KL (nats)", "log"),
    ):
        try:
            horizontal.append((measured(table, metric, **wanted), label, scale))
        except Missing:
            continue
    if not horizontal:
        raise Missing("neither policy.success on id nor policy.kl_forward to draw the second task against")
    styles = arm_styles(second["arm"].unique().to_pylist())
    figure, axes = panels(len(horizontal), 2, 2.9, sharey=True)
    y = {(row["arm"], row["step"]): row for row in second.to_pylist()}
    for axis, (rows, label, scale) in zip(axes, horizontal, strict=True):
        x = {(row["arm"], row["step"]): row for row in rows.to_pylist()}
        for arm, style in styles.items():
            steps = sorted(step for at, step in x.keys() & y.keys() if at == arm)
            if not steps or (arm == "base" and scale == "log"):  # its divergence from itself is rounding
                continue
            xs, ys = ([of[arm, step]["value"] for step in steps] for of in (x, y))
            axis.plot(xs, ys, **style | {"marker": "", "linewidth": 1.0, "alpha": 0.75})
            last_x, last_y = x[arm, steps[-1]], y[arm, steps[-1]]
            axis.errorbar(
                xs[-1],
                ys[-1],
                xerr=_error(last_x),
                yerr=_error(last_y),
                color=style["color"],
                marker=style["marker"],
                markersize=5,
                elinewidth=0.9,
            )
        axis.set(xlabel=label + variant_suffix(rows), xscale=scale)
        if scale == "linear":
            axis.set_xlim(*_inside(axis.get_xlim()))
        axis.set_ylim(*_inside(axis.get_ylim()))
    axes[0].set_ylabel("success, second task")
    legend_below(figure, styles)
    tables = [second, *(rows for rows, *_ in horizontal)]
    return Drawn(
        figure,
        "Forgetting: success on a task that is not trained, against success on the trained task and against "
        f"divergence from the base. Lines follow the steps, markers are the last one with its interval "
        f"({replicates(*tables)}).",
        tables,
    )


def _inside(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits of an axis of shares: no wider than [0, 1], however wide an interval is."""
    return max(limits[0], -0.02), min(limits[1], 1.02)


def _error(row: dict) -> list[list[float]] | None:
    if row["ci_lo"] is None:
        return None
    return [[row["value"] - row["ci_lo"]], [row["ci_hi"] - row["value"]]]
