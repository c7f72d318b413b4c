"""Rank correlations over arms: a claim read from rows, with the permutations by enumeration and scipy's correlation."""

import itertools

import numpy as np
import pytest
import scipy.stats

from experiments.harness import claims, defaults
from experiments.harness.errors import UserError
from jaxpost.records import measurement_table

ARMS = ("a", "b", "c", "d", "e")
SEEDS = 3
X = np.asarray([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 3.0, 2.0, 4.0, 5.0], [2.0, 1.0, 3.0, 5.0, 4.0]])
Y = np.asarray([[0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.4, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5]])


def table(x_SxA=X, y_SxA=Y, arms=ARMS):
    """The statistic stands after steps 1 and 3 with x as its mean, the outcome rises from 0 to 2 y with area y."""
    rows = [{"metric": metric, "arm": arm, "step": step, "seed": seed, "split": split, "value": value, "granularity": "policy"}
            for seed, (x_A, y_A) in enumerate(zip(x_SxA, y_SxA)) for arm, x, y in zip(arms, x_A, y_A)
            for metric, split, step, value in (
                ("policy.effective_rows", None, 1, x - 0.5), ("policy.effective_rows", None, 3, x + 0.5),
                ("policy.success", "id", 0, 0.0), ("policy.success", "id", 4, 2 * y))]
    return measurement_table({name: [row[name] for row in rows] for name in rows[0]} | {"role": "seed"})


def stated(**fields):
    against = {"metric": "policy.success", "split": "id", "at": "area"}
    return defaults.claim("c", "a claim", "policy.effective_rows", fields.pop("arms", ARMS), kind="rank_correlation", at="mean",
                          **{"against": against, "threshold": 0.3} | fields)


def judged(rows, last=4, **fields):
    claim = stated(**fields)
    claims.fields([claim])
    claims.check([claim], splits=("id",))
    return claims.judge([claim], rows, dict.fromkeys("abcdefghi", last), lambda *_: claims.gates.Gate(True, "counts"))[0]


def test_the_claim_is_the_mean_over_seeds_and_p_is_by_enumeration():
    def mean_rho(order):
        return np.mean([scipy.stats.spearmanr(x, y[list(order)]).statistic for x, y in zip(X, Y)])

    value = mean_rho(range(5))
    p = np.mean([mean_rho(order) >= value - 1e-12 for order in itertools.permutations(range(5))])
    result = judged(table())
    assert result["estimate"] == pytest.approx(value, abs=1e-12) and result["p"] == pytest.approx(p, abs=1e-12)
    rho_S = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(X, Y)]
    assert result["ci_lo"] == pytest.approx(scipy.stats.ttest_1samp(rho_S, 0).confidence_interval(0.95).low, abs=1e-12)
    assert result["verdict"] == "supported" and "all 120 permutations" in result["note"] and result["n_units"] == SEEDS
    assert result["contrast"] == ("rank correlation over 5 arms of policy.effective_rows, mean over the measured steps, with "
                                  "policy.success (split=id), averaged over training (area under the curve)")


def test_the_sign_counts_and_reversed_arms_contradict():
    result = judged(table(y_SxA=-Y))
    assert result["verdict"] == "contradicted" and result["p"] > 0.95 and result["ci_lo"] == -1.0  # where a correlation ends
    assert judged(table(y_SxA=-Y), direction="less", threshold=-0.3)["verdict"] == "supported"


def test_an_order_that_few_arms_have_by_chance_is_not_supported_by_replicates_of_it():
    """Four arms in one order in all seeds: the interval over seeds is a point, and 4 of 24 orders agree as well."""
    same = np.tile([1.0, 2.0, 4.0, 3.0], (SEEDS, 1))
    result = judged(table(same, np.tile([0.1, 0.2, 0.3, 0.4], (SEEDS, 1)), ARMS[:4]), arms=ARMS[:4])
    assert result["estimate"] == pytest.approx(0.8) and result["p"] == pytest.approx(4 / 24)
    assert result["verdict"] == "inconclusive" and result["note"].startswith("so few arms are ordered so by chance")


@pytest.mark.parametrize(("direction", "sign"), [("greater", -1), ("less", 1)])
def test_an_order_that_few_arms_have_by_chance_contradicts_nothing_either(direction, sign):
    """The same four arms in the order opposite to what is claimed: p of the other direction is 4 of 24 as well."""
    same, up = np.tile([1.0, 2.0, 4.0, 3.0], (SEEDS, 1)), np.tile([0.1, 0.2, 0.3, 0.4], (SEEDS, 1))
    result = judged(table(same, sign * up, ARMS[:4]), arms=ARMS[:4], direction=direction,
                    threshold=0.3 if direction == "greater" else -0.3)
    assert result["estimate"] == pytest.approx(0.8 * sign) and result["p"] == pytest.approx(23 / 24)
    assert result["verdict"] == "inconclusive" and result["note"].startswith("so few arms are ordered so by chance")
    assert "p = 0.17" in result["note"]


def test_a_seed_whose_arms_all_tie_has_no_correlation_and_is_left_out():
    tied = Y.copy()
    tied[1] = 0.2
    result = judged(table(y_SxA=tied))
    assert result["n_units"] == 2 and result["estimate"] == pytest.approx((1 + scipy.stats.spearmanr(X[2], Y[2]).statistic) / 2)
    nothing = judged(table(y_SxA=np.full_like(Y, 0.2)))
    absent = judged(table(y_SxA=np.concatenate([np.full_like(Y[:, :1], np.nan), Y[:, 1:]], axis=1)))  # an arm has no value
    for result in (nothing, absent):
        assert result["verdict"] == "inconclusive" and "no seed has the value" in result["note"]


@pytest.mark.parametrize(("fields", "message"), [
    ({"arms": ("a", "b", "c")}, "takes at least 4 arms, found 3"),
    ({"against": {"split": "id"}}, "state against="),
    ({"against": {"metric": "policy.success", "split": "idd"}}, "split='idd'; did you mean 'id'"),
    ({"against": {"metric": "policy.success", "at": "matched_norm"}}, "at='matched_norm'; a rank correlation over arms is"),
    ({"arms": ("a", "b", "c", "d", "a")}, "arms names 'a' twice"),
    ({"against": {"metric": "policy.success", "att": "area"}}, "'att' of against is not known; did you mean 'at'"),
    ({"against": {"metric": "policy.success", "arm": "a"}}, "against is of arm 'a', and kind 'rank_correlation' reads it in"),
    ({"against": "policy.success"}, "against='policy.success' is str; expected"),
    ({"against": None}, "against=None is NoneType"),
    ({"threshold": 1.0}, "lies between -1 and 1"),
    ({"direction": "equivalent", "threshold": 0.0, "equivalence_margin": 0.3}, "is greater or less"),
])
def test_what_cannot_be_judged_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        judged(table(), **fields)
