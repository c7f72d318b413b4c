"""One directory, one run: claimed, resumed or found finished; shards while it runs, a sealed bundle when it is done."""

import datetime
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.numpy import save

from jaxpost.lookup import nearest
from jaxpost.records import completions, digests, provenance, storage
from jaxpost.records.contents import (
    compute_bundle_id,
    cost_table,
    damaged_files,
    digest_files,
    metrics_table,
    read_cost,
    read_measurements,
    read_shard,
    remove_closed,
    remove_working,
    require_definitions,
    require_schema,
    write_cost,
    write_parquet,
)
from jaxpost.records.domains import within
from jaxpost.records.rows import (
    Columns,
    measurement_table,
    refuse_duplicates,
    sort_canonical,
    table_digest,
    table_from_columns,
)
from jaxpost.records.schema import COST_UNITS, MEASUREMENTS, SCHEMA_VERSION, TENSORS
from jaxpost.records.storage import BundleError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a file: letters, digits and . _ + - only, a letter or digit first")
    return name


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _as_begun(path: Path, stated: dict, place: Sequence[str]) -> dict:
    """What is stated, with the sections `place` of the config as the run in the directory began with them."""
    if not place or not (path / "manifest.json").exists():
        return stated
    began = storage.read_manifest(path / "manifest.json")["config"]
    config = stated["config"] | {key: began[key] for key in place if key in began}
    return stated | {"config": config, "config_hash": provenance.config_hash(config, stated["config_exclude"])}


