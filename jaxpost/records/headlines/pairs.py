"""Five lines of a comparison: what did not change, how far the rest went, what turned, where it stands out, what was left out.

Each line exists twice from one source: as a sentence for the terminal, and as a cell of the table that a report opens with.
"""

import math
from collections.abc import Callable, Mapping

import pyarrow as pa

from jaxpost.plain_text import visible
from jaxpost.records.headlines.standing_out import standing_out
from jaxpost.records.rows import select
from jaxpost.records.tabulating.bands import place, unresolved
from jaxpost.records.tabulating.cells import Cell, Table, format_number
from jaxpost.records.tabulating.variants import tuned, variant

LABELS = ("unchanged", "size", "spectrum", "stands out", "left out")
_NAMED = 3  # layers or modules that one line has room for


def headline_table(table: pa.Table, coverage: Mapping | None = None) -> Table:
    """Statistics x tuned checkpoints: value, the same of a blind update with its band, and where the value lies.

    Args:
        table: estimates of a comparison.
        coverage: what `compare` keeps in the manifest: tensors compared and left out.
    """
    arms = tuned(table)
    built = Table("headline", "One pair each, no interval. Null: what a blind update of the same size shows, with the 95 % "
                  "band of blind updates.", ["", *arms], [""] * (1 + len(arms)))
    if not arms:
        return built
    lines = [_lines(table, arm, coverage) for arm in arms]
    for i, (heading, *_) in enumerate(lines[0]):
        built.body.append([Cell(heading), *(of_arm[i][1] for of_arm in lines)])
    return built


def pair_headline(table: pa.Table, coverage: Mapping | None = None) -> list[str]:
    """The headline as text, five lines a tuned checkpoint, each checkpoint's name before its lines where there are several."""
    out, arms = [], tuned(table)
    for arm in arms:
        sentences: dict[str, list[str]] = {label: [] for label in LABELS}
        for heading, cell, label in _lines(table, arm, coverage):
            sentences[label].append(_sentence(heading, cell))
        out += [visible(arm)] if len(arms) > 1 else []
        out += [f"{label:<12}{visible('; '.join(parts))}" for label, parts in sentences.items()]
    return out


def _sentence(heading: str, cell: Cell) -> str:
    sentence = cell.text if heading in LABELS else f"{heading} {cell.text}".strip()
    sentence += f" (blind {cell.null})" if cell.null else ""
    return f"{sentence}: {cell.note}" if cell.note else sentence


def _lines(table: pa.Table, arm: str, coverage: Mapping | None) -> list[tuple[str, Cell, str]]:
    """(heading, cell, label of the terminal's line)."""
    mine = select(table, arm=arm)
    k = next(iter(variant(mine, "weight.rotation.mean_sin2", side="left", dtype="bf16")["k"].to_pylist()), None)
    top = f"top-{k}" if k else "top-k"
    return [
        ("weights equal in bf16", _compared(mine, "weight.sparsity.bf16", _percent, "element"), "unchanged"),
        ("‖ΔW‖ / ‖W‖", _size(mine), "size"),
        ("spectral shift", _compared(mine, "weight.spectral_shift", format_number, "exact"), "spectrum"),
        *((f"{top} rotation {side}", _compared(mine, "weight.rotation.mean_sin2", format_number, "top", side=side), "spectrum")
          for side in ("left", "right")),
        ("stands out", _standing(table, arm), "stands out"),
        ("left out", Cell(_left_out(mine, coverage)), "left out"),
    ]


def _row(table: pa.Table, metric: str, **wanted: object) -> Mapping | None:
    return next(iter(variant(table, metric, **wanted).to_pylist()), None)


def _compared(table: pa.Table, metric: str, text: Callable[[float], str], level: str, **wanted: object) -> Cell:
    """A value as bf16 shows it beside its null; without a row, the level that would read it."""
    row = _row(table, metric, dtype="bf16", **wanted)
    if row is None or row["value"] is None:
        return Cell(note=(row or {}).get("status_reason") or f"not read (--level {level} reads it)")
    null = "" if row["null_value"] is None else text(row["null_value"])
    if null and None not in (row["null_lo"], row["null_hi"]):
        null += f" [{text(row['null_lo']).removesuffix(' %')}, {text(row['null_hi']).removesuffix(' %')}]"
    note = "below its rounding floor" if unresolved(row) else place(row)
    return Cell(text(row["value"]), null=null, note=note, row_ids=(row["row_id"],))


def _size(table: pa.Table) -> Cell:
    """The relative norm of the update as stored, beside what rounding to the stored dtype alone would be."""
    row = _row(table, "weight.relative_norm")
    if row is None or row["value"] is None:
        return Cell(note="not measured")
    floor = row["noise_floor"]
    if not floor:
        return Cell(_percent(row["value"]), row_ids=(row["row_id"],))
    times = f"{row['value'] / floor:.1f} times" if row["value"] >= floor else "below"
    return Cell(_percent(row["value"]), note=f"{times} what rounding the stored weights makes ({_percent(floor)})",
                row_ids=(row["row_id"],))


def _standing(table: pa.Table, arm: str) -> Cell:
    beyond, tests = standing_out(table, arm)
    if not tests:
        return Cell("no layer or module has a null band")
    if not beyond:
        return Cell(f"nothing: all {tests} statistics of modules, layers and matrices lie within their null bands")
    named: list = []
    for one in beyond:  # the farthest of each place
        if one.where not in {other.where for other in named}:
            named.append(one)
    places = "; ".join(f"{one.where} ({one.statistic} {format_number(one.value)}, blind {format_number(one.null_value)})"
                       for one in named[:_NAMED])
    return Cell(places, note=f"{len(beyond)} of {tests} statistics of modules, layers and matrices lie beyond their bands",
                row_ids=tuple(i for one in named[:_NAMED] for i in one.row_ids))


def _left_out(table: pa.Table, coverage: Mapping | None) -> str:
    """What has no rows, and what has rows without a value."""
    parts = []
    if coverage:
        left = coverage["not_compared"]
        reasons: dict[str, int] = {}
        for reason in left.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        parts += [f"{n} of {coverage['tensors']} tensors ({reason})" for reason, n in reasons.items()]
        for key, what in (("unpaired", "unpaired"), ("without_spectra", "without spectra"), ("without_elements", "empty")):
            parts += [f"{len(coverage[key])} {what}"] if coverage.get(key) else []
    absent = select(table, role="estimate", status="absent")
    parts += [f"{len(absent)} absent statistics"] if len(absent) else []
    return "; ".join(parts) or "nothing"


def _percent(share: float) -> str:
    """A share in percent, with enough digits to tell it from 0 and from 1.

    >>> _percent(0.765), _percent(0.99998), _percent(0.0)
    ('76.5 %', '99.9980 %', '0 %')
    """
    near = min(abs(share), abs(1 - share)) * 100
    if near == 0:
        return f"{100 * share:g} %"
    return f"{100 * share:.{min(6, max(1, 2 - math.floor(math.log10(near))))}f} %" if share <= 1 else f"{100 * share:.3g} %"
