"""The notebook is clean, installs before anything else, and runs from top to bottom on a tiny bundle."""

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def neighbour(name):
    """A fixture of tests/experiments, so that the tiny run there is made once for all workers."""
    spec = importlib.util.spec_from_file_location("tiny_runs", ROOT / "tests" / "experiments" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


finished = neighbour("finished")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_structure(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "clear the outputs before committing"
    assert notebook.cells[0].cell_type == "markdown"
    assert "pip" in code[0].source and "https://github.com/jaxpost/jaxpost" in code[0].source
    assert "/home/" not in path.read_text()


def test_executes(path, finished, monkeypatch):
    monkeypatch.setenv("JAXPOST_BUNDLE", str(finished))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs)
    assert "noise_floor" in said and "95 % interval" in said and "null_value" in said
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert not [output for output in outputs if output.get("name") == "stderr"], said
