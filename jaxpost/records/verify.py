"""Check a finished bundle against itself: files, identities, bundle id, tables."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jaxpost.records import provenance, storage
from jaxpost.records.contents import compute_bundle_id, digest_files, read_measurements
from jaxpost.records.rows import row_ids
from jaxpost.records.storage import BundleError
from jaxpost.records.tabulating.tables import build_tables, table_files


def _files(path: Path, manifest: Mapping) -> tuple[str, list[str]]:
    expected, digests = manifest["files"], digest_files(path)
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - digests.keys())]
    wrong += [f"{name} is not in the manifest" for name in sorted(digests.keys() - expected.keys())]
    wrong += [
        f"{name} has SHA-256 {digests[name]}, the manifest says {expected[name]}"
        for name in sorted(expected.keys() & digests.keys())
        if expected[name] != digests[name]
    ]
    return f"{len(expected)} files have the digests of the manifest", wrong


def _statements(path: Path, manifest: Mapping) -> tuple[str, list[str]]:
    config = provenance.config_hash(manifest["config"], manifest["config_exclude"])
    claims = provenance.claims_hash(manifest["claims"])
    wrong = [
        f"{name} hashes to {digest}, the manifest says {manifest[f'{name}_hash']}"
        for name, digest in (("config", config), ("claims", claims))
        if digest != manifest[f"{name}_hash"]
    ]
    for stated in manifest["claims"]:
        results = [claim for claim in manifest.get("claim_results", []) if claim["id"] == stated["id"]]
        for key in stated:
            if results and results[0].get(key) != stated[key]:
                wrong.append(
                    f"claim {stated['id']!r}: {key} was {stated[key]!r} before the run and is "
                    f"{results[0].get(key)!r} in the results"
                )
    return f"config {config[:12]} and {len(manifest['claims'])} claims are as they were before the run", wrong


def _manifest(path: Path, manifest: Mapping) -> tuple[str, list[str]]:
    del manifest
    storage.read_manifest(path / "manifest.json")
    return "manifest.json is what was written", []


def _rows(path: Path, manifest: Mapping) -> tuple[str, list[str]]:
    table = read_measurements(path, checked=False)
    pairs = zip(table["row_id"].to_pylist(), row_ids(table), strict=True)
    wrong = [
        f"measurements.parquet row {i} has row_id {row_id}, its key gives {expected}"
        for i, (row_id, expected) in enumerate(pairs)
        if row_id != expected
    ][:1]
    return f"{len(table)} rows have the identities of their keys", wrong


def _bundle_id(path: Path, manifest: Mapping) -> tuple[str, list[str]]:
    files = sorted((path / "arrays").glob("[!.]*.safetensors"))
    arrays = {file.stem: provenance.arrays_digest(file) for file in files}
    bundle_id = compute_bundle_id(manifest["config_hash"], read_measurements(path, checked=False), arrays)
    wrong = (
        []
        if bundle_id == manifest["bundle_id"]
        else [f"rows, arrays and config give bundle {bundle_id}, the manifest says {manifest['bundle_id']}"]
    )
    return f"bundle {bundle_id[:12]} follows from rows, {len(arrays)} array files and config", wrong


def _tables(path: Path, manifest: Mapping) -> tuple[str, list[str]]:
    wrong, count = [], 0
    for built in build_tables(read_measurements(path, checked=False), manifest):
        for name, text in table_files(built, manifest["bundle_id"]).items():
            count += 1
            file = path / "tables" / name
            kept = file.read_text(encoding="utf-8") if file.exists() else ""
            if kept != text:
                wrong.append(f"tables/{name} {_first_difference(kept, text)}")
    return f"{count} table files come out the same again", wrong


def _first_difference(kept: str, expected: str) -> str:
    old, new = kept.splitlines(), expected.splitlines()
    for number in range(max(len(old), len(new))):
        line, wanted = (lines[number] if number < len(lines) else "(no line)" for lines in (old, new))
        if line != wanted:
            return f"line {number + 1} is {line[:160]!r}, the rows give {wanted[:160]!r}"
    return "differs in its line ends"


CHECKS: dict[str, Callable[[Path, Mapping], tuple[str, list[str]]]] = {
    "manifest": _manifest,
    "files": _files,
    "statements": _statements,
    "rows": _rows,
    "bundle": _bundle_id,
    "tables": _tables,
}


def verify(path: str | Path) -> tuple[list[str], list[str]]:
    """Run every check on a finished bundle.

    Returns:
        (what holds, what does not): one line each; the bundle is sound when the second list is empty.

    Raises:
        BundleError: there is no bundle, or it is not finished.
    """
    path = Path(path)
    manifest = storage.read_json(path / "manifest.json")
    if "status" in manifest and manifest["status"] != "complete":
        raise BundleError(f"{path} is not finished (status {manifest['status']!r}): there is nothing to verify yet")
    good, bad = [], []
    for name, check in CHECKS.items():
        try:
            line, wrong = check(path, manifest)
        except (BundleError, ValueError, LookupError, TypeError, AttributeError) as error:
            line, wrong = "", [f"could not be checked: {error}"]  # a damaged file must not hide what the other checks find
        good += [] if wrong else [f"{name:<11}{line}"]
        bad += [f"{name:<11}{text}" for text in wrong]
    return good, bad
