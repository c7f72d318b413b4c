"""Claims: verdicts on synthetic rows with known answers, the learning gate, Holm, refusals."""

import re

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from experiments.harness import claims
from experiments.harness.errors import UserError
from jaxpost.records import measurement_table

BASE = "b" * 16
ENDS = dict.fromkeys("ab", claims.End(9))
LAST = dict.fromkeys("ab", 9)
CLAIM = {"id": "c", "primary": True, "kind": "difference", "statement": "a beats b", "metric": "weight.sparsity.bf16",
         "dtype": "bf16", "arms": ("a", "b"), "at": "final", "direction": "greater", "threshold": 0.02,
         "equivalence_margin": 0.02}


def table(sparsity, success, base=0.4, nulls=None, bases=(BASE,)):
    """sparsity, success: arm -> value of each seed."""
    flat = []
    for b in bases:
        for arm, values in sparsity.items():
            for seed, v in enumerate(values):
                flat.append({"metric": "weight.sparsity.bf16", "arm": arm, "step": 9, "seed": seed, "granularity": "global",
                             "dtype": "bf16", "value": v, "conditional_on": b,
                             "null_value": None if nulls is None else nulls[arm][seed]})
                for name, at, value in ((arm, 9, success[arm][seed]), ("base", 0, base)):
                    if name != "base" or arm == next(iter(sparsity)):
                        flat.append({"metric": "policy.success", "arm": name, "step": at, "seed": seed,
                                     "granularity": "policy", "split": "id", "value": value, "conditional_on": b})
    names = dict.fromkeys(n for row in flat for n in row)
    return measurement_table({n: [row.get(n) for row in flat] for n in names} | {"role": "seed"})


def judged(stated, rows):
    return claims.judge(stated, rows, LAST, claims.gates.success_moved(ENDS))


LEARNED = {"a": [0.6, 0.61, 0.62, 0.6, 0.59], "b": [0.7, 0.71, 0.7, 0.69, 0.7]}
NOISE = np.asarray([-1, 0.5, 0.2, 0.9, -0.6]) * 1e-3


@pytest.mark.parametrize("difference, verdict", [(0.1, "supported"), (0.0, "practically equivalent"),
                                                 (-0.1, "contradicted"), (0.0205, "inconclusive")])
def test_verdicts(difference, verdict):
    rows = table({"a": 0.5 + difference + NOISE, "b": 0.5 - NOISE}, LEARNED)
    result = judged([CLAIM], rows)[0]
    assert result["verdict"] == verdict
    assert result["estimate"] == pytest.approx(difference, abs=1e-3) and result["n_units"] == 5
    assert result["ci_lo"] < result["estimate"] < result["ci_hi"]


def test_a_control_that_is_not_meant_to_learn_may_stay_flat():
    rows = table({"a": 0.6 + NOISE, "b": 0.5 - NOISE}, LEARNED | {"b": [0.4, 0.41, 0.39, 0.4, 0.4]})
    assert judged([CLAIM], rows)[0]["verdict"] == "inconclusive"
    (found,) = claims.judge([CLAIM], rows, LAST, claims.gates.success_moved(ENDS, first_only=True))
    assert found["verdict"] == "supported"


def rising(moved):
    """Success of a base is 0.4 on every split; moved: (arm, split[, step 9]) -> by how much more an arm has there."""
    flat = [{"arm": "base", "split": split, "step": 0, "value": 0.4} for split in ("id", "copying")]
    flat += [{"arm": arm, "split": split, "step": (*at, 9)[0], "value": 0.4 + x} for (arm, split, *at), x in moved.items()]
    rows = [row | {"seed": seed, "value": row["value"] + NOISE[seed]} for row in flat for seed in range(5)]
    return measurement_table({n: [row[n] for row in rows] for n in rows[0]} | {
        "role": "seed", "metric": "policy.success", "granularity": "policy", "conditional_on": BASE})


MADE = {"sums": claims.End(9), "copying": claims.End(9, "copying"), "added": claims.End(0, "id", ("sums", "copying")),
        "halved": claims.End(0, "id", ("added",)), "control": claims.End(9)}


