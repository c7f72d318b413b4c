"""Two or more checkpoints -> rows, or a finished bundle with its report."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa

from jaxpost import probes, records
from jaxpost.compare import flags, passes, rows
from jaxpost.compare.errors import CompareError
from jaxpost.compare.pairing import Checkpoint, Pairing, file_name, labels, open_side, pair
from jaxpost.compare.result import Comparison
from jaxpost.formats.names import read_rules
from jaxpost.probes import catalog
from jaxpost.probes.weights.panel import Panel
from jaxpost.records.domains import within
from jaxpost.records.provenance import canonical_json

LEVELS = {"element": "none", "top": "top", "exact": "exact"}
BESIDE = {"element": (), "top": ("weight.stripes", "distance"), "exact": ("weight.stripes", "distance")}
KS = (64, 16)
GIB = 2**30
_NAME = 60  # letters of a directory that come from a checkpoint's name
OVERHEAD = GIB // 2  # of the process before any matrix: Python, JAX, its compiled programs, read buffers


@dataclass(frozen=True)
class Settings:
    """What a comparison reads; everything that can change a number is in the bundle's config."""

    level: str = "top"  # element: counts and norms; top: and leading subspaces, stripes; exact: and all singular values
    memory: int = 2 * GIB  # bytes that the process may hold
    allow_unpaired: bool = False
    rules: tuple[Mapping, ...] = ()  # a user's name map
    workers: int = 0  # 0: one a core

    def __post_init__(self):
        if self.level not in LEVELS:
            raise CompareError(f"level is one of {', '.join(LEVELS)}; found {self.level!r}")
        if self.memory < GIB // 2:
            raise CompareError(f"memory is {self.memory / GIB:.2f} GiB; the least is 0.5 GiB")


@dataclass(frozen=True)
class Prepared:
    """An inventory of all sides, paired; nothing is loaded yet."""

    job: passes.Job
    pairing: Pairing
    settings: Settings
    fingerprints: Mapping[str, str]


