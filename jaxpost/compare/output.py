"""Rows for a pipe: JSON lines, CSV, Parquet, or the tables as LaTeX."""

import io
import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from jaxpost.plain_text import spreadsheet_cell
from jaxpost.records.rows import table_digest
from jaxpost.records.tabulating.latex import tex_table
from jaxpost.records.tabulating.tables import build_tables


def _json(table: pa.Table) -> bytes:
    """One JSON object a row and line, in ASCII: names from somebody's file do nothing to a terminal."""
    return "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()


def _csv(table: pa.Table) -> bytes:
    """Comma-separated with a heading; text that a spreadsheet would run, or a terminal act on, is made visible."""
    for i, column in enumerate(table.columns):
        if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            made = {x: None if x is None else spreadsheet_cell(x) for x in column.unique().to_pylist()}
            texts = pa.array([made[x] for x in column.to_pylist()], pa.string())
            table = table.set_column(i, table.field(i).name, texts)
    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink)
    return sink.getvalue()


def _parquet(table: pa.Table) -> bytes:
    """A Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _latex(table: pa.Table) -> bytes:
    """The tables of the report, to paste; the id is the digest of the rows."""
    digest = table_digest(table)
    return "\n".join(tex_table(built, digest) for built in build_tables(table, {})).encode()


FORMATS: dict[str, Callable[[pa.Table], bytes]] = {"json": _json, "csv": _csv, "parquet": _parquet, "latex": _latex}


def written(table: pa.Table, kind: str) -> bytes:
    """The rows in one of `FORMATS`."""
    return FORMATS[kind](table)