@pytest.mark.parametrize("arm", ["added", "halved"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("sums", "copying", "passed"), [(0.1, 0.1, True), (0.1, 0.0, False), (0.0, 0.1, False)])
def test_an_arm_that_is_made_of_others_needs_each_to_learn_its_own_task(arm, first, sums, copying, passed):
    """Also where it is compared with and the controls need not learn; on the other task an adapter may do as it likes."""
    rows = rising({("sums", "id"): sums + 1e-3, ("copying", "copying"): copying + 1e-3, ("sums", "copying"): 0.3,
                   ("copying", "id"): -0.3, ("control", "id"): 1e-3})
    claim = {"arms": (arm, "control") if first else ("sums", arm)}
    found = claims.gates.success_moved(MADE, first_only=True)
    assert found(rows, claim, arm).passed is passed and found(rows, {"arms": ("sums", "control")}, "control").passed
    assert claims.gates.success_moved(MADE)(rows, claim, arm).passed is passed


@pytest.mark.parametrize(("since", "start", "passed", "words"), [
    ("base", claims.Start("sft", 9), True, r"by \+0.160 \[.*\] since base, by \+0.010 \[.*\] since sft"),
    ("start", claims.Start("sft", 9), False, r"by \+0.010 \[.*\] since sft, by \+0.160 \[.*\] since base"),
    ("start", claims.Start("rl", 3), True, r"by \+0.060 \[.*\] since its start, by \+0.160 \[.*\] since base"),
    ("start", claims.Start(), True, r"by \+0.160 \[.*\]$"),
])
def test_an_arm_that_goes_on_from_another_is_judged_with_it_or_by_its_own_stage(since, start, passed, words):
    rows = rising({("sft", "id"): 0.15, ("rl", "id", 3): 0.1, ("rl", "id"): 0.16})
    gate = claims.gates.success_moved({"rl": claims.End(9, start=start)}, since=since)(rows, {"arms": ("rl",)}, "rl")
    assert gate.passed is passed and re.search(words, gate.note)


def test_one_run_has_no_interval_and_supports_nothing():
    (found,) = judged([CLAIM], table({"a": [0.9], "b": [0.5]}, {"a": [0.7], "b": [0.7]}))
    assert found["verdict"] == "inconclusive" and "moved by +0.300 (one run, no interval)" in found["note"]


def test_an_arm_that_did_not_learn_supports_nothing():
    success = LEARNED | {"a": [0.4, 0.41, 0.39, 0.4, 0.4]}
    result = judged([CLAIM], table({"a": 0.9 + NOISE, "b": 0.5 - NOISE}, success))[0]
    assert result["verdict"] == "inconclusive" and "did not learn" in result["note"]


def test_an_arm_whose_seeds_disagree_about_learning_supports_nothing():
    """Its mean success moved by 0.1, and the interval of that holds 0."""
    success = LEARNED | {"a": [1.0, 0.1, 0.9, 0.1, 0.4]}
    result = judged([CLAIM], table({"a": 0.9 + NOISE, "b": 0.5 - NOISE}, success))[0]
    assert result["verdict"] == "inconclusive" and "did not learn" in result["note"]


def test_the_excess_is_taken_over_each_seeds_own_null():
    claim = CLAIM | {"kind": "excess_over_null", "arms": ("a",), "direction": "less", "threshold": -0.01,
                     "equivalence_margin": 0.01}
    rows = table({"a": 0.4 + NOISE}, {"a": LEARNED["a"]}, nulls={"a": 0.5 - NOISE})
    result = judged([claim], rows)[0]
    assert result["verdict"] == "supported" and result["estimate"] == pytest.approx(-0.1, abs=1e-3)


def test_holm_over_primary_claims_only():
    rows = table({"a": 0.6 + NOISE, "b": 0.5 - NOISE}, LEARNED)
    two = judged([CLAIM, CLAIM | {"id": "d"}, CLAIM | {"id": "e", "primary": False}], rows)
    assert two[0]["p_holm"] == pytest.approx(2 * two[0]["p"]) and np.isnan(two[2]["p_holm"])


def test_several_bases_are_the_unit():
    rows = table({"a": 0.6 + NOISE, "b": 0.5 - NOISE}, LEARNED, bases=(BASE, "c" * 16, "d" * 16))
    result = judged([CLAIM], rows)[0]
    assert result["n_units"] == 3 and result["unit"] == "base"


def test_the_test_over_bases_is_that_of_their_means():
    shift = {BASE: 0.05, "c" * 16: 0.1, "d" * 16: 0.3}
    rows = pa.concat_tables([table({"a": 0.5 + x + NOISE, "b": 0.5 - NOISE}, LEARNED, bases=(b,)) for b, x in shift.items()])
    means = [x + 2 * NOISE.mean() for x in shift.values()]
    result = judged([CLAIM], rows)[0]
    assert result["p"] == pytest.approx(scipy.stats.ttest_1samp(means, CLAIM["threshold"], alternative="greater").pvalue)
    interval = scipy.stats.t.interval(0.95, 2, np.mean(means), scipy.stats.sem(means))
    assert (result["ci_lo"], result["ci_hi"]) == pytest.approx(interval)
    uneven = measurement_table({name: rows[name] for name in rows.column_names if name != "row_id"} | {"value": pa.array(
        [None if (r["metric"], r["arm"], r["seed"], r["conditional_on"]) == (CLAIM["metric"], "a", 0, BASE) else r["value"]
         for r in rows.to_pylist()])})
    result = judged([CLAIM], uneven)[0]  # one seed of one base has no value: its base has the mean of the others
    means[0] = shift[BASE] + 2 * NOISE[1:].mean()
    assert (result["n_units"], result["estimate"]) == (3, pytest.approx(np.mean(means)))


def test_a_run_that_is_not_measured_on_the_test_split_does_not_count():
    rows = [{"metric": "fit.accuracy", "arm": "a", "step": 9, "seed": seed, "granularity": "experiment", "split": split,
             "value": 1.0} for seed in range(3) for split in ("train", "id")[:1 + (seed < 2)]]
    gate = claims.gates.runs_reached("fit.accuracy", 0.9)
    found = gate(measurement_table({name: [r[name] for r in rows] for name in rows[0]} | {"role": "seed"}), CLAIM, "a")
    assert found.counted == {(None, 0), (None, 1)} and "2 of 3 seeds count" in found.note


def test_a_fall_is_known_over_bases_not_over_all_their_seeds():
    rows = [{"metric": "fit.loss", "arm": "a", "step": step, "seed": seed, "granularity": "global", "value": x,
             "conditional_on": base * 16} for base, last in zip("bcd", (0.9, 0.5, 0.1)) for seed in range(5)
            for step, x in ((0, 1.0), (9, last))]
    gate = claims.gates.fell("fit.loss", 0.1)
    found = gate(measurement_table({name: [r[name] for r in rows] for name in rows[0]} | {"role": "seed"}), CLAIM, "a")
    lo, hi = scipy.stats.t.interval(0.95, 2, 0.5, scipy.stats.sem([0.1, 0.5, 0.9]))
    assert not found.passed and f"[{lo:.2f}, {hi:.2f}]" in found.note


def test_bad_claims_are_refused_before_any_compute():
    with pytest.raises(UserError, match="did you mean 'difference'"):
        claims.check([CLAIM | {"kind": "diference"}], ["id"])
    with pytest.raises(UserError, match="threshold"):
        claims.check([CLAIM | {"threshold": 0.0}], ["id"])
    with pytest.raises(UserError, match="at most 4"):
        claims.check([CLAIM] * 5, ["id"])


@pytest.mark.parametrize(("field", "value", "message"), [
    ("threshold", "x", "expected a finite number"), ("threshold", float("nan"), "expected a finite number"),
    ("equivalence_margin", True, "expected a finite number"), ("primary", "yes", "expected True or False"),
    ("params", "x", "expected a table"), ("k", "x", "expected a whole number"), ("layer", 1.5, "expected a whole number"),
    ("dtype", "fp8", "(valid: bf16, fp32)"), ("granularity", "tensr", "did you mean 'tensor'"),
    ("arms", "ab", "expected a list (each a text)"), ("arms", (1, 2), "expected a list (each a text)"),
    ("id", "a=b", "without '=' and ';'"), ("id", "", "an id is text"), ("id", 3, "expected a text"),
    ("statement", 3, "expected a text"), ("terms", 3, "terms=3; expected"), ("kind", ("value",), "expected a text")])
def test_a_claim_holds_what_rows_can_have(field, value, message):
    with pytest.raises(UserError) as error:
        claims.fields([CLAIM | {field: value}])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("stated", [None, {"id": "x"}, ("x",), [CLAIM, CLAIM]])
def test_claims_are_a_tuple_of_different_claims(stated):
    claims.fields([CLAIM, CLAIM | {"id": "another"}])
    with pytest.raises(UserError, match="expected a tuple of claims|expected {'id'|an id is text of its own"):
        claims.fields(stated)


def test_where_no_seed_has_a_value_the_note_says_what_the_rows_say():
    rows = [{"metric": "weight.sparsity.bf16", "arm": arm, "seed": 0, "granularity": "global", "dtype": "bf16", "value": None,
             "step": step, "params": params, "conditional_on": BASE, "status": "absent", "status_reason": reason}
            for arm, step, params, reason in (("a", None, "among=a+b;at=matched_success;on=id", "outside the range"),
                                              ("b", 9, None, "something else"))]
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"role": "seed"}
    (result,) = claims.judge([CLAIM | {"at": "matched_success"}], measurement_table(columns), LAST,
                             lambda table, claim, arm: claims.gates.Gate(True, "counts"))
    assert "every term and counts (a: outside the range); " in result["note"]
