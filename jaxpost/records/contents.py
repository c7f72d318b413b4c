"""What a closed bundle holds: its files, their digests, its id, and how to read it."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxpost.lookup import nearest
from jaxpost.records import digests, provenance, storage
from jaxpost.records.rows import table_digest, table_from_columns
from jaxpost.records.schema import COST_UNITS, COSTS, FINISHED_SHARD, MEASUREMENTS, METRICS, SCHEMA_VERSION
from jaxpost.records.storage import BundleError

FILES = (
    "measurements.parquet",
    "metrics.parquet",
    "costs.parquet",
    "tensors.parquet",
    "completions.parquet",
    "events.jsonl",
    "report.html",
    "CITATION.bib",
)
FOLDERS = ("arrays", "tables", "figures")


def require_schema(path: Path, manifest: Mapping) -> None:
    """Refuse to add rows to a bundle of another schema. Raises: BundleError."""
    if manifest["schema"] != SCHEMA_VERSION:
        raise BundleError(
            f"{path} holds rows of schema {manifest['schema']}, this version writes {SCHEMA_VERSION}, and one bundle holds "
            "one schema; go on with the version that began it, or choose another directory"
        )


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table atomically, with its digest."""
    digests.write(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def cost_table(folder: Path) -> pa.Table:
    """The cost shards of a folder as a table of `schema.COSTS`."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        cost = read_cost(path)
        for name, value in sorted(cost["quantities"].items()):
            rows.append((cost["phase"], cost["arm"], cost["step"], name, value, COST_UNITS[name]))
    return table_from_columns({name: [row[i] for row in rows] for i, name in enumerate(COSTS.names)}, COSTS)


def read_costs(path: Path) -> dict[str, dict]:
    """The cost shards that the cost table of a closed bundle came from: file stem -> content."""
    shards = {}
    for row in _read(path / "costs.parquet", COSTS).to_pylist():
        parts = [part for part in (row["phase"], row["arm"], row["step"]) if part is not None]
        shard = {name: row[name] for name in ("phase", "arm", "step")} | {"quantities": {}}
        shards.setdefault("-".join(map(str, parts)), shard)["quantities"][row["quantity"]] = row["value"]
    return shards


def read_cost(path: Path) -> dict:
    """One cost shard. Raises: BundleError when it is not what was written."""
    try:
        return json.loads(digests.read(path))
    except ValueError as error:
        raise BundleError(f"cannot read {path}: {error}") from error


def write_cost(path: Path, cost: Mapping) -> None:
    """Write one cost shard, with its digest."""
    digests.write(path, lambda temporary: temporary.write_text(storage.json_text(cost), encoding="utf-8"))


def remove_working(path: Path) -> None:
    """Remove the shards that the Parquet files of a closed bundle were merged from."""
    for folder in ("rows", "costs", "completions"):
        shutil.rmtree(path / folder, ignore_errors=True)


def remove_closed(path: Path) -> None:
    """Remove everything that `finish` wrote; shards, events, manifest and checkpoints stay."""
    for name in FILES:
        if name != "events.jsonl":
            (path / name).unlink(missing_ok=True)
    for folder in FOLDERS:
        shutil.rmtree(path / folder, ignore_errors=True)


def require_definitions(table: pa.Table, metrics: Mapping[str, object]) -> None:
    """Refuse rows of a metric that nobody defined, and null rows whose parent is missing. Raises: BundleError."""
    undefined = sorted(set(table["metric"].unique().to_pylist()) - set(metrics))
    if undefined:
        raise BundleError(
            f"no definition for metric {undefined[0]!r}{nearest(undefined[0], sorted(metrics))}; "
            f"{len(undefined)} undefined in all"
        )
    orphans = table.filter(
        pc.and_(pc.is_valid(table["of"]), pc.invert(pc.is_in(table["of"], table["row_id"].combine_chunks())))
    )
    if len(orphans):
        row = orphans.slice(0, 1).to_pylist()[0]
        raise BundleError(
            f"{len(orphans)} rows belong to rows that do not exist; first: {row['metric']!r} of {row['of']}"
        )


def metrics_table(metrics: Mapping[str, object]) -> pa.Table:
    """Definitions (mappings or dataclasses, by metric id) as a table of `schema.METRICS`."""
    columns = {name: [] for name in METRICS.names}
    for key in sorted(metrics):
        metric = metrics[key] if isinstance(metrics[key], Mapping) else vars(metrics[key])
        for name in METRICS.names:
            value = key if name == "metric" else metric.get(name)
            columns[name].append(value if name == "higher_is_better" else None if value in (None, "") else str(value))
    return table_from_columns(columns, METRICS)


def compute_bundle_id(config_hash: str, table: pa.Table, arrays: Mapping[str, str]) -> str:
    """SHA-256 over the config hash, the digest of the measurement rows, and name and digest of each array file."""
    digest = hashlib.sha256(f"jaxpost.bundle\n{config_hash}\n{table_digest(table)}\n".encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name]}\n".encode())
    return digest.hexdigest()


def digest_files(path: Path) -> dict[str, str]:
    """Relative name -> SHA-256 of all files of a bundle but the manifest; nothing else in there is part of it."""
    files = [path / name for name in FILES] + [file for name in FOLDERS for file in (path / name).glob("[!.]*")]
    return {file.relative_to(path).as_posix(): provenance.file_digest(file) for file in sorted(files) if file.is_file()}


def read_shard(path: Path) -> pa.Table:
    """The rows of one shard. Raises: BundleError when it is not what was written, or is no shard."""
    data = digests.read(path)
    try:
        return pq.read_table(pa.BufferReader(data), schema=MEASUREMENTS)
    except (OSError, pa.ArrowException) as error:
        raise BundleError(f"cannot read {path}: {str(error).splitlines()[0][:160]}") from error


def damaged_files(path: Path) -> list[Path]:
    """Shards, arrays and costs of an unfinished bundle that are not what was written.

    Raises:
        BundleError: one of them holds the rows of seeds that were finished before, which cannot be made again.
    """
    files = [file for folder in ("rows", "arrays", "costs", "completions") for file in sorted((path / folder).glob("[!.]*"))]
    damaged = [file for file in files if not digests.sound(file)]
    for file in damaged:
        if file.parent.name == "rows" and file.stem == FINISHED_SHARD:
            raise BundleError(f"{file} is not what was written, and it holds the rows of the seeds that were finished before: "
                              "take the directory from a copy, or choose another and run all seeds")
    return damaged


def read_measurements(path: str | Path, checked: bool = True) -> pa.Table:
    """The measurement table of a merged or closed bundle, compared with its digest unless `checked` is off.

    Raises:
        BundleError: it cannot be read, or is not what was written.
    """
    return _read(Path(path) / "measurements.parquet", MEASUREMENTS, checked)


def read_metrics(path: str | Path) -> pa.Table:
    """The metric definitions of a closed bundle."""
    return _read(Path(path) / "metrics.parquet", METRICS)


def _read(path: Path, schema: pa.Schema, checked: bool = True) -> pa.Table:
    if checked and path.is_file():
        _require_digest(path)
    try:
        return pq.read_table(path, schema=schema)
    except (OSError, pa.ArrowInvalid) as error:
        raise BundleError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def _require_digest(path: Path) -> None:
    """Compare a file of a bundle with the digest in its manifest, of one that is not closed yet with the one beside it."""
    manifest = storage.read_json(path.parent / "manifest.json") if (path.parent / "manifest.json").exists() else {}
    if manifest.get("status") != "complete":
        digests.read(path)
        return
    expected = manifest.get("files", {}).get(path.name)
    if expected is not None and provenance.file_digest(path) != expected:
        raise BundleError(f"{path} is not what was sealed (SHA-256 {provenance.file_digest(path)[:12]}, the manifest says "
                          f"{expected[:12]}): take it from a copy; python -m jaxpost.records verify {path.parent} names all "
                          "that changed")
