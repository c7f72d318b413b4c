"""Fits of forgetting on predictors: planted quadratics, the permuted-arm null against enumeration, honest statuses."""

import itertools

import numpy as np
import pytest

from jaxpost import probes, records
from jaxpost.probes.policy import forgetting_fit as fits

KL = {"metric": "policy.kl_forward", "params": "reduce=sequence_sum"}
L1 = {"metric": "weight.l1_mean", "dtype": "fp32"}
ARMS, SEEDS, STEPS = ("rl", "sft", "mix", "raft"), (0, 1, 2), (10, 20, 40)


def row(arm, seed, step, value, **more):
    return {"role": "seed", "arm": arm, "seed": seed, "step": step, "value": value, "granularity": "policy", "params": None,
            "conditional_on": "b", "metric": None, "dtype": None, "split": None} | more


def rows_of(kl, l1, forgotten, start=0.9):
    """Rows from functions of (arm position, seed, step)."""
    out = []
    for seed in SEEDS:
        out.append(row("base", seed, 0, start + 0.01 * seed, metric="policy.success", split="second"))
        for a, arm in enumerate(ARMS):
            for step in STEPS:
                x, y = kl(a, seed, step), forgotten(a, seed, step)
                out.append(row(arm, seed, step, start + 0.01 * seed - y, metric="policy.success", split="second"))
                out.append(row(arm, seed, step, 0.5, metric="policy.success", split="id"))
                out.append(row(arm, seed, step, x, **KL))
                out.append(row(arm, seed, step, x / 9, metric="policy.kl_forward", params="reduce=token_mean"))
                out.append(row(arm, seed, step, x, metric="policy.kl_forward", params="at=matched_norm;reduce=sequence_sum"))
                out.append(row(arm, seed, step, l1(a, seed, step), granularity="global", **L1))
                out.append(row(arm, seed, step, -1.0, granularity="body", **L1))
    return out


def noise(seed):
    rng = np.random.default_rng(seed)
    table = {key: rng.normal() for key in itertools.product(range(len(ARMS)), SEEDS, STEPS)}
    return lambda *key: table[key]


@pytest.fixture(scope="module")
def planted():
    """KL determines forgetting, y = .02 + .3 x - .1 x^2 with a little noise; L1 is the step and blind to the arm."""
    e, level = noise(1), (0.1, 1.0, 0.5, 0.3)

    def kl(a, s, t):
        return level[a] * np.sqrt(t / 40) * (1 + 0.1 * s)

    return rows_of(kl, l1=lambda a, s, t: t * (1 + 0.01 * e(a, s, t)),
                   forgotten=lambda a, s, t: 0.02 + 0.3 * kl(a, s, t) - 0.1 * kl(a, s, t) ** 2 + 0.002 * e(a, s, t))


def columns(rows, predictors, **more):
    found = fits.fit(rows, predictors, conditional_on="b", **more)
    return records.measurement_table(found).to_pylist()


def one(rows, metric, predictor):
    found = [r for r in rows if r["metric"] == metric and f"predictor={predictor}" in r["params"].split(";")]
    assert len(found) == 1
    return found[0]


def test_points_pair_runs_with_the_forgetting_of_their_own_seed(planted):
    p = fits.points(planted, KL)
    assert len(p) == 36 and set(p.arm) == set(ARMS)
    broken = [r | {"status": "nan" if (r["arm"], r["seed"], r["metric"]) == ("rl", 2, KL["metric"]) else "ok"} for r in planted]
    assert len(fits.points(broken, KL)) == 33
    i = [j for j in range(36) if (p.arm[j], p.seed[j], p.step[j]) == ("sft", 1, 20)][0]
    assert p.x[i] == pytest.approx(np.sqrt(0.5) * 1.1)
    own = next(r["value"] for r in planted if (r["arm"], r["seed"], r["step"], r["split"]) == ("sft", 1, 20, "second"))
    assert p.y[i] == pytest.approx(0.91 - own)


def test_r2_and_left_out_error_are_those_of_numpy_polyfit(planted):
    p = fits.points(planted, KL)
    residual = p.y - np.polyval(np.polyfit(p.x, p.y, 2), p.x)
    assert fits.r2(p.x, p.y) == pytest.approx(1 - residual.var() / p.y.var(), rel=1e-10)
    errors, constant = [], []
    for arm in ARMS:
        inside = p.arm == arm
        errors += list(p.y[inside] - np.polyval(np.polyfit(p.x[~inside], p.y[~inside], 2), p.x[inside]))
        constant += list(p.y[inside] - p.y[~inside].mean())
    wanted = np.sqrt(np.mean(np.square(errors))), np.sqrt(np.mean(np.square(constant)))
    assert fits.left_out_error(p) == pytest.approx(wanted, rel=1e-9)


def test_r2_does_not_depend_on_the_scale_or_origin_of_the_predictor(planted):
    p = fits.points(planted, KL)
    for scale, shift in ((1e-7, 0.0), (1e6, 0.0), (-3.0, 100.0)):
        assert fits.r2(scale * p.x + shift, p.y) == pytest.approx(fits.r2(p.x, p.y), rel=1e-8)
    assert all(np.isnan(fits.r2(p.x[:n], np.full(n, 0.1))) for n in range(5, 20))  # forgetting that is the same everywhere


