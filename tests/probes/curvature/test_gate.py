"""Gate II on a softmax regression whose Fisher has a closed form: planted directions, nulls and the Schur complement."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpost import probes, records
from jaxpost.probes.curvature import gate, gate_probe
from jaxpost.probes.gradients import sums as gradient_sums


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


policy = _beside("softmax_policy")
D, V, K = 12, 9, 2


def case(m=1024):
    """Inputs of which the first two features are large, and a base whose principal directions are those features."""
    params, rows = policy.case(m=m, T=2, D=D, V=V, dtype=np.float32)
    rows["x"] = rows["x"] * np.where(np.arange(D) < 2, 1.0, 0.3).astype(np.float32)
    params["w"] = 0.02 * params["w"]
    params["w"][:2] += np.where(np.arange(V) % 2, 0.5, -0.5) * np.asarray([[1.0], [0.6]])
    return params, rows


def measured(probe, params, moved, rows):
    ctx = probes.Context({probes.PARAMS0: params, probes.PARAMS: moved, probes.PROBE_BATCH: rows})
    state = probe.init(ctx, jax.random.key(0))
    values = jax.jit(probe.measure)(ctx, state, jax.random.key(1))[1]
    columns = probe.finalize(jax.tree.map(lambda x: np.asarray(x)[None], values), state,
                             infos=gradient_sums.inventory(params), arm="a", step=3, seeds=(0,), conditional_on="base",
                             row_ids=records.row_ids)
    found = records.measurement_table(columns).to_pylist()
    return {(r["metric"], r["params"]): r for r in found if r["granularity"] == "tensor"}, state


@pytest.fixture(scope="module")
def planted():
    """(rows of an update in the flat features, masks and frames, the dense Fisher of w, the update)."""
    params, rows = case()
    d = 0.01 * np.random.default_rng(3).normal(size=(D, V)) * (np.arange(D) >= 2)[:, None]
    probe = gate_probe.GateCurvature(policy.predict, k=K, alpha=0.2, conditioned=32, damping=0.5, microbatch=32)
    found, state = measured(probe, params, params | {"w": (params["w"] + d).astype(np.float32)}, rows)
    fisher = policy.dense_fisher(*jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, (params, rows)))
    return found, jax.tree.map(lambda x: np.asarray(x[0]), state["w"]), fisher.mean(0)[V:, V:], d


def test_values_are_the_closed_form_within_their_intervals(planted):
    found, masks, f, d = planted
    mean, diagonal = np.trace(f) / (D * V), np.diag(f).reshape(D, V)
    frame = np.kron(masks["u"], masks["v"])  # columns: vec(u_a v_b')
    wanted = {("gate.curvature.mean", None): mean,
              ("gate.curvature.mask", "alpha=0.2;mask=principal"): diagonal[masks["principal"]].mean() / mean,
              ("gate.curvature.mask", "alpha=0.2;mask=low_magnitude"): diagonal[masks["low_magnitude"]].mean() / mean,
              ("gate.curvature.subspace", None): np.trace(frame.T @ f @ frame) / K**2 / mean,
              ("gate.curvature.update", None): d.ravel() @ f @ d.ravel() / (d**2).sum() / mean}
    for key, value in wanted.items():
        row = found[key]
        half = (row["ci_hi"] - row["ci_lo"]) / 2
        assert abs(row["value"] - value) < 2 * half < 0.4 * value, key
        assert (row["unit"], row["n_units"]) == ("example", 1024)


def test_planted_directions_stand_out_of_their_nulls(planted):
    found, _, _, _ = planted
    principal = found["gate.curvature.mask", "alpha=0.2;mask=principal"]
    assert principal["value"] > principal["null_hi"] and principal["null_lo"] < 1 < principal["null_hi"]
    subspace = found["gate.curvature.subspace", None]
    assert subspace["value"] > 1.5 and subspace["null_kind"] == "random_frames"
    update = found["gate.curvature.update", None]
    assert update["value"] < update["null_lo"] and 0 <= update["noise_floor"] < update["value"]
    left = found["gate.curvature.conditioned", "damping=0.5;direction=update;rows=32"]
    assert left["value"] < 1 and left["ci_lo"] < left["value"] < left["ci_hi"]
    share = found["gate.curvature.remaining", "damping=0.5;direction=update;rows=32"]
    assert 0 < share["value"] <= 1


def test_no_update_is_degenerate_and_the_base_still_has_its_rows():
    params, rows = case(m=16)
    probe = gate_probe.GateCurvature(policy.predict, k=K, conditioned=0)
    found, _ = measured(probe, params, params, rows)
    assert found["gate.curvature.update", None]["status"] == "degenerate"
    assert found["gate.curvature.subspace", None]["status"] == "ok" and len(found) == 5


def test_the_conditioned_form_is_the_damped_schur_complement():
    rng = np.random.default_rng(0)
    g, v = rng.normal(size=(6, 9)), rng.normal(size=(2, 4))  # six rows, nine parameters of which W has four
    w, rest = g[:, :4], g[:, 4:]
    plain, found = gate.conditioned((w @ w.T)[None], g @ g.T, (v @ w.T)[None], 0.3)
    f, damping = g.T @ g / 6, 0.3 * np.trace(rest @ rest.T / 6) / 6
    schur = f[:4, :4] - f[:4, 4:] @ np.linalg.inv(f[4:, 4:] + damping * np.eye(5)) @ f[4:, :4]
    np.testing.assert_allclose(plain[0], np.einsum("ki,ij,kj->k", v, f[:4, :4], v), rtol=1e-12)
    np.testing.assert_allclose(found[0], np.einsum("ki,ij,kj->k", v, schur, v), rtol=1e-10)
    for rows in (w, 0 * w):  # nothing outside W can answer; no gradient at all
        plain, found = gate.conditioned((rows @ rows.T)[None], rows @ rows.T, (v @ rows.T)[None], 0.3)
        np.testing.assert_array_equal(found, plain)


def test_what_does_not_fit_is_refused():
    params, rows = case(m=4)
    ctx = probes.Context({probes.PARAMS0: params, probes.PARAMS: params, probes.PROBE_BATCH: rows})
    with pytest.raises(ValueError, match="needs 8 rows or more; the probe batch has 4"):
        gate_probe.GateCurvature(policy.predict).init(ctx, jax.random.key(0))
    with pytest.raises(ValueError, match="k=9 is not below"):
        gate_probe.GateCurvature(policy.predict, k=9, conditioned=0, microbatch=4).init(ctx, jax.random.key(0))
    with pytest.raises(ValueError, match="multiple of 8"):
        gate_probe.GateCurvature(policy.predict, conditioned=12)
