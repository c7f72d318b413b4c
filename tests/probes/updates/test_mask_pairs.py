"""Masks of two runs: counts and blind expectations against float64 numpy, planted overlaps, statuses."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from jaxpost import records
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import mask_pairs

INFOS = [TensorInfo("layers/0/q", "q", 0, (24, 16)), TensorInfo("layers/0/v", "v", 0, (24, 8))]
META = {"arm": "b", "against": "a", "mapping": "raw", "step": 3, "seeds": [5, 6], "conditional_on": "base",
        "row_ids": records.row_ids}


def grid(x):
    return np.asarray(x, np.float32).astype(bfloat16).astype(np.float32)


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    made = []
    for scale in (1.0, 0.3):  # two bases of different magnitudes
        w0 = {i.name: grid(scale * rng.standard_t(3, i.shape)) for i in INFOS}
        w1 = {n: np.stack([w + rng.normal(size=w.shape).astype(np.float32) * 1e-3 for _ in range(2)]) for n, w in w0.items()}
        made.append((w0, w1))
    return made


def seen(w0, w1):
    return w0.astype(bfloat16) != w1.astype(bfloat16)


def probability(w0, w1):
    """P(entry reads differently) over every entry of the update in its place, by brute force in float64."""
    update = (w1 - w0).astype(np.float64).ravel()
    return np.stack([seen(w0, (w0 + d).astype(np.float32)) for d in update]).mean(0)


def test_counts_and_expectations_against_brute_force(runs):
    (a0, a1), (b0, b1) = runs
    found = mask_pairs.compare(a0, a1, b0, b1)
    for name in a0:
        for s in range(2):
            m1, m2 = seen(a0[name], a1[name][s]), seen(b0[name], b1[name][s])
            p1, p2 = probability(a0[name], a1[name][s]), probability(b0[name], b1[name][s])
            expected = {"both": (m1 & m2).sum(), "size1": m1.sum(), "size2": m2.sum()}
            blind = {"expected_both": (p1 * p2).sum(), "expected1": p1.sum(), "expected2": p2.sum(),
                     "variance_both": (p1 * p2 * (1 - p1 * p2)).sum()}
            for key, value in (expected | blind).items():
                assert found[name][key][s] == pytest.approx(value, rel=1e-5), key


def test_rows_pool_as_ratios_of_sums(runs):
    (a0, a1), (b0, b1) = runs
    found = mask_pairs.compare(a0, a1, b0, b1)
    table = records.measurement_table(mask_pairs.finalize(found, INFOS, {"all": [i.name for i in INFOS]}, **META))
    own = records.select(table, role="seed", metric="weight.pair.overlap", granularity="body", seed=6).to_pylist()
    assert len(own) == 1 and own[0]["params"] == "against=a;group=all;map=raw"
    both, size = (sum(found[i.name][key][1] for i in INFOS) for key in ("both", "size1"))
    assert own[0]["value"] == pytest.approx(both / size, rel=1e-12)
    blind, expected = (sum(found[i.name][key][1] for i in INFOS) for key in ("expected_both", "expected1"))
    assert own[0]["null_value"] == pytest.approx(blind / expected, rel=1e-12)
    assert own[0]["null_lo"] < own[0]["null_value"] < own[0]["null_hi"]
    null = records.select(table, role="null", of=own[0]["row_id"]).to_pylist()
    density = sum(found[i.name]["size2"][1] for i in INFOS) / sum(i.shape[0] * i.shape[1] for i in INFOS)
    assert [r["null_kind"] for r in null] == ["independence"] and null[0]["value"] == pytest.approx(density, rel=1e-12)
    assert len(records.select(table, role="seed")) == 2 * 2 * 3


def test_a_run_overlaps_with_itself_wholly_and_with_a_disjoint_one_not_at_all(runs):
    (a0, a1), _ = runs
    same = mask_pairs.finalize(mask_pairs.compare(a0, a1, a0, a1), INFOS, {}, **META)
    values = np.asarray(same["value"])[np.asarray(same["role"]) == "seed"]
    assert (values == 1.0).all()
    half = {n: np.where(np.arange(w[0].size).reshape(w[0].shape) % 2, a0[n], w[0])[None] for n, w in a1.items()}
    other = {n: np.where(np.arange(w[0].size).reshape(w[0].shape) % 2, w[0], a0[n])[None] for n, w in a1.items()}
    found = mask_pairs.compare(a0, half, a0, other)
    assert all(x["both"] == 0 and x["size1"] > 0 for x in found.values())


def test_blind_updates_read_as_their_null():
    rng = np.random.default_rng(1)
    info = TensorInfo("layers/0/up", "up", 0, (300, 300))
    bases = [{info.name: grid(rng.standard_t(3, info.shape) * s)} for s in (1.0, 0.2)]
    after = [{n: w[None] + rng.normal(size=(4, *w.shape)).astype(np.float32) * 2e-3 for n, w in b.items()} for b in bases]
    columns = mask_pairs.finalize(mask_pairs.compare(bases[0], after[0], bases[1], after[1]), [info], {},
                                  **META | {"seeds": [0, 1, 2, 3]})
    own = np.asarray(columns["role"]) == "seed"
    low, high, value = (np.asarray(columns[n], float)[own] for n in ("null_lo", "null_hi", "value"))
    assert ((low <= value) & (value <= high)).mean() >= 0.75 and np.abs(value - (low + high) / 2).max() < 0.01


def test_the_null_of_bf16_masters_knows_what_rounding_hid():
    rng = np.random.default_rng(2)
    info = TensorInfo("layers/0/up", "up", 0, (300, 300))
    base0 = {info.name: grid(rng.standard_t(3, info.shape))}
    runs = [{n: grid(w[None] + rng.normal(size=(2, *w.shape)).astype(np.float32) * 5e-4) for n, w in base0.items()}
            for _ in range(2)]
    found = mask_pairs.compare(base0, runs[0], base0, runs[1])
    for size, blind in (("size1", "expected1"), ("size2", "expected2"), ("both", "expected_both")):
        np.testing.assert_allclose(found[info.name][blind][:, 0], found[info.name][size], rtol=0.05)
    columns = mask_pairs.finalize(found, [info], {}, **META)
    own = np.asarray(columns["role"]) == "seed"
    assert set(np.asarray(columns["null_kind"])[own]) == {"law_range"}


def test_no_update_and_no_number_are_rows(runs):
    (a0, a1), _ = runs
    still = {n: np.stack([w, w]) for n, w in a0.items()}
    broken = {n: w.copy() for n, w in a1.items()}
    broken["layers/0/q"][0, 0, 0] = np.nan
    columns = mask_pairs.finalize(mask_pairs.compare(a0, still, a0, broken), INFOS, {"all": [i.name for i in INFOS]}, **META)
    table = records.measurement_table(columns)
    rows = records.select(table, role="seed", metric="weight.pair.overlap")
    status = {(r["tensor"], r["seed"]): r["status"] for r in rows.to_pylist()}
    assert status == {("layers/0/q", 5): "nan", ("layers/0/v", 5): "degenerate", (None, 5): "nan",
                      ("layers/0/q", 6): "degenerate", ("layers/0/v", 6): "degenerate", (None, 6): "degenerate"}
    assert rows["value"].null_count == len(rows)
    assert pooling.NO_UPDATE in set(rows["status_reason"].to_pylist())


def test_shapes_that_do_not_match_are_named(runs):
    (a0, a1), (b0, b1) = runs
    with pytest.raises(ValueError, match="'layers/0/q' has shapes"):
        mask_pairs.compare(a0, a1, b0, {n: w[:1] for n, w in b1.items()})
