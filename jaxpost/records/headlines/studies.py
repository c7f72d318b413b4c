"""What a finished study says first: its claims with their verdicts, a line an arm, and what was not measured."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from jaxpost.plain_text import visible
from jaxpost.records.rows import select
from jaxpost.records.tabulating.cells import Table
from jaxpost.records.tabulating.tables import main_table
from jaxpost.records.tabulating.variants import summarised

_SIGNS = {"greater": "> ", "less": "< "}
_COLUMNS = ("success, trained task", "test accuracy", "update sparsity", "rotation, mean sin²", "update norm")
_ARMS = 24  # that a screen shows


def claim_lines(claims: Sequence[Mapping]) -> list[str]:
    """Two lines a claim: verdict and statement; estimate with its interval, threshold, corrected p, replicates, note."""
    lines = []
    for claim in claims:
        lines.append(f"{claim['verdict'].upper():22s} {claim['statement']}")
        numbers = [_estimate(claim)]
        if claim.get("direction") == "equivalent":
            numbers.append(f"within ±{claim['equivalence_margin']:g}")
        elif claim.get("threshold") is not None:
            numbers.append(f"threshold {_SIGNS.get(claim.get('direction'), '')}{claim['threshold']:+g}")
        p = claim.get("p_holm")
        corrected = "no p" if p is None or p != p else f"p (Holm) {p:.2g}"
        numbers.append(corrected if claim.get("primary", claim.get("registered", True)) else "exploratory")
        numbers.append(f"n = {claim['n_units']}")
        lines.append(f"{'':12s} {', '.join(numbers)}" + (f"; {claim['note']}" if claim.get("note") else ""))
    return [visible(line) for line in lines]


def _estimate(claim: Mapping) -> str:
    value, lo, hi = (claim.get(key) for key in ("estimate", "ci_lo", "ci_hi"))
    if value is None or value != value:
        return "no value"
    return f"{value:+.4f}" + ("" if lo is None or lo != lo else f" [{lo:+.4f}, {hi:+.4f}]")


def study_headline(table: pa.Table, claims: Sequence[Mapping]) -> list[str]:
    """Lines for a terminal: claims first, then the key statistics of every arm at its last step, then what is absent.

    Args:
        table: measurement rows of a finished study.
        claims: "claim_results" of the manifest.
    """
    lines = claim_lines(claims) or ["no claim was stated: everything here is exploratory"]
    lines += ["", *_aligned(main_table(summarised(table)))]
    estimates = select(table, role="estimate")
    valueless = estimates.filter(pc.is_null(estimates["value"]))
    if len(valueless):
        metrics = valueless["metric"].unique().to_pylist()
        lines += ["", f"left out     {len(valueless):,} of {len(estimates):,} estimates have no value ({', '.join(metrics[:3])}"
                  + (f" and {len(metrics) - 3} more metrics" if len(metrics) > 3 else "") + ")"]
    return lines


def _aligned(built: Table) -> list[str]:
    """The columns of the main table that a terminal has room for, value beside null, under their headings."""
    columns = [i for i, heading in enumerate(built.header) if heading in _COLUMNS][:4]
    if not columns:
        return [f"{len(built.body)} arms; none of the key statistics was measured"]
    cells = [["arm", *(built.header[i] for i in columns)]]
    for line in built.body[:_ARMS]:
        texts = (line[i].text + (f" (null {line[i].null})" if line[i].null else "") for i in columns)
        cells.append([visible(line[0].text), *texts])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(f"{text:<{width}}" for text, width in zip(line, widths)).rstrip() for line in cells]
    more = len(built.body) - _ARMS
    return lines + ([f"and {more} arms more, in tables/main.csv"] if more > 0 else [])
