"""What a planned number of seeds can resolve: the smallest effect of every claim, from a pilot's spread between seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Column, Table

from experiments.harness.claims import statistic
from experiments.harness.claims.curves import AmbiguousError
from experiments.harness.claims.gates import randomised
from experiments.harness.errors import UserError
from jaxpost import records, stats

POWER = 0.8


class Power(NamedTuple):
    """Of one claim: replicates in the pilot, their standard deviation, and the distance beyond the threshold that the run
    resolves with probability POWER; NaN where the pilot has fewer than two.
    """

    claim: str
    pilot: int
    sd: float
    smallest: float


def pilot_rows(path: str) -> pa.Table:
    """All rows of a pilot's run directory. Raises: UserError."""
    if not (Path(path) / "measurements.parquet").is_file():
        raise UserError(f"pilot={path!r} is no finished run: it has no measurements.parquet; expected the --workdir of an "
                        "earlier run, or leave it empty")
    return records.read_measurements(Path(path))


def smallest_effects(claims: Sequence[Mapping], table: pa.Table, seeds: int, bases: int = 1) -> list[Power]:
    """The power of every claim, from the rows of a pilot with the same arms.

    Args:
      seeds, bases: of the run that is planned; with several bases these are the replicates.
    """
    steps = table.select(["arm", "step"]).group_by("arm").aggregate([("step", "max")]).to_pylist()
    last = {row["arm"]: row["step_max"] for row in steps if row["arm"]}
    replicates, effects = bases if bases > 1 else seeds, []
    for claim in claims:
        try:
            units = {run: x for run, x in statistic(claim, table, last).items() if np.isfinite(x)}
        except (AmbiguousError, KeyError):  # the pilot has other variants, or lacks an arm
            units = {}
        unit = randomised(units) if units else np.zeros(0)
        sd = float(np.std(unit, ddof=1)) if len(unit) > 1 else np.nan
        effects.append(Power(claim["id"], len(unit), sd, stats.smallest_effect(sd, replicates) if np.isfinite(sd) else np.nan))
    return effects


def announce(console: Console, claims: Sequence[Mapping], path: str, seeds: int, bases: int = 1) -> list[Power]:
    """Print the smallest effects before the run. Raises: UserError, as `pilot_rows`."""
    effects = smallest_effects(claims, pilot_rows(path), seeds, bases)
    replicates = f"{bases} bases" if bases > 1 else f"{seeds} seeds"
    view = Table(Column("claim", overflow="fold"), "pilot n", "sd", "threshold", f"supported in {POWER:.0%} of runs from",
                 title=f"what {replicates} resolve, by the spread of the pilot {path}")
    for claim, line in zip(claims, effects, strict=True):
        sign = -1 if claim["direction"] == "less" else 1
        reach = "-" if np.isnan(line.smallest) else f"{claim['threshold'] + sign * line.smallest:+.4g}"
        view.add_row(line.claim, str(line.pilot), f"{line.sd:.3g}", f"{claim['threshold']:+g}", reach)
    console.print(view)
    return effects
