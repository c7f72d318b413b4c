"""Compile every program of a config for a TPU slice that is not there: would it fit, what does it compute and move.

    python -m experiments.run --config=post_train_hf --config.model.directory=Qwen2.5-0.5B --config.mesh=fsdp:-1 \\
        --config.train.microbatches=1 --compile_for=v5e-16

Needs `pip install -e '.[tpu]'` (the TPU compiler), no TPU and no weights. Programs are compiled in turn, a minute or two each
at 0.5B parameters; the exit code is 2 if one of them would not fit in the memory of a chip.
"""

import importlib

from ml_collections import ConfigDict
from rich.console import Console

from experiments.harness import program_report
from experiments.harness.errors import UserError


def run(config: ConfigDict, topology: str) -> None:
    """Print a table of every program of the config. Raises: UserError: a mistake in it, or what does not fit."""
    experiment = importlib.import_module(f"experiments.{config.experiment}")
    if not hasattr(experiment, "setup_of"):
        raise UserError(f"experiment {config.experiment!r} does not list its programs; 'study' and 'post_train_hf' do")
    devices = program_report.chips(topology)
    usable = program_report.usable_memory(devices[0])
    setup = experiment.setup_of(config, (), devices)
    console = program_report.wide(Console())
    console.print(f"{topology}: {len(devices)} chips ({devices[0].device_kind}), mesh "
                  + ", ".join(f"{axis} {size}" for axis, size in setup.mesh.shape.items()), highlight=False)
    rows = []
    for program in setup.listed():
        rows.append(program_report.row(program, usable))
        last = rows[-1]
        console.print(f"{program.name}: " + (last.get("why") or f"{last['total_bytes'] / 2**30:.2f} GiB a chip, compiled in "
                                             f"{last['compile_seconds']:.0f} s"), highlight=False, soft_wrap=True)
    console.print(program_report.table(rows, usable))
    if large := [row for row in rows if not row["fits"]]:
        worst = max(large, key=lambda row: row["total_bytes"])
        raise UserError(f"{len(large)} of {len(rows)} programs do not fit: {worst['name']} takes "
                        f"{worst['total_bytes'] / 2**30:.2f} GiB of the {usable / 2**30:.2f} GiB of a chip; {worst['advice']}")
