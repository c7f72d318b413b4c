"""Rows of the mask and trajectory probes as a bundle takes them, and the same values on one device and on eight."""

import chex
import jax
import numpy as np
import pytest

from jaxpost import records, sharding
from jaxpost.probes import base
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import consensus, drift, fixed_spectrum, rank_one, stripes
from tests.probes.trajectories import as_rows, context, make_base, measured

INFOS = (TensorInfo("l0/q", "q", 0, (24, 16)), TensorInfo("embed", "embed", None, (12, 10)))
W0 = make_base(INFOS)
PROBES = (
    stripes.Stripes(), consensus.Consensus(), rank_one.RankOne(k=3, draws=2), fixed_spectrum.FixedSpectrum(), drift.Drift(),
)
SECONDS = ("weight.stripes", "weight.consensus")  # to compile
STEPS = (1, 2, 4, 8, 16, 32)
SEEDS = [5, 6, 7]


def updates(step):
    rng = np.random.default_rng(step)
    return {n: np.float32(w + 2e-3 * np.sqrt(step) * rng.normal(size=(3, *w.shape))) for n, w in W0.items()}


def columns_of(probe):
    """Every block of columns that a run with this probe writes."""
    common = {"infos": INFOS, "arm": "rlvr", "seeds": SEEDS, "conditional_on": "b0", "row_ids": records.row_ids}
    series, parts = {}, []
    for step in STEPS:
        state, values = measured(probe, W0, updates(step))
        parts.append(probe.finalize(values, state, step=step, **common))
        if hasattr(probe, "arrays"):
            series[step] = probe.arrays(values)
    return parts + ([probe.across(series, **common)] if hasattr(probe, "across") else [])


@pytest.mark.parametrize("probe", [pytest.param(probe, marks=[pytest.mark.slow] * (probe.id in SECONDS)) for probe in PROBES],
                         ids=lambda probe: probe.id)
def test_a_bundle_takes_the_rows(probe):
    tables = [records.measurement_table(part) for part in columns_of(probe) if len(part["metric"])]
    rows = [row for table in tables for row in table.to_pylist()]
    ids = [row["row_id"] for row in rows]
    assert len(set(ids)) == len(ids) > 0 and {row["metric"] for row in rows} == set(probe.metrics)
    known = set(ids)
    for row in rows:
        assert (row["role"] == "null") == (row["of"] in known), row
        assert row["status"] == "ok" and row["null_kind"] and row["null_value"] is not None, row
        assert row["role"] == "null" or row["num_err"] is not None or row["metric"].startswith("weight.drift"), row
    estimates = [row for row in records.summarise(tables[0]).to_pylist() if row["role"] == "estimate" and row["n_units"] > 1]
    assert all(row["ci_lo"] <= row["value"] <= row["ci_hi"] for row in estimates)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.id)
def test_values_have_float32_or_int32_leaves_and_the_key_is_not_read(probe):
    state = probe.init(base.Context({base.WEIGHTS0: W0}), jax.random.key(0))
    weights1 = {n: w[0] for n, w in updates(4).items()}
    one, other = (probe.measure(context(W0, weights1), state, jax.random.key(i))[1] for i in (1, 2))
    assert {str(x.dtype) for x in jax.tree.leaves(one)} <= {"float32", "int32"}
    chex.assert_trees_all_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.id)
def test_eight_devices_read_what_one_reads(probe):
    weights_S = {n: np.concatenate([w] * 3)[:8] for n, w in updates(8).items()}
    state, alone = measured(probe, W0, weights_S)
    mesh = sharding.make_mesh({"ensemble": 8})

    def one(weights1, shared):
        return probe.measure(context(shared[0], weights1), shared[1], jax.random.key(3))[1]

    with sharding.on_mesh(mesh):
        together = jax.jit(sharding.map_members(one, mesh))(weights_S, (W0, state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), alone, jax.device_get(together))


def test_columns_without_rows_join_others():
    assert as_rows(dict(PROBES[1].finalize({}, {}))) == []
