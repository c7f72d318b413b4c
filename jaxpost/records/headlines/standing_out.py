"""Which modules, layers and matrices of a comparison stand out: beyond their null, corrected for how many were looked at."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jaxpost.records.rows import select
from jaxpost.records.tabulating.bands import excess, needed, pooled, unresolved
from jaxpost.records.tabulating.cells import Cell, Table, format_number
from jaxpost.records.tabulating.variants import parts, tuned

WATCHED = (  # statistic, metric, variant
    ("update sparsity", "weight.sparsity.bf16", {"dtype": "bf16"}),
    ("low-magnitude overlap", "weight.overlap.low_magnitude", {"dtype": "bf16"}),
    ("principal overlap", "weight.overlap.principal", {"dtype": "bf16"}),
    ("spectral shift", "weight.spectral_shift", {"dtype": "bf16"}),
    ("rotation, left", "weight.rotation.mean_sin2", {"dtype": "bf16", "side": "left"}),
    ("rotation, right", "weight.rotation.mean_sin2", {"dtype": "bf16", "side": "right"}),
    ("stable rank", "weight.rank.stable", {"dtype": "bf16"}),
    ("excess row stripes", "weight.stripes.excess", {"dtype": "bf16", "side": "left"}),
)
_LISTED = 20  # lines of the table


@dataclass(frozen=True)
class Standing:
    """A statistic of a module, a layer or a matrix beside its null: value, null and band, and by how many half widths."""

    where: str
    statistic: str
    metric: str
    value: float
    null_value: float
    null_lo: float
    null_hi: float
    excess: float
    row_ids: tuple[str, ...]


def candidates(table: pa.Table, arm: str) -> list[Standing]:
    """Of one tuned checkpoint every module kind (its own pooled row), every layer (mean over its matrices) and every module of
    a layer (mean over its experts).

    The band of a mean is the mean of the bands: never too narrow, however the matrices depend on each other. A value below its
    rounding floor is left out: it says nothing.
    """
    table = select(table, arm=arm)
    standing = []
    for statistic, metric, wanted in WATCHED:
        for row in parts(table, metric, "kind", **wanted).to_pylist():
            if _readable(row):
                standing.append(_standing(f"module {row['module_kind']}", statistic, metric, [row]))
        layers: dict[str, list[Mapping]] = {}
        matrices: dict[str, list[Mapping]] = {}
        for row in parts(table, metric, "tensor", **wanted).to_pylist():
            if row["layer"] is not None and _readable(row):
                layers.setdefault(f"layer {row['layer']}", []).append(row)
                matrices.setdefault(f"layer {row['layer']} {row['module_kind']}", []).append(row)
        if len(layers) > 1:  # one layer is the model
            standing += [_standing(where, statistic, metric, rows) for where, rows in (layers | matrices).items()]
    return standing


def _readable(row: Mapping) -> bool:
    return None not in (row["null_value"], row["null_lo"], row["null_hi"]) and not unresolved(row)


def _standing(where: str, statistic: str, metric: str, rows: list[Mapping]) -> Standing:
    mean = pooled(rows)
    return Standing(where, statistic, metric, **mean, excess=excess(mean), row_ids=tuple(row["row_id"] for row in rows))


def standing_out(table: pa.Table, arm: str) -> tuple[list[Standing], int]:
    """(what stands out, farthest outside its band first; how many comparisons were made)."""
    tested = candidates(table, arm)
    beyond = [one for one in tested if abs(one.excess) > needed(one.metric, len(tested))]
    return sorted(beyond, key=lambda one: (-abs(one.excess), one.where, one.statistic)), len(tested)


def standing_table(table: pa.Table) -> Table:
    """What stands out of every tuned checkpoint, the farthest first."""
    built = Table(
        "standing_out",
        f"Modules, layers and matrices whose statistic lies beyond its null band: at most {_LISTED} a checkpoint, farthest "
        "first, in half widths of the 95 % band of blind updates; 5 % in all of them together (Bonferroni). A layer is the "
        "mean over its matrices, its band the mean of theirs.",
        ["tuned", "where", "statistic", "value", "blind update", "half widths"], [""] * 6)
    for arm in tuned(table):
        for one in standing_out(table, arm)[0][:_LISTED]:
            ids, band = one.row_ids, f"[{format_number(one.null_lo)}, {format_number(one.null_hi)}]"
            built.body.append([
                Cell(arm), Cell(one.where), Cell(one.statistic), Cell(format_number(one.value), row_ids=ids),
                Cell(format_number(one.null_value), band, row_ids=ids),
                Cell("infinite" if np.isinf(one.excess) else f"{one.excess:+.1f}", row_ids=ids)])
    return built
