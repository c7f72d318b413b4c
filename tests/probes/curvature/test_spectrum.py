"""Rows of the curvature probe on a softmax regression whose Fisher is known in closed form."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpost import probes, records
from jaxpost.probes.curvature import spectrum
from jaxpost.probes.gradients import sums as gradient_sums


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


policy = _beside("softmax_policy")


def predict(params, row):
    """The softmax regression with its matrix in a stack of two layers: their sum."""
    return policy.predict({"w": params["layers"]["w"].sum(0), "c": params["c"]}, row)


def rows_of(probe, dtype=np.float64):
    params, rows = policy.case(dtype=dtype)
    params = {"c": params["c"], "layers": {"w": np.stack([params["w"], 0 * params["w"]])}}
    ctx = probes.Context({probes.PARAMS: params, probes.PROBE_BATCH: rows})
    values = jax.jit(lambda ctx: probe.measure(ctx, probe.init(ctx, jax.random.key(0)), jax.random.key(1))[1])(ctx)
    columns = probe.finalize(jax.tree.map(lambda x: np.asarray(x)[None], values), {}, infos=gradient_sums.inventory(params),
                             arm="a", step=3, seeds=(0,), conditional_on="base", row_ids=records.row_ids)
    return records.measurement_table(columns).to_pylist()


def dense():
    """The Fisher of (c, first layer, second layer): both layers see the same inputs. [45, 45]"""
    one = policy.dense_fisher(*policy.case()).mean(0)
    order = [*range(25), *range(5, 25)]
    return one[np.ix_(order, order)]


def test_rows_are_the_closed_form_within_their_errors():
    probe = spectrum.CurvatureSpectrum(predict, k=3, block=2, depth=15, block_depth=6, draws=400, density_depth=10,
                                       microbatch=4, chunk=2)
    with jax.enable_x64(True):
        found = rows_of(probe)
    h = dense()
    values = np.sort(np.linalg.eigvalsh(h))[::-1]
    by = {(r["metric"], r["granularity"], r["layer"], r["k"], r["params"]): r for r in found}
    for k in (1, 2, 3):
        row = by["curvature.eigenvalue", "global", None, k, "matrix=ggn"]
        assert abs(row["value"] - values[k - 1]) <= row["num_err"] + 1e-12 and row["num_err"] < 1e-5
        assert row["ci_lo"] < row["value"] < row["ci_hi"] and (row["unit"], row["n_units"]) == ("example", 8)
        assert abs(row["null_value"] - np.trace(h) / 45) < row["null_hi"] - row["null_lo"]
    for layer in (0, 1):
        row = by["curvature.sharpness", "layer", layer, None, "matrix=ggn"]
        wanted = np.linalg.eigvalsh(h[5:25, 5:25])[-1]
        assert abs(row["value"] - wanted) <= row["num_err"] + 1e-12 and row["num_err"] < 5e-2 * wanted
    trace = by["curvature.trace", "global", None, None, "matrix=ggn"]
    assert abs(trace["value"] - np.trace(h)) < 2 * (trace["ci_hi"] - trace["ci_lo"]) and trace["unit"] == "draw"
    assert trace["ci_hi"] - trace["ci_lo"] < 0.3 * np.trace(h)
    layer = by["curvature.trace", "layer", 0, None, "matrix=ggn"]
    assert abs(layer["value"] - np.trace(h[5:25, 5:25])) < layer["ci_hi"] - layer["ci_lo"]
    for level in (0.1, 0.01):
        row = by["curvature.share_above", "global", None, None, f"matrix=ggn;threshold={level:g}"]
        assert abs(row["value"] - (values >= level * values[0]).mean()) <= row["num_err"] + row["ci_hi"] - row["value"]


def test_adams_sharpness_is_that_of_the_scaled_matrix():
    probe = spectrum.CurvatureSpectrum(predict, k=1, block=2, depth=6, block_depth=15, draws=2, microbatch=8, chunk=2, eps=0.01)
    with jax.enable_x64(True):
        row = next(r for r in rows_of(probe) if r["metric"] == "curvature.sharpness_adam")
        params, rows = policy.case()
        each = jax.vmap(lambda r: jax.grad(policy.loss)(params, r))(rows)
    g = np.concatenate([np.asarray(each["c"]), *[np.asarray(each["w"]).reshape(8, 20)] * 2], axis=1)
    v = np.mean([g[i::4].mean(0) ** 2 for i in range(4)], axis=0)
    scale = (np.sqrt(v) + 0.01) ** -0.5
    wanted = np.linalg.eigvalsh(scale[:, None] * dense() * scale[None, :])[-1]
    np.testing.assert_allclose(row["value"], wanted, rtol=1e-6)
    assert row["params"] == "chunk=2;eps=0.01;matrix=ggn" and row["num_err"] < 1e-3 * wanted


def test_a_direction_that_does_not_exist_is_absent_and_a_broken_product_not_finite():
    rng = np.random.default_rng(0)
    shapes = {"value_K": (2,), "residual_K": (2,), "quadratic_KxM": (2, 4), "adam_1": (1,), "adam_residual_1": (1,),
              "adam_quadratic_1xM": (1, 4), "trace_DxT": (3, 1), "adam_trace_DxT": (3, 1), "share_DxC": (3, 2),
              "share_error_DxC": (3, 2)}
    values = {name: rng.random((2, *shape)) for name, shape in shapes.items()}
    values["value_K"][:, 1] = np.nan  # a matrix of rank 1
    values["trace_DxT"][1] = np.nan
    probe = spectrum.CurvatureSpectrum(predict, k=2, draws=3)
    columns = probe.finalize(values, {}, infos=gradient_sums.inventory({"c": np.zeros(5)}), arm="a", step=3, seeds=(0, 1),
                             conditional_on="base", row_ids=records.row_ids)
    rows = records.measurement_table(columns).to_pylist()
    found = {r["seed"]: (r["status"], r["status_reason"]) for r in rows if (r["metric"], r["k"]) == ("curvature.eigenvalue", 2)}
    assert found == {0: ("absent", "beyond the rank of the matrix"), 1: ("nan", "a product is not finite")}


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="found 'fisher'"):
        spectrum.CurvatureSpectrum(predict, matrix="fisher")
    with pytest.raises(ValueError, match="k=9, block=2, depth=4"):
        spectrum.CurvatureSpectrum(predict, k=9, depth=4)
