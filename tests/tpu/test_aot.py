"""The programs that train, compiled by the TPU compiler for a pod slice that is not there."""

import dataclasses

import pytest

from experiments import compile as command
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


def test_the_command(capsys):
    small = ["--config=rlvr_sparsity:smoke", "--config.model.heads=4", "--config.model.kv_heads=2"]
    assert command.main([*small, "--mesh=data=4,fsdp=2,tensor=2"]) == 0
    said = capsys.readouterr().out
    assert "16 chips" in said and "all-reduce" in said and "none" in said
    assert command.main([*small, "--mesh=data=5"]) == 2
    assert "needs 5 devices, found 16" in capsys.readouterr().err
    assert command.main([*small, "--topology=v5e:3x9"]) == 2
    assert "write it like 'v5e:4x4'" in capsys.readouterr().err
    assert command.main([*small, "--arm=rlvr-lr9"]) == 2
    assert "did you mean" in capsys.readouterr().err
