"""Routing along planted runs: events, distances over memorised samples, saturation, and their nulls."""

import numpy as np
import pytest

from jaxpost.probes import routing
from jaxpost.probes.routing import events, pathways
from tests.probes.routed import META, context, examples, find, measured, params, route, rows_across, rows_at, rows_of

PROBE = routing.Routing(route, eps=0.5, delta=0.3, draws=3)
STEPS = (0, 2, 4, 8, 16, 32, 64, 128)
BATCH = examples()
GENERALISED = (0, 2, 4, 4, 6, 8, 10, 12)  # one error before the first right answer is allowed while six steps are left


def batch_at(step):
    """Sample i is memorised from STEPS[i // 2] on, the last pair never; answers are right from two measured steps later on."""
    late = np.asarray([STEPS[i // 2] for i in range(12)])
    loss = np.where(step >= late, 0.1 + late / 1000, 2.0).astype(np.float32)
    loss[10:] = 2.0
    return dict(BATCH, loss=loss, correct=np.float32(step >= np.asarray([*STEPS, 10**6, 10**6])[np.arange(12) // 2 + 2]))


WEIGHTS = {step: [params(seed=10 + step), params(seed=200 + step)] for step in STEPS}
BATCHES = {step: batch_at(step) for step in STEPS}


@pytest.fixture(scope="module")
def rows():
    return rows_across(PROBE, WEIGHTS, BATCHES)


def test_shares_of_events(rows):
    for p, step in enumerate(STEPS):
        assert find(rows, "event.memorised", step=step)["value"] == min(2 * (p + 1), 10) / 12
        assert find(rows, "event.memorised", step=step, seed=1)["value"] == min(2 * (p + 1), 10) / 12
        assert find(rows, "event.generalised", step=step)["value"] == GENERALISED[p] / 12
    loss = np.stack([BATCHES[step]["loss"] for step in STEPS])
    row = find(rows, "event.memorised", step=4)
    assert row["params"] == "delta=0.3;eps=0.5" and row["null_kind"] == "shuffled_steps"
    np.testing.assert_allclose(row["null_value"], events.memorised_null(loss, 0.5, 0.3)[2].mean())


def test_distance_is_over_the_samples_memorised_so_far(rows):
    for p, step in enumerate(STEPS):
        members = np.arange(min(2 * (p + 1), 10))
        probs = measured(PROBE, WEIGHTS[step][1:], BATCHES[step])["probs_NxLxE"][0]
        found, pair = pathways.pathways(probs), pathways.pairs(members, 10**6)
        row = find(rows, "pathway.distance", step=step, seed=1)
        np.testing.assert_allclose(row["value"], pathways.distances(*found[:2], *pair)[0].mean())
        assert row["n_units"] == len(members) and "over=memorised" in row["params"]
        null = [x for x in rows if x["of"] == row["row_id"]]
        everyone = pathways.distances(*found[:2], *pathways.pairs(np.arange(12), 10**6))[0].mean()
        assert [x["null_kind"] for x in null] == ["random_subset"] and null[0]["value"] == pytest.approx(everyone)
        assert find(rows, "pathway.cosine", step=step, seed=1)["n_units"] == len(members)


def test_rows_of_one_step_and_of_the_run_have_identities_of_their_own(rows):
    alone = rows_at(PROBE, WEIGHTS[4], BATCHES[4], step=4)
    ids = [row["row_id"] for row in (*rows, *alone)]
    assert len(set(ids)) == len(ids)
    assert {row["metric"] for row in (*rows, *alone)} == set(PROBE.metrics)


def test_saturation_is_overlap_with_the_last_step(rows):
    top = {step: measured(PROBE, WEIGHTS[step][:1], BATCHES[step])["top_NxLxTxk"][0] for step in (4, 128)}
    shares = [len(set(a) & set(b)) / 2 for a, b in zip(top[4].reshape(-1, 2), top[128].reshape(-1, 2)) if a[0] >= 0]
    np.testing.assert_allclose(find(rows, "router.saturation", step=4, params="top=2")["value"], np.mean(shares))
    first = [a[0] == b[0] for a, b in zip(top[4].reshape(-1, 2), top[128].reshape(-1, 2)) if a[0] >= 0]
    np.testing.assert_allclose(find(rows, "router.saturation", step=4, params="top=1")["value"], np.mean(first))
    assert find(rows, "router.saturation", step=128, params="top=2", layer=1)["value"] == 1
    row = find(rows, "router.saturation", step=4, params="top=2")
    assert row["null_kind"] == "independence" and 0.2 < row["null_value"] < 0.7
    assert row["ci_lo"] < row["value"] < row["ci_hi"] and row["noise_floor"] > 0


def test_a_router_that_stays_is_saturated_throughout():
    found = rows_across(PROBE, {step: [params()] for step in (1, 2, 3)}, {step: BATCHES[2] for step in (1, 2, 3)})
    for step in (1, 2, 3):
        assert find(found, "router.saturation", step=step, params="top=2")["value"] == 1


def test_nothing_memorised_is_absent_and_no_row_is_missing():
    high = {step: dict(BATCH, loss=np.full(12, 9, np.float32)) for step in STEPS[:3]}
    found = rows_across(PROBE, {step: WEIGHTS[step] for step in STEPS[:3]}, high)
    assert find(found, "event.memorised", step=4)["value"] == 0
    for metric in ("pathway.distance", "pathway.distance_by_layer", "pathway.cosine"):
        row = find(found, metric, step=4)
        assert row["status"] == "absent" and row["n_units"] == 0 and row["status_reason"]


def test_a_seed_that_is_lost_keeps_its_rows():
    lost = dict(params(), layers={"router": np.full((2, 6, 5), np.nan, np.float32)})
    series = {}
    for step, weights in ((1, params()), (2, lost)):
        values = {name: np.asarray(x)[None] for name, x in PROBE.measure(context(weights, BATCH), {}, None)[1].items()}
        series[step] = PROBE.arrays(values)
    found = rows_of(PROBE.across(series, seeds=[0], **META))
    assert find(found, "router.saturation", step=2, params="top=2")["status"] == "nan"
    assert find(found, "event.memorised", step=2)["status"] == "nan"
    assert find(found, "event.memorised", step=1)["status"] == "ok"


def test_no_measurement_gives_no_row():
    assert len(next(iter(PROBE.across({}, seeds=[0], **META).values()), ())) == 0