def test_the_planted_predictor_is_told_from_one_that_knows_only_the_step(planted):
    found = columns(planted, [KL, L1])
    good, blind = one(found, "forgetting.r2", "policy.kl_forward"), one(found, "forgetting.r2", "weight.l1_mean")
    assert good["value"] > 0.99 and good["ci_lo"] > good["null_hi"] and good["n_units"] == 4 and good["unit"] == "arm"
    assert "of=reduce:sequence_sum" in good["params"] and blind["dtype"] == "fp32"
    assert blind["null_lo"] - 1e-9 <= blind["value"] <= blind["null_hi"] + 0.05
    assert one(found, "forgetting.permutation_p", "policy.kl_forward")["value"] == pytest.approx(1 / 24)
    assert one(found, "forgetting.permutation_p", "weight.l1_mean")["value"] > 0.05
    error, other = (one(found, "forgetting.left_out_error", x) for x in ("policy.kl_forward", "weight.l1_mean"))
    assert error["value"] < 0.1 * error["null_value"] and other["value"] > 0.5 * other["null_value"]


def test_the_null_is_the_enumeration_of_permuted_arms(planted):
    p = fits.points(planted, KL)
    order = np.lexsort((p.step.astype(int), p.seed.astype(int), p.arm.astype(str)))
    x, y = p.x[order].reshape(4, 9), p.y[order].reshape(4, 9)
    every = {}
    for sigma in itertools.permutations(range(4)):
        coefficients = np.polyfit(x.ravel(), y[list(sigma)].ravel(), 2)
        every[sigma] = 1 - (y[list(sigma)].ravel() - np.polyval(coefficients, x.ravel())).var() / y.var()
    wanted = [value for sigma, value in every.items() if sigma != (0, 1, 2, 3)]
    found = fits.permuted(p, 0, np.random.default_rng(0))
    assert found["value"] == pytest.approx(np.mean(wanted), rel=1e-9)
    assert (found["lo"], found["hi"]) == pytest.approx(tuple(np.quantile(wanted, (0.025, 0.975))), rel=1e-9)
    assert found["p"] == pytest.approx(np.mean([value >= every[0, 1, 2, 3] - 1e-9 for value in every.values()]))  # itself too


def test_permutation_p_is_uniform_enough_when_forgetting_is_noise():
    p_values = []
    for i in range(40):
        e, f = noise(2 * i), noise(2 * i + 1)
        p_values.append(fits.permuted(fits.points(rows_of(e, e, f), KL), 0, np.random.default_rng(0))["p"])
    assert 0.35 < np.mean(p_values) < 0.7 and min(p_values) < 0.25


def test_the_bootstrap_resamples_the_unit_that_was_randomised(planted):
    by_arm, by_seed = (one(columns(planted, [L1], unit=unit), "forgetting.r2", "weight.l1_mean") for unit in ("arm", "seed"))
    assert (by_seed["n_units"], by_seed["unit"]) == (3, "seed")
    assert by_arm["ci_hi"] - by_arm["ci_lo"] > 2 * (by_seed["ci_hi"] - by_seed["ci_lo"])  # arms differ, seeds hardly
    again = one(columns(planted, [L1]), "forgetting.r2", "weight.l1_mean")
    assert (again["ci_lo"], again["ci_hi"]) == (by_arm["ci_lo"], by_arm["ci_hi"])


def test_what_cannot_be_fitted_says_why(planted):
    few = columns(planted, [KL], arms=["rl"])
    assert one(few, "forgetting.r2", "policy.kl_forward")["ci_lo"] is None
    assert one(few, "forgetting.permutation_p", "policy.kl_forward")["status"] == "absent"
    assert one(few, "forgetting.left_out_error", "policy.kl_forward")["status"] == "absent"
    flat = columns(rows_of(lambda *k: 1.0, lambda *k: 1.0, noise(0)), [KL])
    assert one(flat, "forgetting.r2", "policy.kl_forward")["status"] == "degenerate"
    short = [r for r in planted if r["arm"] in ("base", "rl") and r["seed"] == 0]
    assert "3 points" in one(columns(short, [KL]), "forgetting.r2", "policy.kl_forward")["status_reason"]
    broken = [{**r, "value": np.nan} if (r["arm"], r["metric"], r["step"]) == ("rl", KL["metric"], 10) else r for r in planted]
    assert len(fits.points(broken, KL)) == 33


def test_wrong_questions_are_refused(planted):
    with pytest.raises(KeyError, match="two rows of arm"):
        fits.points(planted, {"metric": "policy.kl_forward"})
    with pytest.raises(KeyError, match="no row with a value"):
        fits.points(planted, {"metric": "weight.l2"})
    with pytest.raises(ValueError, match="expected one of arm, seed"):
        fits.fit(planted, [KL], unit="step")
    with pytest.raises(ValueError, match="valid: mix, raft, rl, sft|known: mix, raft, rl, sft"):
        fits.fit(planted, [KL], arms=["dpo"])
    assert {m.id for m in fits.FITS} <= set(probes.METRICS)
