"""Every kind of comparison and every place of a claim, on curves whose statistics are known in closed form."""

import numpy as np
import pytest
import scipy.stats

from experiments.harness import claims, defaults
from experiments.harness.claims import terms
from experiments.harness.errors import UserError
from jaxpost.records import measurement_table

STEPS = (0, 1, 2, 4, 8)
LAST = dict.fromkeys("abc", 8)
NOISE = (-1e-3, 0.0, 1e-3)


def table(curves, nulls=None, metric="policy.success", **columns):
    """curves: arm -> values at STEPS; every seed has them, shifted by its noise."""
    rows = [{"metric": metric, "arm": arm, "step": step, "seed": seed, "granularity": "policy", "split": "id",
             "value": x + shift, "null_value": None if nulls is None else nulls[arm][t]} | columns
            for arm, values in curves.items() for seed, shift in enumerate(NOISE)
            for t, (step, x) in enumerate(zip(STEPS, values, strict=True))]
    return measurement_table({name: [row[name] for row in rows] for name in rows[0]} | {"role": "seed"})


def everything(table, claim, arm):
    return claims.gates.Gate(True, f"{arm}: counts")


def judged(rows, **fields):
    stated = {"metric": "policy.success", "split": "id", "arms": ("a", "b"), "threshold": 0.05} | fields
    claim = defaults.claim("c", "a claim", **stated)
    (claim,) = claims.placed([claim], {"a": {"rate": 1.0}, "b": {"rate": 10.0}, "c": {"rate": 100.0}})
    claims.fields([claim])
    claims.check([claim])
    return claims.judge([claim], rows, LAST, everything)[0]


RISING = {"a": (0.0, 0.2, 0.4, 0.8, 0.8), "b": (0.0, 0.1, 0.1, 0.4, 0.9), "c": (0.1, 0.1, 0.1, 0.4, 1.0)}


@pytest.mark.parametrize(("fields", "value"), [
    ({"kind": "value", "arms": ("a",)}, 0.8),
    ({"kind": "difference"}, -0.1),
    ({"kind": "ratio"}, np.log(0.8 / 0.9)),
    ({"kind": "slope", "arms": ("a", "b", "c"), "over": "rate", "over_scale": "log"}, 0.1 / np.log(10)),
    ({"kind": "signed_sum", "arms": ("a", "b"), "terms": ((2, {"arm": "a"}), (-0.5, {"arm": "b"}))}, 2 * 0.8 - 0.45),
    ({"at": "mean"}, (0.2 + 0.4 + 0.8 + 0.8) / 4 - (0.1 + 0.1 + 0.4 + 0.9) / 4),
    ({"at": "area"}, (0.1 + 0.3 + 1.2 + 3.2) / 8 - (0.05 + 0.1 + 0.5 + 2.6) / 8),
    ({"kind": "ratio", "at": "reaches", "level": 0.35}, np.log(2 / 4)),
    ({"kind": "order", "arms": ("a",), "at": "reaches", "level": 0.35,
      "against": {"metric": "policy.success", "split": "id", "at": "reaches", "level": 0.7}}, np.log(4 / 2)),
])
def test_statistics_in_closed_form(fields, value):
    assert judged(table(RISING), **fields)["estimate"] == pytest.approx(value, abs=2e-6)


def test_a_sum_says_what_tells_its_terms_apart():
    sides = ((1, {"arm": "a", "split": "ood/x"}), (-2, {"arm": "a", "split": "ood/y", "params": {"mask": "low"}}),
             (1, {"arm": "b", "column": "null_value"}))
    claim = defaults.claim("c", "a claim", "policy.success", ("a", "b"), kind="signed_sum", threshold=0.1, terms=sides,
                           split="id")
    assert claims.contrast(claim) == ("policy.success (split=id): + (a, ood/x) - 2 (a, ood/y, low) + (b, the null), "
                                      "at the last step")


def test_an_excess_is_taken_along_the_whole_curve_of_the_null():
    flat = {arm: np.full(len(STEPS), 0.25) for arm in RISING}
    result = judged(table(RISING, flat), kind="excess_over_null", arms=("a",), at="area")
    assert result["estimate"] == pytest.approx((0.1 + 0.3 + 1.2 + 3.2) / 8 - 0.25, abs=2e-6)


@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "supported"), (0.2, "contradicted"), (0.0505, "inconclusive")])
def test_equivalence_has_a_direction_of_its_own(gap, verdict):
    rows = table({"a": np.asarray(RISING["b"]) + gap + 0.0, "b": RISING["b"]})
    spread = np.asarray([-4e-3, 0, 4e-3])
    values = rows["value"].to_numpy() + np.where(np.asarray(rows["arm"]) == "a", spread[np.asarray(rows["seed"])], 0)
    rows = rows.set_column(rows.schema.get_field_index("value"), "value", [values])
    result = judged(rows, direction="equivalent", threshold=0.0, equivalence_margin=0.05)
    assert result["verdict"] == verdict and (result["p"] < 0.05) == (verdict == "supported")


def test_the_margin_of_a_correlation_is_tested_on_its_own_scale():
    rows = table({"a": np.full(len(STEPS), 0.85)})
    found = judged(rows, kind="value", arms=("a",), scale="fisher", direction="equivalent", threshold=0.0,
                   equivalence_margin=0.86)
    z = np.arctanh(0.85 + np.asarray(NOISE))
    assert found["p"] == pytest.approx(scipy.stats.ttest_1samp(z, np.arctanh(0.86), alternative="less").pvalue, rel=1e-9)
    assert found["verdict"] == "supported" and found["p"] < 0.025


