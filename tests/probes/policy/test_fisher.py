"""The diagonal Fisher against the closed form of a softmax regression, and Fisher-weighted L2 rows."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, probes, records
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.policy import fisher


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


policy, small = _beside("softmax_policy"), _beside("gradient_models")
KEY = jax.random.key(0)


def moved(params, scale=0.05, seed=1):
    rng = np.random.default_rng(seed)
    return {name: (x + scale * rng.normal(size=x.shape)).astype(x.dtype) for name, x in params.items()}


@pytest.mark.parametrize("microbatch", [1, 4, 100])
@pytest.mark.parametrize("groups", [1, 4])
def test_exact_diagonal_is_the_closed_form_of_each_group(microbatch, groups):
    params, rows = policy.case()
    with jax.enable_x64(True):
        found = jax.jit(lambda w, r: fisher.diagonal(policy.predict, w, r, groups=groups, microbatch=microbatch))(params, rows)
    for name, wanted in policy.exact_diagonal(params, rows).items():
        for k in range(groups):
            np.testing.assert_allclose(found[name][k], wanted[k::groups].mean(0), rtol=1e-12)


def test_float32_diagonal_agrees_to_1e_5():
    params, rows = policy.case(dtype=np.float32)
    found = fisher.diagonal(policy.predict, params, rows)
    for name, wanted in policy.exact_diagonal(*policy.case()).items():
        np.testing.assert_allclose(found[name][0], wanted.mean(0), rtol=1e-5)


def test_empirical_diagonal_is_its_own_closed_form_and_not_the_fisher_nor_a_squared_mean():
    params, rows = policy.case()
    with jax.enable_x64(True):
        found = fisher.diagonal(policy.predict, params, rows, estimator="empirical")
    wanted = policy.empirical_diagonal(params, rows)
    np.testing.assert_allclose(found["w"][0], wanted["w"].mean(0), rtol=1e-12)
    assert not np.allclose(wanted["w"].mean(0), policy.exact_diagonal(params, rows)["w"].mean(0), rtol=0.2)
    with jax.enable_x64(True):
        mean = jax.grad(lambda w: jax.vmap(lambda r: policy.loss(w, r))(rows).mean())(params)
    assert np.sum(np.asarray(mean["w"]) ** 2) < 0.5 * np.sum(np.asarray(found["w"][0]))


def test_sampled_diagonal_is_unbiased_although_positions_are_summed_before_squaring():
    params, rows = policy.case()
    with jax.enable_x64(True):
        draw = jax.jit(lambda key: fisher.diagonal(policy.predict, params, rows, estimator="sampled", draws=20, key=key))
        found = np.stack([np.asarray(draw(jax.random.key(i))["w"][0]) for i in range(200)])
    wanted = policy.exact_diagonal(params, rows)["w"].mean(0)
    z = (found.mean(0) - wanted) / (found.std(0, ddof=1) / np.sqrt(len(found)))
    assert np.abs(z).max() < 4 and found.std(0).min() > 0


def test_squared_length_is_the_quadratic_form_of_the_whole_fisher_and_twice_the_kl():
    params, rows = policy.case()
    rng = np.random.default_rng(3)
    d = {name: rng.normal(size=x.shape) for name, x in params.items()}
    with jax.enable_x64(True):
        found = jax.vmap(lambda r: fisher.squared_length(policy.predict, params, r, d))(rows)
    dense = policy.dense_fisher(params, rows)
    np.testing.assert_allclose(found, np.einsum("i,mij,j->m", policy.flat(d), dense, policy.flat(d)), rtol=1e-12)
    np.testing.assert_allclose(np.einsum("mii->mi", dense).mean(0), policy.flat(
        {name: x.mean(0) for name, x in policy.exact_diagonal(params, rows).items()}), rtol=1e-12)
    step = 1e-4
    p, q = (policy.probabilities({n: params[n] + s * d[n] for n in params}, rows) for s in (0, step))
    kl = ((p * np.log(p / q)).sum(-1) * rows["mask"]).sum(-1)
    np.testing.assert_allclose(2 * kl / step**2, found, rtol=3e-3)


def test_a_transformers_diagonal_is_the_enumerated_expectation_of_squared_scores():
    config = small.config(layers=2)
    params, rows = small.decoder_case(config, m=2, T=3)

    def predict(params, row):
        out = models.apply(config, params, row["tokens"][None], valid_BxS=jnp.ones((1, 3), bool))
        return fisher.Predictions(out.logits[0], row["target"], row["mask"])

    found = jax.jit(lambda w, r: fisher.diagonal(predict, w, r, groups=2, microbatch=7))(params, rows)

    @jax.jit
    def score(params, row, t, y):
        return jax.grad(lambda w: jax.nn.log_softmax(predict(w, row).logits_TxV)[t, y])(params)

    wanted = jax.tree.map(np.zeros_like, jax.tree.map(np.asarray, params))
    for i in range(2):
        row = jax.tree.map(lambda x, i=i: x[i], rows)
        p = np.asarray(jax.nn.softmax(predict(params, row).logits_TxV))
        for t in range(3):
            for y in range(config.vocab):
                weight = p[t, y] * float(row["mask"][t]) / 2
                wanted = jax.tree.map(lambda a, g, w=weight: a + w * np.asarray(g) ** 2, wanted, score(params, row, t, y))
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        mine = np.asarray(dict((str(k), x) for k, x in jax.tree_util.tree_leaves_with_path(found))[str(path)]).mean(0)
        np.testing.assert_allclose(mine, leaf, rtol=1e-4, atol=1e-5 * np.abs(leaf).max(), err_msg=str(path))
    infos = gradient_sums.inventory(params)
    assert sum(info.kind == "q" for info in infos) == 2  # stacked layers are tensors of their own
    probe = fisher.FisherDistance(predict, groups=2)
    state, values = measured(probe, params, jax.tree.map(lambda w: w * 1.01, params), rows)
    seeds = jax.tree.map(lambda x: np.asarray(x)[None], values)
    table = rows_of(probe, state, seeds, params)
    layers = [r["value"] for r in table if r["metric"] == "fisher.weighted_l2" and r["granularity"] == "layer"]
    assert len(layers) == 2 and sum(layers) < one(table, "fisher.weighted_l2")["value"]


def measured(probe, params0, params, rows):
    ctx = probes.Context({probes.PARAMS0: params0, probes.PARAMS: params, probes.PROBE_BATCH: rows})
    state = probe.init(ctx, KEY)
    return state, jax.jit(probe.measure)(ctx, state, KEY)[1]


def rows_of(probe, state, values_S, params, seeds=(0,)):
    columns = probe.finalize(values_S, state, infos=gradient_sums.inventory(params), arm="a", step=3, seeds=seeds,
                             conditional_on="base", row_ids=records.row_ids)
    return records.measurement_table(columns).to_pylist()


def one(rows, metric, **wanted):
    wanted = {"role": "seed", "granularity": "global"} | wanted
    found = [r for r in rows if r["metric"] == metric and all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (metric, wanted, len(found))
    return found[0]


def test_rows_hold_the_weighted_distance_its_interval_over_groups_and_the_isotropic_null():
    params, examples = policy.case()
    params1 = moved(params)
    probe = fisher.FisherDistance(policy.predict, groups=4)
    assert isinstance(probe, probes.Probe) and hash(probe) == hash(fisher.FisherDistance(policy.predict, groups=4))
    with jax.enable_x64(True):
        state, values = measured(probe, params, params1, examples)
    rows = rows_of(probe, state, jax.tree.map(lambda x: np.asarray(x)[None], values), params)
    diagonal, d = policy.exact_diagonal(params, examples), {n: params1[n] - params[n] for n in params}
    per_row = sum((diagonal[n] * d[n] ** 2).reshape(8, -1).sum(1) for n in params)
    row = one(rows, "fisher.weighted_l2")
    assert row["value"] == pytest.approx(per_row.mean(), rel=1e-12)
    groups = np.asarray([per_row[k::4].mean() for k in range(4)])
    assert row["ci_hi"] - row["value"] == pytest.approx(3.182446305 * groups.std(ddof=1) / 2, rel=1e-8)
    assert (row["unit"], row["n_units"], row["params"], row["null_kind"]) == ("example", 8, "estimator=exact", "isotropic")
    null = sum((d[n] ** 2).sum() * diagonal[n].mean(0).mean() for n in params)
    assert row["null_value"] == pytest.approx(null, rel=1e-12) and row["null_lo"] < null < row["null_hi"]
    parts = [one(rows, "fisher.weighted_l2", granularity="tensor", tensor=n)["value"] for n in ("c", "w")]
    assert sum(parts) == pytest.approx(row["value"], rel=1e-12)
    trace = one(rows, "fisher.trace", granularity="tensor", tensor="w")
    assert trace["value"] == pytest.approx(diagonal["w"].mean(0).sum(), rel=1e-12) and trace["null_value"] is None


def test_float32_rows_agree_within_the_bound_they_carry_and_a_doubled_update_reads_four_times():
    params, examples = policy.case(dtype=np.float32)
    exact = fisher.FisherDistance(policy.predict)
    step = {n: np.float32(2.0**-6) * np.sign(x).astype(np.float32) for n, x in params.items()}
    readings = [measured(exact, params, {n: params[n] + c * step[n] for n in params}, examples) for c in (1, 2)]
    values = jax.tree.map(lambda *x: np.stack(x), *(v for _, v in readings))
    rows = rows_of(exact, readings[0][0], values, params, seeds=(0, 1))
    first, second = (one(rows, "fisher.weighted_l2", seed=s) for s in (0, 1))
    diagonal = policy.exact_diagonal(*policy.case())
    d64 = {n: (params[n] + step[n]).astype(np.float64) - params[n].astype(np.float64) for n in params}
    wanted = sum((diagonal[n].mean(0) * d64[n] ** 2).sum() for n in params)
    assert first["value"] == pytest.approx(wanted, rel=1e-5)
    assert second["value"] == pytest.approx(4 * first["value"], rel=1e-5)
    assert 0 < first["noise_floor"] < 1e-9 * first["value"] and first["num_err"] < 1e-5 * first["value"]


def test_the_floor_of_a_tensor_that_did_not_move_is_that_of_the_policys_storage():
    params, examples = policy.case(dtype=np.float32)
    params = {n: np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)) for n, x in params.items()}
    probe = fisher.FisherDistance(policy.predict)
    wide = {n: params[n] + np.float32(1e-5) * (n == "w") for n in params}
    stored = {n: np.asarray(jnp.asarray(params[n] * (1 + 0.1 * (n == "w")), jnp.bfloat16).astype(jnp.float32)) for n in params}
    for after, unit in ((wide, 2.0**-23), (stored, 2.0**-7)):
        state, values = measured(probe, params, after, examples)
        rows = rows_of(probe, state, jax.tree.map(lambda x: np.asarray(x)[None], values), params)
        for name in params:
            ulp = unit * 2.0 ** np.floor(np.log2(np.abs(after[name].astype(np.float64))))
            wanted = (np.asarray(state["fisher_K"][name]).mean(0) * ulp**2 / 12).sum()
            row = one(rows, "fisher.weighted_l2", granularity="tensor", tensor=name)
            assert row["noise_floor"] == pytest.approx(wanted, rel=1e-4), (name, unit)


def test_isotropic_null_is_the_law_of_random_directions():
    rng = np.random.default_rng(0)
    weight = rng.exponential(size=40) ** 2
    u = rng.normal(size=(20000, 40))
    u *= 3 / np.linalg.norm(u, axis=1, keepdims=True)
    draws = (u**2 * weight).sum(1)
    v = {"trace_KxT": np.full((1, 1, 1), weight.sum()), "square_T": np.full((1, 1), 9.0),
         "fisher2_T": np.full((1, 1), (weight**2).sum())}
    infos = [probes.rows.inventory.TensorInfo("w", "q", 0, (8, 5))]
    value, lo, hi = fisher.isotropic(v, infos, np.ones((1, 1), bool), fisher.pooling.scopes_of(infos))
    assert value[0, 0] == pytest.approx(draws.mean(), rel=0.01)
    assert (hi - value)[0, 0] == pytest.approx(1.959964 * draws.std(), rel=0.03)


def test_an_unmoved_policy_reads_zero_and_a_broken_one_has_rows_that_say_so():
    params, examples = policy.case(dtype=np.float32)
    probe = fisher.FisherDistance(policy.predict)
    broken = {**params, "w": params["w"] * np.nan}
    readings = [measured(probe, params, end, examples) for end in (params, broken)]
    rows = rows_of(probe, readings[0][0], jax.tree.map(lambda *x: np.stack(x), *(v for _, v in readings)), params, (0, 1))
    still = one(rows, "fisher.weighted_l2", seed=0)
    assert (still["value"], still["status"], still["null_value"]) == (0.0, "ok", 0.0)
    nan = one(rows, "fisher.weighted_l2", seed=1)
    assert nan["value"] is None and nan["status"] == "nan" and nan["status_reason"]
    assert one(rows, "fisher.weighted_l2", seed=1, granularity="tensor", tensor="c")["status"] == "ok"


def test_cost_is_priced_from_shapes():
    params, examples = policy.case(dtype=np.float32)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, examples))
    ctx = probes.Context({probes.PARAMS0: shapes[0], probes.PARAMS: shapes[0], probes.PROBE_BATCH: shapes[1]})
    probe = fisher.FisherDistance(policy.predict, groups=4)
    assert probe.cost(ctx).streamed == 4 * 25 * 6
    exact, sampled = (fisher.FisherDistance(policy.predict, estimator=e, groups=4).cost_of_init(ctx)
                      for e in ("exact", "sampled"))
    assert exact.products > 3 * sampled.products > 0


@pytest.mark.parametrize("settings, message", [
    ({"estimator": "exakt"}, "unknown; expected one of exact, sampled"),
    ({"groups": 0}, "groups, microbatch and draws >= 1"),
    ({"lane": "offline"}, "needs a probe batch"),
])
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fisher.FisherDistance(policy.predict, **settings)


def test_what_cannot_be_computed_is_refused_before_it_is():
    params, examples = policy.case(dtype=np.float32)
    with pytest.raises(ValueError, match="does not divide the 8 rows; nearest valid: 2"):
        fisher.diagonal(policy.predict, params, examples, groups=3)
    with pytest.raises(ValueError, match="needs a random key"):
        fisher.diagonal(policy.predict, params, examples, estimator="sampled")
    with pytest.raises(ValueError, match="not finite"):
        measured(fisher.FisherDistance(policy.predict), {**params, "c": params["c"] * jnp.nan}, params, examples)
