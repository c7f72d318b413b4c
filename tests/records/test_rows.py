"""Rows: the schema, identities, the canonical order and digest."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxpost.records import format_params, measurement_table, parse_params, row_ids, select
from jaxpost.records.rows import table_digest, table_from_columns
from jaxpost.records.schema import COSTS, KEY_COLUMNS, MEASUREMENTS, METRICS, SORT_COLUMNS

ONE = {"metric": "weight.update_norm", "arm": "a", "role": "seed", "step": 1, "granularity": "global", "dtype": "fp32"}


def seeds(values, **more):
    return ONE | {"seed": np.arange(len(values)), "value": np.asarray(values, float)} | more


def test_the_schema_has_thirty_columns_and_no_cost():
    assert len(MEASUREMENTS) == 30
    assert set(KEY_COLUMNS) < set(MEASUREMENTS.names) and set(SORT_COLUMNS) < set(MEASUREMENTS.names)
    assert "bundle_id" not in MEASUREMENTS.names and not set(MEASUREMENTS.names) & {"wall_s", "flops"}
    assert {field.name for field in COSTS}.isdisjoint({"row_id", "seed"}) and "ci_method" in METRICS.names


def test_round_trip_keeps_every_column(tmp_path, run):
    table = measurement_table(run.measurement("rlvr-lr1", 10, n_tensors=1))
    pq.write_table(table, tmp_path / "rows.parquet")
    again = pq.read_table(tmp_path / "rows.parquet", schema=MEASUREMENTS)
    assert again.equals(table) and table_digest(again) == table_digest(table)


def test_a_missing_column_is_null_and_defaults_are_what_the_role_says():
    row = measurement_table(seeds([0.5])).to_pylist()[0]
    assert (row["status"], row["side"], row["n_units"], row["unit"]) == ("ok", "none", 1, "seed")
    assert row["tensor"] is None and row["ci_lo"] is None and row["params"] is None


def test_identity_is_the_hash_of_the_key_columns_by_hand():
    table = measurement_table(seeds([0.5], params="tol=1e-05;eta=2"))
    row = table.to_pylist()[0]
    texts = ["\x00" if row[name] is None else str(row[name]) for name in KEY_COLUMNS] + ["\x00"]
    assert row["params"] == "eta=2;tol=1e-05"
    assert row["row_id"] == hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]
    assert row_ids(seeds([0.7], params="tol=1e-05;eta=2")) == [row["row_id"]]  # the value is no part of it


@pytest.mark.parametrize(
    "name, value",
    [
        ("step", 2),
        ("k", 4),
        ("tensor", "q"),
        ("module_kind", "q"),
        ("split", "id"),
        ("dtype", "bf16"),
        ("conditional_on", "base"),
        ("params", "alpha=1"),
    ],
)
def test_every_key_column_is_part_of_the_identity(name, value):
    assert row_ids(seeds([0.5])) != row_ids(seeds([0.5], **{name: value}))


def test_kinds_of_further_nulls_are_different_rows():
    columns = {
        **ONE,
        "role": ["null", "null"],
        "of": "f" * 16,
        "seed": 0,
        "null_kind": ["isotropic", "permuted"],
        "value": [0.1, 0.2],
    }
    table = measurement_table(columns)
    assert len(set(table["row_id"].to_pylist())) == 2 and table["null_value"].to_pylist() == table["value"].to_pylist()


def test_not_a_number_becomes_a_row_with_status_nan():
    table = measurement_table(seeds([0.5, np.nan, np.inf]))
    assert table["status"].to_pylist() == ["ok", "nan", "nan"]
    assert (
        table["value"].to_pylist() == [0.5, None, None] and table["status_reason"][1].as_py() == "value is not finite"
    )


@pytest.mark.parametrize(
    "columns, message",
    [
        (seeds([1.0], vlaue=2.0), "column 'vlaue' is not in the schema; did you mean 'value'"),
        (seeds([1.0], status="okay"), "status 'okay' .*did you mean 'ok'"),
        (seeds([1.0], granularity="globl"), "did you mean 'global'"),
        (seeds([1.0, 2.0], k=[1]), "unequal length"),
        (seeds([1.0], k=["four"]), "column 'k' does not hold int64"),
        (seeds([1.0], params="alpha"), "not key=value"),
        (ONE | {"value": [1.0]}, "role 'seed' needs a seed"),
        (seeds([1.0], role="estimate"), "role 'estimate' may not name a seed"),
        (ONE | {"seed": [0, 0], "value": [1.0, 2.0]}, "occur more than once.*weight.update_norm"),
        (seeds([1.0], row_id=["0" * 16]), "row 0 says row_id 0000"),
        ({"metric": ["m"], "role": "seed", "seed": 0}, "no 'granularity'"),
    ],
)
def test_a_wrong_row_is_refused_with_what_was_found(columns, message):
    with pytest.raises(ValueError, match=message):
        measurement_table(columns)


def test_digest_ignores_order_and_chunks_and_sees_every_bit():
    table = measurement_table(seeds([0.1, 0.2, 0.3]))
    shuffled = pa.concat_tables([table.slice(2), table.slice(0, 2)])
    assert table_digest(shuffled) == table_digest(table)
    nudged = measurement_table(seeds([0.1, 0.2, np.nextafter(0.3, 1)]))
    assert table_digest(nudged) != table_digest(table)
    assert table_digest(measurement_table(seeds([0.1, 0.2, 0.3], status_reason="x"))) != table_digest(table)


def test_select_by_value_membership_and_null():
    table = measurement_table(seeds([0.1, 0.2, 0.3]))
    assert len(select(table, seed=[0, 2])) == 2 and len(select(table, seed=1, arm="a")) == 1
    assert len(select(table, tensor=None)) == 3 and len(select(table, tensor="q")) == 0
    with pytest.raises(ValueError, match="did you mean 'seed'"):
        select(table, sed=1)
    for layer in (1.5, True, "three", 10**30, {"a": 1}, [0, 1.5], [[1]]):
        with pytest.raises(ValueError, match="column 'layer' holds .* values; found"):
            select(table, layer=layer)


def test_params_are_sorted_text_both_ways():
    assert parse_params(format_params({"tol": 1e-5, "alpha": 0.5})) == {"alpha": "0.5", "tol": "1e-05"}
    assert format_params({}) is None and parse_params(None) == {}
    with pytest.raises(ValueError, match="may not hold"):
        format_params({"a": "b;c"})


def test_no_rows_are_a_table_too():
    assert table_from_columns({}, MEASUREMENTS).num_rows == 0 and len(measurement_table({"metric": []})) == 0