def test_a_run_in_which_the_event_does_not_happen_is_not_dropped():
    late = RISING | {"a": (0.0, 0.2, 0.3, 0.3, 0.3495)}  # two seeds end below the level, one above it
    result = judged(table(late), kind="ratio", at="reaches", level=0.35)
    assert result["verdict"] == "inconclusive" and "did not happen" in result["note"]


def test_what_is_not_stated_must_be_unique_and_the_plain_variant_wins():
    plain, variant = table(RISING), table({arm: np.ones(5) for arm in RISING}, params="alpha=0.5")
    both = measurement_table({n: plain[n].to_pylist() + variant[n].to_pylist() for n in plain.column_names if n != "row_id"})
    assert judged(both)["estimate"] == pytest.approx(-0.1, abs=2e-6)
    assert judged(both, params={"alpha": 0.5})["estimate"] == pytest.approx(0.0, abs=2e-6)
    other = table(RISING, params="alpha=0.3")
    two = measurement_table({n: other[n].to_pylist() + variant[n].to_pylist() for n in plain.column_names if n != "row_id"})
    assert "has several variants: params 'alpha=0.3' or 'alpha=0.5'" in judged(two)["note"]


def test_weights_of_a_slope_give_the_least_squares_slope():
    x, y = np.asarray([1.0, 2.0, 4.0, 7.0]), np.asarray([0.3, -0.2, 1.5, 2.0])
    assert np.dot(terms.slope_weights(x), y) == pytest.approx(np.polyfit(x, y, 1)[0])


@pytest.mark.parametrize(("fields", "message"), [
    ({"kind": "value"}, "takes 1 arms, found 2"),
    ({"at": "reaches"}, "needs the level"),
    ({"kind": "order", "arms": ("a",), "against": {"metric": "policy.success"}}, "compares events; at='final' is none"),
    ({"kind": "order", "arms": ("a",), "at": "half_change"}, "compares with another curve"),
    ({"at": "trend", "against": {"metric": "policy.success"}, "reading": "given_tim"}, "did you mean 'given_time'"),
    ({"kind": "slope", "over": "rates"}, "did you mean 'rate'"),
    ({"kind": "slope"}, "gives no position"),
    ({"splits": "id"}, "field 'splits' is not known.*did you mean 'split'"),
    ({"direction": "equivalent", "threshold": 0.1}, "threshold 0 and a margin above 0"),
    ({"kind": "value", "arms": ("a",), "scale": "fisher", "threshold": 2.0}, "lies between -1 and 1"),
    ({"at": "half_change", "after": {"metric": "policy.success"}}, "needs a metric and the level"),
    ({"at": "trend", "against": {"metric": "policy.succes"}}, "did you mean 'policy.success'"),
    ({"at": "trend", "against": "policy.success"}, "against='policy.success' is str; expected {'metric'"),
    ({"at": "trend", "against": None}, "against=None is NoneType; expected"),
    ({"at": "trend", "against": {"metric": "policy.success", "splt": "id"}}, "'splt' of against is not known; did you mean 's"),
    ({"at": "half_change", "after": {"metric": "policy.success", "level": 0.5, "lvl": 1}}, "'lvl' of after is not known"),
    ({"at": "half_change", "after": ["policy.success"]}, r"after=\['policy.success'\] is list"),
    ({"kind": "order", "arms": ("a",), "at": "half_change", "against": {"metric": "policy.success", "arm": "b"}},
     "against is of arm 'b', and kind 'order' reads it in the claim's own arms"),
    ({"kind": "signed_sum", "terms": ((1, {"arm": "a", "splitt": "id"}),)}, "'splitt' of term is not known; did you mean 'spl"),
    ({"kind": "signed_sum", "terms": ({"arm": "a"},)}, "is no pair"),
    ({"kind": "signed_sum", "terms": ((1, {"arm": "a", "metric": "policy.succes"}),)}, "did you mean 'policy.success'"),
    ({"kind": "signed_sum", "terms": ((1, {"arm": "a", "at": "finl"}),)}, "at='finl'; did you mean 'final'"),
    ({"arms": ("a", "a")}, "arms names 'a' twice"),
    ({"kind": "signed_sum", "arms": ("a", "b", "a"), "terms": ((1, {"arm": "a"}),)}, "arms names 'a' twice"),
])
def test_what_could_not_be_judged_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        judged(table(RISING), **fields)


def test_a_claim_needs_every_arm_that_it_names_and_curves_where_it_reads_one():
    against = {"metric": "policy.success", "arm": "b"}
    trend = defaults.claim("c", "a claim", "policy.success", ("a",), kind="value", at="trend", against=against)
    assert claims.judgeable([trend], ["a"]) == [] and claims.judgeable([trend], ["a", "b"]) == [trend]
    claims.require_curves([trend], {"a": 8, "b": 8})
    mean = defaults.claim("d", "a claim", "policy.success", ("b", "a"), at="mean")
    for claim in (trend, mean):
        with pytest.raises(UserError, match="arm 'b' takes no step and has one measurement.*valid: a"):
            claims.require_curves([claim], {"a": 8, "b": 0})


def test_what_is_not_read_at_a_matched_point_is_refused():
    good = defaults.claim("c", "a claim", "policy.ead", ("a", "b"), at="matched_success")
    term = {**good, "kind": "signed_sum", "terms": ((1, {"arm": "a", "metric": "fit.loss", "at": "matched_kl"}),)}
    claims.require_read([good, {**good, "metric": "weight.update_norm", "at": "matched_norm"}])
    for claim, message in (({**good, "metric": "weight.update_norm"}, "weight.update_norm is not read at 'matched_success'"),
                           ({**good, "metric": "policy.loss_tokens"}, "without policy.loss_tokens"),
                           (term, r"fit.loss is not read at 'matched_kl'; weight.\* and policy.\* are")):
        with pytest.raises(UserError, match=message):
            claims.require_read([claim])
