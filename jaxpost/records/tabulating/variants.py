"""Which rows a table cell or a curve shows: one variant of a metric for all arms, in a fixed order of arms."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from jaxpost.records.rows import parse_params, select

PREFERRED = {
    "granularity": ("global", "body", "policy", "experiment"),
    "dtype": ("fp32", "bf16", None),
    "k": (16, 8, 32, 64, 4),
    "side": ("both", "left", "right", "none"),
}


# What says that a problem is solved: metric, what must hold, its name; the first that a bundle has is shown.
SOLVED = (("policy.success", {}, "success"), ("policy.pass_at_k", {"k": 1}, "pass@1"))


def arm_order(arms: Sequence[str]) -> list[str]:
    """The base first, then RL, SFT and the controls, each by name."""
    families = ("base", "rlvr-lr", "rlvr", "raft", "sft-lr", "sft")
    rank = {
        arm: next((i for i, family in enumerate(families) if arm.startswith(family)), len(families)) for arm in arms
    }
    return sorted(set(arms), key=lambda arm: (rank[arm], arm))


def _preference(row: Mapping) -> tuple:
    ranks = [wanted.index(row[name]) if row[name] in wanted else len(wanted) for name, wanted in PREFERRED.items()]
    params = parse_params(row["params"])
    usual = params.get("alpha", "0.5") == "0.5"
    secondary = {("weighting", "by_tensor"), ("reduce", "sequence_sum"), ("which", "single")} & set(params.items())
    return (
        row["conditional_on"] is not None,
        bool(secondary),
        *ranks,
        not usual,
        row["k"] or 0,
        row["params"] or "",
        row["conditional_on"] or "",
    )


def summarised(table: pa.Table) -> pa.Table:
    """Everything but the rows of single seeds: what tables and figures show, a small part of a large table."""
    return table.filter(pc.not_equal(table["role"], "seed"))


def on_path(rows: pa.Table) -> pa.Table:
    """Without the rows of a matched or rescaled point (`params` with "at="), which no run passed through."""
    matched = pc.fill_null(pc.match_substring_regex(rows["params"], "(^|;)at="), False)
    return rows.filter(pc.invert(matched))


def variant(table: pa.Table, metric: str, **wanted: object) -> pa.Table:
    """Estimates of one metric in one variant: where several (granularity, dtype, k, side, params, base) are left, the
    preferred one, so that all arms are shown by the same statistic. Estimates over bases come before those of one base;
    only rows on the path of a run are shown.

    Returns:
        The matching rows over arms and steps; empty where the metric was not measured.
    """
    rows = select(table, metric=metric, role="estimate", **wanted)
    rows = on_path(rows.filter(pc.is_in(rows["granularity"], pa.array(PREFERRED["granularity"]))))
    names = ("granularity", "dtype", "k", "side", "params", "split", "conditional_on")
    variants = rows.group_by(list(names)).aggregate([]).to_pylist()
    if not variants:
        return rows
    best = min(variants, key=lambda row: (_preference(row), row["split"] or ""))
    return select(rows, **{name: best[name] for name in names})


def solved_by_split(table: pa.Table) -> tuple[str, dict[str, pa.Table]]:
    """(name, split -> rows over arms and steps) of the first metric of SOLVED that was measured: id first, second last."""
    for metric, wanted, name in SOLVED:
        splits = select(table, metric=metric, role="estimate", **wanted)["split"].unique().to_pylist()
        order = sorted(filter(None, splits), key=lambda split: (split != "id", split == "second", split))
        if by_split := {split: rows for split in order if len(rows := variant(table, metric, split=split, **wanted))}:
            return name, by_split
    return SOLVED[0][2], {}


def variant_label(row: Mapping, with_dtype: bool = True) -> str:
    """What distinguishes a variant of a metric, for a heading: "fp32, k=16, alpha=0.5"."""
    parts = [
        row["dtype"] if with_dtype else None,
        row["side"] if row["side"] not in ("none", "both") else None,
        f"k={row['k']}" if row["k"] is not None else None,
        row["params"],
        row["granularity"] if row["granularity"] == "body" else None,
    ]
    return ", ".join(part.replace(";", ", ") for part in parts if part)


def last_steps(table: pa.Table) -> pa.Table:
    """Of each arm, the rows at its last measured step."""
    last = table.group_by("arm").aggregate([("step", "max")])
    latest = dict(zip(last["arm"].to_pylist(), last["step_max"].to_pylist(), strict=True))
    keep = [step == latest[arm] for arm, step in zip(table["arm"].to_pylist(), table["step"].to_pylist(), strict=True)]
    return table.filter(pa.array(keep, pa.bool_()))


def claim_numbers(table: pa.Table) -> dict[str, dict[str, dict]]:
    """claim id -> quantity -> row, of every row of role "claim"."""
    numbers: dict[str, dict[str, dict]] = {}
    for row in select(table, role="claim").to_pylist():
        params = parse_params(row["params"])
        numbers.setdefault(params["claim"], {})[params["quantity"]] = row
    return numbers


def of_pairs(table: pa.Table) -> bool:
    """Whether rows compare pairs of checkpoints."""
    return pc.any(pc.equal(table["unit"], "pair")).as_py() is True


def tuned(table: pa.Table) -> list[str]:
    """The tuned checkpoints of a comparison, in a fixed order."""
    return arm_order(select(table, role="estimate", unit="pair")["arm"].unique().to_pylist())


def parts(table: pa.Table, metric: str, granularity: str = "tensor", **wanted: object) -> pa.Table:
    """Rows of a comparison that have a value, of single matrices (or of module kinds) in the variant that tables prefer."""
    rows = select(table, metric=metric, role="estimate", granularity=granularity, unit="pair", **wanted)
    rows = rows.filter(pc.is_valid(rows["value"]))
    variants = sorted(rows.group_by(["k", "params"]).aggregate([]).to_pylist(), key=_usual)
    return select(rows, **variants[0]) if variants else rows


def _usual(row: Mapping) -> tuple:
    params = parse_params(row["params"])
    return "weighting" in params, params.get("alpha", "0.5") != "0.5", -(row["k"] or 0), row["params"] or ""
