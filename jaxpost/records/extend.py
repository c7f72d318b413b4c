"""Adding replicates to a finished bundle: its seed rows become a shard again, everything derived from them is made anew."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from jaxpost.records import completions, storage
from jaxpost.records.bundle import Bundle
from jaxpost.records.contents import read_costs, read_measurements, remove_working, require_schema, write_cost, write_parquet
from jaxpost.records.rows import parse_params, select
from jaxpost.records.schema import FINISHED_SHARD
from jaxpost.records.storage import BundleError

_OF_THE_SEAL = ("bundle_id", "n_rows", "arrays", "claim_results", "papers", "closed", "files")


# Keys in `params` of rows that are made of other rows: at a matched point, and of a sequence of stages.
DERIVED = ("at", "stages")


def replicates(table: pa.Table, derived: Sequence[str] = DERIVED) -> pa.Table:
    """The rows that a further seed leaves as they are: role "seed", and the nulls that belong to them.

    Args:
        table: measurement rows [N].
        derived: keys in `params` that mark rows made of others, which are left out.
    """
    texts = [text for text in table["params"].unique().to_pylist() if set(parse_params(text)) & set(derived)]
    compared = pc.is_in(table["params"], value_set=pa.array(texts, pa.string()))
    seeds = select(table.filter(pc.invert(compared)), role="seed")
    nulls = select(table, role="null")
    nulls = nulls.filter(pc.is_in(nulls["of"], value_set=seeds["row_id"].combine_chunks()))
    return pa.concat_tables([seeds, nulls])


def reopen(bundle: Bundle, derived: Sequence[str] = DERIVED) -> None:
    """Turn a finished directory back into a running one that holds its replicates; open it again to go on.

    Rows of single seeds (`replicates`) go into one shard; `has_rows` stays true for the shards they came in, and
    `sealed_rows` tells them apart. Estimates, comparisons, claims, tables, figures and the report are dropped by the
    next `Bundle.open` and are written again by `finish`. The directory is claimed until this process releases it.
    A kill at any moment leaves either the finished bundle or the running one, with every replicate.

    Args:
        bundle: a bundle whose state is "finished".
        derived: as in `replicates`.

    Raises:
        BundleError: it is not finished, another process holds it, its rows cannot be read, or nothing can be written.
    """
    path = Path(bundle.path)
    storage.claim_directory(path)
    try:
        manifest = storage.read_manifest(path / "manifest.json")  # again: now nobody else can write it
        if manifest["status"] != "complete":
            raise BundleError(f"{path} is not finished (status {manifest['status']!r}): it can be resumed as it is")
        require_schema(path, manifest)
        table, costs, answers = replicates(read_measurements(path), derived), read_costs(path), completions.read(path)
        remove_working(path)  # of a kill while sealing, or of an earlier try: the finished files hold all of it
        write_parquet(path / "rows" / f"{FINISHED_SHARD}.parquet", table)
        if answers is not None:
            completions.write(path, FINISHED_SHARD, answers)
        for name, cost in costs.items():
            write_cost(path / "costs" / f"{name}.json", cost)
        names = {*manifest.get("sealed_shards", ()), *manifest["shards"]} - {FINISHED_SHARD}
        kept = {key: value for key, value in manifest.items() if key not in _OF_THE_SEAL}
        extensions = [*manifest.get("extensions", ()), {"bundle_id": manifest["bundle_id"], "closed": manifest["closed"]}]
        storage.write_manifest(path / "manifest.json", kept | {
            "status": "running", "clearing": True, "shards": {}, "sealed_shards": sorted(names), "extensions": extensions})
    except BaseException:
        storage.release_directory(path)
        raise
