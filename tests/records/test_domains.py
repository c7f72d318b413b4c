"""Intervals of shares, norms and ranks stay where their values can lie, keep their coverage, and never lose the value."""

import math

import numpy as np
import pytest

from jaxpost import probes, stats
from jaxpost.probes.base import Metric
from jaxpost.records import measurement_table
from jaxpost.records.domains import ends, within

METRICS = {"share": {"domain": "[0, 1]"}, "norm": Metric("norm", "|x|", "1", "", "", "", "", domain="[0, inf)"), "any": {}}


def rows(metric, role="estimate", **numbers):
    return measurement_table({"metric": [metric], "role": role, "granularity": "global",
                              "params": [numbers.pop("params", None)]} | {name: [x] for name, x in numbers.items()})


@pytest.mark.parametrize("metric, found, wanted", [
    ("share", (0.98, 0.9, 1.06), (0.9, 1.0)), ("share", (0.01, -0.2, 0.3), (0.0, 0.3)), ("norm", (0.1, -1.0, 5.0), (0.0, 5.0)),
    ("any", (0.1, -1.0, 5.0), (-1.0, 5.0)), ("share", (1.0 + 1e-12, 0.9, 1.2), (0.9, 1.0 + 1e-12))])
def test_ends_are_cut_where_no_value_lies(metric, found, wanted):
    value, lo, hi = found
    table = rows(metric, value=value, ci_lo=lo, ci_hi=hi, null_value=value, null_lo=lo, null_hi=hi, null_kind="blind")
    row = within(table, METRICS).to_pylist()[0]
    assert (row["ci_lo"], row["ci_hi"]) == (row["null_lo"], row["null_hi"]) == wanted and row["value"] == value
    assert within(within(table, METRICS), METRICS).equals(within(table, METRICS))


def test_differences_and_missing_ends_are_left_alone():
    table = rows("share", role="claim", value=-0.1, ci_lo=-0.3, ci_hi=0.1, params="claim=a;quantity=estimate")
    assert within(table, METRICS)["ci_lo"].to_pylist() == [-0.3]
    bare = within(rows("share", value=0.5), METRICS).to_pylist()[0]
    assert bare["ci_lo"] is None and bare["null_hi"] is None


def test_an_interval_that_is_cut_covers_as_often():
    rng = np.random.default_rng(0)
    seeds = rng.beta(0.6, 0.15, (20_000, 5))  # a skewed share near one: the t interval sticks out
    value, lo, hi = stats.t_interval(seeds)
    mean = 0.6 / 0.75
    cut = np.clip(lo, *ends("[0, 1]")), np.clip(hi, *ends("[0, 1]"))
    assert np.mean(hi > 1) > 0.2
    assert np.mean((cut[0] <= mean) & (mean <= cut[1])) == np.mean((lo <= mean) & (mean <= hi))


def test_domains_are_written_one_way_and_shares_norms_and_ranks_have_one():
    assert ends("[0, inf)") == (0, math.inf) and ends("") == ends("open: why") == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="domain '0..1' is not two ends such as"):
        ends("0..1")
    for name, metric in probes.METRICS.items():
        ends(metric.domain)
        if metric.definition.startswith("share of") or ".rank." in name or ".kl_" in name or name.endswith("_norm"):
            assert metric.domain, name
    assert probes.METRICS["policy.success"].domain == "[0, 1]"
    assert probes.METRICS["weight.stripes.excess"].domain.startswith("open:")
