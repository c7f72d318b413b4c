"""Where each paper is cited: rows of the registries, configs, and docstrings of other files, by arXiv number."""

import ast
import inspect
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from experiments.harness import config as configs
from jaxpost import curricula, objectives, probes, tasks
from jaxpost.pages import entry

ROOT = Path(__file__).resolve().parents[2]
_NUMBER = re.compile(r"arXiv[:\s]*(\d{4}\.\d{4,5})", re.IGNORECASE)


@dataclass
class Cited:
    """What of one paper is here: names of rows in each registry, configs, and files where no row has it."""

    objectives: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    curricula: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def rows(self) -> bool:
        """Whether a registry has a row of it."""
        return bool(self.objectives or self.metrics or self.curricula or self.tasks)


def numbers(text: str | None) -> list[str]:
    """The arXiv numbers of a text, each once."""
    return list(dict.fromkeys(_NUMBER.findall(text or "")))


def _docstrings(path: Path) -> str:
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return "\n".join(ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                     if isinstance(node, nodes))


def everywhere() -> dict[str, Cited]:
    """arXiv number -> where it is cited."""
    cited: dict[str, Cited] = defaultdict(Cited)

    def add(kind, name, text):
        for number in numbers(text):
            getattr(cited[number], kind).append(name)

    for name, row in objectives.RECIPES.items():
        add("objectives", name, row.paper)
    for name, metric in probes.METRICS.items():
        add("metrics", name, metric.paper)
    for name, rule in curricula.RULES.items():
        add("curricula", name, rule.rule.paper)
    for name, make in tasks.FAMILIES.items():
        add("tasks", name, inspect.getmodule(make).PAPER)
    for name in configs.names():
        papers = configs.load(name, {}).get("papers", ())
        add("configs", name, "\n".join([configs.module(name).__doc__, *(f"arXiv:{number}" for number in papers)]))
    for path in sorted((ROOT / "jaxpost").rglob("*.py")):
        for number in numbers(_docstrings(path)):
            if not cited[number].rows:
                cited[number].files.append(path.relative_to(ROOT).as_posix())
    return dict(cited)


def links(cited: Cited) -> str:
    """What is here of a paper, with links to the tables."""
    kinds = (("objective", cited.objectives, "objectives.md"), ("curriculum", cited.curricula, "curricula.md"),
             ("task", cited.tasks, "tasks.md"))
    parts = [f"{kind} {', '.join(entry(name).replace('](', f']({page}') for name in names)}"
             for kind, names, page in kinds if names]
    if cited.metrics:
        rooms = sorted({name.partition(".")[0] for name in cited.metrics})
        named = ", ".join(f"`{name}`" for name in cited.metrics[:4])
        more = f" and {len(cited.metrics) - 4} more" if len(cited.metrics) > 4 else ""
        parts.append(f"metrics {named}{more} (" + ", ".join(f"[{room}](metrics.md#{room})" for room in rooms) + ")")
    parts += [f"[{path}](../{path})" for path in cited.files]
    return "; ".join(parts)
