"""The checker passes what it should, fails what it should, and the shipped files of figures can be read."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxpost import probes, records
from jaxpost.compare import CompareError, expect
from jaxpost.records.rows import select
from tests.compare import checkpoints

SHIPPED = sorted((Path(__file__).parents[2] / "expected").glob("*.json"))


def table(values, **more):
    rows = {"metric": "weight.sparsity.bf16", "role": "estimate", "arm": [f"run{i}" for i in range(len(values))],
            "granularity": "global", "dtype": "bf16", "value": values, "unit": "pair", "n_units": 1}
    return records.measurement_table(rows | more)


FIGURE = checkpoints.figure("sparsity, %", "weight.sparsity.bf16", 53.8, 1.0, {"granularity": "global"}, 100)


@pytest.mark.parametrize(("value", "passes"), [(0.538, True), (0.5479, True), (0.5481, False), (0.5279, False)])
def test_a_figure_passes_inside_its_tolerance_only(value, passes):
    lines, passed = expect.check(table([value]), {"figures": [FIGURE]})
    assert passed is passes and lines[0].startswith("pass" if passes else "FAIL")
    assert f"found {100 * value:.6g}, published 53.8" in lines[0] and lines[0].endswith("[planted]")


def test_a_relative_tolerance_is_a_share_of_the_figure():
    figure = FIGURE | {"relative": True, "tolerance": 0.02}
    assert expect.check(table([0.548]), {"figures": [figure]})[1]
    assert not expect.check(table([0.550]), {"figures": [figure]})[1]


def test_what_was_not_measured_or_is_not_unique_fails_and_says_so():
    lines, passed = expect.check(table([0.538]), {"figures": [FIGURE | {"metric": "weight.rank.stable"}]})
    assert not passed and "not measured (0 rows match)" in lines[0]
    lines, passed = expect.check(table([0.538, 0.538]), {"figures": [FIGURE]})
    assert not passed and "2 tuned checkpoints have it, name one in where" in lines[0]
    assert expect.check(table([0.538, 0.1]), {"figures": [FIGURE | {"where": {"arm": "run0"}}]})[1]
    lines, passed = expect.check(table([0.538]), {"figures": [FIGURE | {"where": {"tensr": "embed"}}]})
    assert not passed and "column 'tensr' is not in the table" in lines[0]


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not JSON"), ("[]", "an object with a list of figures"), ('{"figures": []}', "an object with a list of figures"),
    ('{"figures": [{"name": "x"}]}', "figure 0 needs confidence, expected, metric, name, tolerance"),
    (json.dumps({"figures": [FIGURE | {"confidence": "sure"}]}), "confidence is one of read"),
    (json.dumps({"figures": [FIGURE | {"tolerence": 1}]}), "may have"),
    (json.dumps({"figures": [FIGURE | {"expected": "53.8"}]}), "expected is '53.8', expected a number"),
    (json.dumps({"figures": [FIGURE | {"tolerance": float("nan")}]}), "tolerance is nan, expected a number"),
    (json.dumps({"figures": [FIGURE | {"where": ["global"]}]}), "expected columns and values"),
    (json.dumps({"figures": [FIGURE | {"where": {"metric": "x"}}]}), "where names a metric"),
    (json.dumps({"figures": [FIGURE | {"metric": 3}]}), "metric is 3"), ("[" * 99999, "not JSON"),
    (json.dumps({"figures": [FIGURE | {"expected": 10**400}]}), "expected a number")])
def test_a_file_that_is_wrong_is_refused_before_anything_is_read(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CompareError, match=message):
        expect.read(tmp_path / "x.json")


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_figures_name_known_metrics_and_columns(path):
    found = expect.read(path)
    assert {"base", "tuned", "level", "source"} <= set(found)
    for figure in found["figures"]:
        assert figure["metric"] in probes.METRICS and np.isfinite(figure["expected"]) and figure["tolerance"] > 0
        assert figure["confidence"] != "planted" and figure["source"]
        select(table([0.5]), **figure["where"])  # raises for a column that rows do not have


def test_there_are_shipped_figures():
    assert "deepscaler" in [path.stem for path in SHIPPED]
