"""The KL leash on a softmax regression with a closed-form Fisher."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import probes
from jaxpost.probes.policy import kl_leash
from tests.probes.gate_rows import on_grid, one, rows_of

_SPEC = importlib.util.spec_from_file_location("softmax_policy", Path(__file__).parents[1] / "softmax_policy.py")
policy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(policy)
KEY = jax.random.key(0)


def leash(probe, params0, params1, rows):
    ctx = probes.Context({probes.PARAMS0: params0, probes.PARAMS: params1, probes.PROBE_BATCH: rows})
    return jax.device_get(jax.jit(probe.measure)(ctx, probe.init(ctx, KEY), KEY)[1])


def kl(params, other, rows):
    p, q = (policy.probabilities(x, rows) for x in (params, other))
    return ((p * np.log(p / q)).sum(-1) * rows["mask"]).sum(-1)


@pytest.fixture(scope="module")
def case():
    """(base on the bf16 grid, a direction, rows), float64."""
    params, rows = policy.case(m=16)
    rng = np.random.default_rng(5)
    base = {name: on_grid(x).astype(np.float64) for name, x in params.items()}
    return base, {name: rng.normal(size=x.shape) for name, x in params.items()}, rows


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4])
def test_divergence_keeps_its_relative_precision_however_small(size):
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(4, 9))
    other = (z + size * rng.normal(size=z.shape)).astype(np.float32)
    z = z.astype(np.float32)
    mask = np.asarray([1, 1, 0, 1.0])
    with jax.enable_x64(True):
        found = kl_leash.divergence(*(jnp.asarray(x, jnp.float64) for x in (z, other, mask)))
    logp, logq = (x.astype(np.longdouble) - np.log(np.exp(x.astype(np.longdouble)).sum(-1, keepdims=True)) for x in (z, other))
    wanted = ((np.exp(logp) * (logp - logq)).sum(-1) * mask).sum()
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    narrow = float(kl_leash.divergence(jnp.asarray(z), jnp.asarray(other), jnp.asarray(mask, jnp.float32)))
    assert abs(narrow - float(wanted)) <= np.sqrt(2 * float(wanted) * 3) * 2.0**-22 * (1 + np.abs(logp).max()) + 1e-6 * narrow


def test_divergence_of_policies_that_are_sure_of_other_tokens_is_finite():
    for size in (3.0, 90.0, 1e4):
        z = jnp.asarray([[0.0, size, -size]])
        logp, logq = (x - np.logaddexp.reduce(x) for x in np.asarray([z[0], -z[0]], np.float64))
        wanted = (np.exp(logp) * (logp - logq)).sum()
        assert float(kl_leash.divergence(z, -z, jnp.ones(1))) == pytest.approx(wanted, rel=1e-6)


def test_leash_rows_are_the_closed_forms_and_the_ratio_is_one_for_small_steps(case):
    base, d, rows = case
    probe = kl_leash.KLLeash(policy.predict, clip=(0.2, 0.28), microbatch=4)
    dense, values, ends = policy.dense_fisher(base, rows), [], []
    with jax.enable_x64(True):
        for size in (0.02, 0.5):
            ends.append({name: base[name] + size * d[name] for name in base})
            values.append(leash(probe, base, ends[-1], rows))
    found = rows_of(probe, *values)
    ratios = []
    for s, (size, end) in enumerate(zip((0.02, 0.5), ends)):
        length2 = np.einsum("i,mij,j->m", policy.flat(d), dense, policy.flat(d)) * size**2
        reverse, forward = kl(end, base, rows), kl(base, end, rows)
        for direction, wanted in (("reverse", reverse), ("forward", forward)):
            row = one(found, "leash.kl", seed=s, params=f"direction={direction}")
            assert row["value"] == pytest.approx(wanted.mean(), rel=1e-6)
            assert row["null_value"] == pytest.approx(length2.mean() / 2, rel=1e-6)
            assert row["ci_hi"] - row["value"] == pytest.approx(2.13144955 * wanted.std(ddof=1) / 4, rel=1e-6)
        length = one(found, "leash.fisher_length", seed=s)
        assert length["value"] == pytest.approx(np.sqrt(length2.mean()), rel=1e-6) and length["noise_floor"] > 0
        ratio = one(found, "leash.ratio", seed=s)
        assert ratio["value"] == pytest.approx(np.sqrt(length2.mean() / (2 * reverse.mean())), rel=1e-6)
        assert ratio["ci_lo"] < ratio["value"] < ratio["ci_hi"] and ratio["null_value"] == 1.0
        ratios.append(abs(ratio["value"] - 1))
    assert ratios[0] < 0.02 < ratios[1]
    bound = one(found, "leash.clip_bound")
    assert bound["value"] == pytest.approx(rows["mask"].sum(1).mean() * np.log(1.28)) and bound["params"] == "high=0.28;low=0.2"


def test_the_isotropic_null_has_the_expected_length_of_random_directions(case):
    base, d, rows = case
    with jax.enable_x64(True):
        values = leash(kl_leash.KLLeash(policy.predict, null_draws=400), base, {n: base[n] + 0.1 * d[n] for n in base}, rows)
    diagonal = {n: x.mean(0) for n, x in policy.exact_diagonal(base, rows).items()}
    wanted = sum(0.01 * (d[n] ** 2).sum() * diagonal[n].mean() for n in base)
    drawn = values["null2_DxM"].mean(-1)
    assert drawn.mean() == pytest.approx(wanted, abs=4 * drawn.std() / 20)


def test_the_clip_bound_holds_for_distributions_that_meet_the_clip():
    rng, worst = np.random.default_rng(6), 0.0
    low, high = 0.2, 0.28
    for _ in range(2000):
        p = rng.dirichlet(np.ones(4))
        share = rng.random(4) < rng.random()
        ratio = np.where(share, 1 + high, 1 - high * p[share].sum() / max(p[~share].sum(), 1e-12))
        if ratio.min() < 1 - low or share.all():
            continue
        q = p * ratio
        worst = max(worst, (q * np.log(q / p)).sum(), (p * np.log(p / q)).sum())
    assert 0.01 < worst < kl_leash.clip_bound(low, high) == pytest.approx(np.log(1.28))
    assert kl_leash.clip_bound(0.3, 0.3) == pytest.approx(-np.log(0.7))


def test_a_policy_that_did_not_move_moved_below_rounding_or_broke_says_so(case):
    base, d, rows = (jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, part) for part in case)
    probe = kl_leash.KLLeash(policy.predict)
    tiny = {n: base[n] * np.float32(1 + 2.0**-12) for n in base}
    broken = {**base, "c": base["c"] * np.float32(np.nan)}
    found = rows_of(probe, *(leash(probe, base, end, rows) for end in (base, tiny, broken)))
    still, buried, nan = (one(found, "leash.ratio", seed=s) for s in range(3))
    assert still["status"] == "degenerate" and "is the base" in still["status_reason"]
    assert one(found, "leash.kl", params="direction=reverse")["value"] == 0.0
    assert buried["status"] == "unresolved" and buried["value"] == pytest.approx(1, abs=0.05)
    assert nan["status"] == "nan" and one(found, "leash.fisher_length", seed=2)["status"] == "nan"
    assert "gate.leash.clip_bound" not in probe.metrics and not [r for r in found if r["metric"] == "gate.leash.clip_bound"]


def test_contract_cost_and_refusals(case):
    base, _, rows = case
    probe = kl_leash.KLLeash(policy.predict)
    assert isinstance(probe, probes.Probe) and set(probe.metrics) <= set(probes.METRICS)
    ctx = probes.Context(dict.fromkeys((probes.PARAMS0, probes.PARAMS), base) | {probes.PROBE_BATCH: rows})
    assert probe.cost(ctx).products > 16 * 5 * 2 * 3 * 4 * 5
    for make, message in (
        (lambda: kl_leash.KLLeash(policy.predict, clip=(1.2, 0.2)), "0 < e_low < 1"),
        (lambda: kl_leash.KLLeash(policy.predict, lane="offline"), "needs a probe batch"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
