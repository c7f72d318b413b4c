"""What carries a sweep's points out: threads on this machine, or a Ray cluster."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from experiments.harness.errors import UserError
from experiments.sweep.points import Point
from experiments.sweep.worker import Outcome, carry_out

Say = Callable[[str, str, int], None]  # (point, state, attempt)


def local(made: Sequence[Point], directory: Path, *, workers: int, retries: int, stop: threading.Event, say: Say
          ) -> Iterator[Outcome]:
    """Outcomes as points end, `workers` processes at a time; yields nothing more than what had begun once `stop` is set."""
    def one(point: Point) -> Outcome:
        if stop.is_set():
            return Outcome(point.name, "stopped", 0, 0.0, "not begun")
        return carry_out(point, directory, retries, stop, lambda state, attempt: say(point.name, state, attempt))

    with ThreadPoolExecutor(workers) as pool:
        pending = {pool.submit(one, point) for point in made}
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def ray_cluster(made: Sequence[Point], directory: Path, *, workers: int, retries: int, stop: threading.Event, say: Say,
                address: str | None = None, cpus: float = 1, tpus: float = 0, gpus: float = 0) -> Iterator[Outcome]:
    """Outcomes as points end on a Ray cluster: a new local one of `workers` workers, or that at `address`.

    The directory must be seen by every node. A worker that dies is replaced by Ray, and its run resumes.

    Raises:
      UserError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray  # optional: the extra `ray`
    except ImportError as error:
        raise UserError("--executor=ray needs Ray: pip install 'jaxpost[ray]'") from error
    try:
        ray.init(address=address, num_cpus=None if address else max(1, round(workers * cpus)), include_dashboard=False,
                 log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError) as error:
        raise UserError(f"no Ray cluster at {address!r}: {str(error).splitlines()[0]}; start one with ray start --head"
                        ) from error
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, resources={"TPU": tpus} if tpus else None, max_retries=retries)(carry_out)
    try:
        pending = {remote.remote(point, directory.resolve(), retries): point for point in made}
        for point in made:
            say(point.name, "queued", 0)
        while pending and not stop.is_set():
            done, _ = ray.wait(list(pending), timeout=0.5)
            for reference in done:
                point = pending.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield Outcome(point.name, "failed", retries + 1, 0.0, str(error).splitlines()[0])
        for point in pending.values():
            yield Outcome(point.name, "stopped", 0, 0.0, "saved at its last checkpoint; run the same command again")
    finally:
        ray.shutdown()


def commands(made: Sequence[Point], directory: Path, executor: str, workers: int, hosts: Sequence[str]) -> str:
    """The same runs as commands for others to carry out: `print` (a line each), `slurm` (a job array) or `gcloud` (TPU VMs of
    one host each).

    Raises:
      UserError: gcloud without the names of its TPU VMs.
    """
    lines = [point.command(directory) for point in made]
    if executor == "print":
        return "\n".join(lines)
    if executor == "slurm":
        quoted = "\n".join(f"  {_quoted(line)}" for line in lines)
        return (f"#!/bin/bash\n#SBATCH --job-name=jaxpost\n#SBATCH --array=0-{len(lines) - 1}%{workers}\n#SBATCH --requeue\n"
                f"#SBATCH --signal=B:TERM@120\n#SBATCH --output={directory}/logs/%a.log\n\ncommands=(\n{quoted}\n)\n"
                'eval "exec ${commands[$SLURM_ARRAY_TASK_ID]}"')
    if not hosts:
        raise UserError("--executor=gcloud needs the TPU VMs: --hosts=NAME,NAME,...; each gets every so-many-th run")
    shell = []
    for i, host in enumerate(hosts):
        if own := lines[i::len(hosts)]:
            shell.append(f"gcloud compute tpus tpu-vm ssh {host} --command={_quoted('cd jaxpost && ' + ' && '.join(own))}")
    return "\n".join(shell)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
