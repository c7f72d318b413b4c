"""Frozen sets: what is read is what was written, by TFDS alone as well; another digest, set or input is one line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxpost import tasks
from jaxpost.tasks import __main__ as command
from jaxpost.tasks import frozen, text_data

SIZES = {"id": 24, "ood/marks": 8}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return frozen.freeze(str(tmp_path_factory.mktemp("sets")), "tictactoe", SIZES)


def test_what_is_read_is_what_the_family_draws_and_digests_are_those_of_tasks(directory):
    found, changed = frozen.compared(str(directory))
    task = tasks.get("tictactoe")
    assert changed == () and list(found) == list(SIZES) and "tensorflow" not in sys.modules
    for split, count in SIZES.items():
        batch = tasks.examples(task, split, np.arange(count))
        np.testing.assert_array_equal(found[split].prompt_NxP, batch.prompt_NxP)
        np.testing.assert_array_equal(found[split].answer_NxT, batch.answer_NxT)
        assert found[split].digest == tasks.digest(task, split, count)


def test_tfds_reads_it_by_itself_and_so_does_the_reader_of_texts(directory):
    source = tfds.builder_from_directory(str(directory)).as_data_source(split="ood_marks")
    text = [record["prompt_text"].decode() for record in source]
    assert [record["index"] for record in source] == list(range(8)) and set("".join(text)) <= set("ab.:?") and "a" in text[0]
    fields = {"prompt": "prompt_text", "answer": "answer_text", "target": ""}
    read = text_data.read(f"tfds:frozen/{directory.parent.name}:ood_marks", fields, str(directory.parents[2]))
    assert [problem.prompt for problem in read] == text and all(problem.answer in "012345678" for problem in read)


def test_another_seed_has_other_problems_and_the_command_says_so_of_an_edited_set(tmp_path, capsys):
    arguments = ["freeze", "tictactoe", "style=answer", "--split", "id=24", "--seed", "2", "--out", str(tmp_path)]
    assert command.main(arguments) == 0 == command.main(arguments)  # what is there is kept
    path, line = capsys.readouterr().out.splitlines()[:2]
    task = tasks.get("tictactoe")
    batch = tasks.examples(task, "id", np.arange(2 * 2**20, 2 * 2**20 + 24))
    expected = tasks.digest_of(task, "id", batch.prompt_NxP, batch.answer_NxT, 2 * 2**20)
    assert line == f"{'id':16}      24 problems, digest {expected[:12]}, is what the family draws"
    about = json.loads(open(f"{path}/metadata.json").read())
    open(f"{path}/metadata.json", "w").write(json.dumps(about | {"seed": 3}))
    assert command.main(["frozen", path]) == 2
    assert "the tokens have digest" in capsys.readouterr().err
    open(f"{path}/metadata.json", "w").write(json.dumps(about | {"options": {"style": "cot"}}))
    assert command.main(["frozen", path]) == 2 and "unknown style" in capsys.readouterr().err


def test_a_set_that_its_family_no_longer_draws_is_said(directory, monkeypatch, capsys):
    drawn = frozen.Recipe.sets.func

    def changed(recipe):
        sets = drawn(recipe)
        return sets | {"id": sets["id"]._replace(digest="0" * 64)}

    monkeypatch.setattr(frozen.Recipe, "sets", property(changed))
    assert command.main(["frozen", str(directory)]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].endswith("is not what the family draws today") and shown[2].endswith("is what the family draws")


@pytest.mark.parametrize(("call", "message"), [
    ({"family": "tictactow"}, "task 'tictactow' is not known; did you mean 'tictactoe'"),
    ({"sizes": {"ood/mark": 3}}, "split 'ood/mark' is not known; did you mean 'ood/marks'"),
    ({"sizes": {"id": 0}}, "split 'id': 0 problems; expected 1 to 1,048,576"),
    ({"sizes": {"id": "x"}}, "split 'id': 'x' problems"),
    ({"sizes": {}}, "expected at least one split"),
    ({"seed": 4096}, "a seed from 0 to 4,095"),
    ({"styl": "answer"}, "option 'styl' is not known; did you mean 'style'"),
])
def test_bad_input_is_one_line_before_anything_is_drawn(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        frozen.freeze(str(tmp_path), **({"family": "tictactoe", "sizes": {"id": 4}} | call))
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_and_no_set_at_all_are_said(directory, tmp_path):
    with pytest.raises(ValueError, match="no whole set of frozen problems"):
        frozen.read(str(tmp_path))
    copy = tmp_path / "frozen" / directory.parent.name / directory.name
    copy.mkdir(parents=True)
    for file in directory.iterdir():
        data = bytearray(file.read_bytes())
        if "frozen-id" in file.name:
            start = data.index(b"prompt_text") if b"prompt_text" in data else 65_600
            data[start:start + 64] = bytes(64)
        (copy / file.name).write_bytes(bytes(data))
    with pytest.raises(ValueError, match="no whole set of frozen problems|the tokens have digest"):
        frozen.read(str(copy))


@pytest.mark.slow
def test_sets_are_the_same_in_processes_with_other_hash_seeds(tmp_path):
    found = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        arguments = [sys.executable, "-m", "jaxpost.tasks", "freeze", "battleship", "--split", "id=64", "--out", str(out)]
        run = subprocess.run(arguments, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True)
        found.append((run.stdout.replace(str(out), ""), *(path.read_text() for path in out.rglob("metadata.json"))))
    assert found[0] == found[1] and len(found[0]) == 2
