"""The KL leash on a softmax regression with a closed-form Fisher; half-ULP shares against bit patterns and shuffles."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import probes, records
from jaxpost.probes import gates, visibility
from jaxpost.probes.panel import TensorInfo

_SPEC = importlib.util.spec_from_file_location("softmax_policy", Path(__file__).with_name("softmax_policy.py"))
policy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(policy)
KEY = jax.random.key(0)
PREVIOUS = probes.Need("weights", (("checkpoint", "previous"),))
INFOS = [TensorInfo("embed", "embed", None, (24, 10)), TensorInfo("layers/0/q", "q", 0, (40, 30)),
         TensorInfo("layers/1/q", "q", 1, (40, 30))]


def on_grid(w):
    return np.asarray(visibility.bf16_values(visibility.bf16_codes(jnp.asarray(w, jnp.float32))))


def one(rows, metric, **wanted):
    wanted = {"role": "seed", "seed": 0} | wanted
    found = [r for r in rows if r["metric"] == f"gate.{metric}" and all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (metric, wanted, len(found))
    return found[0]


def rows_of(probe, *values, **more):
    columns = probe.finalize(jax.tree.map(lambda *x: np.stack(x), *values), {}, arm="a", step=3, seeds=range(len(values)),
                             conditional_on="base", row_ids=records.row_ids, **more)
    return records.measurement_table(columns).to_pylist()


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
        found = gates.divergence(*(jnp.asarray(x, jnp.float64) for x in (z, other, mask)))
    logp, logq = (x.astype(np.longdouble) - np.log(np.exp(x.astype(np.longdouble)).sum(-1, keepdims=True)) for x in (z, other))
    wanted = ((np.exp(logp) * (logp - logq)).sum(-1) * mask).sum()
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    narrow = float(gates.divergence(jnp.asarray(z), jnp.asarray(other), jnp.asarray(mask, jnp.float32)))
    assert abs(narrow - float(wanted)) <= np.sqrt(2 * float(wanted) * 3) * 2.0**-22 * (1 + np.abs(logp).max()) + 1e-6 * narrow


def test_leash_rows_are_the_closed_forms_and_the_ratio_is_one_for_small_steps(case):
    base, d, rows = case
    probe = gates.KLLeash(policy.predict, clip=(0.2, 0.28), microbatch=4)
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
        values = leash(gates.KLLeash(policy.predict, null_draws=400), base, {n: base[n] + 0.1 * d[n] for n in base}, rows)
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
    assert 0.01 < worst < gates.clip_bound(low, high) == pytest.approx(np.log(1.28))
    assert gates.clip_bound(0.3, 0.3) == pytest.approx(-np.log(0.7))


def test_a_policy_that_did_not_move_moved_below_rounding_or_broke_says_so(case):
    base, d, rows = (jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, part) for part in case)
    probe = gates.KLLeash(policy.predict)
    tiny = {n: base[n] * np.float32(1 + 2.0**-12) for n in base}
    broken = {**base, "c": base["c"] * np.float32(np.nan)}
    found = rows_of(probe, *(leash(probe, base, end, rows) for end in (base, tiny, broken)))
    still, buried, nan = (one(found, "leash.ratio", seed=s) for s in range(3))
    assert still["status"] == "degenerate" and "is the base" in still["status_reason"]
    assert one(found, "leash.kl", params="direction=reverse")["value"] == 0.0
    assert buried["status"] == "unresolved" and buried["value"] == pytest.approx(1, abs=0.05)
    assert nan["status"] == "nan" and one(found, "leash.fisher_length", seed=2)["status"] == "nan"
    assert "gate.leash.clip_bound" not in probe.metrics and not [r for r in found if r["metric"] == "gate.leash.clip_bound"]


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(1)
    start = {info.name: on_grid(0.05 * rng.normal(size=info.shape)) for info in INFOS}
    end = {name: (w + 2e-4 * rng.standard_t(3, size=w.shape)).astype(np.float32) for name, w in start.items()}
    return start, end


def measured(probe, start, end):
    ctx = probes.Context({probe.before: start, probes.WEIGHTS: end})
    return jax.device_get(jax.jit(probe.measure)(ctx, probe.init(ctx, KEY), KEY)[1])


STEP = gates.HalfULP(before=PREVIOUS, shifts=(-2, 0, 1))


def test_counts_are_those_of_exact_half_ulps_and_at_threshold_0_those_of_changed_codes(weights):
    start, end = weights
    values = measured(STEP, start, end)
    rows = rows_of(STEP, values, infos=INFOS)
    changed = {n: np.asarray(visibility.bf16_codes(end[n]) != visibility.bf16_codes(start[n])) for n in start}
    for name in start:
        assert values[name]["count"][1] == changed[name].sum()
        d = (end[name] - start[name]).astype(np.float64)
        exponent = np.floor(np.log2(np.maximum(np.abs(start[name]), 1e-30)))
        half = 2.0 ** (exponent - 8)
        inner = (np.abs(start[name]) == 2.0**exponent) & (d * start[name] < 0)  # towards zero from a power of two
        for i, j in ((0, -2), (2, 1)):
            assert values[name]["count"][i] == (np.abs(d) > np.where(inner, half / 2, half) * 2.0**j).sum()
    row = one(rows, "ulp.beyond", params="log2=0;since=previous", granularity="global")
    total = sum(w.size for w in start.values())
    assert row["value"] == pytest.approx(sum(c.sum() for c in changed.values()) / total)
    assert row["null_kind"] == "halfulp_permuted" and row["null_lo"] < row["value"] < row["null_hi"]  # a blind update


def test_the_blind_null_is_the_mean_over_shuffles_at_every_threshold(weights):
    start, end = weights
    values = measured(STEP, start, end)["layers/0/q"]
    rng, w0 = np.random.default_rng(2), start["layers/0/q"]
    d = end["layers/0/q"] - w0
    codes = visibility.bf16_codes(w0)
    scales = [4.0, 1.0, 0.5, 1 / float(values["median"])]
    for i, scale in enumerate(scales):
        shuffled = [int(gates.beyond(jnp.asarray(rng.permutation(d.ravel()).reshape(d.shape) * np.float32(scale)), codes).sum())
                    for _ in range(60)]
        assert values["expected"][i, 0] == pytest.approx(np.mean(shuffled), abs=4 * np.std(shuffled) / np.sqrt(60))
        assert np.sqrt(values["variance"][i, 0]) > 0.7 * np.std(shuffled)


def test_the_size_free_share_ignores_size_and_sees_where_the_update_lies(weights):
    start, _ = weights
    rng = np.random.default_rng(3)
    blind = {n: 2.0**-20 * rng.integers(1, 60, size=w.shape) * rng.choice([-1, 1], w.shape) for n, w in start.items()}
    follows = {n: on_grid(2.0**-9 * w * rng.uniform(0.5, 1.5, size=w.shape)) for n, w in start.items()}
    probe = gates.HalfULP(shifts=(1,))

    def of(step, scale):
        end = {n: (w.astype(np.float64) + scale * step[n]).astype(np.float32) for n, w in start.items()}
        return measured(probe, start, end)

    rows = rows_of(probe, of(blind, 1), of(blind, 4), of(follows, 1), infos=INFOS)
    first, larger, aligned = (one(rows, "ulp.size_free", seed=s, granularity="global") for s in range(3))
    assert larger["value"] == pytest.approx(first["value"], abs=2e-3)
    assert first["null_lo"] < first["value"] < first["null_hi"]
    assert abs(aligned["value"] - aligned["null_value"]) > 3 * (aligned["null_hi"] - aligned["null_value"])
    assert one(rows, "ulp.median", seed=1, granularity="global")["value"] == pytest.approx(
        4 * one(rows, "ulp.median", granularity="global")["value"], rel=0.02)
    assert not [r for r in rows if "log2=0" in (r["params"] or "")]


def test_one_matrix_at_a_time_reads_the_same_bits(weights):
    start, end = weights
    together = measured(STEP, start, end)
    for name in start:
        alone = measured(STEP, {name: start[name]}, {name: end[name]})
        jax.tree.map(np.testing.assert_array_equal, alone[name], together[name])


def test_bf16_masters_have_the_calibrated_null_and_odd_updates_their_statuses(weights):
    start, end = weights
    rounded = {n: on_grid(w) for n, w in end.items()}
    broken = {**end, "embed": end["embed"] * np.float32(np.nan)}
    rows = rows_of(STEP, *(measured(STEP, start, w) for w in (rounded, start, broken)), infos=INFOS)
    row = one(rows, "ulp.beyond", params="log2=0;since=previous", granularity="global")
    assert row["null_kind"] == "law_range" and row["dtype"] == "bf16"
    assert row["null_value"] == pytest.approx(row["value"], rel=1e-3)
    still = one(rows, "ulp.size_free", seed=1, granularity="global")
    assert still["status"] == "degenerate" and "did not move" in still["status_reason"]
    assert one(rows, "ulp.beyond", seed=1, params="log2=0;since=previous", granularity="global")["value"] == 0.0
    for metric, params in (("ulp.beyond", "log2=0;since=previous"), ("ulp.size_free", "since=previous"),
                           ("ulp.median", "since=previous")):
        nan = one(rows, metric, seed=2, params=params, granularity="global")
        assert nan["status"] == "nan" and nan["value"] is None
        assert one(rows, metric, seed=2, params=params, granularity="body")["status"] == "ok"


def test_a_blind_update_of_bf16_masters_reads_as_its_null_at_every_threshold():
    rng = np.random.default_rng(4)
    w0 = on_grid(rng.normal(size=(300, 200)) * 0.02)
    for size in (2e-5, 3e-4):  # a quarter and nine tenths of the entries change
        w1 = on_grid(w0 + size * rng.normal(size=w0.shape))
        found = jax.device_get(gates.half_ulp_counts(jnp.asarray(w0), jnp.asarray(w1), (-4, -1, 0, 1, 2, 4)))
        assert found["bf16"] == 1
        np.testing.assert_allclose(found["count"], found["expected"][:, 0], atol=6e-3 * w0.size)


def test_contract_cost_and_refusals(case, weights):
    base, _, rows = case
    for probe in (gates.KLLeash(policy.predict), gates.HalfULP()):
        assert isinstance(probe, probes.Probe) and set(probe.metrics) <= set(probes.METRICS)
    ctx = probes.Context(dict.fromkeys((probes.PARAMS0, probes.PARAMS), base) | {probes.PROBE_BATCH: rows})
    assert gates.KLLeash(policy.predict).cost(ctx).products > 16 * 5 * 2 * 3 * 4 * 5
    assert gates.HalfULP().cost(probes.Context(dict.fromkeys((probes.WEIGHTS0, probes.WEIGHTS), weights[0]))).streamed > 0
    for make, message in (
        (lambda: gates.KLLeash(policy.predict, clip=(1.2, 0.2)), "0 < e_low < 1"),
        (lambda: gates.KLLeash(policy.predict, lane="offline"), "needs a probe batch"),
        (lambda: gates.HalfULP(before=probes.PARAMS0), "weights of an earlier checkpoint; found params"),
        (lambda: gates.HalfULP(shifts=(1, 1)), "distinct integers"),
        (lambda: gates.HalfULP(lane="inline"), "sidecar or offline"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
