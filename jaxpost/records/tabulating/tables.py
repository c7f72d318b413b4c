"""The tables of a bundle, as csv and as tex ready to paste; every cell knows the rows it was read from."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from jaxpost.records import storage
from jaxpost.records.drawing.changes import changes_table
from jaxpost.records.headlines.pairs import headline_table
from jaxpost.records.headlines.standing_out import standing_table
from jaxpost.records.tabulating.cells import Cell, Table, format_interval, format_number, to_csv
from jaxpost.records.tabulating.latex import tex_table
from jaxpost.records.tabulating.pairs import pair_table
from jaxpost.records.tabulating.variants import (
    arm_order,
    claim_numbers,
    last_steps,
    of_pairs,
    solved_by_split,
    summarised,
    variant,
    variant_label,
)

_SIGNS = {"greater": "> ", "less": "< "}

# What the main table shows, in order: heading, metric, what must hold, and what is preferred where several remain.
STATISTICS = (
    ("success, trained task", "policy.success", {"split": "id"}),
    ("success, second task", "policy.success", {"split": "second"}),
    ("pass@1, trained task", "policy.pass_at_k", {"split": "id", "k": 1}),
    ("area under the curve, trained task", "policy.auc", {"split": "id"}),
    ("forward KL", "policy.kl_forward", {}),
    ("update norm", "weight.update_norm", {}),
    ("update sparsity", "weight.sparsity.bf16", {}),
    ("spectral shift", "weight.spectral_shift", {}),
    ("rotation, mean sin²", "weight.rotation.mean_sin2", {"side": "left"}),
    ("principal overlap", "weight.overlap.principal", {}),
    ("off-principal energy", "weight.off_principal_energy", {"side": "both"}),
    ("stable rank", "weight.rank.stable", {}),
    ("Jaccard over seeds", "weight.jaccard", {}),
    ("training accuracy", "fit.accuracy", {"split": "train"}),
    ("test accuracy", "fit.accuracy", {"split": "id"}),
    ("restricted loss", "fourier.restricted_loss", {}),
    ("excluded loss", "fourier.excluded_loss", {}),
    ("pathway distance", "pathway.distance", {}),
    ("cosine of layers", "pathway.cosine", {}),
    ("router entropy", "router.entropy", {}),
)


def _estimate_cell(row: Mapping) -> Cell:
    """One estimate: value, interval, null; a dagger where not every replicate counted."""
    return Cell(
        text=format_number(row["value"]) + ("" if row["status"] == "ok" else "†"),
        interval=format_interval(row["ci_lo"], row["ci_hi"]),
        null="" if row["null_value"] is None else format_number(row["null_value"]),
        row_ids=(row["row_id"],),
    )


def main_table(table: pa.Table) -> Table:
    """Arms x key statistics at the last step: value, interval over seeds, primary null."""
    columns = [
        (heading, last_steps(variant(table, metric, **wanted)).to_pylist()) for heading, metric, wanted in STATISTICS
    ]
    columns = [(heading, {row["arm"]: row for row in rows}) for heading, rows in columns if rows]
    units = sorted(
        {(row["n_units"], row["unit"]) for _, rows in columns for arm, row in rows.items() if arm != "base"}, key=str
    )
    counted = " or ".join(f"{n} {unit}{'s' if n != 1 else ''}" for n, unit in units)
    result = Table(
        "main",
        f"Statistics at the last measured step: mean over {counted or 'no'}, 95% interval over them in brackets "
        "(none where there is one), then the primary null; pooling as the metric defines it. † not every "
        "replicate could be read.",
        ["arm", *(heading for heading, _ in columns)],
        ["", *(variant_label(next(iter(rows.values()))) for _, rows in columns)],
    )
    for arm in arm_order([arm for _, rows in columns for arm in rows]):
        cells = [_estimate_cell(rows[arm]) if arm in rows else Cell() for _, rows in columns]
        result.body.append([Cell(arm), *cells])
    return result


def splits_table(table: pa.Table) -> Table:
    """Arms x splits: the share of problems solved at the last step, as in `main_table`; empty where there is one split."""
    name, by_split = solved_by_split(table)
    by_arm = {split: {row["arm"]: row for row in last_steps(rows).to_pylist()} for split, rows in by_split.items()}
    result = Table(
        "splits",
        f"{name[0].upper()}{name[1:]} (share of prompts) by split at the last measured step: the trained task (id), what "
        "lies out of its distribution (ood), and other tasks; mean, 95% interval, then the share that guessing reaches.",
        ["arm", *by_arm],
        [""] * (1 + len(by_arm)),
    )
    if len(by_arm) > 1:
        for arm in arm_order([arm for rows in by_arm.values() for arm in rows]):
            result.body.append([Cell(arm), *(_estimate_cell(rows[arm]) if arm in rows else Cell() for rows in by_arm.values())])
    return result


def claim_rows(claims: Sequence[Mapping], conditional_on: str | None = None) -> dict[str, list]:
    """Rows of role "claim": one per claim and number (`params` "claim=<id>;quantity=..."); the verdict is the reason of
    the estimate's row.

    Args:
        claims: mappings with id, metric, arms, estimate, ci_lo, ci_hi, p, p_holm, threshold, equivalence_margin,
            n_units, unit (default "seed"), verdict; None or NaN where a claim has no such number.

    Returns:
        Columns for `Bundle.write_rows`.
    """
    rows = []
    for claim in claims:
        for quantity in ("estimate", "p", "p_holm", "threshold", "equivalence_margin"):
            value = claim.get(quantity)
            missing = value is None or not math.isfinite(value)
            if missing and quantity != "estimate":
                continue
            rows.append(
                {
                    "metric": claim["metric"],
                    "arm": " - ".join(claim["arms"]),
                    "role": "claim",
                    "granularity": "experiment",
                    "params": f"claim={claim['id']};quantity={quantity}",
                    "value": None if missing else float(value),
                    "status": "absent" if missing else "ok",
                    "status_reason": claim["verdict"] if quantity == "estimate" else None,
                    "ci_lo": claim.get("ci_lo") if quantity == "estimate" else None,
                    "ci_hi": claim.get("ci_hi") if quantity == "estimate" else None,
                    "n_units": claim.get("n_units"),
                    "unit": claim.get("unit", "seed"),
                    "conditional_on": conditional_on,
                }
            )
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def claims_table(table: pa.Table, claims: Sequence[Mapping]) -> Table:
    """Claims with verdict, estimate and interval, numbers and verdicts read from the claim rows.

    Args:
        table: measurement rows.
        claims: what `manifest.json` keeps under "claim_results" (texts; the numbers come from the rows).
    """
    header = ["id", "claim", "statistic", "estimate", "threshold", "p (Holm)", "n", "verdict"]
    result = Table(
        "claims",
        "Claims stated before the run: estimate with 95% interval over paired seeds, threshold, Holm-corrected p. A "
        "claim is supported when the interval lies wholly beyond the threshold.",
        header,
        [""] * len(header),
    )
    numbers = claim_numbers(table)
    for claim in claims:
        rows = numbers.get(claim["id"], {})
        if "estimate" not in rows:
            raise ValueError(f"claim {claim['id']!r} has no row of role 'claim' in measurements")
        result.body.append(_claim_line(claim, **{name: rows.get(name) for name in ("estimate", "threshold", "p_holm")}))
    return result


def _claimed(claim: Mapping, threshold: float) -> str:
    if claim["direction"] == "equivalent":
        return f"within ±{claim['equivalence_margin']:g}"
    return f"{_SIGNS[claim['direction']]}{threshold:g}"


def _claim_line(claim: Mapping, estimate: Mapping, threshold: Mapping | None, p_holm: Mapping | None) -> list[Cell]:
    def read(row: Mapping | None, text: str) -> Cell:
        return Cell(text, row_ids=(row["row_id"],)) if row else Cell()

    return [
        Cell(claim["id"] if claim.get("registered", True) else f"{claim['id']} (exploratory)"),
        Cell(claim["statement"]),
        Cell(claim.get("contrast") or claim.get("statistic") or claim["metric"]),
        _estimate_cell({**estimate, "status": "ok", "null_value": None}),
        read(threshold, _claimed(claim, threshold["value"]) if threshold else ""),
        read(p_holm, format_number(p_holm["value"]) if p_holm else ""),
        read(estimate, str(estimate["n_units"] or "")),
        read(estimate, estimate["status_reason"]),
    ]


def table_files(table: Table, bundle_id: str) -> dict[str, str]:
    """File name -> text of one table: csv, tex, and the rows behind each cell."""
    cells = [
        {"row": str(line[0]), "column": heading, "text": str(cell), "row_ids": list(cell.row_ids)}
        for line in table.body
        for heading, cell in zip(table.headings(), line, strict=True)
        if cell.row_ids
    ]
    source = {"bundle_id": bundle_id, "table": table.name, "cells": cells}
    return {
        f"{table.name}.csv": to_csv(table),
        f"{table.name}.tex": tex_table(table, bundle_id),
        f"{table.name}.src.json": storage.json_text(source),
    }


def build_tables(table: pa.Table, manifest: Mapping) -> list[Table]:
    """The tables of a bundle that have at least one line, what is read first in front.

    Args:
        table: measurement rows.
        manifest: with "claim_results" of a study, "coverage" of a comparison, where it has them.
    """
    table, claims = summarised(table), manifest.get("claim_results", [])
    built = [claims_table(table, claims), changes_table(table, claims)]
    if of_pairs(table):
        built += [headline_table(table, manifest.get("coverage")), standing_table(table), pair_table(table)]
    return [one for one in (*built, main_table(table), splits_table(table)) if one.body]


def write_tables(folder: Path, table: pa.Table, manifest: Mapping) -> list[Table]:
    """Write every table into `folder`; returns them."""
    tables = build_tables(table, manifest)
    for built in tables:
        for name, text in table_files(built, manifest["bundle_id"]).items():
            storage.write_text(folder / name, text)
    return tables
