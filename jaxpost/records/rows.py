"""Columns in, a checked table with row identities out; the canonical order and digest of a table."""

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxpost.lookup import nearest
from jaxpost.records.schema import ENUMS, KEY_COLUMNS, MEASUREMENTS, REQUIRED, SORT_COLUMNS

Columns = Mapping[str, object] | pa.Table  # name -> list, numpy array, arrow array, or one scalar for the whole column


def format_params(params: Mapping[str, object]) -> str | None:
    """Write parameters the way the `params` column holds them: sorted "key=value;key=value"; None when empty.

    >>> format_params({"tol": 1e-5, "alpha": 0.5})
    'alpha=0.5;tol=1e-05'
    """
    for key, value in params.items():
        if any(mark in f"{key}{value}" for mark in "=;"):
            raise ValueError(f"params: {key!r}={value!r} may not hold '=' or ';'")
    return ";".join(f"{key}={params[key]}" for key in sorted(params)) or None


def parse_params(text: str | None) -> dict[str, str]:
    """Read a `params` entry back as a dict of strings; raises ValueError on a piece without '='."""
    pieces = [piece for piece in (text or "").split(";") if piece]
    for piece in pieces:
        if "=" not in piece:
            raise ValueError(f"params: {piece!r} in {text!r} is not key=value")
    return dict(piece.split("=", 1) for piece in pieces)


def _column(name: str, values: object, dtype: pa.DataType, n: int) -> pa.Array:
    """One column as an arrow array of the schema's type; NaN in a numeric column means null."""
    if values is None or isinstance(values, (str, bool, int, float, np.generic)):
        values = [values] * n
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    try:
        if not isinstance(values, pa.Array):
            if isinstance(values, np.ndarray) and values.dtype.kind in "US":
                values = values.astype(object)
            values = pa.array(values, from_pandas=True)
        values = values.cast(dtype)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {name!r} does not hold {dtype}: {error}") from None
    if pa.types.is_string(dtype):  # "" says nothing: it is null
        values = pc.if_else(pc.equal(values, ""), pa.scalar(None, dtype), values)
    return values


