"""The API reference: one page a public package, its modules in order, from their docstrings."""

import importlib
import inspect
import pkgutil

PACKAGES = ("objectives", "probes", "training", "tasks", "curricula", "models", "compare", "records", "linalg", "stats",
            "sharding", "checkpoint")
_BEHIND = "---\nsearch: {boost: 0.5}\n---\n\n"  # what explains comes before what lists


def modules(name: str) -> list[str]:
    """A package and all its modules, in the order of their names; those of the command line are left out."""
    package = importlib.import_module(name)
    if not hasattr(package, "__path__"):
        return [name]
    inside = [module.name for module in pkgutil.walk_packages(package.__path__, f"{name}.")]
    return [name, *(module for module in inside if not module.endswith(("__main__", ".document")))]


def _sentence(name: str) -> str:
    return inspect.getdoc(importlib.import_module(name)).splitlines()[0]


def page(package: str) -> str:
    """The page of one package."""
    blocks = [f"::: {name}\n    options:\n      show_submodules: false\n" for name in modules(f"jaxpost.{package}")]
    return "\n".join([_BEHIND + f"# jaxpost.{package}\n", *blocks])


def pages() -> dict[str, str]:
    """Address -> text of every page of the reference."""
    table = [f"| [jaxpost.{name}]({name}.md) | {_sentence(f'jaxpost.{name}')} |" for name in PACKAGES]
    index = ["# API reference", "", "From the docstrings: formulas, shapes, units, errors and sources.", "",
             "| package | what |", "|---|---|", *table]
    return {"api/index.md": "\n".join(index) + "\n"} | {f"api/{name}.md": page(name) for name in PACKAGES}
