"""The gradient probe: rows that records accept, planted coherence, the permuted null, devices, and what it refuses."""

import importlib.util
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import NamedSharding, PartitionSpec

from jaxpost import probes, records, sharding
from jaxpost.probes import tracing
from jaxpost.probes.gradients import coherence
from jaxpost.probes.gradients import rows as gradient_rows
from jaxpost.probes.gradients import sums as gradient_sums

_SPEC = importlib.util.spec_from_file_location("gradient_models", Path(__file__).parents[1] / "gradient_models.py")
small = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(small)

KEY = jax.random.key(0)


def measured(probe, params, examples, key=KEY):
    ctx = probes.Context({probes.PARAMS: params, probes.PROBE_BATCH: examples})
    return jax.jit(probe.measure)(ctx, probe.init(ctx, key), key)[1]


def rows_of(probe, params, values_S, seeds=(0,), **more):
    columns = probe.finalize(values_S, {}, infos=gradient_sums.inventory(params), arm="a", step=3, seeds=seeds,
                             conditional_on="base", row_ids=records.row_ids, **more)
    return records.measurement_table(columns).to_pylist()


def stacked(values):
    return jax.tree.map(lambda x: np.asarray(x)[None], values)


def one(rows, metric, **wanted):
    wanted = {"role": "seed", "granularity": "global"} | wanted
    found = [r for r in rows if r["metric"] == f"gradient.{metric}" and all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (metric, wanted, len(found))
    return found[0]


def test_probe_follows_the_contract_and_registers_its_metrics():
    probe = coherence.GradientCoherence(small.regression)
    assert isinstance(probe, probes.Probe) and hash(probe) == hash(coherence.GradientCoherence(small.regression))
    assert {"gradient.alpha.unbiased", "gradient.noise_scale", "gradient.gsnr"} <= set(probe.metrics) <= set(probes.METRICS)


def test_the_price_of_an_option_is_what_the_program_holds():
    c = small.config()
    params, examples = small.decoder_case(c)
    ctx = probes.Context({probes.PARAMS: params, probes.PROBE_BATCH: examples})
    shapes = jax.eval_shape(lambda: ctx)

    def price(**options):
        return coherence.GradientCoherence(small.token_loss(c), draws=0, **options).cost(shapes).products

    plain = tracing.traced(lambda p, e: jax.grad(lambda q: small.row_loss(c)(q, e).sum())(p), params, examples).products
    ghost = {"rows": small.row_loss(c), "gsnr": False}
    cheap, sure = price(**ghost, intervals=False), price(**ghost)
    assert plain < cheap < 2 * plain and cheap + 0.7 * plain < sure < price(rows=small.row_loss(c))


def test_rows_hold_sums_that_add_up_over_tensors_and_layers():
    with jax.enable_x64(True):
        params, examples, grads = small.regression_case()
        probe = coherence.GradientCoherence(small.regression, microbatch=4, targets=("y",), held=("advantage",))
        rows = rows_of(probe, params, stacked(measured(probe, params, examples)), dtype=None)
    whole = np.concatenate(grads, 1)
    total = whole.sum(0)
    row = one(rows, "alpha.plug_in")
    assert row["value"] == pytest.approx(total @ total / (12 * np.sum(whole**2)), rel=1e-12)
    assert row["params"] == "chunk=1;held=advantage" and (row["unit"], row["n_units"]) == ("example", 12)
    assert row["null_kind"] == "orthogonal" and row["null_value"] == pytest.approx(1 / 12)
    assert row["ci_lo"] < row["value"] < row["ci_hi"] and row["noise_floor"] > 0
    s1 = {r["tensor"]: r["value"] for r in rows if r["metric"] == "gradient.sum_norm2" and r["granularity"] == "tensor"}
    assert sum(s1.values()) == pytest.approx(one(rows, "sum_norm2")["value"], rel=1e-12)
    for i in range(2):
        layer = one(rows, "sum_norm2", granularity="layer", layer=i)
        assert layer["value"] == pytest.approx(s1[f"layers/{i}/w"], rel=1e-12) and layer["role"] == "seed"
    norm = one(rows, "example_norm", params="chunk=1;held=advantage;statistic=mean")
    assert norm["value"] == pytest.approx(np.linalg.norm(whole, axis=1).mean(), rel=1e-12)
    middle = one(rows, "example_norm", params="chunk=1;held=advantage;quantile=0.5")
    assert middle["value"] == pytest.approx(np.median(np.linalg.norm(whole, axis=1)), rel=1e-12)
    gsnr = one(rows, "gsnr")
    assert gsnr["value"] == pytest.approx(np.mean(whole.mean(0) ** 2 / whole.var(0, ddof=1)), rel=1e-12)
    rest = [np.delete(whole, i, 0) for i in range(12)]
    left = np.asarray([np.mean(x.mean(0) ** 2 / x.var(0, ddof=1)) for x in rest])
    half = 2.2009851600916384 * np.sqrt(11 / 12 * np.sum((left - left.mean()) ** 2))
    assert gsnr["ci_lo"] == pytest.approx(gsnr["value"] - half, rel=1e-9)
    damped = one(rows, "gsnr_eps", params="chunk=1;eps=1e-05;held=advantage")
    assert damped["value"] == pytest.approx(np.mean(whole.mean(0) ** 2 / (whole.var(0) + 1e-5)), rel=1e-12)
    left = np.asarray([np.mean(x.mean(0) ** 2 / (x.var(0) + 1e-5)) for x in rest])
    half = 2.2009851600916384 * np.sqrt(11 / 12 * np.sum((left - left.mean()) ** 2))
    assert damped["ci_hi"] == pytest.approx(damped["value"] + half, rel=1e-9)
    assert damped["null_kind"] == "zero_mean" and damped["null_value"] == pytest.approx(1 / 9, rel=0.2)


def test_ghosts_give_the_rows_of_materialised_gradients():
    with jax.enable_x64(True):
        c = small.config(compute_dtype="float64")
        params, examples = small.decoder_case(c, dtype=jnp.float64)
        options = {"microbatch": 4, "targets": ("target", "mask"), "draws": 1}
        found = []
        for more in ({}, {"rows": small.row_loss(c)}, {"rows": small.row_loss(c), "gsnr": False}):
            probe = coherence.GradientCoherence(small.token_loss(c), **options, **more)
            found.append(rows_of(probe, params, stacked(measured(probe, params, examples)), dtype=None))
    direct, ghost, cheap = found
    assert [r["row_id"] for r in direct] == [r["row_id"] for r in ghost]
    assert {r["metric"] for r in direct} - {r["metric"] for r in cheap} == {"gradient.gsnr", "gradient.gsnr_eps"}
    by_id = {r["row_id"]: r for r in direct}
    for row in ghost + cheap:
        for name in ("value", "ci_lo", "ci_hi", "null_lo"):
            wanted = by_id[row["row_id"]][name]
            assert (row[name] is None) == (wanted is None), (row["metric"], name)
            if wanted is not None:
                assert row[name] == pytest.approx(wanted, rel=1e-7, abs=1e-12), (row["metric"], name)


def test_permuted_null_is_the_statistic_of_permuted_examples():
    with jax.enable_x64(True):
        params, examples, _ = small.regression_case()
        probe = coherence.GradientCoherence(small.regression, microbatch=4, targets=("y",), draws=3)
        rows = rows_of(probe, params, stacked(measured(probe, params, examples)), dtype=None)
        drawn = []
        for key in jax.random.split(KEY, 3):
            moved = coherence.permuted(examples, ("y",), key)
            assert sorted(np.asarray(moved["y"])) == sorted(np.asarray(examples["y"]))
            assert not np.any(np.asarray(moved["y"]) == np.asarray(examples["y"]))
            found = gradient_sums.per_example(small.regression, params, moved, 4)
            drawn.append(float(found.s1_T.sum() / found.square_mxT.sum()))
    null = one(rows, "m_coherence.plug_in", role="null")
    parent = one(rows, "m_coherence.plug_in")
    assert null["of"] == parent["row_id"] and null["null_kind"] == "label_permuted"
    assert null["value"] == pytest.approx(np.mean(drawn), rel=1e-12)
    half = scipy.stats.t.ppf(0.975, 2) * np.std(drawn, ddof=1) * np.sqrt(1 + 1 / 3)  # where a fourth draw would fall
    assert [null["null_lo"], null["null_hi"]] == pytest.approx([np.mean(drawn) - half, np.mean(drawn) + half], rel=1e-9)


def test_chunk_rows_say_their_chunk_and_read_the_noise_of_single_examples():
    _, _, grads = small.regression_case(m=4000, dtype=np.float32)
    chunks = [g.reshape(1000, 4, -1).sum(1) for g in grads]
    params, _, _ = small.regression_case(dtype=np.float32)
    found = []
    for parts, chunk in ((grads, 1), (chunks, 4)):
        rows = gradient_rows.Rows(gradient_sums.inventory(params), [0], arm="a", step=1, conditional_on="base")
        s1 = np.asarray([[np.sum(g.sum(0) ** 2) for g in parts]])
        gradient_rows.coherence(rows, s1, np.stack([(g**2).sum(1) for g in parts])[None], chunk=chunk)
        table = records.measurement_table(rows.columns(records.row_ids)).to_pylist()
        found.append(one(table, "noise_scale", params=f"chunk={chunk}"))
    assert found[1]["value"] == pytest.approx(found[0]["value"], rel=0.1)
    assert (found[1]["n_units"], found[1]["ci_lo"], found[1]["status_reason"]) == (1000, None, "no interval")


def test_seeds_become_estimates_with_their_nulls():
    params, examples, _ = small.regression_case(dtype=np.float32)
    probe = coherence.GradientCoherence(small.regression, microbatch=4, targets=("y",))
    values = [measured(probe, jax.tree.map(lambda x, s=s: x + 0.1 * s, params), examples) for s in range(3)]
    rows = rows_of(probe, params, jax.tree.map(lambda *x: np.stack(x), *values), seeds=(0, 1, 2))
    table = records.measurement_table({n: [r[n] for r in rows] for n in rows[0]})
    estimates = records.summarise(table).to_pylist()
    found = one(estimates, "alpha.unbiased", role="estimate")
    assert (found["unit"], found["n_units"]) == ("seed", 3) and found["ci_lo"] < found["value"] < found["ci_hi"]
    assert one(estimates, "alpha.unbiased", role="null")["of"] == found["row_id"]


def test_one_example_and_broken_parameters_give_rows_with_a_status():
    params, examples, _ = small.regression_case(dtype=np.float32)
    probe = coherence.GradientCoherence(small.regression, microbatch=1)
    single = rows_of(probe, params, stacked(measured(probe, params, jax.tree.map(lambda x: x[:1], examples))))
    assert one(single, "alpha.unbiased")["status"] == "absent" and one(single, "alpha.unbiased")["value"] is None
    assert one(single, "sum_norm2")["value"] > 0
    broken = {"c": params["c"], "layers": {"w": params["layers"]["w"].at[0, 0].set(jnp.nan)}}
    rows = rows_of(probe, params, stacked(measured(probe, broken, examples)))
    assert {r["status"] for r in rows if r["role"] == "seed"} == {"nan"}


@pytest.mark.slow
def test_one_and_eight_devices_agree_within_the_rows_numerical_error():
    c = small.config()
    params, examples = small.decoder_case(c, m=32)
    probe = coherence.GradientCoherence(small.token_loss(c), microbatch=16, targets=("target", "mask"), draws=1)
    mesh = sharding.make_mesh({"data": 8})
    spread = jax.device_put(examples, NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    alone = rows_of(probe, params, stacked(measured(probe, params, examples)))
    eight = rows_of(probe, params, stacked(measured(probe, whole, spread)))
    assert len(alone) == len(eight) > 200
    compared = 0
    for a, b in zip(alone, eight, strict=True):
        assert (a["row_id"], a["status"]) == (b["row_id"], b["status"])
        if a["num_err"] is not None and a["value"] is not None:
            assert abs(a["value"] - b["value"]) <= a["num_err"], (a["metric"], a["tensor"], a["value"], b["value"])
            compared += 1
    assert compared > 150


def test_measuring_leaves_the_parameters_and_the_training_program_alone():
    params, examples, _ = small.regression_case(dtype=np.float32)

    def total(p, e):
        return jax.vmap(small.regression, (None, 0))(p, e).sum()

    def step(p, e):
        return jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(total)(p, e))

    program, kept = jax.jit(step), jax.tree.map(np.array, params)
    text, after = program.lower(params, examples).as_text(), program(params, examples)
    measured(coherence.GradientCoherence(small.regression, microbatch=4, targets=("y",)), params, examples)
    assert program.lower(params, examples).as_text() == text
    chex.assert_trees_all_equal(params, kept)
    chex.assert_trees_all_equal(program(params, examples), after)


def test_memory_is_bounded_by_the_microbatch():
    def temporary(b):
        params, examples = {"layers": {"w": jnp.zeros((1, 256, 256))}}, {"x": jnp.zeros((64, 256))}
        program = jax.jit(lambda p, e: gradient_sums.per_example(
            lambda q, z: jnp.sum(jnp.tanh(z["x"][None] @ q["layers"]["w"][0])), p, e, b))
        return program.lower(params, examples).compile().memory_analysis().temp_size_in_bytes

    assert temporary(64) > 6 * temporary(2)


def test_what_cannot_run_is_refused_before_the_run():
    params, examples, _ = small.regression_case(dtype=np.float32)
    ctx = probes.Context({probes.PARAMS: params, probes.PROBE_BATCH: examples})
    with pytest.raises(ValueError, match="microbatch=5 does not divide the 12 examples; nearest valid: 4"):
        coherence.GradientCoherence(small.regression, microbatch=5).init(ctx, KEY)
    with pytest.raises(ValueError, match=r"targets \['label'\] are not in the examples; they have x, y"):
        coherence.GradientCoherence(small.regression, microbatch=4, targets=("label",)).init(ctx, KEY)
    with pytest.raises(KeyError, match="declare the need"):
        coherence.GradientCoherence(small.regression).init(probes.Context({}), KEY)
    with pytest.raises(ValueError, match="runs in lane sidecar"):
        coherence.GradientCoherence(small.regression, lane="inline")
    probe = coherence.GradientCoherence(small.regression, microbatch=4)
    values = stacked(measured(probe, params, examples))
    with pytest.raises(ValueError, match=r"\[seeds, tensors\] = \(1, 3\); expected \(2, 3\)"):
        rows_of(probe, params, values, seeds=(0, 1))
