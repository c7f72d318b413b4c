"""What programs take on a chip, compiled and never run: memory, FLOPs and collectives as rows and as a table."""

from collections.abc import Iterable, Sequence

import jax
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from experiments.harness.errors import UserError
from experiments.harness.programs import Program, Unseen
from experiments.harness.session import Session
from jaxpost import aot, hlo

COLUMNS = {"all-gather": "gathered", "all-reduce": "reduced", "reduce-scatter": "scattered", "all-to-all": "exchanged",
           "collective-permute": "permuted"}  # of `hlo.COLLECTIVES`


def row(program: Program | Unseen, usable: int | None) -> dict:
    """What a program takes on each chip: `aot.report` and its name, `beside_bytes`, `total_bytes`, analytic `flops`, `advice`.

    Args:
      usable: bytes of a chip, or None where they are not known: then everything `fits`.

    Returns:
      as said; of a program that was not compiled, or that the compiler refused, `why` in place of the report.
    """
    if isinstance(program, Unseen):
        return {"name": program.name, "why": program.why, "fits": True}
    chips, beside = 1 if program.mesh is None else program.mesh.size, aot.shard_bytes(program.beside)
    entry = {"name": program.name, "beside_bytes": beside, "flops": program.flops / chips, "advice": program.advice}
    try:
        entry |= aot.describe(program.compiled)
    except aot.DoesNotFit as error:
        return entry | {"total_bytes": error.used + beside, "fits": False, "why": str(error)}
    total = beside + sum(entry[f"{part}_bytes"] for part in ("argument", "temporary", "output", "code"))
    return entry | {"total_bytes": total, "fits": usable is None or total <= usable}


def chips(topology: str) -> list:
    """The abstract chips of a TPU slice that is not there. Raises: UserError: as `aot.devices`."""
    jax.config.update("jax_platforms", "cpu")  # libtpu is here to compile, there is no TPU to start
    try:
        return aot.devices(topology)
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error


def usable_memory(device) -> int | None:
    """Bytes of a device that programs may use, where it says so: an accelerator that is there, or a TPU that is not."""
    if device.device_kind in aot.USABLE_GIB:
        return int(aot.USABLE_GIB[device.device_kind] * 2**30)
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:  # a back end without statistics
        return None


def print_report(session: Session, listed: Iterable[Program | Unseen]) -> None:
    """Compile every program for the devices that are there, and print the memory that it takes on each."""
    usable = usable_memory(jax.devices()[0])
    rows = []
    for program in listed:
        rows.append(row(program, usable))
        session.say(f"compiled: {program.name}")
    wide(session.console).print(table(rows, usable))


def wide(console: Console) -> Console:
    """A console with room for the table: the terminal's own width, or 160 columns where there is none."""
    return console if console.is_terminal else Console(file=console.file, width=160)


def table(rows: Sequence[dict], usable: int | None) -> Table:
    """What each program takes on a chip: memory in GiB, analytic FLOPs, bytes of its collectives by kind in MiB."""
    limit = "" if usable is None else f" of {usable / 2**30:.2f}"
    kinds = [kind for kind in hlo.COLLECTIVES if any(kind in entry.get("collectives", ()) for entry in rows)]
    view = Table("program", "compile s", f"in all{limit}", "arguments", "temporary", "output", "code", "beside", "TFLOP",
                 *(COLUMNS[kind] for kind in kinds), title="a chip: memory in GiB" + (", collectives in MiB" if kinds else ""),
                 box=SIMPLE)
    for entry in rows:
        total = _number(entry["total_bytes"] / 2**30) if "total_bytes" in entry else "?"
        total += "" if entry["fits"] else " DOES NOT FIT"
        if "why" in entry:
            view.add_row(f"{entry['name']}: {entry['why']}", "", total)
            continue
        memory = [_number(entry[f"{part}_bytes"] / 2**30) for part in ("argument", "temporary", "output", "code", "beside")]
        moved = [_number(entry["collectives"][kind]["bytes"] / 2**20) if kind in entry["collectives"] else "" for kind in kinds]
        flops = _number(entry["flops"] / 1e12) if entry["flops"] else ""
        view.add_row(entry["name"], f"{entry['compile_seconds']:.0f}", total, *memory, flops, *moved)
    return view


def _number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.2f}" if x >= 0.1 or x == 0 else f"{x:.1e}"
