"""Whole comparisons: rows, bundle, resuming, memory, several tuned checkpoints, broken tensors."""

import json
import os
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jaxpost import models, records
from jaxpost.compare import CompareError, Settings, compare, comparison, passes, run
from jaxpost.models import hf
from jaxpost.records.rows import select
from jaxpost.records.verify import verify
from tests.compare import checkpoints
from tests.flips import flip


def of(table, metric, **wanted):
    rows = select(table, metric=metric, **({"role": "estimate", "params": None} | wanted)).to_pylist()
    assert len(rows) == 1, (metric, wanted, len(rows))
    return rows[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A base and a tuned checkpoint in bf16."""
    path, tensors = tmp_path_factory.mktemp("pair"), checkpoints.base_tensors()
    return (checkpoints.write(path / "base", tensors), checkpoints.write(path / "tuned", checkpoints.moved(tensors)))


@pytest.fixture(scope="module")
def finished(pair, tmp_path_factory):
    return run(pair[0], [pair[1]], tmp_path_factory.mktemp("out") / "report", Settings("element"))


def test_a_bundle_is_whole_and_says_what_it_compared(pair, finished):
    assert not verify(finished)[1]
    manifest = records.storage.read_json(finished / "manifest.json")
    assert manifest["status"] == "complete" and manifest["kind"] == "compare" and not (finished / passes.FOLDER).exists()
    assert manifest["coverage"]["compared"] == 8 and manifest["coverage"]["tensors"] == 14
    tensors = pq.read_table(finished / "tensors.parquet").to_pylist()
    assert {row["checkpoint"] for row in tensors} == {"base", "tuned"} and len(tensors) == 28
    assert all(row["compared"] or row["reason"] for row in tensors)
    assert all(row["sha256"].partition(":")[0] == manifest["digest"] for row in tensors)
    table = records.read_measurements(finished)
    assert set(table["unit"].to_pylist()) == {"pair"} and set(select(table, role="estimate")["n_units"].to_pylist()) == {1}
    page = (finished / "report.html").read_text()
    assert "One pair is one unit (n_units = 1)" in page and "As the papers print them" in page


def test_rows_in_memory_are_those_of_the_bundle(pair, finished):
    found = compare(*pair, level="element")
    table = found.rows
    assert found.headline().splitlines() == records.headline(finished)[1:-1]
    kinds = found.table("weight.sparsity.bf16", granularity="kind")
    assert set(kinds["module_kind"].to_pylist()) == {*checkpoints.OURS.values(), "embed"} and "null_lo" in kinds.column_names
    assert len(found.to_pandas()) == table.num_rows
    with pytest.raises(CompareError, match="no rows of 'weight.sparsty'; did you mean 'weight.sparsity"):
        found.table("weight.sparsty")
    assert table.num_rows == records.read_measurements(finished).num_rows
    assert records.rows.table_digest(table) == records.rows.table_digest(records.read_measurements(finished))


def test_a_finished_report_is_kept_and_another_pair_refused(pair, finished, tmp_path):
    before = records.storage.read_json(finished / "manifest.json")
    assert run(*pair[:1], [pair[1]], finished, Settings("element")) == finished
    assert records.storage.read_json(finished / "manifest.json") == before
    with pytest.raises(records.BundleError, match="holds another config.*choose another directory"):
        run(pair[1], [pair[0]], finished, Settings("element"))


def test_a_report_of_files_that_changed_since_is_refused_and_kept(pair, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "report")
    later = shutil.copytree(pair[1], tmp_path / pair[1].name)
    for path in later.iterdir():
        os.utime(path, times=(time.time() + 60,) * 2)
    with pytest.raises(CompareError, match="was written after the report in .* was begun; choose another --out"):
        run(pair[0], [later], out, Settings("element"))
    assert not verify(out)[1]


def test_a_killed_run_continues_with_what_it_has(pair, finished, tmp_path, monkeypatch):
    measured, plain = [], passes._measure

    def count(job, p, *rest):
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(p.name)
        return plain(job, p, *rest)

    monkeypatch.setattr(passes, "_measure", count)
    out = tmp_path / "report"
    with pytest.raises(KeyboardInterrupt):
        run(pair[0], [pair[1]], out, Settings("element", workers=1))
    assert records.storage.read_json(out / "manifest.json")["status"] == "running" and not (out / "report.html").exists()
    before, again = set(measured), []
    monkeypatch.setattr(passes, "_measure", lambda job, p, *rest: again.append(p.name) or plain(job, p, *rest))
    run(pair[0], [pair[1]], out, Settings("element", workers=1))
    assert not before & set(again) and len(before) + len(again) == 14
    ids = [records.storage.read_json(path / "manifest.json")["bundle_id"] for path in (out, finished)]
    assert ids[0] == ids[1]


def test_a_matrix_beyond_the_budget_keeps_its_element_rows_and_says_why_the_others_are_absent(pair, monkeypatch):
    monkeypatch.setattr(passes, "working_set", lambda job, p: 2**40 if p.name == "embed" else 2**20)
    table = compare(*pair, level="top").rows
    row = of(table, "weight.rank.stable", tensor="embed")
    assert row["status"] == "absent" and "GiB of memory" in row["status_reason"] and row["value"] is None
    assert of(table, "weight.sparsity.bf16", tensor="embed", role="estimate")["value"] > 0
    pooled = of(table, "weight.rank.stable", granularity="global", dtype="bf16")
    assert pooled["status"] == "ok" and "7 of 8 matrices: embed left out" in pooled["status_reason"]


def test_the_budget_never_lends_more_than_it_has():
    budget = passes.Budget(100)
    budget.take(60)
    budget.take(40)
    assert budget._free == 0
    budget.give(60)
    budget.give(40)
    budget.take(1000)  # more than all there is: all of it
    assert budget._free == 0


def test_several_runs_are_compared_with_each_other(tmp_path):
    tensors = checkpoints.base_tensors()
    base = checkpoints.write(tmp_path / "base", tensors)
    runs = [checkpoints.moved(tensors, 2e-4, seed) for seed in (1, 2, 3)]
    paths = [checkpoints.write(tmp_path / f"run{i}", w) for i, w in enumerate(runs)]
    table = compare(base, *paths, level="top").rows
    masks = [{n: checkpoints.on_grid(x) != checkpoints.ours(tensors)[n] for n, x in checkpoints.ours(w).items()} for w in runs]
    pairs = [(masks[i], masks[j]) for i in range(3) for j in range(i)]
    exact = np.mean([sum((a[n] & b[n]).sum() for n in a) / sum((a[n] | b[n]).sum() for n in a) for a, b in pairs])
    row = of(table, "weight.jaccard", granularity="global")
    assert row["value"] == pytest.approx(exact, rel=1e-6) and (row["unit"], row["n_units"]) == ("run", 3)
    assert row["arm"] == "run0 + run1 + run2" and row["null_value"] == pytest.approx(exact, rel=0.05)
    seen = sum(sum(np.sum((a[n] + 0 + masks[1][n] + masks[2][n]) == 3) for n in a) for a in masks[:1])
    share = of(table, "weight.consensus.share", granularity="global", params="of=3;runs=3")
    assert share["value"] == pytest.approx(seen / sum(x.size for x in masks[0].values()), rel=1e-6)
    assert {"run0", "run1", "run2"} < set(table["arm"].to_pylist())


def test_a_base_off_the_grid_is_rounded_and_said_so(tmp_path):
    tensors = checkpoints.base_tensors()
    base = checkpoints.write(tmp_path / "base", checkpoints.moved(tensors, 1e-5), np.float32)
    tuned = checkpoints.write(tmp_path / "tuned", tensors)
    found = compare(base, tuned, level="element")
    table, said = found.rows, "\n".join(found.flags)
    assert "not on the bf16 grid and were rounded to it" in said and "are they swapped" in said
    row = of(table, "weight.sparsity.bf16", tensor="layers/0/q")
    assert "the base was rounded to bf16 first" in row["status_reason"]
    rounded = checkpoints.on_grid(checkpoints.moved(tensors, 1e-5)["model.layers.0.self_attn.q_proj.weight"])
    assert row["value"] == np.mean(rounded == tensors["model.layers.0.self_attn.q_proj.weight"])


def test_broken_tensors_give_rows_with_a_status_or_are_listed(tmp_path):
    tensors = checkpoints.base_tensors()
    bad, tuned = dict(tensors), checkpoints.moved(tensors)
    bad["model.layers.0.self_attn.v_proj.weight"] = np.full((32, 32), np.nan)
    bad["model.layers.0.mlp.up_proj.weight"] = np.zeros((48, 32))
    tuned["model.layers.0.self_attn.q_proj.weight"][3, 4] = np.inf
    tuned["model.layers.0.self_attn.k_proj.weight"][:] = 0.0
    found = compare(checkpoints.write(tmp_path / "a", bad), checkpoints.write(tmp_path / "b", tuned), level="element")
    table, said = found.rows, found.flags
    row = of(table, "weight.sparsity.bf16", tensor="layers/0/q")
    assert row["status"] == "nan" and "non-finite" in row["status_reason"]
    assert not len(select(table, tensor="layers/0/v")) and not len(select(table, tensor="layers/0/up"))
    assert "base: NaN or Inf in layers/0/v; not compared" in said and "base: only zeros in layers/0/up; not compared" in said
    assert "b: NaN or Inf in layers/0/q" in said and "b: only zeros in layers/0/k" in said


def test_a_checkpoint_of_orbax_is_compared_with_one_of_safetensors(tmp_path):
    tensors = checkpoints.base_tensors(layers=2)
    matrices = checkpoints.ours(tensors)
    tree = {"embed": matrices["embed"], "final_norm": tensors["model.norm.weight"], "layers": {}}
    for name in checkpoints.OURS.values():
        tree["layers"][name] = np.stack([matrices[f"layers/{i}/{name}"] for i in range(2)])
    for name, stored in (("q_bias", "self_attn.q_proj.bias"), ("k_bias", "self_attn.k_proj.bias"),
                         ("v_bias", "self_attn.v_proj.bias"), ("attention_norm", "input_layernorm.weight"),
                         ("mlp_norm", "post_attention_layernorm.weight")):
        tree["layers"][name] = np.stack([tensors[f"model.layers.{i}.{stored}"] for i in range(2)])
    with ocp.PyTreeCheckpointer() as writer:
        writer.save((tmp_path / "ours").absolute(), {**tree, "layers": {k: jnp.asarray(x) for k, x in tree["layers"].items()}})
    other = checkpoints.write(tmp_path / "theirs", checkpoints.moved(tensors, 1e-4))
    table = compare(tmp_path / "ours", other, level="element").rows
    plain = compare(checkpoints.write(tmp_path / "base", tensors), other, level="element").rows
    names = ("metric", "role", "granularity", "tensor", "module_kind", "params", "dtype", "null_kind")
    values = [{tuple(row[name] for name in names): row["value"] for row in found.to_pylist()} for found in (table, plain)]
    assert values[0].keys() == values[1].keys() and len(values[0]) == len(table)
    for key, value in values[1].items():
        assert values[0][key] == pytest.approx(value, rel=1e-9), key
    assert pc.all(pc.equal(select(table, role="estimate")["status"], "ok")).as_py()
    wide = checkpoints.write(tmp_path / "wide", tensors, np.float32)
    for order in ((tmp_path / "ours", other), (other, tmp_path / "ours")):  # digests are in the base's order
        mixed = compare(wide, *order, level="element")
        assert "ours: every compared tensor is bit-identical to the base: is it the same checkpoint?" in mixed.flags
        plain = compare(wide, other, level="element")
        assert pc.unique(mixed.rows["conditional_on"]) == pc.unique(plain.rows["conditional_on"])


def test_stacked_experts_of_orbax_are_those_of_a_directory_of_hugging_face(tmp_path):
    c = models.TransformerConfig(vocab=24, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ff=12, qk_norm=True, experts=3)
    before = models.init(c, jax.random.key(0))
    after = jax.tree.map(lambda x: x * (1 + 1e-2), before)
    with ocp.PyTreeCheckpointer() as writer:
        writer.save((tmp_path / "ours").absolute(), after)
    hf.save(tmp_path / "base", c, before)
    hf.save(tmp_path / "theirs", c, after)
    stacked, apart = (compare(tmp_path / "base", tmp_path / name, level="element").rows for name in ("ours", "theirs"))
    names = ("metric", "role", "granularity", "tensor", "module_kind", "layer", "params", "dtype", "null_kind")
    values = [{tuple(row[name] for name in names): row["value"] for row in found.to_pylist()} for found in (stacked, apart)]
    assert values[0] == values[1] and len(values[0]) == len(stacked)
    assert {"layers/1/experts/2/down", "layers/0/router"} < set(stacked["tensor"].to_pylist())
    assert set(select(stacked, tensor="layers/1/experts/2/down")["layer"].to_pylist()) == {1}


@pytest.mark.parametrize("size", [1e-5, 2e-4])
def test_a_blind_update_that_was_stored_in_bf16_reads_what_its_nulls_say(tmp_path, size):
    rng = np.random.default_rng(3)
    drawn = 0.02 * rng.standard_normal((300, 400)).astype(np.float32)
    base = {"model.layers.0.self_attn.q_proj.weight": checkpoints.on_grid(drawn)}
    tuned = {name: x + size * rng.standard_normal(x.shape).astype(np.float32) for name, x in base.items()}
    paths = checkpoints.write(tmp_path / "base", base), checkpoints.write(tmp_path / "tuned", tuned)
    table = compare(*paths, level="element").rows
    rows = [row for row in select(table, tensor="layers/0/q", role="estimate").to_pylist()
            if row["metric"].startswith("weight.sparsity") and row["null_kind"]]
    assert len(rows) == 2 + len(comparison.Panel.abs_tols)
    for row in rows:  # three standard errors of a share of n entries
        error = 3 * np.sqrt(row["null_value"] * (1 - row["null_value"]) / 120_000) + 1e-3
        assert row["value"] == pytest.approx(row["null_value"], abs=error), row


@pytest.mark.parametrize(("settings", "message"), [
    ({"level": "all"}, "level is one of element, top, exact; found 'all'"), ({"memory": 2**20}, "the least is 0.5 GiB")])
def test_settings_that_cannot_run_are_refused(settings, message):
    with pytest.raises(CompareError, match=message):
        Settings(**settings)


def test_the_config_holds_contents_and_no_paths(pair, tmp_path):
    prepared = comparison.prepare(pair[0], [pair[1]], Settings("element"))
    text = json.dumps(comparison._config(prepared))
    assert str(pair[0].parent) not in text and prepared.fingerprints["base"] in text
    moved = tmp_path / "elsewhere"
    moved.symlink_to(pair[0])
    assert comparison.fingerprint(comparison.prepare(moved, [pair[1]], Settings("element")).job.base) == \
        prepared.fingerprints["base"]


def test_a_finished_pair_that_is_damaged_is_measured_again(pair, tmp_path):
    prepared = comparison.prepare(pair[0], [pair[1]], Settings("element"))
    seen = passes.run(prepared.job, prepared.pairing.pairs, tmp_path, 1, lambda *_: None)
    file = tmp_path / "000001.safetensors"
    whole = file.read_bytes()
    flip(file, 8 * (len(whole) - 9))
    again = passes.run(prepared.job, prepared.pairing.pairs, tmp_path, 1, lambda *_: None)
    for name, record in seen.items():
        for key, x in record["arrays"].items():
            np.testing.assert_array_equal(again[name]["arrays"][key], x)
    assert passes._load(file)["base"] == seen[prepared.pairing.pairs[1].name]["base"]
