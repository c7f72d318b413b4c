"""The routing probe from logits to rows: float64 oracles, invariances, refusals, and rows with a status for what is missing."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxpost import probes, sharding
from jaxpost.probes import routing
from jaxpost.probes.routing import metrics as routing_metrics
from jaxpost.probes.routing import pathways
from tests.probes.routed import META, context, examples, find, measured, params, route, rows_at, rows_of

PROBE = routing.Routing(route, draws=3)
BATCH = examples()
ONE_STEP = {metric.id for metric in (*routing_metrics.PATHWAY, *routing_metrics.ROUTER)} - {"router.saturation"}


@pytest.fixture(scope="module")
def rows():
    return rows_at(PROBE, [params(), params(seed=2)], BATCH)


def oracle(weights, batch):
    """(mean probabilities [N, L, E], token entropies and probabilities of counted tokens by layer) in float64."""
    logits = np.einsum("ntd,lde->nlte", batch["x"].astype(np.float64), weights["layers"]["router"].astype(np.float64))
    p = scipy.special.softmax(logits, axis=-1)
    mask = batch["mask"][:, None, :, None]
    return (p * mask).sum(2) / mask.sum(2), p, logits


def test_rows_agree_with_float64(rows):
    for seed, weights in enumerate((params(), params(seed=2))):
        mean, p, logits = oracle(weights, BATCH)
        real = BATCH["mask"] > 0
        tokens = [p[:, layer][real] for layer in range(2)]
        entropy = [np.mean([-(x * np.log(x)).sum() for x in t]) for t in tokens]
        row = find(rows, "router.entropy", seed=seed)
        np.testing.assert_allclose(row["value"], np.mean(entropy), rtol=1e-5)
        assert abs(row["value"] - np.mean(entropy)) <= row["num_err"] + 1e-6
        np.testing.assert_allclose(find(rows, "router.entropy", seed=seed, layer=1)["value"], entropy[1], rtol=1e-5)
        np.testing.assert_allclose(find(rows, "router.entropy_relative", seed=seed)["value"], np.mean(entropy) / np.log(5),
                                   rtol=1e-5)
        top = np.argsort(-logits, axis=-1)[..., :2]
        count = [np.bincount(top[:, layer][real].ravel(), minlength=5) for layer in range(2)]
        cv = np.mean([np.std(c) / np.mean(c) for c in count])
        np.testing.assert_allclose(find(rows, "router.load_cv", seed=seed)["value"], cv)
        np.testing.assert_allclose(find(rows, "router.load_max", seed=seed, layer=0)["value"], count[0].max() / count[0].sum())
        assert find(rows, "router.dead_experts", seed=seed)["value"] == sum((c == 0).sum() for c in count)
        found = pathways.pathways(mean)
        first, second = pathways.pairs(np.arange(12), 10**6)
        distance = pathways.distances(*found[:2], first, second)[0]
        np.testing.assert_allclose(find(rows, "pathway.distance", seed=seed)["value"], distance.mean())
        v = weights["layers"]["router"].astype(np.float64)
        e = np.einsum("lde,nle->nld", v, mean)
        e /= np.linalg.norm(e, axis=-1, keepdims=True)
        row = find(rows, "pathway.cosine", seed=seed)
        assert abs(row["value"] - (e[:, 0] * e[:, 1]).sum(-1).mean()) <= max(row["num_err"], 1e-6)
        joint = np.asarray([mean[BATCH["label"] == y, 0].sum(0) for y in range(3)]) / 12
        information = (joint * np.log(joint / joint.sum(0) / joint.sum(1, keepdims=True))).sum()
        np.testing.assert_allclose(find(rows, "router.specialisation", seed=seed, layer=0)["value"], information, rtol=1e-4)


def test_a_router_whose_pathways_are_known():
    """Four groups of three samples: group g takes expert g in layer 0, (g + 1) mod 4 in layer 1; experts 4 and 5 rest."""
    group = np.repeat(np.arange(4), 3)
    batch = dict(BATCH, x=np.eye(6, dtype=np.float32)[np.repeat(group[:, None], 5, axis=1)], label=10 * group,
                 mask=np.ones((12, 5), np.float32))
    router = 30 * np.stack([np.eye(6, dtype=np.float32), np.roll(np.eye(6, dtype=np.float32), 1, axis=1)])
    router[1, 3] = 30 * np.eye(6)[0]
    found = rows_at(dataclasses.replace(PROBE, top=1), [{"layers": {"router": router}, "worse": np.float32(0)}], batch)
    across = 1 - 4 * 3 / 66  # pairs of different groups
    wanted = {"pathway.distance": 2 * across, "pathway.distance_normalised": across, "pathway.distance_by_layer": 2 * across,
              "pathway.length": 1, "pathway.complexity": 4 * 6 / 7, "router.entropy": 0, "router.load_max": 0.25,
              "router.load_cv": np.sqrt(0.5), "router.dead_experts": 4, "router.specialisation": np.log(4)}
    for metric, value in wanted.items():
        np.testing.assert_allclose(find(found, metric)["value"], value, rtol=1e-4, atol=1e-4, err_msg=metric)
    # the vectors of both experts of a group are its own direction, but that of expert 0 in layer 1 has another one beside
    np.testing.assert_allclose(find(found, "pathway.cosine")["value"], (3 + 1 / np.sqrt(2)) / 4, rtol=1e-4)


def test_every_row_has_null_floor_interval_unit_and_dtype(rows):
    assert {row["metric"] for row in rows} == ONE_STEP
    for row in rows:
        assert row["status"] == "ok" and row["dtype"] == "fp32" and row["module_kind"] == "router", row
        assert (row["granularity"], row["layer"]) in {("global", None), ("layer", 0), ("layer", 1)}
        if row["role"] == "null":
            assert row["of"] in {other["row_id"] for other in rows}
            continue
        assert row["null_kind"] and row["null_value"] is not None and row["unit"] == "example" and row["n_units"] == 12, row
        if row["metric"] not in ("router.dead_experts", "pathway.consistency_c_paper"):
            assert row["ci_lo"] <= row["value"] <= row["ci_hi"] and row["noise_floor"] is not None, row
    layered = {row["metric"] for row in rows if row["granularity"] == "layer"}
    whole = {"pathway.distance", "pathway.distance_normalised", "pathway.cosine", "pathway.consistency_c_paper",
             "pathway.complexity"}
    assert layered == ONE_STEP - whole


def values_and_rows(batch, weights=None, probe=PROBE):
    return rows_at(probe, [params() if weights is None else weights], batch)


def assert_same(found, wanted, rtol=1e-5):
    key = lambda row: (row["metric"], row["role"], row["seed"], row["layer"], row["params"], row["null_kind"])  # noqa: E731
    wanted = {key(row): row for row in wanted if row["role"] == "seed"}
    found = {key(row): row for row in found if row["role"] == "seed"}
    assert found.keys() == wanted.keys()
    for name, row in found.items():
        np.testing.assert_allclose(row["value"], wanted[name]["value"], rtol=rtol, atol=1e-7, err_msg=str(name))


def test_padding_never_counts(rows):
    wide = dict(BATCH, x=np.concatenate([np.full((12, 3, 6), np.nan, np.float32), BATCH["x"]], axis=1),
                mask=np.concatenate([np.zeros((12, 3), np.float32), BATCH["mask"]], axis=1))
    assert_same(values_and_rows(wide), values_and_rows(BATCH))


def test_the_order_of_samples_and_the_labels_of_experts_do_not_matter():
    order = np.random.default_rng(3).permutation(12)
    assert_same(values_and_rows({name: x[order] for name, x in BATCH.items()}), values_and_rows(BATCH))
    router = params()["layers"]["router"]
    swapped = np.stack([router[layer][:, np.random.default_rng(layer).permutation(5)] for layer in range(2)])
    assert_same(values_and_rows(BATCH, dict(params(), layers={"router": swapped})), values_and_rows(BATCH))


@pytest.mark.parametrize("microbatch", [1, 4, 12])
def test_microbatches_change_nothing(microbatch):
    assert_same(values_and_rows(BATCH, probe=dataclasses.replace(PROBE, microbatch=microbatch)), values_and_rows(BATCH))


def test_values_are_small_float32_or_int32_and_the_key_is_not_read():
    one, other = (PROBE.measure(context(params(), BATCH), {}, jax.random.key(i))[1] for i in (1, 2))
    assert {str(x.dtype) for x in jax.tree.leaves(one)} == {"float32", "int32"}
    chex.assert_trees_all_equal(one, other)
    kept = PROBE.arrays({name: np.asarray(x)[None] for name, x in one.items()})
    assert kept["probs_NxLxE"].shape == (1, 12, 2, 5) and kept["top_NxLxTxk"].dtype == np.int16


def test_eight_devices_read_what_one_reads():
    weights = [params(seed=i) for i in range(8)]
    alone = measured(PROBE, weights, BATCH)
    mesh = sharding.make_mesh({"ensemble": 8})

    def one(own, batch):
        return PROBE.measure(context(own, batch), {}, jax.random.key(0))[1]

    with sharding.on_mesh(mesh):
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *weights)
        together = jax.jit(sharding.map_members(one, mesh))(stacked, BATCH)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), alone, jax.device_get(together))


def test_a_dead_expert_and_ties_are_seen():
    dead = params()
    dead["layers"]["router"][0, :, 3] = 0  # logit 0 everywhere
    shifted = dict(BATCH, x=np.abs(BATCH["x"]))
    dead["layers"]["router"][0, :, :3] = np.abs(dead["layers"]["router"][0, :, :3])
    dead["layers"]["router"][0, :, 4] = dead["layers"]["router"][0, :, 2]  # tied with expert 2, which is the lower
    found = rows_at(dataclasses.replace(PROBE, top=1), [dead], shifted)
    row = find(found, "router.dead_experts", layer=0)
    assert row["value"] >= 2 and row["num_err"] > 0 and "tied logits" in row["status_reason"]
    assert find(found, "router.dead_experts")["params"] == "top=1"
    row = find(found, "router.coactivation")
    assert row["status"] == "absent" and "one expert a token" in row["status_reason"]


def test_uniform_routing_is_all_ties():
    flat = dict(params(), layers={"router": np.zeros((2, 6, 5), np.float32)})
    found = values_and_rows(BATCH, flat)
    row = find(found, "pathway.distance")
    assert row["value"] == 0 and row["num_err"] == 2 * 2 * 4  # every symbol of both pathways, four in each of two layers
    assert find(found, "router.load_max")["value"] == 0.5  # ties to the lower experts
    np.testing.assert_allclose(find(found, "router.entropy_relative")["value"], 1, rtol=1e-6)
    assert find(found, "pathway.cosine")["status"] == "degenerate"
    np.testing.assert_allclose(find(found, "pathway.complexity")["value"], find(found, "pathway.complexity")["null_value"])


def test_one_expert():
    found = rows_at(dataclasses.replace(PROBE, top=1), [params(experts=1)], BATCH)
    assert find(found, "pathway.distance")["value"] == 0 and find(found, "pathway.length")["value"] == 1
    row = find(found, "router.entropy_relative")
    assert row["status"] == "degenerate" and "one expert" in row["status_reason"]
    assert find(found, "router.load_max")["value"] == find(found, "router.load_max")["null_value"] == 1


def test_one_layer_and_one_sample():
    found = rows_at(PROBE, [params(layers=1)], BATCH)
    row = find(found, "pathway.cosine")
    assert row["status"] == "absent" and "one layer" in row["status_reason"]
    found = rows_at(PROBE, [params()], {name: x[:1] for name, x in BATCH.items()})
    row = find(found, "pathway.distance")
    assert row["status"] == "absent" and "fewer than two samples" in row["status_reason"] and row["n_units"] == 1
    row = find(found, "router.entropy")
    assert row["status"] == "ok" and row["ci_lo"] is None


def test_layers_without_a_router_are_absent_and_keep_their_number():
    found = rows_at(dataclasses.replace(PROBE, dense=(0, 2)), [params()], BATCH)
    for metric in ("router.entropy", "pathway.length", "pathway.distance_by_layer"):
        for layer in (0, 2):
            row = find(found, metric, layer=layer)
            assert row["status"] == "absent" and row["status_reason"] == "the layer has no router"
    plain = values_and_rows(BATCH)
    assert find(found, "router.entropy", layer=3)["value"] == find(plain, "router.entropy", layer=1)["value"]
    assert find(found, "router.entropy")["value"] == find(plain, "router.entropy")["value"]
    with pytest.raises(ValueError, match=r"dense=\(7,\): with 2 routed layers the model has layers 0 to 2"):
        rows_at(dataclasses.replace(PROBE, dense=(7,)), [params()], BATCH)


def test_without_router_vectors_only_their_cosines_are_missing():
    blind = routing.Routing(lambda p, batch: route({"layers": {"router": p["r"]}, "worse": 0.0}, batch), draws=2)
    found = rows_at(blind, [{"r": params()["layers"]["router"]}], BATCH)
    missing = {row["metric"] for row in found if row["status"] != "ok" and row["role"] == "seed"}
    assert missing == {"pathway.cosine", "pathway.consistency_c_paper"}
    assert find(found, "pathway.cosine")["status_reason"] == "the parameters have no router vectors"


def test_without_labels_specialisation_is_absent():
    plain = routing.Routing(lambda p, batch: route(p, batch)._replace(label_N=None), draws=2)
    row = find(rows_at(plain, [params()], BATCH), "router.specialisation")
    assert row["status"] == "absent" and "no label" in row["status_reason"]
    row = find(rows_at(PROBE, [params()], dict(BATCH, label=np.zeros(12, int))), "router.specialisation")
    assert row["status"] == "degenerate"


def test_parameters_that_are_not_finite_give_rows_with_a_status():
    values = measured(PROBE, [params(), params()], BATCH)
    lost = dict(params(), layers={"router": np.full((2, 6, 5), np.nan, np.float32)})
    broken = PROBE.measure(context(lost, BATCH), {}, None)[1]
    values = {name: np.stack([x[0], np.asarray(broken[name])]) for name, x in values.items()}
    found = rows_of(PROBE.finalize(values, {}, step=4, seeds=[0, 1], **META))
    assert {row["metric"] for row in found if row["seed"] == 1} == ONE_STEP
    for row in found:
        assert row["status"] == ("ok" if row["seed"] == 0 else "absent" if row["role"] == "null" else "nan"), row
        assert (row["value"] is None) == (row["seed"] == 1)


def test_an_example_without_a_counted_token_is_refused_before_the_run_and_left_out_after():
    mask = BATCH["mask"].copy()
    mask[3] = 0
    batch = dict(BATCH, mask=mask)
    with pytest.raises(ValueError, match="1 of 12 examples have no counted token"):
        PROBE.init(context(params(), batch), None)
    values = {name: np.asarray(x)[None] for name, x in PROBE.measure(context(params(), batch), {}, None)[1].items()}
    assert all(np.isfinite(x).all() for x in values.values())
    found = rows_of(PROBE.finalize(values, {}, step=4, seeds=[0], **META))
    kept = {name: np.delete(x, 3, 0) for name, x in BATCH.items()}
    assert_same(found, values_and_rows(kept))
    row = find(found, "router.entropy")
    assert row["n_units"] == 11 and "1 of 12 examples have no counted token and are left out" in row["status_reason"]


def test_a_double_softmax_is_refused_before_and_after_the_run():
    softmaxed = routing.Routing(lambda p, b: route(p, b)._replace(logits_NxLxTxE=jax.nn.softmax(route(p, b).logits_NxLxTxE)))
    with pytest.raises(ValueError, match="every counted row of router 0.*softmax was taken already"):
        softmaxed.init(context(params(), BATCH), None)
    inside = jax.jit(lambda ctx: softmaxed.measure(ctx, {}, None)[1])(context(params(), BATCH))
    values = {name: np.asarray(x)[None] for name, x in inside.items()}
    with pytest.raises(ValueError, match="every counted row of router 0"):
        softmaxed.finalize(values, {}, step=4, seeds=[0], **META)


@pytest.mark.parametrize("change, message", [
    (lambda r: r._replace(mask_NxT=r.mask_NxT[:, 1:]), r"mask \[N, T\]; found \(12, 2, 5, 5\) and \(12, 4\)"),
    (lambda r: r._replace(logits_NxLxTxE=r.logits_NxLxTxE[:, 0]), r"logits \[N, L, T, E\]"),
    (lambda r: r._replace(loss_N=r.loss_N[:, None]), r"loss_N of shape \(12,\); found \(12, 1\)"),
    (lambda r: r._replace(logits_NxLxTxE=r.logits_NxLxTxE[:, :0]), "this model has no router"),
])
def test_a_route_of_other_shapes_is_refused_before_the_run(change, message):
    with pytest.raises(ValueError, match=message):
        routing.Routing(lambda p, b: change(route(p, b))).init(context(params(), BATCH), None)


@pytest.mark.parametrize("settings, message", [
    ({"threshold": 1.0}, "0 < threshold < 1"), ({"eps": 0.0}, "eps, delta, ridge > 0"), ({"top": 0}, "top, pairs, draws >= 1"),
    ({"lane": "offline"}, "lane sidecar"), ({"dense": (1, 1)}, "distinct dense layers")])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        routing.Routing(route, **settings)


def test_more_choices_than_experts_and_a_microbatch_that_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="Routing.top=6: the model has 5 experts; nearest valid: 5"):
        dataclasses.replace(PROBE, top=6).init(context(params(), BATCH), None)
    with pytest.raises(ValueError, match="microbatch=5 does not divide the 12 examples; nearest valid: 4"):
        dataclasses.replace(PROBE, microbatch=5).init(context(params(), BATCH), None)
    with pytest.raises(ValueError, match=r"\[L, D, E\] with L=2 and E=5.*found \(1, 6, 5\)"):
        dataclasses.replace(PROBE, vectors=lambda p: p["layers"]["router"][:1]).init(context(params(), BATCH), None)
    with pytest.raises(ValueError, match="values of 1 seeds; expected 2"):
        PROBE.finalize(measured(PROBE, [params()], BATCH), {}, step=4, seeds=[0, 1], **META)


def test_the_price_is_counted_from_shapes():
    shapes = jax.eval_shape(lambda: (jax.tree.map(jnp.asarray, params()), jax.tree.map(jnp.asarray, BATCH)))
    cost = PROBE.cost(probes.Context({probes.PARAMS: shapes[0], probes.PROBE_BATCH: shapes[1]}))
    logits = 2 * 12 * 2 * 5 * 6 * 5
    grams = 2 * 6 * 5 * 5 * (2 + 1)
    assert cost.products == logits + grams and cost.streamed > 0
