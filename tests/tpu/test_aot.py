"""The programs that train, compiled by the TPU compiler for a pod slice that is not there."""

import dataclasses
import json
import re

import pytest

from experiments import run as command
from experiments.post_train_hf import stand_in
from jaxpost import aot, models, objectives, sharding, tasks, training

pytest.importorskip("libtpu", reason="pip install -e '.[test,tpu]'")

pytestmark = pytest.mark.tpu

TOPOLOGY, POD = "v5e:4x4", {"data": 2, "fsdp": 4, "tensor": 2}
MODEL = models.TransformerConfig(vocab=tasks.vocab.SIZE, width=512, layers=4, heads=8, kv_heads=4, head_dim=64, ff=1024)
TASK = tasks.get("addition", digits=2)
MIB = 2**20


def spec(**parts):
    return training.StepSpec(MODEL, objectives.get("grpo", **parts), (("name", "adamw"),), group=8)


@pytest.fixture(scope="module")
def devices():
    return aot.devices(TOPOLOGY)


@pytest.fixture(scope="module")
def fused(devices):
    s, mesh = spec(), sharding.make_mesh(POD, devices=devices)
    return aot.report(*aot.step_program(training.Rollouts(TASK, 8, s), s, mesh), mesh)


def test_each_chip_holds_its_share_of_the_state(fused):
    share = 12 * models.count_parameters(MODEL) / (4 * 2)  # float32 masters and two moments, over fsdp * tensor
    assert fused["chips"] == 16
    # The vocabulary of 51 and the norms are not divided by every axis: a little more than the share, never less.
    assert share <= fused["argument_bytes"] <= 1.05 * share, (fused["argument_bytes"], share)


def test_the_state_is_donated_and_keeps_its_layout(fused):
    assert fused["output_bytes"] < 0.1 * MIB, "outputs beside the state are metrics; a copied state would be MiB"


def test_the_chips_exchange_shards_and_never_the_whole_tree(fused):
    assert {"all-gather", "all-reduce"} <= set(fused["collectives"])
    stacked = 4 * MODEL.layers * MODEL.width * MODEL.ff  # bytes of one kind of matrix, all layers
    for kind, row in fused["collectives"].items():
        assert row["bytes"] > 0 and row["largest_bytes"] < stacked / 2, (kind, row)


def test_no_step_waits_for_its_host(fused):
    assert fused["host_calls"] == []


def test_no_loop_ends_by_a_vote(fused):
    """Problems are redrawn until they fit, on every chip for itself."""
    assert fused["voting_loops"] == 0


def test_a_mixture_is_split_by_experts_and_never_gathered_whole(devices):
    model = dataclasses.replace(MODEL, ff=512, experts=8)
    s = training.StepSpec(model, objectives.get("cross_entropy"), (("name", "adamw"),), balance_coef=0.01)
    mesh = sharding.make_mesh(POD, devices=devices)
    found = aot.report(*aot.step_program(training.Demonstrations(((TASK, 64),)), s, mesh), mesh)
    share = 12 * models.count_parameters(model) / (4 * 2)
    assert share <= found["argument_bytes"] <= 1.05 * share, (found["argument_bytes"], share)
    stacked = 4 * model.layers * model.experts * model.width * model.ff
    assert all(row["largest_bytes"] < stacked / 2 for row in found["collectives"].values()), found["collectives"]
    assert found["voting_loops"] == 0 and found["host_calls"] == []


def test_a_reference_is_sharded_like_the_parameters(fused, devices):
    s, mesh = spec(kl_place="loss", kl_coef=0.04), sharding.make_mesh(POD, devices=devices)
    found = aot.report(*aot.step_program(training.Rollouts(TASK, 8, s), s, mesh), mesh)
    share = 4 * models.count_parameters(MODEL) / (4 * 2)
    assert share <= found["argument_bytes"] - fused["argument_bytes"] <= 1.05 * share


def test_activations_of_training_are_split_over_the_rows(devices):
    """Without it fsdp copies every row: the temporaries of supervised rows on fsdp=16 would be those of one chip."""
    s = training.StepSpec(MODEL, objectives.get("cross_entropy"), (("name", "adamw"),))
    source = training.Demonstrations(((TASK, 512),))
    found = {}
    for axis in ("data", "fsdp"):
        mesh = sharding.make_mesh({axis: 16}, devices=devices)
        found[axis] = aot.report(*aot.step_program(source, s, mesh), mesh)
    assert found["fsdp"]["argument_bytes"] < found["data"]["argument_bytes"] / 8
    assert found["fsdp"]["temporary_bytes"] < 1.5 * found["data"]["temporary_bytes"], found
    assert {row["voting_loops"] for row in found.values()} == {0}


