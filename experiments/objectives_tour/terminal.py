"""What a tour adds to the records: the metric of its losses, and its lines on the terminal."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from experiments.objectives_tour.verdicts import METRIC, SPLIT
from jaxpost.probes import Metric
from jaxpost.records import select
from jaxpost.records.drawing import changes
from jaxpost.records.drawing.curves import by_arm
from jaxpost.records.tabulating.cells import format_number

LOSS = Metric(changes.LOSS, "the objective's loss, sum / count over a batch, mean over the steps since the last measurement",
              "the objective's own", "each row's", "none: losses of different objectives are not comparable", "none",
              "float32 sums", higher_is_better=False)


def print_table(console: Console, table: pa.Table, claims: Sequence[Mapping]) -> None:
    """A line a row on the terminal, and below it the whole curve of every row that did not improve."""
    def say(text):
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"{claims[0]['rule']} {changes.noise(table)}")
    success = select(table, metric=METRIC, split=SPLIT, role="estimate")
    success = success.filter(pc.is_valid(success["value"]))
    curves, loss = by_arm(success, "value"), by_arm(select(table, metric=LOSS.id, role="estimate"), "value")
    for claim, cells in zip(claims, changes.changes_table(table, claims).body, strict=True):
        name, family, _, before, after, change, verdict, *_ = cells
        say(f"{name.text:22s} {family.text:10s} {before.text} -> {after.text or '    -'}  "
            f"{(change.text + ' ' + change.interval):28s} {verdict}")
        if claim["verdict"] != "improved" and claim["id"] in curves:
            curve = curves[claim["id"]]
            seen = ", ".join(f"{step:.0f}: {x:.3f}" for step, x in zip(curve["step"], curve["value"]))
            say(f"{'':33s} success {seen}; loss {' '.join(format_number(x) for x in loss[claim['id']]['value'])}")
