"""Post-training of a Hugging Face directory on text: whole, killed and resumed, exported; and what a user can get wrong."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import run, tiny_hf
from experiments.harness import config as configs
from experiments.post_train_hf import experiment as post_train_hf
from experiments.post_train_hf import runs as hf_runs
from jaxpost import formats, models, records, tasks
from jaxpost.formats import lora, open_checkpoint
from jaxpost.models import hf
from jaxpost.records import completions, storage
from jaxpost.records.verify import verify
from tests import compiled

from .conftest import record_reads

pytest.importorskip("tokenizers")
TINY = Path(__file__).resolve().parent / "tiny_text.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with model/, train.jsonl and evaluate.jsonl (read only)."""
    path = tmp_path_factory.mktemp("text")
    tiny_hf.make(path, steps=40)
    return path


def overrides(place):
    return {"model.directory": str(place / "model"), "data.train": str(place / "train.jsonl"),
            "data.evaluate": str(place / "evaluate.jsonl")}


def arguments(place, workdir, *more, config=TINY):
    return [f"--config={config}", f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in overrides(place).items()), *more]


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """(workdir of a finished run, config keys that it read)."""
    path = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        seen = record_reads(patch)
        assert run.main(arguments(place, path)) == 0
    return path, seen


def rows(path, **wanted):
    return records.select(records.read_measurements(path), **wanted)


def test_the_bundle_is_whole_and_says_what_it_is_about(finished, place, capsys):
    path, _ = finished
    good, bad = verify(path)
    assert good and not bad
    manifest = storage.read_json(path / "manifest.json")
    inputs = manifest["inputs"]
    assert inputs == storage.read_json(path / "inputs.json")
    assert inputs["train_problems"] == 39 and inputs["evaluate_problems"] == 16 and len(inputs["train"]) == 64
    assert set(rows(path)["conditional_on"].unique().to_pylist()) == {inputs["base"]}
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}
    assert run.main(arguments(place, path)) == 0
    assert "is finished (1 seeds" in capsys.readouterr().out
    assert before == {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


def test_weights_policy_and_work_have_rows_in_every_arm(finished, place):
    path, _ = finished
    wanted = {"weight.sparsity.bf16", "weight.sparsity.ever", "policy.success", "policy.kl_forward", "policy.kl_reverse",
              "policy.entropy", "policy.loss_tokens"}
    for arm in ("rlvr-lr1", "sft-lr1"):
        found = rows(path, arm=arm, role="seed")
        assert wanted <= set(found["metric"].unique().to_pylist())
        places = {(row["step"], records.parse_params(row["params"]).get("at")) for row in found.to_pylist()}
        assert places == {(1, None), (3, None), (None, "matched_norm")}  # matched success reads nothing further here
    answers = Counter(json.loads(line)["answer"] for line in (place / "evaluate.jsonl").read_text().splitlines())
    guess = max(answers.values()) / 16  # of the best constant answer
    assert set(rows(path, arm="base", metric="policy.success")["null_value"].to_pylist()) == {guess}
    moved = [row["value"] for row in rows(path, arm="sft-lr1", metric="policy.kl_forward", step=3, role="seed").to_pylist()]
    assert min(moved) > 0


def test_answers_are_texts_that_the_verifier_scores_as_it_is_written(finished, place):
    answers = completions.read(finished[0]).to_pylist()
    asked = [json.loads(line) for line in (place / "evaluate.jsonl").read_text().splitlines()[:4]]
    assert {row["arm"] for row in answers} > {"base"} and {row["problem"] for row in answers} == set(range(4))
    for row in answers:
        problem = asked[row["problem"]]
        assert str(problem["prompt"]) in row["prompt"] and row["logp"] < 0 and row["parts"] is None
        if row["reward"] == 1:
            assert str(problem["answer"]) in row["answer"] and row["finished"]


def test_every_config_key_is_read(finished):
    _, seen = finished
    keys = set(configs.leaves(configs.load(str(TINY), {})))
    assert keys - seen <= {"train.sgd_learning_rate", "wandb.project"} and not seen - keys


def test_a_tuned_policy_is_a_directory_like_the_base(finished, place):
    path, _ = finished
    base, tuned = place / "model", path / "policies" / "sft-lr1-seed-100"
    (c, before), (same, after) = hf.load(base), hf.load(tuned)
    assert c == same and not list((path / "base-0" / "arms" / "sft-lr1" / "seeds-100-100").iterdir())
    assert any(np.any(x != y) for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after)))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tuned / name).read_bytes() == (base / name).read_bytes()
    assert {tensor.dtype for tensor in formats.open_checkpoint(tuned).tensors.values()} == {"F32"}
    sparsity = rows(path, arm="sft-lr1", metric="weight.sparsity.bf16", granularity="tensor", step=3, role="seed")
    found = {row["tensor"]: row["value"] for row in sparsity.to_pylist()}
    old, new = (models.matrices(tree, c) for tree in (before, after))
    for name, w0 in old.items():
        equal = np.asarray(w0.astype("bfloat16") == new[name].astype("bfloat16"))
        assert found[name] == pytest.approx(equal.mean(), abs=1e-12), name


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.slow
def test_the_head_of_a_critic_is_not_exported(place, tmp_path):
    c, params = hf.load(place / "model")
    setup = SimpleNamespace(model=c, config=SimpleNamespace(model=SimpleNamespace(directory=place / "model"),
                                                            export=SimpleNamespace(dtype="float32")))
    state = SimpleNamespace(params={**params, "value": np.zeros((c.width, 1), np.float32)})
    hf_runs._save(SimpleNamespace(arm=SimpleNamespace(trainable=None)), tmp_path / "out", setup, state)
    jax.tree.map(np.testing.assert_array_equal, hf.load(tmp_path / "out")[1], params)


