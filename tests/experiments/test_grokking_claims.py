"""Verdicts of the grokking claims on planted trajectories."""

import numpy as np
import pytest

from experiments.harness import claims
from experiments.harness import config as configs
from jaxpost import records

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def sigmoid(step, centre, low=0.0, high=1.0, sharp=8.0):
    return low + (high - low) / (1 + np.exp(-sharp * (np.log(step) - np.log(centre))))


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
    last = dict.fromkeys(("grok", "no-decay"), STEPS[-1])
    (result,) = claims.judge([stated[name]], table, last, claims.gates.mean_reached("fit.accuracy", "id", 0.99, "train"))
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
    assert "grok: mean fit.accuracy (id) " in result["note"]
    if given.get("top") and name != "memorised-first":
        assert "supports nothing" in result["note"]


def test_a_lead_is_the_logarithm_of_the_ratio_of_turns():
    result = judged("restricted-before-test", trajectories(ratio=0.25))
    assert result["estimate"] == pytest.approx(np.log(4), abs=0.15) and result["n_units"] == 3
    assert result["ci_lo"] < result["estimate"] < result["ci_hi"]


def test_a_seed_without_a_turn_leaves_the_claim_open():
    result = judged("gini-before-test", trajectories())
    assert result["verdict"] == "inconclusive" and "no seed has the value in every term" in result["note"]
