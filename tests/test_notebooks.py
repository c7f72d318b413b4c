"""Notebooks keep the outputs of a run, begin with the one first cell, and run from top to bottom."""

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from notebooks import refresh, runtime

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = {"rlvr_sparsity": 3, "compare_two_checkpoints": 1, "grokking": 2, "your_own_study": 1}
SAYS = {"rlvr_sparsity": ("noise_floor", "95 % interval", "null_value"),
        "compare_two_checkpoints": ("stands out  module embed", "null [band]"),
        "grokking": ("The excluded loss rises before the test loss falls.", "(bundle "),
        "your_own_study": ("did you mean 'train.learning_rate'?", "threshold +0.05, 5 seeds")}


def neighbour(name):
    """A fixture of tests/experiments, so that the tiny run there is made once for all workers."""
    spec = importlib.util.spec_from_file_location("tiny_runs", ROOT / "tests" / "experiments" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


finished = neighbour("finished")


def printed(notebook) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))


def images(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))


def check_outputs(name, notebook):
    text = printed(notebook)
    assert all(said in text for said in SAYS[name]), text
    assert images(notebook) == FIGURES[name]
    kinds = [(output.output_type, output.get("name")) for cell in notebook.cells for output in cell.get("outputs", ())]
    assert ("stream", "stderr") not in kinds and all(kind != "error" for kind, _ in kinds), kinds


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_outputs_of_a_run_from_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].cell_type == "markdown" and f"/notebooks/{path.name}" in notebook.cells[0].source
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "python -m notebooks.refresh"
    check_outputs(path.stem, notebook)
    text = path.read_text(encoding="utf-8")
    assert len(text) < 300_000 and not any(place in text for place in ("/home/", "/root/", "/tmp/", "/Users/"))


def test_all_notebooks_begin_with_the_same_cell():
    expected = refresh.FIRST.read_text(encoding="utf-8").rstrip()
    first = {path.stem: refresh.first_code(nbformat.read(path, as_version=4)).source for path in NOTEBOOKS}
    assert first == dict.fromkeys(FIGURES, expected)
    assert runtime.ready.__name__ in expected and "https://github.com/jaxpost/jaxpost" in expected


def test_the_notebook_of_the_main_study_executes(finished, monkeypatch):
    monkeypatch.setenv("JAXPOST_BUNDLE", str(finished))
    path = ROOT / "notebooks" / "rlvr_sparsity.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    check_outputs(path.stem, notebook)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FIGURES if name != "rlvr_sparsity"])
def test_a_notebook_executes_from_nothing(name, tmp_path, monkeypatch):
    """In a clone of its own, so that no run of an earlier execution is found finished."""
    for part in ("jaxpost", "experiments", "configs", "notebooks", "setup.py"):
        (tmp_path / part).symlink_to(ROOT / part)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    check_outputs(name, notebook)
