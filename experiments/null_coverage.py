"""How often the null bands of a comparison hold a truly blind update: coverage and bias, a metric, a view, a law and a base.

Every replicate is one matrix of a checkpoint whose layers all start from the same base and move by independent blind
updates, so that one call of `jaxpost.compare` reads them all. Coverage is the share of replicates whose value lies in the
row's own band; bias is the mean null over the mean value, minus one.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict
from rich.table import Table

from experiments.harness import checks
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened
from experiments.harness.session import StopSignals
from jaxpost.compare import compare
from jaxpost.formats import safetensors
from jaxpost.lookup import nearest
from jaxpost.records import storage

TITLE = "Coverage of the nulls"
QUESTION = "Does a row's null band hold 95 % of truly blind updates?"
BF16 = np.dtype(ml_dtypes.bfloat16)
SCALE = 0.02  # root mean square of a base
STORED = {"masters": "a bf16 base and float32 masters", "float32": "both sides in float32, the base anywhere",
          "bf16": "both sides in bf16"}


def _powerlaw(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    u, _, v = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return u * np.arange(1, min(shape) + 1) ** -0.7 @ v


BASES = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "heavy_tailed": lambda rng, shape: rng.standard_t(3, shape),
    "row_scales": lambda rng, shape: rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1))),
    "power_law_spectrum": _powerlaw,
}
LAWS = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape) / 2**0.5,
    "t3": lambda rng, shape: rng.standard_t(3, shape) / 3**0.5,
    # one set of sizes of its own, in another order each time: the update of an optimizer that normalises its steps
    "permuted": lambda rng, shape: rng.permutation(_sizes(np.prod(shape))).reshape(shape),
}


def _sizes(n: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    sizes = np.exp(0.5 * rng.standard_normal(n)) * rng.choice([-1.0, 1.0], n)
    return sizes / np.sqrt(np.mean(sizes**2))


@dataclasses.dataclass(frozen=True)
class Cell:
    """Coverage of one metric (with view, side and parameters) under one law on one base."""

    stored: str
    base: str
    law: str
    metric: str
    n: int
    coverage: float  # NaN: no calibrated null
    bias: float
    null: str | None


def check(config: ConfigDict) -> None:
    """Refuse a config that cannot run. Raises: UserError."""
    for key, names, known in (("stored", config.stored, STORED), ("bases", config.bases, BASES), ("laws", config.laws, LAWS)):
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"{key} names {unknown[0]!r}{nearest(unknown[0], known)}")
    if config.replicates < 2 or min(config.shape) < 4:
        raise UserError(f"replicates={config.replicates}, shape={tuple(config.shape)}: at least 2 of at least 4 x 4 are needed")
    checks.one_device(config)


def measure(stored: str, base: str, law: str, config: Mapping) -> Iterator[Cell]:
    """The cells of one law on one base."""
    rng = np.random.default_rng([config["seed"], list(STORED).index(stored), list(BASES).index(base), list(LAWS).index(law)])
    shape = tuple(config["shape"])
    w0 = BASES[base](rng, shape)
    w0 = (SCALE * w0 / np.sqrt(np.mean(w0**2))).astype(np.float32)
    w0 = w0 if stored == "float32" else w0.astype(BF16).astype(np.float32)
    sides: tuple[dict, dict] = ({}, {})
    for i in range(config["replicates"]):
        name = f"model.layers.{i}.self_attn.q_proj.weight"
        w1 = (w0 + config["update"] * SCALE * LAWS[law](rng, shape)).astype(np.float32)
        for side, w in zip(sides, (w0, w1)):
            side[name] = w.astype(BF16) if stored == "bf16" else w
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("base.safetensors", "tuned.safetensors")]
        for path, side in zip(paths, sides):
            safetensors.write(path, side)
        table = compare(*map(str, paths), level=config["level"]).rows
    yield from _cells(table, stored, base, law)


def _cells(table: pa.Table, stored: str, base: str, law: str) -> Iterator[Cell]:
    groups: dict[str, list[dict]] = {}
    columns = ["metric", "dtype", "side", "k", "params", "granularity", "role", "value", "null_kind", "null_value", "null_lo",
               "null_hi"]
    for row in table.select(columns).to_pylist():
        if row["granularity"] == "tensor" and row["role"] == "estimate" and row["value"] is not None:
            label = " ".join(str(row[key]) for key in ("metric", "dtype", "side", "k", "params")
                             if row[key] not in (None, "none"))
            groups.setdefault(label, []).append(row)
    for label, rows in sorted(groups.items()):
        value, null, lo, hi = (np.asarray([np.nan if row[key] is None else row[key] for row in rows], np.float64)
                               for key in ("value", "null_value", "null_lo", "null_hi"))
        known = np.isfinite(value) & np.isfinite(lo) & np.isfinite(hi)
        slack = 1e-7 * np.abs(value)
        inside = (value >= lo - slack) & (value <= hi + slack)
        coverage = float(inside[known].mean()) if known.any() else np.nan
        bias = float(null[known].mean() / value[known].mean() - 1) if known.any() and value[known].mean() else np.nan
        yield Cell(stored, base, law, label, int(known.sum()), coverage, bias, rows[0]["null_kind"])


def markdown(cells: Sequence[Cell], config: Mapping) -> str:
    """The table of the documentation: one row a metric, a column a law."""
    lines = [f"{config['replicates']} blind updates a cell, {' x '.join(map(str, config['shape']))} matrices, update of "
             f"{config['update']:g} of the weights' root mean square. Each entry is the coverage in per cent, the smallest "
             "over the bases " + ", ".join(config["bases"]) + ", and in brackets the bias of the null in per cent, the "
             "largest.", ""]
    for stored in config["stored"]:
        mine = [cell for cell in cells if cell.stored == stored]
        lines += [f"## {STORED[stored][0].upper()}{STORED[stored][1:]}", "",
                  "| metric | null | " + " | ".join(config["laws"]) + " |", "|---" * (2 + len(config["laws"])) + "|"]
        for metric in dict.fromkeys(cell.metric for cell in mine):
            row = [cell for cell in mine if cell.metric == metric]
            entries = [_entry([cell for cell in row if cell.law == law]) for law in config["laws"]]
            lines.append(f"| {metric} | {row[0].null or 'none'} | " + " | ".join(entries) + " |")
        lines.append("")
    return "\n".join(lines)


def _entry(cells: Sequence[Cell]) -> str:
    known = [cell for cell in cells if np.isfinite(cell.coverage)]
    if not known:
        return "no calibrated null"
    worst = max((abs(cell.bias) for cell in known if np.isfinite(cell.bias)), default=0.0)
    return f"{100 * min(cell.coverage for cell in known):.0f} ({100 * worst:.1f})"


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Measure every cell, print what lies below 92 %, write tables/coverage.{csv,md}. Raises: UserError, BundleError."""
    if claims:
        raise UserError("null_coverage states a table, no claims; remove CLAIMS from the config's file")
    check(config)
    with opened(config, Stated(TITLE, QUESTION, (), (), [0], bases=0), workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        cells: list[Cell] = []
        for stored in config.stored:
            for base in config.bases:
                for law in config.laws:
                    cells += measure(stored, base, law, config.to_dict())
                    session.boundary(f"{stored}, {base}, {law}")
        columns = {field.name: [None if x != x else x for x in (getattr(cell, field.name) for cell in cells)]
                   for field in dataclasses.fields(Cell)}
        storage.write_text(workdir / "coverage.md", markdown(cells, config.to_dict()))
        known = [cell for cell in cells if np.isfinite(cell.coverage)]
        view = Table("stored", "base", "law", "metric", "coverage", "bias", title="below 92 %")
        for cell in sorted((cell for cell in known if cell.coverage < 0.92), key=lambda cell: cell.coverage)[:40]:
            view.add_row(cell.stored, cell.base, cell.law, cell.metric, f"{cell.coverage:.3f}", f"{cell.bias:+.3f}")
        session.console.print(view)
        session.say(f"{len(known)} cells with a null, mean coverage {np.mean([cell.coverage for cell in known]):.3f}, "
                    f"{np.mean([cell.coverage >= 0.92 for cell in known]):.1%} at 0.92 or more; {workdir / 'coverage.md'}")
        bundle_id = bundle.close({}, extra={"n_seeds": 1, "coverage": columns})
        session.say(f"bundle {bundle_id[:12]}: {workdir}")
