"""What policies answered: a few prompts with their answers at every measurement, beside the numbers and never among them.

One row is one answer. It is for readers: no statistic is computed from it, and it is no part of the bundle id.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxpost.records import digests
from jaxpost.records.rows import Columns, select, table_from_columns
from jaxpost.records.storage import BundleError
from jaxpost.records.tabulating.variants import arm_order

FOLDER, FILE = "completions", "completions.parquet"
COLUMNS = pa.schema([
    ("arm", pa.string()),
    ("seed", pa.int64()),
    ("step", pa.int64()),  # optimizer step; 0 for the base
    ("split", pa.string()),
    ("problem", pa.int64()),  # its index in the split
    ("prompt", pa.string()),
    ("answer", pa.string()),  # up to its end token
    ("reward", pa.float64()),  # what the arm is trained on; the verifier's score where it is no reward arm
    ("parts", pa.string()),  # "correct=1;length=0.2": the terms of the reward, without their weights
    ("logp", pa.float64()),  # nats, sum over the answer's tokens at temperature 1
    ("tokens", pa.int64()),
    ("finished", pa.bool_()),  # whether it ended with an end token
])
ORDER = ("arm", "seed", "step", "split", "problem")
_SHOWN = 3  # prompts of an arm that the report shows


def write(folder: Path, name: str, columns: Columns) -> None:
    """Write the answers of one measurement as `<folder>/completions/<name>.parquet`, whole or not at all."""
    table = table_from_columns(columns, COLUMNS)
    digests.write(folder / FOLDER / f"{name}.parquet", lambda temporary: pq.write_table(table, temporary))


def merge(folder: Path) -> None:
    """All shards of a bundle as one file in a fixed order; no file where there are none."""
    paths = sorted((folder / FOLDER).glob("[!.]*.parquet"))
    if not paths:
        return
    table = pa.concat_tables([pq.read_table(pa.BufferReader(digests.read(path)), schema=COLUMNS) for path in paths])
    table = table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in ORDER]))
    digests.write(folder / FILE, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def read(folder: str | Path) -> pa.Table | None:
    """The answers of a closed bundle; None where none were kept. Raises: BundleError: the file cannot be read."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        return pq.read_table(path, schema=COLUMNS)
    except (OSError, pa.ArrowInvalid) as error:
        raise BundleError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def shown(table: pa.Table) -> list[tuple[str, Sequence[Mapping]]]:
    """What a report shows: (arm, answers of its first seed at its last measurement to the first prompts)."""
    by_arm = []
    for arm in arm_order(table["arm"].unique().to_pylist()):
        rows = select(table, arm=arm)
        rows = select(rows, seed=pc.min(rows["seed"]).as_py())
        rows = select(rows, step=pc.max(rows["step"]).as_py())
        by_arm.append((arm, rows.slice(0, _SHOWN).to_pylist()))
    return by_arm
