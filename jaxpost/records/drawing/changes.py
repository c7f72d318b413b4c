"""Many arms against the start that they share: a table line and a small panel for each, whatever became of it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxpost.records.drawing.curves import Drawn, Missing, by_arm, line, measured, replicates
from jaxpost.records.drawing.style import INK, MUTED, panels
from jaxpost.records.rows import select
from jaxpost.records.tabulating.cells import Cell, Table, format_interval, format_number
from jaxpost.records.tabulating.variants import claim_numbers, last_steps

KIND = "change"  # of the claims that a line and a panel are made for
METRIC, SPLIT, LOSS = "policy.success", "id", "train.loss"
REEVALUATION = "re-evaluation"  # null_kind of the start's rows: where one further evaluation of it would fall
COLUMNS = 5  # panels in a line of the figure
COLOURS = {"improved": "#1a7f4b", "held": "#0072b2", "lost": "#b3361f", "undecided": MUTED}


def changes_table(table: pa.Table, claims: Sequence[Mapping]) -> Table:
    """Row, family, paper, success before and after with the interval of the paired change, verdict, seeds, steps."""
    claims = [claim for claim in claims if claim.get("kind") == KIND]
    header = ["row", "family", "paper", "before", "after", "change", "verdict", "seeds", "steps"]
    if not claims:
        return Table("changes", "", header, [""] * len(header))
    caption = f"Every row of the recipe table, trained shortly from one base. {claims[0]['rule']} {noise(table)}"
    built = Table("changes", caption, header, [""] * len(header))
    numbers = claim_numbers(table)
    success = select(table, metric=METRIC, split=SPLIT, role="estimate")
    last = {row["arm"]: row for row in last_steps(success).to_pylist()}
    for claim in claims:
        estimate, after, before = numbers[claim["id"]]["estimate"], last.get(claim["id"]), last["base"]
        trained = estimate["value"] is not None
        built.body.append([
            Cell(claim["id"]), Cell(claim["family"]), Cell(claim["paper"]), _cell(before), _cell(after) if trained else Cell(),
            _cell(estimate) if trained else Cell(),
            Cell(estimate["status_reason"] + ("" if trained else f": {claim['note']}"), row_ids=(estimate["row_id"],)),
            Cell(str(estimate["n_units"]) if trained else ""), Cell(str(after["step"]) if trained else "")])
    return built


def again(table: pa.Table) -> dict:
    """The row that says where one further evaluation of the base would fall. Raises: Missing."""
    null = select(table, role="null", arm="base", metric=METRIC, split=SPLIT, null_kind=REEVALUATION, seed=None)
    if not len(null):
        raise Missing("the base was not evaluated again")
    return null.to_pylist()[0]


def noise(table: pa.Table) -> str:
    """The sentence that says how far the start differs from itself."""
    row = again(table)
    return (f"Evaluated once more, the base itself would read {format_number(row['null_value'])} "
            f"{format_interval(row['null_lo'], row['null_hi'])} (95%, one evaluation).")


def _cell(row: Mapping) -> Cell:
    return Cell(format_number(row["value"]), format_interval(row["ci_lo"], row["ci_hi"]), row_ids=(row["row_id"],))


def changes_figure(table: pa.Table, arrays: dict) -> Drawn:
    """Success against steps, a panel a row of the table, over what the base itself reads when it is evaluated again."""
    null = again(table)
    verdicts = {name: rows["estimate"]["status_reason"] for name, rows in claim_numbers(table).items()}
    rows, losses = measured(table, METRIC, split=SPLIT), measured(table, LOSS)
    success, loss = by_arm(rows, "value", "ci_lo", "ci_hi"), by_arm(losses, "value")
    drawn = [name for name in verdicts if name in success]
    figure, axes = panels(len(drawn), COLUMNS, 1.25, sharey=True, sharex=True)
    for i, (axis, name) in enumerate(zip(axes, drawn, strict=True)):
        curve = {k: np.concatenate([success["base"][k], success[name][k]]) for k in success[name]}
        axis.axhspan(null["null_lo"], null["null_hi"], color=MUTED, alpha=0.18, linewidth=0)
        _loss_behind(axis, loss[name])
        line(axis, curve["step"], curve["value"], curve["ci_lo"], curve["ci_hi"],
             {"color": COLOURS.get(verdicts[name], INK), "marker": ".", "linewidth": 1.2})
        axis.set(ylim=(-0.02, 1.02), ylabel="" if i % COLUMNS else "success")
        axis.set_title(name, fontsize=7, y=1.0)
        axis.text(0.97, 0.95, verdicts[name], transform=axis.transAxes, ha="right", va="top", fontsize=6,
                  color=COLOURS.get(verdicts[name], INK))
        axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.supxlabel("batches", fontsize=8)
    left_out = [f"{name} ({verdict})" for name, verdict in verdicts.items() if name not in drawn]
    return Drawn(
        figure,
        f"Success on the new task against batches trained on, one panel a row of the recipe table ({replicates(rows)}); the "
        "first point is the base. Grey band: where one further evaluation of the base itself would fall (95%). Dashed: the "
        "row's own loss on an axis of its own." + (f" Without a curve: {', '.join(left_out)}." if left_out else ""),
        [rows, losses, select(table, row_id=null["row_id"])])


def _loss_behind(axis: Axes, loss: Mapping[str, np.ndarray]) -> None:
    """A row's loss on a scale of its own, with its first and last value in figures."""
    behind = axis.twinx()
    behind.plot(loss["step"], loss["value"], color=MUTED, linewidth=0.7, linestyle=(0, (3, 2)), alpha=0.7)
    behind.set_axis_off()
    first, last = (format_number(x, 2) for x in loss["value"][[0, -1]])
    axis.text(0.03, 0.04, f"loss {first} to {last}", transform=axis.transAxes, fontsize=5.5, color=MUTED)
