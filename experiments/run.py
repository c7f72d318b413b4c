"""Run an experiment: `python -m experiments.run --config=rlvr_sparsity[:smoke|:full]`.

Exit codes: 0 done (or already finished), 2 bad input, 3 a loss was not finite, 75 stopped by a signal and resumable.
"""

import argparse
import ast
import importlib
import re
import sys
from pathlib import Path

from jaxpost.checkpoint import CheckpointError
from jaxpost.records import BundleError, config_hash

from experiments import config as configs
from experiments.errors import EXIT_USER, UserError

EXPERIMENTS = ("rlvr_sparsity",)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """(options, overrides of `--config.a.b=value`).

    Raises:
      UserError: an argument that is neither.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.run", description=__doc__.splitlines()[0],
                                     epilog="--config.a.b=VALUE overrides a key of the config.")
    parser.add_argument("--config", help="name, name:argument or path/to/mine.py")
    parser.add_argument("--workdir", help="default: results/<config>/<config hash>")
    parser.add_argument("--list", action="store_true", help="name every config with its question and run time")
    options, rest = parser.parse_known_args(arguments)
    overrides = {}
    while rest:
        word = rest.pop(0)
        match = re.fullmatch(r"--config\.([\w.]+)(?:=(.*))?", word, re.DOTALL)
        if not match or (match[2] is None and not rest):
            raise UserError(f"argument {word!r} is not known; overrides are written --config.section.key=value")
        overrides[match[1]] = match[2] if match[2] is not None else rest.pop(0)
    return options, overrides


def listing() -> str:
    """Every shipped config with its question and run time."""
    lines = []
    for name in configs.names():
        text = (configs.DIRECTORY / f"{name}.py").read_text()
        question = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
        lines.append(f"{name}\n    {question}\n    run time: {getattr(configs.module(name), 'RUN_TIME', 'not stated')}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    try:
        options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
        if options.list:
            print(listing())
            return 0
        if options.config is None:
            raise UserError(f"--config is missing{configs.nearest('', configs.names())}")
        config = configs.load(options.config, overrides)
        if config.experiment not in EXPERIMENTS:
            raise UserError(f"experiment {config.experiment!r} is not known{configs.nearest(config.experiment, EXPERIMENTS)}")
        experiment = importlib.import_module(f"experiments.{config.experiment}")
        name = Path(options.config.partition(":")[0]).stem
        digest = config_hash(config.to_dict(), configs.EXCLUDED)
        workdir = Path(options.workdir or Path("results") / name / digest[:12])
        claims = getattr(configs.module(options.config.partition(":")[0]), "CLAIMS", ())
        experiment.run(config, claims, workdir, name)
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (BundleError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER


if __name__ == "__main__":
    sys.exit(main())
