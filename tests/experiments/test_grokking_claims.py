"""Turns of curves in closed form, and verdicts on planted trajectories."""

import numpy as np
import pytest

from experiments.grokking_shared import claims
from experiments.harness import config as configs
from experiments.harness.errors import UserError
from jaxpost import records

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def sigmoid(step, centre, low=0.0, high=1.0, sharp=8.0):
    return low + (high - low) / (1 + np.exp(-sharp * (np.log(step) - np.log(centre))))


@pytest.mark.parametrize("centre", [5.0, 20.0, 90.0])
def test_the_half_change_of_a_symmetric_turn_is_its_centre(centre):
    grid = np.unique(np.geomspace(1, 1000, 400))
    for low, high in ((0.0, 1.0), (7.0, -2.0)):
        assert claims.half_change(grid, sigmoid(grid, centre, low, high)) == pytest.approx(centre, rel=0.02)


def test_the_half_change_counts_the_last_crossing_from_the_farthest_value():
    hump = [3.0, 6.0, 9.0, 5.0, 1.0]  # rises before it falls: the midpoint of 9 and 1 is crossed for good at 8
    assert claims.half_change([1, 2, 4, 8, 16], hump) == pytest.approx(8)
    wave = [0.0, 10.0, 0.0, 10.0, 10.0]
    assert claims.half_change([1, 2, 4, 8, 16], wave) == pytest.approx(np.sqrt(32))
    assert claims.half_change([1, 2, 4, 8, 16], 3 - 2 * np.asarray(hump)) == pytest.approx(8)  # any affine map
    for lost in ([], [2.0, 2.0, 2.0], [1.0, np.nan, 2.0]):
        assert np.isnan(claims.half_change([1, 2, 4][: len(lost)], lost))


def test_the_first_step_at_a_level():
    assert claims.reached([1, 2, 4], [0.5, 0.99, 0.7], 0.99) == 2 and np.isnan(claims.reached([1, 2], [0.1, 0.2], 0.99))


def rows_of(curves):
    """A table from {(arm, seed): {(metric, split, params, kind): values}}."""
    rows = []
    for (arm, seed), found in curves.items():
        for (metric, split, params), values in found.items():
            for step, value in zip(STEPS, values, strict=True):
                rows.append({"arm": arm, "role": "seed", "seed": seed, "step": step, "metric": metric, "split": split,
                             "params": params, "granularity": "policy", "value": float(value)})
    return records.measurement_table({name: [row[name] for row in rows] for name in rows[0]})


def trajectories(turn=(30.0, 33.0, 36.0), ratio=0.5, top=1.0, control=0.0, sharp=40.0):
    """Arm grok turns at `turn`, its restricted loss at `ratio` of that; arm no-decay memorises and ends at `control`."""
    curves = {}
    for seed, centre in enumerate(turn):
        x = np.asarray(STEPS, float)
        curves["grok", seed] = {
            ("fit.accuracy", "train", None): sigmoid(x, 3.0, sharp=40.0),
            ("fit.accuracy", "id", None): sigmoid(x, centre, sharp=40.0) * top,
            ("fit.loss", "id", None): sigmoid(x, centre, 5.0, 0.0, sharp),
            ("fourier.restricted_loss", None, "rule=x"): sigmoid(x, centre * ratio, 3.0, 0.0, sharp),
            ("fourier.excluded_loss", "train", "rule=x;which=single"): sigmoid(x, 4.0),
            ("fourier.excluded_loss", "train", "rule=x;which=all"): sigmoid(x, centre * ratio, 0.0, 3.0, sharp)}
        curves["no-decay", seed] = {("fit.accuracy", "train", None): sigmoid(x, 3.0, sharp=40.0),
                                    ("fit.accuracy", "id", None): np.full(len(x), control + 0.001 * seed)}
    return rows_of(curves)


def judged(name, table):
    stated = {c["id"]: c for c in configs.module("grokking_modular").CLAIMS}
    (result,) = claims.judge([stated[name]], table, 0.99, 0.95)
    return result


@pytest.mark.parametrize(("name", "given", "verdict"), [
    ("restricted-before-test", {}, "supported"),
    ("excluded-before-test", {}, "supported"),
    ("restricted-before-test", {"ratio": 1.0}, "practically equivalent"),
    ("restricted-before-test", {"ratio": 2.0}, "contradicted"),
    ("restricted-before-test", {"top": 0.9}, "inconclusive"),  # never generalised
    ("memorised-first", {}, "supported"),
    ("memorised-first", {"turn": (3.0, 3.2, 3.1)}, "practically equivalent"),
    ("decay-is-needed", {}, "supported"),
    ("decay-is-needed", {"control": 0.99}, "practically equivalent"),
])
def test_verdicts_follow_the_planted_order(name, given, verdict):
    result = judged(name, trajectories(**given))
    assert result["verdict"] == verdict, result
    assert "grok: mean test_accuracy " in result["note"]
    if given.get("top") and name != "memorised-first":
        assert "supports nothing" in result["note"]


def test_a_lead_is_the_logarithm_of_the_ratio_of_turns():
    result = judged("restricted-before-test", trajectories(ratio=0.25))
    assert result["estimate"] == pytest.approx(np.log(4), abs=0.15) and result["n_units"] == 3
    assert result["ci_lo"] < result["estimate"] < result["ci_hi"]


def test_a_seed_without_a_turn_leaves_the_claim_open():
    result = judged("gini-before-test", trajectories())
    assert result["verdict"] == "inconclusive" and "no seed has both curves" in result["note"]


def test_claims_that_cannot_be_judged_are_refused():
    stated = configs.module("grokking_modular").CLAIMS
    assert sum(c["primary"] for c in stated) == 4
    with pytest.raises(UserError, match="curve='restricted_los'.*did you mean 'restricted_loss'"):
        claims.checked([stated[0] | {"curve": "restricted_los"}], ("grok",))
    with pytest.raises(UserError, match="kind='leads'.*did you mean 'lead'"):
        claims.checked([stated[0] | {"kind": "leads"}], ("grok",))
    assert {a for c in claims.checked(stated, ("grok",)) for a in c["arms"]} == {"grok"}
