"""Estimates against a loop in numpy and scipy; what is said where an interval does not exist."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from jaxpost.records import measurement_table, row_ids, select, summarise

KEY = {"metric": "m", "role": "seed", "granularity": "global", "step": 1, "arm": "a", "conditional_on": "base"}


def rows(values, **more):
    return measurement_table(KEY | {"seed": np.arange(len(values)), "value": np.asarray(values, float)} | more)


def test_against_a_loop_over_groups():
    rng = np.random.default_rng(1)
    keys = [(arm, step, tensor) for arm in "abc" for step in (1, 2) for tensor in (None, "q", "k")]
    picked = [(key, seed) for key in keys for seed in range(rng.integers(2, 6))]
    value, null, floor = rng.standard_normal((3, len(picked)))
    table = measurement_table(
        {
            "metric": "m",
            "role": "seed",
            "seed": [seed for _, seed in picked],
            "arm": [key[0] for key, _ in picked],
            "step": [key[1] for key, _ in picked],
            "tensor": [key[2] for key, _ in picked],
            "granularity": ["global" if key[2] is None else "tensor" for key, _ in picked],
            "value": value,
            "null_kind": "isotropic",
            "null_value": null,
            "null_lo": null - 1,
            "noise_floor": floor,
        }
    )
    found = summarise(table)
    assert len(found) == len(keys)
    for row in found.to_pylist():
        mine = np.array([key == (row["arm"], row["step"], row["tensor"]) for key, _ in picked])
        n, mean, error = mine.sum(), value[mine].mean(), scipy.stats.sem(value[mine])
        lo, hi = scipy.stats.t.interval(0.95, n - 1, mean, error)
        np.testing.assert_allclose([row["value"], row["ci_lo"], row["ci_hi"]], [mean, lo, hi], rtol=1e-12)
        np.testing.assert_allclose([row["null_value"], row["null_lo"]], [null[mine].mean(), null[mine].mean() - 1])
        np.testing.assert_allclose(row["noise_floor"], floor[mine].mean())
        assert (row["n_units"], row["unit"], row["role"], row["seed"]) == (n, "seed", "estimate", None)
        assert row["null_hi"] is None and row["status"] == "ok" and row["status_reason"] is None


def test_the_order_of_rows_changes_no_bit():
    table = rows(np.random.default_rng(0).standard_normal(5))
    shuffled = measurement_table(table.take([3, 1, 4, 0, 2]))
    assert summarise(shuffled).equals(summarise(table))


def test_one_seed_has_a_value_and_no_interval_and_says_so():
    row = summarise(rows([0.3])).to_pylist()[0]
    assert (row["value"], row["n_units"], row["ci_lo"], row["ci_hi"], row["status"]) == (0.3, 1, None, None, "ok")
    assert row["status_reason"] == "one seed: no interval"


def test_tensors_never_enter_an_interval():
    """A hundred tensors of one seed give a hundred rows without interval, not one row with a narrow one."""
    tensors = [f"layers/{i}/q" for i in range(100)]
    table = measurement_table(
        KEY
        | {
            "granularity": "tensor",
            "tensor": tensors,
            "seed": 0,
            "value": np.random.default_rng(0).standard_normal(100),
        }
    )
    found = summarise(table)
    assert len(found) == 100 and set(found["n_units"].to_pylist()) == {1} and found["ci_lo"].null_count == 100


@pytest.mark.parametrize(
    "statuses, values, status, value, n_units",
    [
        (["ok", "nan", "ok"], [1.0, np.nan, 3.0], "unresolved", 2.0, 2),
        (["ok", "unresolved", "unresolved"], [1.0, 2.0, 3.0], "unresolved", 2.0, 3),
        (["absent", "absent", "nan"], [np.nan] * 3, "absent", None, 0),
        (["degenerate", "ok", "ok"], [9.0, 2.0, 4.0], "unresolved", 3.0, 2),
    ],
)
def test_status_of_an_estimate(statuses, values, status, value, n_units):
    row = summarise(rows(values, status=statuses)).to_pylist()[0]
    assert (row["status"], row["value"], row["n_units"]) == (status, value, n_units)
    assert statuses.count("ok") == 3 or str(3) in row["status_reason"] or "no seed" in row["status_reason"]


def test_reasons_and_kinds_of_null_of_the_replicates_are_carried():
    row = summarise(
        rows(
            [1.0, 2.0],
            status_reason=[None, "non-finite entries in 1 of 30 matrices"],
            null_kind=["gaussian_equal_norm", "halfulp_permuted"],
            null_value=[0.1, 0.3],
        )
    ).to_pylist()[0]
    assert row["status"] == "ok" and row["status_reason"] == "non-finite entries in 1 of 30 matrices"
    assert row["null_kind"] == "gaussian_equal_norm; halfulp_permuted" and row["null_value"] == pytest.approx(0.2)


def test_further_nulls_follow_their_estimate():
    parents = KEY | {"seed": [0, 1, 2], "value": [1.0, 2.0, 3.0]}
    nulls = KEY | {
        "role": "null",
        "of": row_ids(parents) * 2,
        "seed": [0, 1, 2] * 2,
        "value": [1.0, 1.0, 4.0, 0.0, 0.0, 3.0],
        "null_kind": ["x"] * 3 + ["y"] * 3,
    }
    names = sorted(set(parents) | set(nulls))
    joined = {name: [] for name in names}
    for part, n in ((parents, 3), (nulls, 6)):
        for name in names:
            value = part.get(name)
            joined[name] += value if isinstance(value, list) else [value] * n
    found = summarise(measurement_table(joined))
    estimate = select(found, role="estimate")["row_id"].to_pylist()
    assert [
        (row["null_kind"], row["value"], row["of"], row["seed"]) for row in select(found, role="null").to_pylist()
    ] in (
        [("x", 2.0, estimate[0], None), ("y", 1.0, estimate[0], None)],
        [("y", 1.0, estimate[0], None), ("x", 2.0, estimate[0], None)],
    )


def test_over_bases_is_t_over_base_means():
    values = np.random.default_rng(2).standard_normal((3, 4))
    table = measurement_table(
        KEY
        | {
            "seed": np.tile(np.arange(4), 3),
            "value": values.ravel(),
            "conditional_on": np.repeat(["b0", "b1", "b2"], 4),
        }
    )
    found = select(summarise(table, hierarchical=True), unit="base").to_pylist()
    means = values.mean(1)
    expected = scipy.stats.t.interval(0.95, 2, means.mean(), scipy.stats.sem(means))
    assert len(found) == 1 and found[0]["conditional_on"] is None and found[0]["n_units"] == 3
    np.testing.assert_allclose([found[0]["ci_lo"], found[0]["ci_hi"]], expected, rtol=1e-12)
    assert not len(select(summarise(table), unit="base"))


def test_one_base_has_no_row_over_bases_and_no_seed_no_row():
    assert not len(select(summarise(rows([1.0, 2.0]), hierarchical=True), unit="base"))
    assert not len(summarise(summarise(rows([1.0, 2.0]))))


def test_over_bases_takes_the_estimates_of_probes_and_their_nulls_along():
    columns = KEY | {
        "metric": "weight.jaccard",
        "role": "estimate",
        "value": [0.5, 0.7],
        "conditional_on": ["b0", "b1"],
    }
    ids = row_ids(columns)
    nulls = columns | {"role": "null", "of": ids, "null_kind": "independence", "value": [0.2, 0.4]}
    table = pa.concat_tables([measurement_table(columns), measurement_table(nulls)])
    found = summarise(table, hierarchical=True).to_pylist()
    assert [(row["role"], row["n_units"], row["unit"], row["conditional_on"]) for row in found] == [
        ("estimate", 2, "base", None),
        ("null", 2, "base", None),
    ]
    assert found[1]["of"] == found[0]["row_id"]
    assert [row["value"] for row in found] == pytest.approx([0.6, 0.3])
