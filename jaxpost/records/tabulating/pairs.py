"""The table of a comparison of checkpoints: what papers print, in their units."""

import numpy as np
import pyarrow as pa

from jaxpost.records.rows import select
from jaxpost.records.tabulating.cells import Cell, Table
from jaxpost.records.tabulating.variants import tuned, variant, variant_label

PRINTED = (  # heading, metric, what must hold, factor, digits: as the papers print them
    ("sparsity %", "weight.sparsity.bf16", {"granularity": "global", "dtype": "bf16"}, 100, 1),
    ("‖ΔW‖ / ‖W‖ %", "weight.relative_norm", {"granularity": "global", "dtype": "bf16"}, 100, 4),
    ("low overlap %", "weight.overlap.low_magnitude", {"granularity": "global"}, 100, 1),
    ("principal overlap %", "weight.overlap.principal", {"granularity": "global"}, 100, 1),
    ("largest angle, left, degrees", "weight.rotation.max_angle", {"granularity": "global", "side": "left", "dtype": "bf16"},
     180 / np.pi, 3),
    ("NSS", "weight.spectral_shift", {"granularity": "global", "dtype": "bf16"}, 1, 7),
)


def pair_table(table: pa.Table) -> Table:
    """Tuned checkpoints x what papers print, in their units, each with its null in parentheses."""
    columns = [(heading, variant(table, metric, **wanted), factor, digits)
               for heading, metric, wanted, factor, digits in PRINTED]
    columns = [(heading, rows, factor, digits) for heading, rows, factor, digits in columns if len(rows)]
    result = Table("pair", "As the papers print them: percentages of all compared parameters, angles in degrees (mean over "
                   "matrices of the largest); in parentheses what a blind update would show. One pair each, no interval.",
                   ["tuned", *(heading for heading, *_ in columns)],
                   ["", *(variant_label(rows.slice(0, 1).to_pylist()[0]) for _, rows, *_ in columns)])
    for arm in tuned(table):
        line = [Cell(arm)]
        for _, rows, factor, digits in columns:
            row = next(iter(select(rows, arm=arm).to_pylist()), None)
            line.append(Cell() if row is None else Cell(_text(row["value"], factor, digits), "",
                                                        _text(row["null_value"], factor, digits), (row["row_id"],)))
        result.body.append(line)
    return result


def _text(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{value * factor:.{digits}f}"
