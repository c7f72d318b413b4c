"""Compile one arm of an experiment for a TPU topology, with no TPU: memory a chip, FLOPs and collective bytes.

    python -m experiments.compile --config=rlvr_sparsity --arm=rlvr-lr1 --topology=v5e:4x4 --mesh=data=2,fsdp=4,tensor=2
    python -m experiments.compile --config=rlvr_sparsity --topology=v5e:4x4 --mesh=ensemble=16

Any key of the config may be changed, e.g. --config.model.width=2048. Needs `pip install -e '.[tpu]'`.
"""

import argparse
import sys

import jax
from rich.console import Console
from rich.table import Table

from experiments import study
from experiments.harness import arms as arm_table
from experiments.harness import checks, trainable
from experiments.harness import config as configs
from experiments.harness.errors import UserError
from experiments.run import parse
from jaxpost import aot, models, sharding
from jaxpost.lookup import nearest


def mesh_sizes(text: str) -> dict[str, int]:
    """{"data": 2, "fsdp": 4} of "data=2,fsdp=4".

    Raises:
      UserError: text of another form.
    """
    try:
        return {axis: int(size) for axis, size in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise UserError(f"--mesh={text!r}: expected AXIS=SIZE,..., for example data=2,fsdp=4") from error


def compile_arm(config, arm_name: str, topology: str, sizes: dict[str, int]) -> dict:
    """The report of `aot.report`, with the arm's parameters and analytic FLOPs a chip and step.

    Raises:
      UserError: anything that the config, the mesh or the topology gets wrong.
    """
    try:
        used = study.tasks_of(config)
        model = checks.model(config.model, tuple(used.values()))
        mesh = sharding.make_mesh(sizes, devices=aot.devices(topology))
        arms = {arm.name: arm for arm in arm_table.build(config, model, used, trainable.of_stage(config))}
        if arm_name not in arms:
            raise UserError(f"arm {arm_name!r} is not known{nearest(arm_name, arms)}")
        arm, members = arms[arm_name], mesh.shape["ensemble"]
        if members == 1:
            sharding.check_divisible(arm.source.rows, mesh, "the batch of a step")
            program, arguments = aot.step_program(arm.source, arm.spec, mesh)
        elif members == mesh.size:
            program, arguments = aot.ensemble_program(arm.source, arm.spec, mesh, members, config.train.steps_per_call)
        else:
            raise UserError(f"--mesh {sizes}: an ensemble takes the whole mesh; nearest valid: ensemble={mesh.size}")
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error
    flops = aot.step_flops(arm.source, arm.spec) / (1 if members > 1 else mesh.size)
    return {"parameters": models.count_parameters(model), "flops": int(flops), **aot.report(program, arguments, mesh)}


def show(found: dict, console: Console) -> None:
    """The report as two tables."""
    table = Table("a chip", "", title=f"{found['chips']} chips, {found['parameters']:,} parameters, "
                                      f"compiled in {found['compile_seconds']:.0f} s")
    for name in ("argument", "temporary", "output", "code"):
        table.add_row(f"{name} memory", f"{found[f'{name}_bytes'] / 2**20:,.1f} MiB")
    table.add_row("analytic FLOPs a step", f"{found['flops']:.3g}")
    table.add_row("the compiler's FLOPs (loop bodies once)", f"{found['compiler_flops']:.3g}")
    table.add_row("loops that wait for a vote", str(found["voting_loops"]))
    table.add_row("calls of the host", ", ".join(found["host_calls"]) or "none")
    console.print(table)
    table = Table("collective", "in the program", "executed", "MiB", "largest MiB", title="a chip and execution")
    for kind, row in found["collectives"].items():
        table.add_row(kind, str(row["instructions"]), str(row["executions"]), f"{row['bytes'] / 2**20:,.1f}",
                      f"{row['largest_bytes'] / 2**20:,.2f}")
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.compile", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--arm", default="rlvr-lr1", help="an arm of the config (default: %(default)s)")
    parser.add_argument("--topology", default="v5e:4x4", help="as libtpu names it (default: %(default)s)")
    parser.add_argument("--mesh", default="data=2,fsdp=4,tensor=2", help="AXIS=SIZE,... (default: %(default)s)")
    options, rest = parser.parse_known_args(arguments)
    jax.config.update("jax_platforms", "cpu")  # libtpu is here to compile, there is no TPU to start
    try:
        chosen, overrides = parse(rest)
        if chosen.config is None:
            raise UserError(f"--config is missing{nearest('', configs.names())}")
        config = configs.load(chosen.config, overrides)
        if "arms" not in config:
            raise UserError(f"config {chosen.config!r} names no arms to compile; take one that does, such as "
                            "rlvr_sparsity with --config.train.objective=...")
        show(compile_arm(config, options.arm, options.topology, mesh_sizes(options.mesh)), Console())
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