def test_an_ensemble_of_sixteen_is_sixteen_single_runs(devices):
    s, mesh = spec(), sharding.make_mesh({"ensemble": 16}, devices=devices)
    found = aot.report(*aot.ensemble_program(training.Rollouts(TASK, 8, s), s, mesh, members=16), mesh)
    share = 12 * models.count_parameters(MODEL)
    assert share <= found["argument_bytes"] <= 1.05 * share
    assert found["collectives"] == {} and found["host_calls"] == []


def test_one_chip_compiles_at_a_slice_of_one():
    """libtpu names no topology of one chip: the first of four is taken."""
    mesh = sharding.make_mesh({}, devices=aot.devices("v5e-1"))
    s = training.StepSpec(MODEL, objectives.get("cross_entropy"), (("name", "adamw"),))
    found = aot.report(*aot.step_program(training.Demonstrations(((TASK, 8),)), s, mesh), mesh)
    assert found["chips"] == 1 and found["collectives"] == {} and found["argument_bytes"] >= 12 * models.count_parameters(MODEL)


def test_what_a_chip_cannot_hold_is_said_with_its_size():
    """800 GiB of parameters on one chip."""
    model = dataclasses.replace(MODEL, layers=64, width=16384, ff=65536)
    mesh = sharding.make_mesh({}, devices=aot.devices("v5e-1"))
    s = training.StepSpec(model, objectives.get("cross_entropy"), (("name", "adamw"),))
    with pytest.raises(aot.DoesNotFit) as error:
        aot.report(*aot.step_program(training.Demonstrations(((TASK, 8),)), s, mesh), mesh)
    assert error.value.used > 100 * 2**30
    assert error.value.usable == int(aot.USABLE_GIB[mesh.devices.flat[0].device_kind] * 2**30)


def test_a_vocabulary_in_parts_is_split_and_gathered_once(devices):
    """The head's gradient is made part by part: the collectives of an update are those of whole logits, and its memory less."""
    model = dataclasses.replace(MODEL, vocab=32768, width=256, layers=2)
    mesh, found = sharding.make_mesh({"fsdp": 16}, devices=devices), {}
    for chunk in (0, 2048):
        s = training.StepSpec(dataclasses.replace(model, logprob_chunk=chunk), objectives.get("cross_entropy"),
                              (("name", "adamw"),))
        source = training.Demonstrations(((TASK, 1024),))
        found[chunk] = aot.report(*aot.step_program(source, s, mesh), mesh)
    moved = {chunk: sum(row["bytes"] for row in one["collectives"].values()) for chunk, one in found.items()}
    assert moved[2048] < 1.5 * moved[0], moved
    assert found[2048]["temporary_bytes"] < found[0]["temporary_bytes"], found


def test_the_command(capsys, tmp_path):
    """An arm of a text run, its sampler, its evaluation and the weight probe, without weights; mistakes are one line."""
    shape = json.loads((stand_in.DIRECTORY / "Qwen2.5-0.5B" / "config.json").read_text())
    shape |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 2048}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    small = ["--config=post_train_hf:smoke", f"--config.model.directory={tmp_path}", "--config.arms=('sft-lr1',)",
             "--config.measure.probes=('weight','loss_tokens')", "--config.measure.spectra=none", "--config.measure.rows=16",
             "--config.train.microbatches=1", "--config.memory.logprob_chunk=512"]
    assert command.main([*small, "--config.mesh=fsdp:-1", "--compile_for=v5e-16"]) == 0
    said = capsys.readouterr().out
    assert "16 chips" in said and "DOES NOT FIT" not in said
    for name in ("sft-lr1: update", "evaluation: samples", "probe weight, references", "probe weight"):
        assert re.search(rf"{name}: [\d.]+ GiB a chip", said), name
    assert command.main([*small, "--config.mesh=data:5", "--compile_for=v5e-16"]) == 2
    assert "the mesh takes 5 of the 16 chips" in capsys.readouterr().err
    assert command.main([*small, "--compile_for=v5e:3x9"]) == 2
    assert "write it like 'v5e:4x4', or as a slice such as v5e-16" in capsys.readouterr().err


def test_grouped_experts_compile_with_whole_experts_a_chip(devices):
    """No chip gathers the experts of another: over tensor only the sum of the tokens passes."""
    model = dataclasses.replace(MODEL, ff=512, experts=8, expert_products="grouped")
    s = training.StepSpec(model, objectives.get("cross_entropy"), (("name", "adamw"),))
    mesh = sharding.make_mesh(POD, devices=devices)
    found = aot.report(*aot.step_program(training.Demonstrations(((TASK, 64),)), s, mesh), mesh)
    stacked = 4 * model.layers * model.experts * model.width * model.ff
    assert all(row["largest_bytes"] < stacked / 2 for row in found["collectives"].values()), found["collectives"]
    assert found["host_calls"] == []
