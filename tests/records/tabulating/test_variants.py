"""Which rows a cell or a curve shows: one reading for all arms, no matched points, bases before one base."""

import numpy as np
import pytest

from jaxpost.records import measurement_table
from jaxpost.records.drawing.curves import Missing, by_arm, measured, replicates
from jaxpost.records.drawing.figures import read_arrays
from jaxpost.records.drawing.maps import masks
from jaxpost.records.tabulating.variants import arm_order, last_steps, variant, variant_label

KEY = {
    "metric": "m",
    "role": "estimate",
    "arm": ["a", "b"],
    "step": 1,
    "granularity": "global",
    "dtype": "fp32",
    "value": 1.0,
}


def rows(*changes):
    parts = [KEY | change for change in changes]
    columns = {name: [] for name in set().union(*parts)}
    for part in parts:
        for name in columns:
            value = part.get(name)
            columns[name] += value if isinstance(value, list) else [value] * 2
    return measurement_table(columns)


@pytest.mark.parametrize(
    "preferred, other",
    [
        ({}, {"dtype": "bf16"}),
        ({}, {"granularity": "body"}),
        ({}, {"params": "weighting=by_tensor"}),
        ({"params": "reduce=token_mean"}, {"params": "reduce=sequence_sum"}),
        ({"k": 16}, {"k": 4}),
        ({"params": "alpha=0.5"}, {"params": "alpha=0.3"}),
        ({"side": "left"}, {"side": "right"}),
        ({}, {"params": "among=all;at=matched_norm", "step": None}),
        ({"unit": "base"}, {"conditional_on": "b0"}),
        ({"conditional_on": "b0"}, {"conditional_on": "b1"}),
    ],
)
def test_all_arms_are_shown_by_the_preferred_reading(preferred, other):
    found = variant(rows(other, preferred), "m").to_pylist()
    assert len(found) == 2
    assert all(row[name] == value for row in found for name, value in (preferred | {"dtype": "fp32"}).items())


def test_rows_of_single_matrices_are_never_shown():
    assert not len(
        variant(rows({"granularity": "tensor", "tensor": "q"}, {"granularity": "kind", "module_kind": "q"}), "m")
    )
    with pytest.raises(Missing, match="no estimates of m with side=left"):
        measured(rows({}), "m", side="left")


def test_reading_in_words_and_order_of_arms():
    row = rows({"k": 16, "side": "left", "params": "alpha=0.5", "granularity": "body"}).to_pylist()[0]
    assert variant_label(row) == "fp32, left, k=16, alpha=0.5, body" and variant_label(row, with_dtype=False).startswith("left")
    assert arm_order(["permuted", "sft-lr0", "rlvr-sgd", "base", "raft", "rlvr-lr1"]) == [
        "base", "rlvr-lr1", "rlvr-sgd", "raft", "sft-lr0", "permuted"]  # fmt: skip


def test_each_arm_ends_at_its_own_last_step():
    table = rows({"step": [1, 2]}, {"step": [3, 1]})
    assert sorted((row["arm"], row["step"]) for row in last_steps(table).to_pylist()) == [("a", 3), ("b", 2)]
    np.testing.assert_array_equal(by_arm(table, "value")["a"]["step"], [1, 3])


def test_the_caption_counts_replicates_of_trained_arms():
    table = rows({"arm": ["base", "rlvr"], "n_units": [1, 5], "unit": "seed"})
    assert replicates(rows({"n_units": 5, "unit": "seed", "ci_lo": 0.5})) == "mean over 5 seeds with 95% interval"
    assert replicates(table) == "5 seeds, no interval"


def test_maps_show_one_base(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b")
    for base in (0, 1):
        bundle.write_arrays(f"base{base}-masks", run.masks(("permuted",)))
    assert masks(None, read_arrays(tmp_path / "b")).arrays == ["base0-masks"]
