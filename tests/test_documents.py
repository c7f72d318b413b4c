"""Every Python snippet of the README and the documentation runs as it stands."""

import pathlib
import re

import pytest

from jaxpost import objectives, probes, tasks
from jaxpost.objectives import rewards
from jaxpost.probes import catalog
from tests.compare import checkpoints

REGISTRIES = (tasks.FAMILIES, objectives.RECIPES, probes.METRICS, catalog.CATALOG, rewards.PARTS)
ROOT = pathlib.Path(__file__).parents[1]
SNIPPETS = [(path.relative_to(ROOT), code) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
            for code in re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)]


@pytest.mark.parametrize(("path", "code"), SNIPPETS, ids=[f"{path}-{i}" for i, (path, _) in enumerate(SNIPPETS)])
def test_a_snippet_runs(path, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if '"BASE"' in code:  # two checkpoints of the reader's
        tensors = checkpoints.base_tensors()
        checkpoints.write(tmp_path / "BASE", tensors)
        checkpoints.write(tmp_path / "TUNED", checkpoints.moved(tensors))
    known = [dict(registry) for registry in REGISTRIES]
    try:
        exec(compile(code, str(path), "exec"), {"__name__": "snippet"})
    finally:  # what a snippet registers ends with it
        for registry, before in zip(REGISTRIES, known, strict=True):
            registry.clear()
            registry.update(before)


def test_the_readme_has_a_snippet_and_few_commands_before_its_first_table():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    \S.*$", text[:text.index("|---")], re.M)
    assert SNIPPETS and len(commands) <= 5, commands
