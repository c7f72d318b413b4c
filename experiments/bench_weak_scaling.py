"""Weak scaling, as the compiler says it: rows a chip are kept, chips are added, and no chip may get more to do or to move."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments import post_train_hf
from experiments.harness import benchmark, program_report
from experiments.harness import config as configs
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened
from experiments.harness.session import StopSignals
from experiments.post_train_hf import stand_in

TITLE = "Weak scaling over the chips of a slice"
QUESTION = "With the rows of a chip kept, do its operations, memory and collectives stay as they are while chips are added?"
ARMS = ("sft-lr1", "rlvr-lr1")  # of post_train_hf: one of each kind
LIMITS = {"flops": 0.02, "peak_bytes": 0.05, "bytes": 0.1}  # largest exponents in the number of chips
WHAT = {"flops": "FLOPs", "peak_bytes": "memory", "bytes": "collectives"}
UNITS = {"flops": (1e12, "TFLOP"), "peak_bytes": (2**30, "GiB"), "bytes": (2**30, "GiB")}


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Compile the steps for every slice, print the exponents, write the bundle. Raises: UserError, BundleError."""
    benchmark.refuse_claims(config, claims)
    benchmark.require_least(config, prompts=1, fsdp=1, group=2, prompt_tokens=1, answer_tokens=1)
    stand_in.architecture("directory", config.directory)
    devices = {name: program_report.chips(name) for name in config.slices}
    for slice_name, chips in devices.items():
        if len(chips) % min(config.fsdp, len(chips)):
            raise UserError(f"fsdp={config.fsdp} does not divide the {len(chips)} chips of {slice_name}; take "
                            f"{math.gcd(*map(len, devices.values()))} or a divisor of it")
    if len({len(chips) for chips in devices.values() if len(chips) >= config.fsdp}) < 2:
        raise UserError(f"slices={tuple(config.slices)}: an exponent needs two sizes of at least fsdp={config.fsdp} chips; "
                        "smaller slices share parameters in fewer parts, and are shown but not fitted")
    with opened(config, Stated(TITLE, QUESTION, (), (), [0], bases=0), workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        rows = []
        for slice_name, chips in devices.items():
            for row in measured(config, slice_name, chips):
                rows.append(row)
                session.say(f"{slice_name}, {row['program']}: {row['bytes'] / 2**30:.2f} GiB moved to a chip, compiled in "
                            f"{row['wall_s']:.0f} s")
                bundle.cost(f"bench.{row['program']}.{slice_name}",
                            **{quantity: row[quantity] for quantity in ("flops", "peak_bytes", "wall_s")})
        targets = [target for program in dict.fromkeys(row["program"] for row in rows)
                   for target in exponents([row for row in rows if row["program"] == program], config.fsdp)]
        benchmark.publish(bundle, session, TITLE, targets, programs=rows)


def measured(config: ConfigDict, slice_name: str, chips: Sequence) -> Iterator[dict]:
    """The rollout and the updates on one slice, compiled.

    A mesh has `fsdp` chips that share the parameters (all, if there are fewer), the others take further rows.

    Returns:
      of each: program, slice, chips, fsdp; a chip's `flops` (as the compiler counts: the body of a loop once), `peak_bytes`
      (with what lies beside) and `bytes` of collectives (loops multiplied out), these also by kind; `wall_s` of compilation.

    Raises:
      UserError: a setting that cannot run, or a program that no chip can hold.
    """
    fsdp = min(config.fsdp, len(chips))
    setup = post_train_hf.setup_of(configs.load("post_train_hf", {
        "model.directory": config.directory, "arms": str(ARMS), "data.prompt_tokens": str(config.prompt_tokens),
        "data.answer_tokens": str(config.answer_tokens), "train.microbatches": "1", "measure.probes": "('loss_tokens',)",
        "measure.rows": str(len(chips)), "train.prompts": str(config.prompts * len(chips)), "train.group": str(config.group),
        "mesh.fsdp": str(fsdp), "mesh.data": str(len(chips) // fsdp)}), (), chips)
    for program in setup.listed():
        arm, _, step = program.name.partition(": ")
        if arm not in ARMS:
            continue  # evaluation and probes
        row = program_report.row(program, program_report.usable_memory(chips[0]))
        if not row["fits"]:
            raise UserError(f"{slice_name}, {program.name}: {row['total_bytes'] / 2**30:.2f} GiB do not fit; lower prompts, "
                            "or raise fsdp")
        kinds = {kind: entry["bytes"] for kind, entry in row["collectives"].items()}
        yield {"program": f"{arm.partition('-')[0]}-{step}", "slice": slice_name, "chips": len(chips), "fsdp": fsdp,
               "flops": row["compiler_flops"], "peak_bytes": row["total_bytes"], "bytes": sum(kinds.values()),
               "kinds": kinds, "wall_s": row["compile_seconds"]}


def exponents(rows: Sequence[dict], fsdp: int) -> list[benchmark.Target]:
    """Slopes of log quantities in log chips of one program, over the slices whose parameters are in `fsdp` parts."""
    targets = []
    for quantity, limit in LIMITS.items():
        fitted = [row for row in rows if row["fsdp"] == fsdp]
        x, y = np.log([row["chips"] for row in fitted]), np.log([max(row[quantity], 1) for row in fitted])
        slope, (scale, unit) = np.polyfit(x, y, 1)[0], UNITS[quantity]
        spent = ", ".join(f"{row['chips']}: {row[quantity] / scale:.3g}" for row in rows)
        targets.append(benchmark.at_most(f"{rows[0]['program']}, {WHAT[quantity]}", np.asarray([slope]), limit,
                                         f"chips: {unit} a chip: {spent}", "(exponent)"))
    return targets
