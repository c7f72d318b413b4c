"""The page of measured speed, from the bundles of benchmarks.

    python -m experiments.performance DIR... > docs/performance.md

Each DIR is the working directory of a finished `python -m experiments.run --config=bench_...`.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.harness.command import Parser, refuse
from experiments.harness.errors import UserError
from jaxpost import pages, records

HEAD = """# Speed

What jaxpost costs beside its peers and beside the limits of one machine. Every table is the record of a benchmark that anyone
can run again. Two sides take turns (A B A B) in one process tree, on equal work whose results are checked to be equal first; a
ratio is taken within a turn, and its median over the turns is compared with a target that was set before. The range in
brackets is that of the turns. A target that is missed stays here as missed.

This page is written by `python -m experiments.performance DIR...` from the bundles of
`python -m experiments.run --config=bench_... --workdir=DIR`.
"""


def page(paths: Sequence[Path]) -> str:
    """Markdown: a section a benchmark, in the order given. Raises: UserError."""
    return "\n".join([HEAD, *map(_section_of, paths)])


def _section_of(path: Path) -> str:
    try:
        return section(read(path))
    except records.BundleError as error:
        raise UserError(str(error)) from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / 'manifest.json'}: no manifest of a benchmark ({type(error).__name__}: {error}); expected "
                        "that of a finished run of a config bench_...") from error


def section(manifest: Mapping) -> str:
    """One benchmark: its question, machine and table."""
    session = manifest["sessions"][-1]
    about, code = session["environment"], session["code"]
    devices = about["devices"]
    machine = ", ".join(filter(None, [
        about.get("processor") or about["machine"], f"{about['cores']} cores",
        f"{devices['count']} x {devices['kind']}" if devices["platform"] != "cpu" else None,
        f"jax {about['packages']['jax']}", f"Python {about['python']}"]))
    rows = ["| what | target | measured | met | |", "|---|---|---|---|---|"]
    for target in manifest["targets"]:
        low, high = target["spread"]
        cells = (target["name"], target["wanted"], f"{target['measured']:.3g} [{low:.3g}, {high:.3g}]",
                 "yes" if target["met"] else "no", target["note"])
        rows.append("| " + " | ".join(map(pages.cell, cells)) + " |")
    commit = f", commit {code['commit'][:12]}{' with changes' if code.get('dirty') else ''}" if "commit" in code else ""
    return "\n".join([f"## {manifest['title']}", "", manifest["question"], "", *rows, "",
                      f"Configuration `{manifest['config']['experiment']}`, {session['opened'][:10]}, on {machine}; bundle "
                      f"{manifest['bundle_id'][:12]}{commit}.", ""])


def read(path: Path) -> dict:
    """The manifest of a finished benchmark. Raises: UserError."""
    if not (path / "manifest.json").is_file():
        raise UserError(f"{path}: no bundle is there; expected the --workdir of a benchmark's run")
    manifest = records.storage.read_json(path / "manifest.json")
    if manifest["status"] != "complete" or "targets" not in manifest:
        raise UserError(f"{path}: {manifest['config']['experiment']}, {manifest['status']}: expected a finished benchmark "
                        "(a config bench_...)")
    return manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = Parser("python -m experiments.performance", description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path, metavar="DIR")
    try:
        sys.stdout.write(page(parser.parse_args(arguments).bundles))
    except UserError as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