class Bundle:
    """A measurement bundle being written. Open it with `Bundle.open`; leave it with `close` or as a context manager.

    Attributes:
        path: the directory.
        state: "new", "resumed" (shards may exist: ask `has_rows`) or "finished" (nothing may be written).
        manifest: what `manifest.json` holds.
    """

    def __init__(self, path: Path, state: str, manifest: dict):
        self.path, self.state, self.manifest = path, state, manifest

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: Mapping,
        config_hash: str,
        claims: Sequence[Mapping],
        *,
        config_exclude: Sequence[str] = (),
        config_place: Sequence[str] = (),
        title: str = "",
        question: str = "",
        devices: Mapping | None = None,
        code_directory: str | Path | None = None,
    ) -> "Bundle":
        """Claim a directory for a run, resume the run it holds, or report that the run is finished.

        The manifest is written before this returns, so the hash of the claims is on disk before the first arm.

        Args:
            path: the run directory; made when missing.
            config: nested JSON mapping, kept whole in the manifest.
            config_hash: `provenance.config_hash(config, config_exclude)`.
            claims: the claims as stated before the run (JSON mappings with an "id").
            config_exclude: dotted paths that cannot change a result.
            config_place: sections that say where a run is carried out. A run that goes on elsewhere keeps those that it began
                with in its config and hash; where it was is in the sessions (`devices`).
            title, question: what the report opens with.
            devices: platform, kind and counts as JAX sees them (`provenance.environment`).
            code_directory: a directory of the clone to record; default: this package's.

        Raises:
            BundleError: another config or other claims are in the directory, or another process is.
            ValueError: `config_hash` is not the hash of `config`.
        """
        path = Path(path)
        expected = provenance.config_hash(config, config_exclude)
        if config_hash != expected:
            raise ValueError(
                f"config_hash is {config_hash[:12]} but the config given hashes to {expected[:12]}; "
                "pass the same config and config_exclude to both"
            )
        stated = {
            "config": storage.plain(dict(config)),
            "config_hash": config_hash,
            "config_exclude": list(config_exclude),
            "claims": storage.plain(list(claims)),
            "claims_hash": provenance.claims_hash(claims),
        }
        stated = _as_begun(path, stated, config_place)
        manifest = cls._found(path, stated)
        if manifest and manifest["status"] == "complete":
            return cls(path, "finished", manifest)
        storage.claim_directory(path)
        try:
            return cls._start(path, stated | {"title": title, "question": question}, devices, code_directory)
        except BaseException:
            storage.release_directory(path)
            raise

    @staticmethod
    def _found(path: Path, stated: dict) -> dict | None:
        """The manifest in the directory, after checking that it belongs to the same config and claims."""
        if not (path / "manifest.json").exists():
            return None
        manifest = storage.read_manifest(path / "manifest.json")
        if manifest["config_hash"] != stated["config_hash"]:
            differing = provenance.config_difference(manifest["config"], stated["config"])
            raise BundleError(
                f"{path} holds another config: its hash is {manifest['config_hash'][:12]}, this one's is "
                f"{stated['config_hash'][:12]}; differing: {differing}; choose "
                "another directory"
            )
        if manifest["claims_hash"] != stated["claims_hash"]:
            raise BundleError(
                f"{path} was opened with claims {manifest['claims_hash'][:12]}, now they are "
                f"{stated['claims_hash'][:12]}: a claim is written before the run; a changed claim is a new config in "
                "a new directory"
            )
        return manifest

    @classmethod
    def _start(cls, path: Path, stated: dict, devices: Mapping | None, code_directory: str | Path | None) -> "Bundle":
        manifest = cls._found(path, stated)  # again: now nobody else can write it
        if manifest is not None:
            require_schema(path, manifest)
        for leftover in path.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        if manifest is not None and manifest.pop("clearing", False):  # reopened for more replicates (extend.py)
            remove_closed(path)
        damaged = damaged_files(path)
        session = {
            "opened": _now(),
            "environment": provenance.environment(devices),
            "code": provenance.code_state(code_directory),
        }
        if manifest is None:
            manifest = {"schema": SCHEMA_VERSION, "status": "running", "created": _now(), "sessions": []}
        manifest |= stated  # the hashes agree; fields that change no result may differ
        before = manifest["sessions"][-1]["environment"] if manifest["sessions"] else session["environment"]
        if changes := provenance.environment_changes(before, session["environment"]):
            session["changes"] = changes
            told = f"{path} was written on another set-up, its bits may differ from here on: {'; '.join(changes)}"
            warnings.warn(told, stacklevel=3)
        bundle = cls(path, "resumed" if manifest["sessions"] else "new", manifest)
        manifest["sessions"].append(session)
        bundle._write_manifest()
        bundle.event("open" if bundle.state == "new" else "resume", 0, session=len(manifest["sessions"]) - 1)
        for file in damaged:
            bundle.event("damaged", 0, file=file.relative_to(path).as_posix())
            after = "it is made again" if file.parent.name in ("rows", "arrays") else "what it held is lost, no row needs it"
            warnings.warn(f"{file} is not what was written; it is moved to {digests.move_aside(file).name}: {after}",
                          stacklevel=3)
        return bundle

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the directory back; what is in it stays and can be resumed."""
        storage.release_directory(self.path)

    def _write_manifest(self) -> None:
        storage.write_manifest(self.path / "manifest.json", self.manifest)

    def _writable(self) -> None:
        if self.manifest["status"] == "complete":
            raise BundleError(
                f"{self.path} is finished (bundle {self.manifest['bundle_id'][:12]}) and is not written again"
            )

    def require_base(self, name: str, digest: str) -> None:
        """Record the digest of the base that this run starts from, or compare it with the one recorded.

        Raises:
            BundleError: it is another base; every row of the run is conditional on the one recorded.
        """
        self._writable()
        recorded = self.manifest.setdefault("bases", {})
        if recorded.get(name, digest) != digest:
            raise BundleError(f"{self.path}: {name} is {digest}, and this run began with {recorded[name]}: put that base back, "
                              "or choose another directory")
        if name not in recorded:
            recorded[name] = digest
            self._write_manifest()

    # --- while the run is going

    def has_rows(self, name: str) -> bool:
        """Whether the shard of this name was written, in this session or before, also after closing."""
        written = (self.path / "rows" / f"{_checked_name(name)}.parquet").exists()
        return written or name in self.manifest.get("shards", {}) or self.sealed_rows(name)

    def sealed_rows(self, name: str) -> bool:
        """Whether the shard of this name was part of the bundle when it was reopened (`records.reopen`): its replicates
        are kept as they are and must not be written again."""
        return name in self.manifest.get("sealed_shards", ())

    def write_rows(self, name: str, columns: Columns) -> None:
        """Write one measurement as `rows/<name>.parquet`, whole or not at all; the same name again replaces it.

        Args:
            name: conventionally "<arm>-<step>".
                columns: any subset of the 30 columns (`rows.measurement_table` says what is filled in and refused).
        """
        self._writable()
        path, table = self.path / "rows" / f"{_checked_name(name)}.parquet", measurement_table(columns)
        if path.exists():
            if table_digest(read_shard(path)) == table_digest(table):
                return
            self.event("rows-replaced", 0, shard=name)  # the run was not reproduced exactly: the log says so
        write_parquet(path, table)

    def read_rows(self, exclude: Iterable[str] = ()) -> pa.Table:
        """Every row written so far in canonical order, without the shards named in `exclude`.

        Raises:
            BundleError: two shards hold one identity.
        """
        if self.manifest["status"] == "complete":
            return read_measurements(self.path)
        exclude = set(exclude)
        paths = [path for path in sorted((self.path / "rows").glob("[!.]*.parquet")) if path.stem not in exclude]
        tables = [read_shard(path) for path in paths] or [MEASUREMENTS.empty_table()]
        table = pa.concat_tables(tables)
        try:
            refuse_duplicates(table)
        except ValueError as error:
            twice = re.search(r"first is (\w{16})", str(error)).group(1)
            shards = [
                path.stem
                for path, part in zip(paths, tables, strict=True)
                if pc.any(pc.equal(part["row_id"], twice)).as_py()
            ]
            raise BundleError(f"shards {shards} hold the same row: {error}") from None
        return sort_canonical(table)

    def write_completions(self, name: str, columns: Columns) -> None:
        """Keep answers of one measurement (columns of `completions.COLUMNS`); they are shown, and no number comes from them."""
        self._writable()
        completions.write(self.path, _checked_name(name), columns)

    def write_arrays(self, name: str, arrays: Mapping[str, object]) -> None:
        """Write named arrays as `arrays/<name>.safetensors` (the suffix may be given), whole or not at all."""
        self._writable()
        path = self.path / "arrays" / f"{_checked_name(name.removesuffix('.safetensors'))}.safetensors"
        values = {key: np.ascontiguousarray(np.asarray(value)) for key, value in arrays.items()}
        digests.write(path, lambda temporary: temporary.write_bytes(save(values)))

    def event(self, phase: str, step: int, **scalars: object) -> None:
        """Append `{"time", "phase", "step", ...}` to events.jsonl; NaN is written as the word."""
        self._writable()
        storage.append_event(self.path / "events.jsonl", {"time": _now(), "phase": phase, "step": int(step), **scalars})

    def cost(self, phase: str, *, arm: str | None = None, step: int | None = None, **quantities: float) -> None:
        """Record wall times, throughput or memory (`schema.COST_UNITS`); the same phase, arm and step updates them."""
        self._writable()
        for name in quantities:
            if name not in COST_UNITS:
                raise ValueError(f"cost {name!r} has no unit{nearest(name, tuple(COST_UNITS))}")
        parts = [part for part in (phase, arm, None if step is None else str(step)) if part is not None]
        path = self.path / "costs" / f"{_checked_name('-'.join(parts))}.json"
        before = read_cost(path)["quantities"] if path.exists() else {}
        merged = before | {name: float(value) for name, value in quantities.items()}
        write_cost(path, {"phase": phase, "arm": arm, "step": step, "quantities": merged})

    # --- when the run is done

    def merge(
        self, metrics: Mapping[str, object], *, tensors: Columns | None = None, extra: Mapping | None = None
    ) -> str:
        """Merge the shards into the Parquet files and compute the bundle id; may be repeated until `seal`.

        Args:
            metrics: metric id -> mapping or dataclass with the fields of `schema.METRICS`.
            tensors: columns of `schema.TENSORS`.
            extra: further manifest entries (claim results, caveats, papers).

        Returns:
            bundle_id: SHA-256 over the config hash, the digest of the science columns and the digests of the arrays.

        Raises:
            BundleError: a metric without a definition, or a null row whose parent is missing. Nothing is lost.
        """
        self._writable()
        table = self.read_rows()
        require_definitions(table, metrics)
        table = within(table, metrics)
        used = set(table["metric"].unique().to_pylist())
        write_parquet(self.path / "measurements.parquet", table)
        write_parquet(self.path / "metrics.parquet", metrics_table({k: m for k, m in metrics.items() if k in used}))
        write_parquet(self.path / "tensors.parquet", table_from_columns(tensors or {}, TENSORS))
        write_parquet(self.path / "costs.parquet", cost_table(self.path / "costs"))
        completions.merge(self.path)
        names = sorted((self.path / "arrays").glob("[!.]*.safetensors"))
        for file in names:
            digests.read(file)
        arrays = {path.stem: provenance.arrays_digest(path) for path in names}
        bundle_id = compute_bundle_id(self.manifest["config_hash"], table, arrays)
        shards = {path.stem: len(read_shard(path)) for path in sorted((self.path / "rows").glob("[!.]*.parquet"))}
        self.manifest |= {
            **storage.plain(dict(extra or {})),
            "bundle_id": bundle_id,
            "n_rows": len(table),
            "arrays": arrays,
            "shards": shards,
        }
        self._write_manifest()
        return bundle_id

    def seal(self) -> None:
        """Write the digest of every file, mark the bundle complete, drop the shards and give the directory back."""
        self._writable()
        if "bundle_id" not in self.manifest:
            raise BundleError(f"{self.path} was not merged yet: call merge before seal")
        for file in (*self.path.glob("[!.]*.parquet"), *(self.path / "arrays").glob("[!.]*.safetensors")):
            digests.read(file)  # what is hashed into the manifest is what was written
        self.event("seal", 0, bundle_id=self.manifest["bundle_id"])
        self.manifest |= {"status": "complete", "closed": _now(), "files": digest_files(self.path)}
        self._write_manifest()
        remove_working(self.path)
        for folder in (self.path, self.path / "arrays"):
            digests.forget(folder)
        self.state = "finished"
        self.release()

    def close(
        self, metrics: Mapping[str, object], *, tensors: Columns | None = None, extra: Mapping | None = None
    ) -> str:
        """`merge` then `seal`: a bundle without tables, figures and report; repeating it is free. Returns the id."""
        if self.manifest["status"] != "complete":
            self.merge(metrics, tensors=tensors, extra=extra)
            self.seal()
        return self.manifest["bundle_id"]