def table_from_columns(columns: Columns, schema: pa.Schema) -> pa.Table:
    """Assemble equal-length columns into a table of `schema`; a column that is missing is null.

    Args:
        columns: name -> values [N]; a scalar stands for the whole column.
        schema: one of `records.schema`.

    Returns:
        The table [N], columns in the order of the schema, without null types.

    Raises:
        ValueError: a column the schema does not know (the nearest name is given), unequal lengths, or a wrong type.
    """
    if isinstance(columns, pa.Table):
        columns = {name: columns[name] for name in columns.column_names}
    lengths = {}
    for name, values in columns.items():
        if name not in schema.names:
            raise ValueError(f"column {name!r} is not in the schema{nearest(name, schema.names)}")
        if hasattr(values, "__len__") and not isinstance(values, str):
            lengths[name] = len(values)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of unequal length: {lengths}")
    n = next(iter(lengths.values()), 1 if columns else 0)
    arrays = [_column(field.name, columns.get(field.name), field.type, n) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _strict_enums(table: pa.Table) -> None:
    for name, known in ENUMS.items():
        for value in table[name].unique().to_pylist():
            if value is not None and value not in known:
                raise ValueError(f"{name} {value!r} is not one of the schema's{nearest(value, known)}")
    for name in REQUIRED:
        if table[name].null_count:
            raise ValueError(f"{table[name].null_count} of {len(table)} rows have no {name!r}")


def _canonical_params(column: pa.ChunkedArray) -> pa.Array:
    """Sort the keys inside every distinct `params` text."""
    coded = column.combine_chunks().dictionary_encode()
    texts = [format_params(parse_params(text)) for text in coded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(coded.indices)


def row_ids(columns: Columns) -> list[str]:
    """Identity of every row: the first 16 hex digits of SHA-256 over its key columns.

    The hashed text is the key columns in the order of `schema.KEY_COLUMNS`, then `null_kind` (of role "null" only),
    joined by U+001F, a null written as U+0000; a missing side is "none" and params are sorted. N rows cost one
    hash each (700,000 rows: about a second).

    Args:
        columns: the key columns, [N] each or one scalar (a key column that is missing is null); others are not read.

    Returns:
        N texts, in the order given: what `of` of a null row refers to.
    """
    return _identities(_filled_keys(table_from_columns(columns, MEASUREMENTS))).to_pylist()


def _filled_keys(table: pa.Table) -> pa.Table:
    filled = {"side": pc.fill_null(table["side"], "none"), "params": _canonical_params(table["params"])}
    for name, values in filled.items():
        table = table.set_column(table.schema.get_field_index(name), MEASUREMENTS.field(name), values)
    return table


def _identities(table: pa.Table) -> pa.Array:
    null_kind = pc.if_else(pc.equal(table["role"], "null"), table["null_kind"], pa.scalar(None, pa.string()))
    keys = [table[name].cast(pa.string()) for name in KEY_COLUMNS] + [null_kind]
    texts = pc.binary_join_element_wise(*keys, "\x1f", null_handling="replace", null_replacement="\x00")
    digests = [hashlib.sha256(text).hexdigest()[:16] for text in texts.cast(pa.binary()).to_pylist()]
    return pa.array(digests, pa.string())


def measurement_table(columns: Columns) -> pa.Table:
    """Check measurement columns, fill what follows from others, and give every row its identity, in canonical order.

    Filled: status "ok"; side "none"; `n_units=1, unit="seed"` for role "seed"; for role "null", `value` and
    `null_value` from each other. A value that is not finite becomes null with status "nan":
    a NaN is a row, never a number.

    Args:
        columns: any subset of the 30 columns, each [N] (or one scalar); `row_id`, where given, must agree.

    Returns:
        The table [N] in the canonical order.

    Raises:
        ValueError: unknown column, unknown enum value, missing role / metric / granularity, a seed row without seed,
            an estimate with one, two rows of one identity, or a `row_id` that is not the row's.
    """
    table = _filled_keys(table_from_columns(columns, MEASUREMENTS))
    given = table["row_id"]
    is_null_row = pc.equal(table["role"], "null")
    value = pc.if_else(is_null_row, pc.coalesce(table["value"], table["null_value"]), table["value"])
    finite = pc.fill_null(pc.is_finite(value), False)
    status = pc.fill_null(table["status"], "ok")
    broken = pc.and_(pc.equal(status, "ok"), pc.invert(finite))
    is_seed = pc.equal(table["role"], "seed")
    reason = pc.if_else(
        pc.and_(broken, pc.is_null(table["status_reason"])), "value is not finite", table["status_reason"]
    )
    filled = {
        "value": pc.if_else(finite, value, pa.scalar(None, pa.float64())),
        "null_value": pc.if_else(is_null_row, value, table["null_value"]),
        "status": pc.if_else(broken, "nan", status),
        "status_reason": reason,
        "n_units": pc.if_else(is_seed, pc.fill_null(table["n_units"], 1), table["n_units"]),
        "unit": pc.if_else(is_seed, pc.fill_null(table["unit"], "seed"), table["unit"]),
    }
    for name, values in filled.items():
        table = table.set_column(table.schema.get_field_index(name), MEASUREMENTS.field(name), values)
    _strict_enums(table)
    _strict_seeds(table)
    ids = _identities(table)
    wrong = pc.fill_null(pc.not_equal(given, ids), False)
    if pc.any(wrong).as_py():
        i = pc.index(wrong, True).as_py()
        raise ValueError(f"row {i} says row_id {given[i].as_py()} but its key columns give {ids[i].as_py()}")
    table = table.set_column(0, MEASUREMENTS.field("row_id"), ids)
    refuse_duplicates(table)
    return sort_canonical(table)


def _strict_seeds(table: pa.Table) -> None:
    has_seed = pc.is_valid(table["seed"])
    for role, wanted in (("seed", True), ("estimate", False)):
        wrong = pc.and_(pc.equal(table["role"], role), pc.not_equal(has_seed, wanted))
        if pc.any(wrong).as_py():
            row = table.slice(pc.index(wrong, True).as_py(), 1).to_pylist()[0]
            raise ValueError(
                f"role {role!r} {'needs a' if wanted else 'may not name a'} seed: metric {row['metric']!r}, "
                f"arm {row['arm']!r}, step {row['step']}, seed {row['seed']}"
            )


def refuse_duplicates(table: pa.Table) -> None:
    """Raise ValueError naming the key of the first two rows that share an identity."""
    coded = table["row_id"].combine_chunks().dictionary_encode()
    if len(coded.dictionary) == len(table):
        return
    counts = np.bincount(coded.indices.to_numpy())
    twice = coded.dictionary[int(np.argmax(counts > 1))].as_py()
    row = table.filter(pc.equal(table["row_id"], twice)).slice(0, 1).to_pylist()[0]
    key = {name: row[name] for name in KEY_COLUMNS if row[name] is not None}
    raise ValueError(f"{int((counts > 1).sum())} identities occur more than once; the first is {twice}: {key}")


def sort_canonical(table: pa.Table) -> pa.Table:
    """Rows by metric, arm, role, step, seed, granularity, tensor and row_id: a total order, nulls last."""
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in SORT_COLUMNS])
    return table.take(order).combine_chunks()


