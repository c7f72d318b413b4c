"""Every program of a run is listed, laid out and compiled without being run; what does not fit is refused with a way out."""

import io
import json

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from experiments import compile_for, post_train_hf, study
from experiments.harness import config as configs
from experiments.harness import program_report, programs
from experiments.harness.errors import UserError
from experiments.post_train_hf import stand_in
from jaxpost import aot, models
from jaxpost.models import hf

TINY = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 512, "hidden_size": 32,
        "tie_word_embeddings": True, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "hidden_act": "silu", "eos_token_id": [3, 4]}


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))

    def setup(*devices, **overrides):
        keys = {"model.directory": str(tmp_path), "mesh": f"fsdp:{len(devices)}", "measure.probes": "('loss_tokens',)",
                "memory.logprob_chunk": "128", **overrides}
        return post_train_hf.setup_of(configs.load("post_train_hf:smoke", keys), (), devices)

    return setup


def test_a_text_run_lists_every_program_without_weights_or_words(tiny):
    setup = tiny(*jax.devices()[:2])
    assert setup.model.in_parts and setup.model.remat == "layer" and setup.task.eos == 3
    found = {program.name: program for program in setup.listed()}
    assert list(found) == ["rlvr-lr1, permuted: rollout", "rlvr-lr1, permuted: update", "sft-lr1: update",
                           "evaluation: samples", "evaluation: KL and entropy"]
    assert all(program.flops > 0 and program.advice for program in found.values())
    row = program_report.row(found["sft-lr1: update"], usable=None)
    state = 12 * models.count_parameters(setup.model)  # float32 masters and two moments
    assert state / 2 <= row["argument_bytes"] <= 0.55 * state + 1000, "a device holds its half, and the flags of what changed"
    assert row["beside_bytes"] >= 4 * models.count_parameters(setup.model) / 2, "the base lies there too"
    assert row["fits"] and row["collectives"]["all-gather"]["bytes"] > 0
    assert row["total_bytes"] == sum(row[f"{part}_bytes"] for part in ("argument", "temporary", "output", "code", "beside"))
    assert not program_report.row(found["sft-lr1: update"], usable=row["total_bytes"] - 1)["fits"]


def test_references_that_values_decide_are_said_not_compiled():
    setup = study.setup_of(configs.load("grokking_pathways:smoke", {"arms": "('moe',)"}), ())
    listed = list(setup.listed())
    assert [program.name for program in listed] == ["moe", "probe fit, references", "probe fit", "probe routing"]
    assert isinstance(listed[-1], programs.Unseen)


def test_a_study_lists_its_base_its_arms_and_its_probes():
    config = configs.load("rlvr_sparsity:smoke", {"measure.probes": "('weight', 'policy', 'loss_tokens')", "mesh": "fsdp:2"})
    setup = study.setup_of(config, (), jax.devices()[:2])
    listed, names = setup.listed(), []
    while not names or not names[-1].startswith("sft"):
        names.append(next(listed).name)
    assert names == ["pretraining, second task", "pretraining, both tasks", "rlvr-lr0, rlvr-lr1, rlvr-lr2, permuted",
                     "sft-lr0, sft-lr1, sft-lr2"]


def program(name="toy", beside=()):
    return programs.Program(name, jax.jit(lambda x: x @ x), (jax.ShapeDtypeStruct((64, 64), jnp.float32),), None, beside,
                            flops=2 * 64**3, advice="make it smaller")


class Said:
    def __init__(self):
        self.console, self.lines = Console(file=io.StringIO(), width=180), []

    def say(self, text):
        self.lines.append(text)


def test_the_report_says_what_each_program_takes(monkeypatch):
    said, unseen = Said(), programs.Unseen("probe odd", "its references depend on the values of the base")
    monkeypatch.setattr(program_report, "usable_memory", lambda device: 3 * 4 * 64 * 64)
    program_report.print_report(said, [program(), program("crowded", beside=jnp.ones((64, 64, 9))), unseen])
    assert said.lines == ["compiled: toy", "compiled: crowded", "compiled: probe odd"]
    lines = {line.split("  ")[1].strip(): line for line in said.console.file.getvalue().splitlines() if "  " in line.strip()}
    assert "DOES NOT FIT" in lines["crowded"] and "DOES NOT FIT" not in lines["toy"]
    assert "5.2e-07" in lines["toy"] and "depend on the values" in said.console.file.getvalue()


@pytest.mark.parametrize(("message", "used"), [
    ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (18.95G) exceeds available "
     "HBM (15.75G).", 18.95),
    ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 21.50G of 15.75G hbm. Exceeded hbm capacity by 5.75G.",
     21.5)])
def test_what_the_compiler_refuses_is_a_row(message, used):
    class Refusing:
        def lower(self, *arguments):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError(message)

    refused = programs.Program("update", Refusing(), (), None, jnp.ones(2**20), advice="raise train.microbatches")
    row = program_report.row(refused, int(15.75 * 2**30))
    assert not row["fits"] and row["total_bytes"] == int(used * 2**30) + 2**22
    assert "at least" in row["why"] and "15.75 GiB" in row["why"]


def test_what_does_not_fit_ends_in_an_error_that_says_what_to_change(tiny, monkeypatch, capsys):
    setup = tiny(*jax.devices()[:1])
    monkeypatch.setattr(aot, "devices", lambda topology: jax.devices()[:1])
    monkeypatch.setattr(program_report, "usable_memory", lambda device: 1000)
    monkeypatch.setattr(post_train_hf.Setup, "listed", lambda self: [program(), program("larger", beside=jnp.ones(9999))])
    with pytest.raises(UserError, match="2 of 2 programs do not fit: larger takes .* make it smaller"):
        compile_for.run(setup.config, "v5e-1")
    assert "1 chips" in capsys.readouterr().out


@pytest.mark.parametrize(("overrides", "message"), [
    ({"model.directory": "Qwen2.5-05B"}, "nor a shipped shape; did you mean 'Qwen2.5-0.5B'"),
    ({"mesh": "fsdp:1"}, "the mesh takes 1 of the 2 chips.*fsdp:-1"),
    ({"memory.remat": "layers"}, "memory.remat='layers' is not known; did you mean 'layer'"),
    ({"memory.logprob_chunk": "-1"}, "memory.logprob_chunk=-1 is negative")])
def test_mistakes_are_found_before_anything_compiles(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny(*jax.devices()[:2], **overrides)


def test_an_experiment_without_a_list_says_so():
    with pytest.raises(UserError, match="'bench_train' does not list its programs"):
        compile_for.run(configs.load("bench_train:smoke", {}), "v5e-16")


@pytest.mark.parametrize(("name", "parameters"), [("Qwen2.5-0.5B", 494_032_768), ("Qwen2.5-1.5B", 1_543_714_304),
                                                  ("Qwen2.5-7B", 7_615_616_512), ("Qwen3-30B-A3B", 30_532_122_624)])
def test_the_shipped_shapes_have_the_published_sizes(name, parameters):
    found = json.loads((stand_in.DIRECTORY / name / "config.json").read_text())
    assert models.count_parameters(hf.config_of(found, name)) == parameters