def prepare(base: str | Path, tuned: Sequence[str | Path], settings: Settings) -> Prepared:
    """Open and pair all sides.

    Raises: FormatError, CompareError, OSError: one line each.
    """
    if not tuned:
        raise CompareError("one base and at least one tuned checkpoint are compared; found no tuned one")
    first = open_side(base, "base", settings.rules)
    names = labels(tuned)
    others = tuple(open_side(path, label, settings.rules, first) for path, label in zip(tuned, names))
    pairing = pair(first, others, settings.allow_unpaired)
    panel = _panel(settings.level, pairing)
    beside = tuple(catalog.get(name) for name in BESIDE[settings.level])
    if len(others) > 1 and settings.level != "element":
        beside += (catalog.get("weight.consensus"),)
    job = passes.Job(first, others, panel, beside, max(settings.memory - OVERHEAD, settings.memory // 8))
    return Prepared(job, pairing, settings, {side.label: fingerprint(side) for side in (first, *others)})


def _panel(level: str, pairing: Pairing) -> Panel:
    largest = max((min(p.shape) - 1 for p in pairing.pairs if p.reason is None), default=0)
    if largest < 2:
        raise CompareError("there is no matrix to compare (vectors only)")
    ks = tuple(k for k in KS if k <= largest) or (max(2, largest // 2),)
    return Panel(ks=ks[:1], alphas=(0.5, 0.3), spectra=LEVELS[level])


def fingerprint(side: Checkpoint) -> str:
    """SHA-256 over names, shapes, dtypes and two samples of 4 KiB of every tensor: which checkpoint this is."""
    digest = hashlib.sha256()
    for name, entry in sorted(side.source.tensors.items()):
        digest.update(f"{name}\x1f{entry.dtype}\x1f{entry.shape}\x1e".encode())
        if not entry.shape or not entry.shape[0] or not entry.nbytes:
            continue
        rows = max(1, 4096 * entry.shape[0] // entry.nbytes)
        for low in {0, max(0, entry.shape[0] // 2 - rows)}:
            sample = side.source.read(name, slice(low, min(low + rows, entry.shape[0])))
            digest.update(np.ascontiguousarray(sample).view(np.uint8).tobytes())
    return digest.hexdigest()


def base_digest(measured: Mapping[str, Mapping]) -> str:
    """SHA-256 over the digests of all base tensors, by name."""
    text = canonical_json({name: record["base"]["digest"] for name, record in measured.items()})
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _measured(prepared: Prepared, folder: Path | None, advance: Callable) -> dict:
    workers = prepared.settings.workers or len(os.sched_getaffinity(0))
    return passes.run(prepared.job, prepared.pairing.pairs, folder, workers, advance)


def _all_rows(prepared: Prepared, measured: Mapping) -> dict[str, list[dict]]:
    """Shard name -> row sets."""
    job, pairs = prepared.job, prepared.pairing.pairs
    if all(record["reason"] is not None for record in measured.values()):
        raise CompareError("no tensor could be compared: " + next(iter(measured.values()))["reason"])
    base = base_digest(measured)
    rounded = [name for name, record in measured.items() if record["base"]["off_grid"]]
    single = [probe for probe in job.probes if probe.id != "weight.consensus"]
    out = {side.label: rows.rows_of(job.panel, single, pairs, measured, side.label, base, rounded) for side in job.tuned}
    whole = [p for p in pairs if "jaccard/both" in measured[p.name]["arrays"]]
    if len(job.tuned) > 1 and whole:
        out["runs"] = rows.run_rows(whole, measured, [side.label for side in job.tuned], base)
    return out


def all_flags(prepared: Prepared, measured: Mapping) -> list[str]:
    """Everything a reader must be told first."""
    sides = (prepared.job.base, *prepared.job.tuned)
    notes = [*flags.of_rules(prepared.settings.rules, sides), *(note for side in sides for note in flags.of_source(side))]
    notes += [*prepared.pairing.notes, *flags.of_base(measured)]
    if prepared.pairing.unpaired:
        notes.append(f"{len(prepared.pairing.unpaired)} parameters are unpaired and left out: "
                     f"{', '.join(list(prepared.pairing.unpaired)[:4])}")
    rounded = [name for name, record in measured.items() if record["base"]["off_grid"]]
    if rounded:
        notes.append(f"base: {len(rounded)} tensors are not on the bf16 grid and were rounded to it, since the other side is "
                     f"stored in bf16, first {rounded[0]!r}")
    for side in prepared.job.tuned:
        notes += flags.of_files(prepared.job.base, side) + flags.of_tensors(side.label, measured)
    return notes


def compare(base: str | Path, *tuned: str | Path, level: str = "top", map_file: str | Path | None = None,
            **settings) -> Comparison:
    """A comparison in memory: `print(compare(A, B).headline())`.

    Args:
      base, tuned: safetensors files or directories, or Orbax checkpoints, in any mix.
      level: see `Settings`; map_file: of `formats.names.read_rules`; settings: further fields of `Settings`.

    Returns: rows with `headline()`, `table(metric)` and `to_pandas()`.

    Raises: CompareError, FormatError, OSError.
    """
    rules = tuple(read_rules(map_file)) if map_file else ()
    prepared = prepare(base, tuned, Settings(level=level, rules=rules, **settings))
    measured = _measured(prepared, None, lambda *_: None)
    parts = [records.measurement_table(part) for shard in _all_rows(prepared, measured).values() for part in shard]
    table = within(records.measurement_table(pa.concat_tables(parts)), probes.METRICS)
    return Comparison(table, all_flags(prepared, measured), _coverage(prepared, measured))


def run(base: str | Path, tuned: Sequence[str | Path], out: str | Path | None = None,
        settings: Settings = Settings(), watch: Callable | None = None) -> Path:  # noqa: B008
    """Compare into a directory: bundle, figures, report.html. The same call continues what was killed.

    Args:
      out: the directory; None: `default_directory`, another one for every pair and level.
      watch: given the `Prepared`, a context of `advance(pair, bytes)`, called when a pair is done; None: silent.

    Returns: the directory.

    Raises:
      CompareError: a checkpoint was written after its report was begun, ...
      FormatError, OSError: as `prepare`.
      BundleError: another pair in the directory, disk full.
    """
    prepared = prepare(base, tuned, settings)
    config = _config(prepared)
    out = default_directory(prepared, config) if out is None else Path(out)
    _require_apart(out, prepared)
    _require_unchanged(out, prepared)
    title = f"{' and '.join(side.label for side in prepared.job.tuned)} against {prepared.job.base.path.resolve().name}"
    devices = {"platform": jax.default_backend(), "kind": jax.devices()[0].device_kind, "count": jax.device_count()}
    bundle = records.Bundle.open(out, config, records.config_hash(config), (), title=title, devices=devices,
                                 question="How do the weights of these checkpoints differ, and what of it would a blind update "
                                 "show?")
    if bundle.state == "finished":
        return out
    with bundle:
        began = time.monotonic()
        with contextlib.nullcontext(lambda *_: None) if watch is None else watch(prepared) as advance:
            measured = _measured(prepared, out / passes.FOLDER, advance)
        bundle.cost("pass", wall_s=time.monotonic() - began)
        _write(bundle, prepared, measured)
        total = sum(passes.bytes_of(prepared.job, p) for p in prepared.pairing.pairs)
        bundle.cost("compare", wall_s=time.monotonic() - began, disk_bytes=total, peak_bytes=peak_memory())
        notes = all_flags(prepared, measured)
        records.finish(bundle, metrics=probes.METRICS, papers=(), extra={
            "kind": "compare", "flags": notes, "fingerprints": dict(prepared.fingerprints),
            "base_digest": base_digest(measured), "digest": next(iter(measured.values()))["digest"],
            "coverage": _coverage(prepared, measured)},
            tensors=rows.tensor_columns(prepared.pairing.pairs, measured, [s.label for s in prepared.job.tuned],
                                        {**prepared.pairing.unpaired, **prepared.pairing.empty}))
        shutil.rmtree(out / passes.FOLDER, ignore_errors=True)
    return out


def default_directory(prepared: Prepared, config: Mapping) -> Path:
    """`reports/TUNED-against-BASE-<8 digits of the config's hash>`: the same pair and settings, the same directory."""
    names = [file_name(side.path) for side in (prepared.job.base, *prepared.job.tuned)]
    name = f"{'+'.join(names[1:])[:_NAME]}-against-{names[0][:_NAME]}"
    return Path("reports") / f"{name}-{records.config_hash(config)[:8]}"


def _require_apart(out: Path, prepared: Prepared) -> None:
    """Refuse to write into a checkpoint: it would look changed ever after. Raises: CompareError."""
    place = Path(os.path.realpath(out))
    for side in (prepared.job.base, *prepared.job.tuned):
        if Path(os.path.realpath(side.path)) in (place, *place.parents):
            raise CompareError(f"--out {str(out)!r} lies in the checkpoint {side.path}; expected a directory of its own")


def _require_unchanged(out: Path, prepared: Prepared) -> None:
    """Refuse what is measured of files that were written since: the fingerprint samples them. Raises: CompareError."""
    if not (out / "manifest.json").exists():
        return
    begun = datetime.datetime.fromisoformat(records.storage.read_json(out / "manifest.json")["created"]).timestamp()
    for side in (prepared.job.base, *prepared.job.tuned):
        files = [path for path in (side.path, *side.path.rglob("*")) if path.is_file()]
        if max(path.stat().st_mtime for path in files) > begun + 1:  # it is kept in whole seconds
            raise CompareError(f"{side.path} was written after the report in {out} was begun; choose another --out, or remove "
                               "the report")


def peak_memory() -> int:
    """Largest resident set of this process, bytes; on Linux not ru_maxrss, which remembers that of the parent."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def _config(prepared: Prepared) -> dict:
    """What the numbers depend on: contents, not paths."""
    return {"compare": {side.label: prepared.fingerprints[side.label] for side in (prepared.job.base, *prepared.job.tuned)},
            "level": prepared.settings.level, "panel": asdict(prepared.job.panel),
            "probes": [probe.id for probe in prepared.job.probes], "map": list(prepared.settings.rules),
            "allow_unpaired": prepared.settings.allow_unpaired, "memory": prepared.settings.memory}


def _coverage(prepared: Prepared, measured: Mapping) -> dict:
    left = {name: record["reason"] for name, record in measured.items() if record["reason"]}
    skipped, beside = ({name: record[key] for name, record in measured.items() if record[key]} for key in ("skipped", "beside"))
    return {"tensors": len(measured), "compared": len(measured) - len(left), "not_compared": left,
            "without_spectra": skipped, "without_other_probes": beside, "unpaired": dict(prepared.pairing.unpaired),
            "without_elements": dict(prepared.pairing.empty)}


def _write(bundle: records.Bundle, prepared: Prepared, measured: Mapping) -> None:
    """Rows and arrays of every tuned checkpoint into the bundle."""
    job, pairs = prepared.job, prepared.pairing.pairs
    for name, parts in _all_rows(prepared, measured).items():
        bundle.write_rows(name, pa.concat_tables([records.measurement_table(part) for part in parts]))
    read = [p for p in pairs if measured[p.name]["reason"] is None and measured[p.name]["skipped"] is None]
    if not job.panel.subspaces or not read:
        return
    whole = [p for p in read if measured[p.name]["beside"] is None]
    for side in job.tuned:
        kept: dict[str, np.ndarray] = {}
        for p in read:
            arrays = measured[p.name]["arrays"]
            for key in ("spectrum", "base", "tuned", "angles", "edge"):
                kept[f"{key}/{p.name}"] = np.asarray(arrays[f"{side.label}/kept/{key}"], np.float64)
        bundle.write_arrays(f"spectra-{side.label}", kept)
        for probe in job.probes:
            if whole and probe.id == "weight.stripes" and (stripes := rows.probe_arrays(probe, whole, measured, side.label)):
                bundle.write_arrays(f"stripes-{side.label}", {k: x for k, x in stripes.items() if not k.startswith("table")})

