"""Run an experiment: `python -m experiments.run --config=rlvr_sparsity[:smoke|:full]`.

The same command resumes a run that was killed or stopped, says so when it is finished, and with a larger
`--config.seeds.count` adds seeds to it. What a user can cause is one line on stderr, `error: ...`.
Alarms of XLA about slow folding or compilation are in `compiler.log` of the run's directory. Compiled programs are kept in
`~/.cache/jaxpost` (or below `XDG_CACHE_HOME`) for the next run, unless `JAX_COMPILATION_CACHE_DIR` names another place;
`--no-compile-cache` keeps none, and the directory may be deleted at any time.

Several processes, one or more a host, run one study together when each is told who is who:
`--config.distributed=auto` where the cluster knows (TPU pod, SLURM, GKE), or `HOST:PORT,PROCESSES,INDEX`
(experiments/harness/distributed.py).

Exit codes: 0 done (or already finished), 2 bad input, directory or checkpoint, 3 a loss was not finite, 75 stopped by
SIGTERM or SIGINT after saving (run the same command again; another signal seconds later ends the process at once), 76 another
process of the run ended, or a file system failed (start it again).
"""

import argparse
import ast
import errno
import gc
import importlib
import re
import sys
from pathlib import Path

from experiments import compile_cache, compiler_log
from experiments.compiler_log import CompilerLog
from experiments.harness import config as configs
from experiments.harness import distributed
from experiments.harness.command import Parser, refuse
from experiments.harness.errors import EXIT_LOST, UserError
from experiments.harness.session import StopSignals
from jaxpost.checkpoint import CheckpointError
from jaxpost.lookup import nearest
from jaxpost.records import BundleError, config_hash
from jaxpost.terminal import show

# Tracing makes many objects that live long; to look for garbage among them less often saves a sixth of it (five programs of
# rlvr_sparsity:smoke are traced and lowered in 4.7 CPU seconds with Python's own thresholds, in 4.0 with these).
GARBAGE = (100_000, 20, 10)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """(options, overrides of `--config.a.b=value`).

    Raises:
      UserError: an argument that is neither.
    """
    parser = Parser(prog="python -m experiments.run", description=__doc__, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter,
                     epilog="--config.a.b=VALUE overrides a key of the config. A config is Python and is executed: "
                            "--config=PATH.py runs whatever that file says, with your rights; give files that you trust.")
    parser.add_argument("--config", help="name, name:argument or path/to/mine.py (a file that is executed)")
    parser.add_argument("--workdir", help="default: results/<config>/<config hash>")
    parser.add_argument("--no-compile-cache", action="store_true", help="keep no compiled programs for the next run")
    parser.add_argument("--compile_for", metavar="SLICE", help="compile every program of the config for a TPU slice that is "
                        "not there, such as v5e-16 (or a topology, v5e:4x4), print what it takes on a chip, and run nothing")
    parser.add_argument("--list", action="store_true", help="name every config with its question and run time")
    options, rest = parser.parse_known_args(arguments)
    return options, overrides_of(rest)


def overrides_of(rest: list[str]) -> dict[str, str]:
    """{"a.b": text} of arguments `--config.a.b=text`. Raises: UserError: an argument of another form."""
    rest, overrides = list(rest), {}
    while rest:
        word = rest.pop(0)
        match = re.fullmatch(r"--config\.([\w.{}-]+)(?:=(.*))?", word, re.DOTALL)
        if not match or (match[2] is None and not rest):
            raise UserError(f"argument {word!r} is not known; overrides are written --config.section.key=value")
        overrides[match[1]] = match[2] if match[2] is not None else rest.pop(0)
    return overrides


def listing() -> str:
    """Every shipped config with its question and run time."""
    lines = []
    for name in configs.names():
        text = (configs.DIRECTORY / f"{name}.py").read_text()
        question = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
        lines.append(f"{name}\n    {question}\n    run time: {getattr(configs.module(name), 'RUN_TIME', 'not stated')}")
    return "\n".join(lines)


_OF_THE_USER = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code. A process of several ends here."""
    return distributed.end(_outcome(arguments))


def _outcome(arguments: list[str] | None) -> int:
    try:
        with StopSignals() as signals:
            _run(sys.argv[1:] if arguments is None else arguments, signals)
        return 0
    except UserError as error:
        return refuse(error, error.exit_code)
    except (BundleError, CheckpointError) as error:
        return refuse(error)
    except OSError as error:  # met outside a bundle or a checkpoint
        place = f": {error.filename}" if error.filename else ""
        if error.errno in _OF_THE_USER:
            return refuse(f"{error.strerror or error}{place}; what was written before is intact: make room or fix the "
                          "permissions and run the same command again")
        return refuse(f"{error.strerror or error}{place}; what was written before is intact: run the same command again",
                      EXIT_LOST)
    except Exception as error:
        return distributed.lost(error)


def _run(arguments: list[str], signals: StopSignals) -> None:
    options, overrides = parse(arguments)
    if options.list:
        show(listing())
        return
    if options.config is None:
        raise UserError(f"--config is missing{nearest('', configs.names())}")
    together = overrides.pop("distributed", "")  # of the command: no run is another one for it
    config = configs.load(options.config, overrides)
    reference = options.config.partition(":")[0]
    name, claims = Path(reference).stem, getattr(configs.module(reference), "CLAIMS", ())
    if options.compile_for is not None:
        importlib.import_module("experiments.compile_for").run(config, options.compile_for)
        return
    workdir = Path(options.workdir or Path("results") / name / config_hash(config.to_dict(), configs.EXCLUDED)[:12])
    if not options.no_compile_cache:
        compile_cache.keep(compile_cache.directory())
    gc.set_threshold(*GARBAGE)
    with CompilerLog(workdir / compiler_log.NAME):
        distributed.begin(together, config.experiment)
        importlib.import_module(f"experiments.{config.experiment}").run(config, claims, workdir, name, signals)


if __name__ == "__main__":
    sys.exit(main())
