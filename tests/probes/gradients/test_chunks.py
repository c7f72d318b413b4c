"""Chunk sums as rows: planted coherence, the map back to single examples, the interval over steps, and nothing to report."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import probes, records
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.gradients.chunks import GradientChunks

PARAMS = {"embed": jnp.zeros((10, 10)), "layers": {"q": jnp.zeros((2, 10, 10))}}
T = 3


def history(share, M=4, k=8, steps=200, n=100, seed=0):
    """Sums of chunks of k gradients u + noise whose coherence is `share`, in every tensor."""
    rng = np.random.default_rng(seed)
    noise = np.sqrt((1 - share) / share / n)
    u = np.ones(n) / np.sqrt(n)
    chunk = k * u + noise * np.sqrt(k) * rng.normal(size=(steps, T, M, n))
    shape = (1, steps)
    return {"chunk_s1_T": (chunk.sum(2) ** 2).sum(-1)[None], "chunk_s2_T": (chunk**2).sum((2, 3))[None],
            "chunks": np.full(shape, M), "chunk_rows": np.full(shape, k), "loss": np.zeros(shape)}


def rows_of(values):
    columns = GradientChunks().finalize(values, {}, infos=gradient_sums.inventory(PARAMS), arm="a", step=9, seeds=[0],
                                        conditional_on="base", row_ids=records.row_ids)
    return records.measurement_table(columns).to_pylist()


def one(rows, metric, **wanted):
    wanted = {"role": "seed", "granularity": "global"} | wanted
    (row,) = [r for r in rows if r["metric"] == f"gradient.{metric}" and all(r[k] == v for k, v in wanted.items())]
    return row


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_planted_coherence_of_examples_is_read_from_chunks(share):
    rows = rows_of(history(share))
    chunk, single = (one(rows, "alpha.unbiased", params=p) for p in ("chunk=8", "chunk=1;from_chunk=8"))
    assert chunk["value"] == pytest.approx(8 * share / (1 + 7 * share), rel=0.03)
    assert single["value"] == pytest.approx(share, rel=0.05) and single["ci_lo"] < share < single["ci_hi"]
    noise = one(rows, "noise_scale", params="chunk=8")
    assert noise["value"] == pytest.approx(1 / single["value"] - 1, rel=1e-9)
    assert (noise["unit"], noise["n_units"], noise["split"]) == ("step", 200, "train") and noise["ci_lo"] < noise["value"]
    assert one(rows, "alpha.unbiased", params="chunk=8", granularity="layer", layer=1)["value"] > 0


def test_the_noise_scale_is_that_of_large_and_small_batches():
    values = history(0.1, M=4, k=8)
    s1, s2 = (values[name].mean(1).sum() for name in ("chunk_s1_T", "chunk_s2_T"))
    big, small = s1 / 32**2, s2 / (4 * 8**2)
    square, trace = (32 * big - 8 * small) / (32 - 8), (small - big) / (1 / 8 - 1 / 32)
    rows = rows_of(values)
    assert one(rows, "mean_norm2")["value"] == pytest.approx(square, rel=1e-12)
    assert one(rows, "noise_trace")["value"] == pytest.approx(trace, rel=1e-12)
    assert one(rows, "noise_scale")["value"] == pytest.approx(trace / square, rel=1e-12)


def test_the_interval_is_the_jackknife_over_steps_of_a_ratio_of_averages():
    values = history(0.1, steps=6)
    s1, s2 = (values[name][0].sum(-1) for name in ("chunk_s1_T", "chunk_s2_T"))
    left = np.asarray([np.delete(s1, i).mean() / np.delete(s2, i).mean() for i in range(6)])
    half = 2.570581835636314 * np.sqrt(5 / 6 * np.sum((left - left.mean()) ** 2))  # t, 5 degrees of freedom
    row = one(rows_of(values), "m_coherence.plug_in")
    assert row["value"] == pytest.approx(s1.mean() / s2.mean(), rel=1e-12)
    assert row["ci_lo"] == pytest.approx(row["value"] - half, rel=1e-9) and row["null_value"] == 1


def test_one_chunk_has_no_rows_one_step_no_interval_and_a_nan_a_status():
    assert rows_of({"loss": np.zeros((1, 3))}) == []
    single = one(rows_of(history(0.1, steps=1)), "alpha.plug_in")
    assert single["ci_lo"] is None and "no interval" in single["status_reason"] and single["value"] > 0
    broken = history(0.1, steps=5)
    broken["chunk_s2_T"][0, 2, 0] = np.nan
    rows = rows_of(broken)
    assert one(rows, "alpha.plug_in")["status"] == "nan"
    assert one(rows, "alpha.plug_in", granularity="layer", layer=1)["status"] == "ok"
    with pytest.raises(ValueError, match=r"\[seeds, tensors\] = \(1, 2\); expected \(1, 3\)"):
        rows_of({**history(0.1), "chunk_s1_T": np.zeros((1, 4, 2)), "chunk_s2_T": np.zeros((1, 4, 2))})
    assert isinstance(GradientChunks(), probes.Probe) and set(GradientChunks().metrics) <= set(probes.METRICS)


def test_an_interval_that_leaves_what_alpha_can_be_ends_at_1():
    """alpha_k above k / (k - 1) would map below 0: three noisy steps have such an end."""
    values = history(0.3, steps=3, k=8) | {"chunk_s1_T": np.tile([[[4.0]], [[4.0]], [[1.0]]], (1, 1, T)).reshape(1, 3, T),
                                           "chunk_s2_T": np.ones((1, 3, T))}
    chunk, single = (one(rows_of(values), "alpha.unbiased", params=p) for p in ("chunk=8", "chunk=1;from_chunk=8"))
    assert chunk["ci_hi"] > 8 / 7
    assert single["ci_lo"] < single["value"] < single["ci_hi"] == 1