def test_a_kill_changes_nothing_of_what_comes_out(finished, place, tmp_path, monkeypatch):
    whole, path = finished[0], tmp_path / "run"
    stepper, left = hf_runs.stepper, [2]

    def mortal(*given):
        advance = stepper(*given)

        def step(state, t):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return advance(state, t)

        return step

    monkeypatch.setattr(hf_runs, "stepper", mortal)
    with pytest.raises(Killed):
        run.main(arguments(place, path, "--config.checkpoint.every_seconds=0.0"))
    assert not (path / "policies").exists()
    left[0] = 10**6
    assert run.main(arguments(place, path, "--config.checkpoint.every_seconds=0.0")) == 0
    assert left[0] == 10**6 - 4, "steps 1 and 2 were resumed, not repeated"
    assert rows(path).equals(rows(whole))
    for arm in ("rlvr-lr1", "sft-lr1"):
        file = f"policies/{arm}-seed-100/model.safetensors"
        assert (path / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.slow
def test_added_seeds_leave_the_finished_ones_as_they_are(finished, place, tmp_path):
    path = shutil.copytree(finished[0], tmp_path / "run")
    assert run.main(arguments(place, path, "--config.seeds.count=2")) == 0
    kept = {row["row_id"]: row for row in rows(path, role="seed").to_pylist()}
    before = rows(finished[0], role="seed").to_pylist()
    assert before and all(kept[row["row_id"]] == row for row in before)
    assert set(rows(path, role="seed", metric="policy.success")["seed"].to_pylist()) == {100, 101}
    assert len(list((path / "policies").iterdir())) == 4 and not verify(path)[1]


def refused(place, capsys, *more, workdir=None, code=2):
    """The one line of error that a run with these overrides ends in."""
    assert run.main(arguments(place, workdir or place / "never", *more)) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.fixture
def nothing_is_computed(monkeypatch):
    def compute(*given):
        raise AssertionError("a mistake must be found before weights are read")

    monkeypatch.setattr(post_train_hf, "_load", compute)


@pytest.mark.usefixtures("nothing_is_computed")
@pytest.mark.parametrize(("override", "expected"), [
    ("--config.model.directory={place}/modle", "no such directory; did you mean 'model'?"),
    ("--config.model.directory={place}", "has no config.json"), ("--config.model.directory=", "model.directory is empty; give"),
    ("--config.model.compute_dtype=float16", "model.compute_dtype='float16'"),
    ("--config.data.train={place}/nowhere.jsonl", "no such file; {place} has evaluate.jsonl, train.jsonl"),
    ("--config.data.train=tfds:gsm8k", "expected tfds:NAME:SPLIT"), ("--config.data.evaluate=", "data.evaluate is empty"),
    ("--config.data.prompt=promt", "line 1: unknown field prompt 'promt'"), ("--config.data.target=gold", "'gold'"),
    ("--config.data.verifier=maths", "'maths'; did you mean 'math'"), ("--config.data.template=x", "has no {prompt}"),
    ("--config.data.train={place}/evaluate.jsonl", "every problem of data.train={place}/evaluate.jsonl is in data.evaluate"),
    ("--config.data.prompt_tokens=3", "problems fits: 39 prompt too long; the longest prompt has"),
    ("--config.data.prompt_tokens=0", "data.prompt_tokens=0: must be at least 1"),
    ("--config.data.answer_tokens=1", "answer too long"),
    ("--config.measure.problems=24", "measure.problems=24: data.evaluate has 16 problems that fit"),
    ("--config.measure.rows=3", "measure.rows=3 does not divide measure.problems=8; nearest valid: 2"),
    ("--config.measure.text=nowhere", "measure.text: nowhere: no such file"),
    ("--config.measure.text_tokens=1", "measure.text_tokens=1: must be at least 2"),
    ("--config.data.end=12", "is 2 tokens of this"),
    ("--config.measure.spectra=exct", "measure.probes: "), ("--config.measure.probes=('policy',)", "is always measured here"),
    ("--config.measure.probes=('wieght',)", "did you mean 'weight'"),
    ("--config.measure.probes=('loss_tokens',)", "claim 'sparser-at-same-lr' needs 'weight.sparsity.bf16'"),
    ("--config.train.objective=grp", "did you mean 'grpo'?"), ("--config.train.microbatches=3", "nearest valid: 2"),
    ("--config.mesh.ensemble=2", "mesh.ensemble=2: seeds run one after another here"),
    ("--config.mesh.data=16", "needs 16 devices, found 8"), ("--config.export.dtype=f32", "export.dtype='f32'"),
])
def test_a_mistake_is_one_line_with_the_fix(place, capsys, override, expected):
    assert expected.format(place=place, prompt="{prompt}") in refused(place, capsys, override.format(place=place))
    assert not (place / "never").exists()


@pytest.mark.usefixtures("nothing_is_computed")
@pytest.mark.parametrize(("file", "change", "expected"), [
    ("tokenizer.json", None, "has no tokenizer.json; transformers makes one"),
    ("config.json", {"vocab_size": 100}, "tokens 0..267, but the model's vocabulary has 100"),
    ("config.json", {"model_type": "gpt2"}, "model_type 'gpt2' is not known"),
    ("tokenizer_config.json", {"eos_token": "<none>"}, "no end token"),
])
def test_a_directory_that_does_not_fit_is_one_line(place, tmp_path, capsys, file, change, expected):
    shutil.copytree(place / "model", tmp_path / "model")
    about = tmp_path / "model" / file
    if change is None:
        about.unlink()
    else:
        if "eos_token" in change:
            (tmp_path / "model" / "generation_config.json").unlink()
        about.write_text(json.dumps({**json.loads(about.read_text()), **change}))
    line = refused(place, capsys, f"--config.model.directory={tmp_path / 'model'}", workdir=tmp_path / "run")
    assert expected in line and not (tmp_path / "run").exists()


def test_other_weights_than_the_run_began_with_are_refused(finished, place, tmp_path, capsys):
    path = shutil.copytree(finished[0], tmp_path / "run")
    about = storage.read_json(path / "inputs.json")
    storage.write_json(path / "inputs.json", {**about, "evaluate": "0" * 64})
    line = refused(place, capsys, "--config.seeds.count=2", workdir=path)
    assert "evaluate is not what this run began with" in line and "choose another --workdir" in line
    assert (path / "report.html").is_file()  # the finished run stays as it was
    assert (path / "manifest.json").read_bytes() == (finished[0] / "manifest.json").read_bytes()


def test_the_tiny_directory_is_what_its_command_says(place, tmp_path, capsys):
    train, evaluate = (text.splitlines() for text in ((place / f"{name}.jsonl").read_text() for name in ("train", "evaluate")))
    assert len(train) == 39 and len(evaluate) == 16 and not set(train) & set(evaluate)
    for line in (*train, *evaluate):
        record = json.loads(line)
        a, b = (int(word) for word in record["prompt"].removesuffix("?").split() if word.isdigit())
        assert int(record["answer"]) == a + b
    c, _ = hf.load(place / "model")
    tasks.require_vocab(post_train_hf.Setup(configs.load(str(TINY), overrides(place)), ()).task, c.vocab)
    for arguments, message in (([], "required: directory"), ([str(place)], f"{place}: File exists; expected a new directory")):
        assert tiny_hf.main(arguments) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and message in err


def test_the_tiny_model_answers_by_chance_so_that_rewards_differ_within_a_group(place):
    _, params = hf.load(place / "model")
    setup = post_train_hf.Setup(configs.load("post_train_hf:smoke", overrides(place)), ())
    shares = []
    for prompt_P in setup.train.prompt_NxP[:8]:
        made = compiled.sample(setup.model, params, np.tile(prompt_P, (64, 1)), jax.random.key(0),
                               length=setup.task.completion_len, eos=setup.task.eos, pad=setup.task.pad)
        said = [setup.tokenizer.decode(row) for row in np.asarray(made.tokens_NxT)]
        shares.append(max(map(said.count, said)) / len(said))
        assert np.mean([text.isdigit() for text in said]) > 0.5
    assert max(shares) < 0.75


@pytest.mark.slow
def test_the_smoke_config_runs_with_every_arm_and_verifier(place, tmp_path):
    assert run.main(arguments(place, tmp_path / "run", config="post_train_hf:smoke")) == 0
    found = rows(tmp_path / "run")
    assert {"rlvr-lr1", "sft-lr1", "permuted"} <= set(found["arm"].unique().to_pylist())
    assert "weight.overlap.principal" in found["metric"].unique().to_pylist()
    assert {path.name for path in (tmp_path / "run" / "policies").iterdir()} == {
        f"{arm}-seed-{seed}" for arm in ("rlvr-lr1", "sft-lr1", "permuted") for seed in (100, 101)}


@pytest.mark.slow
def test_on_a_mesh_with_gradient_probes_it_runs_too(place, tmp_path):
    more = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2", "--config.arms=('rlvr-lr1','sft-lr1')",
            "--config.measure.probes=('weight','loss_tokens','gradient','interpolation')", "--config.data.chat=True",
            "--config.data.prompt_tokens=32")
    assert run.main(arguments(place, tmp_path / "run", *more)) == 0
    metrics = set(rows(tmp_path / "run", arm="rlvr-lr1")["metric"].unique().to_pylist())
    assert any(name.startswith("gradient.") for name in metrics) and any(name.startswith("interp") for name in metrics)