def _canonical_bytes(column: pa.ChunkedArray) -> list[bytes]:
    """Null mask, then the values: lengths and UTF-8 of texts, little-endian IEEE-754 or two's complement of numbers."""
    mask = pc.is_null(column).to_numpy().astype(np.uint8).tobytes()
    if pa.types.is_string(column.type):
        texts = pc.fill_null(column, "").cast(pa.binary()).to_pylist()
        lengths = np.fromiter((len(text) for text in texts), "<i8", len(texts))
        return [mask, lengths.tobytes(), b"".join(texts)]
    zero = pa.scalar(0).cast(column.type)
    values = pc.fill_null(column, zero).to_numpy()
    return [mask, values.astype(values.dtype.newbyteorder("<")).tobytes()]


def table_digest(table: pa.Table) -> str:
    """SHA-256 of a measurement table, whatever the order of its rows, the chunking or the Parquet encoding.

    Columns are hashed in the order of the schema after the canonical sort: name, type, then `_canonical_bytes`.
    """
    table = sort_canonical(table.select(MEASUREMENTS.names))
    digest = hashlib.sha256(f"jaxpost.measurements {len(table)} rows".encode())
    for field in MEASUREMENTS:
        digest.update(f"\x1e{field.name}\x1f{field.type}\x1f".encode())
        for piece in _canonical_bytes(table[field.name]):
            digest.update(piece)
    return digest.hexdigest()


def _held(name: str, value: object, kind: pa.DataType) -> pa.Scalar:
    """The value as the column holds it; not one near it, as Arrow makes the number 1 of 1.5. Raises: ValueError."""
    try:
        scalar = pa.scalar(value, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        scalar = None
    if scalar is None or (scalar.as_py() != value and value == value):
        raise ValueError(f"column {name!r} holds {kind} values; found {value!r}")
    return scalar


def select(table: pa.Table, **wanted: object) -> pa.Table:
    """Rows that match every condition: a scalar is equality, a list or tuple membership, None is null.

    Raises:
        ValueError: a column the table does not have, or a value that no row of the column can have.
    """
    mask = None
    for name, value in wanted.items():
        if name not in table.column_names:
            raise ValueError(f"column {name!r} is not in the table{nearest(name, table.column_names)}")
        column = table[name]
        if value is None:
            match = pc.is_null(column)
        elif isinstance(value, (list, tuple)):
            match = pc.is_in(column, value_set=pa.array([_held(name, one, column.type) for one in value], column.type))
        else:
            match = pc.fill_null(pc.equal(column, _held(name, value, column.type)), False)
        mask = match if mask is None else pc.and_(mask, match)
    return table if mask is None else table.filter(mask)
