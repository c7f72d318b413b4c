"""Frozen sets: what is read is what was written, by TFDS alone as well; another digest, set or input is one line."""

import json
import os
import shutil
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
    ({"sizes": {"id": True}}, "split 'id': True problems"),
    ({"seed": True}, "seed=True: expected"),
    ({"options": {"styl": "answer"}}, "option 'styl' is not known; did you mean 'style'"),
])
def test_bad_input_is_one_line_before_anything_is_drawn(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        frozen.freeze(str(tmp_path), **({"family": "tictactoe", "sizes": {"id": 4}} | call))
    assert not list(tmp_path.iterdir())


def freeze(*more, out="NEW"):
    return ["freeze", "countdown", *more, "--split", "id=4", "--out", out]


@pytest.mark.parametrize(("arguments", "message"), [
    (freeze(out="FILE"), "FILE: no set can be written there"),
    (freeze(out="FILE/more"), "FILE/more: no set can be written there"),
    (freeze(out="/proc/foo"), "/proc/foo: no set can be written there"),
    *((freeze(f"{name}=3"), f"option '{name}' is not known") for name in ("seed", "directory", "family", "name")),
    (freeze("--split", "id=5"), "split 'id': given twice, as 5 and as 4"),
    (freeze("--split", "ood/target=True"), "split 'ood/target': True problems"),
    (freeze("--split", "ood/targets=3"), "did you mean 'ood/target'"),
    (freeze("--seed", "x"), "invalid int value: 'x'; see python -m jaxpost.tasks freeze --help"),
    (["freeze", "countdown"], "arguments are required: --split, --out; see python -m jaxpost.tasks freeze --help"),
    (["frozen"], "arguments are required: directory"),
    (["countdown", "name=3"], "option 'name' is not known; did you mean 'numbers'"),
    (["countdown", "numbers=3", "numbers=4"], "option 'numbers': given twice, as 3 and as 4"),
    (["countdown", "numbers={'a':1}"], "option numbers={'a': 1}, expected a number, a text, or a list"),
    (["countdown", "numbers={[1]:1}"], "option numbers='{[1]:1}', expected an integer"),
    (["battleship", "fleet=[[3],2]"], "option fleet=((3,), 2), expected 1 to 4 lengths"),
    (["connect_four", "depth=2.0"], "option depth=2.0, expected whole numbers, as in 3"),
    (["freze", "countdown"], "task or command 'freze' is not known; did you mean 'freeze'"),
    (["--markdwn"], "unrecognized arguments: --markdwn"),
    (["--markdown", "countdown"], "--markdown and 'countdown': expected one"),
])
def test_bad_input_of_the_command_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    assert command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ") and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["freeze", "-h"], ["frozen", "--help"]])
def test_help_is_shown(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert end.value.code == 0 and "usage: python -m jaxpost.tasks" in capsys.readouterr().out


def test_the_directory_that_the_documentation_names_is_that_of_its_command():
    made = {"family": "countdown", "options": {"numbers": 4}, "sizes": {"id": 512, "ood/target": 512}, "seed": 1}
    version = tasks.get("countdown", numbers=4).version
    for module in (frozen, command):
        assert "freeze countdown numbers=4 --split id=512 --split ood/target=512 --seed 1 --out sets\n" in module.__doc__
        assert f"frozen sets/frozen/{frozen.set_name(made)}/{version}.0.0\n" in module.__doc__


@pytest.mark.parametrize(("change", "message"), [
    (lambda about: about.pop("digests"), "the metadata have digests=None, expected dict"),
    (lambda about: about["digests"].pop("id"), "sizes of the metadata are of ['id', 'ood/marks'], digests of ['ood/marks']"),
    (lambda about: [about[x].pop("id") for x in ("sizes", "digests")], "sizes of the metadata are of ['ood_marks'], files of"),
    (lambda about: about["sizes"].update({"id": 23}), "sizes of the metadata are of {'id': 23, 'ood/marks': 8}, files of"),
    (lambda about: about["digests"].update({"id": 5}), "split 'id': the tokens have digest"),
    (lambda about: about.update(seed="x"), "the metadata have seed='x', expected int"),
    (lambda about: about.update(options=[1]), "the metadata have options=[1], expected dict"),
    (lambda about: about.update(family="tictactow"), "did you mean 'tictactoe'"),
    (lambda about: about.clear(), "the metadata have family=None"),
])
def test_metadata_that_lack_something_or_differ_from_the_files_are_one_line(directory, tmp_path, capsys, change, message):
    copy = tmp_path / "frozen" / directory.parent.name / directory.name
    shutil.copytree(directory, copy)
    about = json.loads((copy / "metadata.json").read_text())
    change(about)
    (copy / "metadata.json").write_text(json.dumps(about))
    assert command.main(["frozen", str(copy)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"error: {copy}") and message in err


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