def test_a_verifier_of_ones_own_a_schedule_and_the_best_measured_step(place, tmp_path, capsys):
    """The best directory holds the step whose success no earlier step reached; a verifier that fails ends in a line.

    Of a LoRA arm both have their adapters beside them, which on the base are the same policy.
    """
    mine = tmp_path / "mine.py"
    mine.write_text("def reward(prompt, answer, target):\n    return sum(map(ord, answer)) % 7 / 6\n")
    more = (f"--config.data.verifier={mine}", "--config.export.best=True", "--config.measure.every=1", "--config.train.steps=2",
            "--config.train.schedule=cosine", "--config.train.top_k=5", "--config.arms=('rlvr-lora',)")
    path = tmp_path / "run"
    assert run.main(arguments(place, path, *more)) == 0
    assert storage.read_json(path / "inputs.json")["verifier"].startswith("mine.py:")
    success = {row["step"]: row["value"] for row in rows(path, arm="rlvr-lora", metric="policy.success", role="seed",
                                                         params=None).to_pylist()}
    assert set(success) == {1, 2}
    kept = [event for event in records.read_events(path / "events.jsonl") if "best_success" in event]
    assert [event["best_success"] for event in kept] == [success[event["step"]] for event in kept]
    assert kept[-1]["best_success"] == max(success.values()) and kept[0]["step"] == 1
    last, best = (hf.load(path / "policies" / f"rlvr-lora-seed-100{end}")[1] for end in ("", "-best"))
    assert all(map(np.array_equal, jax.tree.leaves(last), jax.tree.leaves(best))) == (kept[-1]["step"] == 2)
    assert len(list((path / "policies").iterdir())) == 4
    base = open_checkpoint(place / "model")
    for end in ("", "-best"):
        merged = open_checkpoint(path / "policies" / f"rlvr-lora-seed-100{end}")
        adapted = lora.open_adapter(path / "policies" / f"rlvr-lora-seed-100{end}-adapter", base)
        for name in adapted.updates:
            exact = merged.read(name)
            assert np.abs(adapted.read(name) - exact).max() <= 20 * 2.0**-24 * np.abs(exact).max()
            assert not np.array_equal(exact, np.asarray(base.read(name), np.float32))
    mine.write_text("def reward(prompt, answer, target):\n    return 7\n")
    assert run.main(arguments(place, tmp_path / "other", *more)) == 2
    assert "returned 7, expected a number from 0 to 1" in capsys.readouterr().err
