"""Begin and end a process of a run of several: `--config.distributed=auto`, or a coordinator that is stated.

    auto                       the cluster says who is who: Cloud TPU, SLURM, GKE, Open MPI, or the variables
                               JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID
    HOST:PORT,PROCESSES,INDEX  where process 0 listens, how many there are, and which one this is

Either may be followed by `,heartbeat=SECONDS` (default 100): a process that was silent for so long is taken for dead.
"""

import importlib
import os
import re
import socket
import sys
import threading
import time
import traceback

import jax

from experiments.harness.command import refuse
from experiments.harness.errors import EXIT_LOST, EXIT_STOPPED, UserError
from jaxpost import processes

HEARTBEAT = 100  # seconds
_PATIENCE = 300.0  # seconds that the processes wait for each other at the start
_LEAVING = 60.0  # seconds that the end waits for the other processes, less than JAX's runtime waits before it aborts
_AFTER = 2.0  # seconds that process 0 waits before it leaves with an error, so that others with the same one say it themselves
_FORM = re.compile(r"(?:(?P<auto>auto)|(?P<address>[^,\s]+:\d+),(?P<count>\d+),(?P<index>\d+))(?:,heartbeat=(?P<beat>\d+))?")
_begun = False


def parse(text: str) -> dict:
    """Arguments of `jax.distributed.initialize`. Raises: UserError."""
    match = _FORM.fullmatch(text)
    if not match:
        raise UserError(f"distributed={text!r}: expected auto, or HOST:PORT,PROCESSES,INDEX such as 10.0.0.1:8476,4,0, either "
                        "with ,heartbeat=SECONDS behind it")
    beat = int(match["beat"] or HEARTBEAT)
    arguments = {"heartbeat_timeout_seconds": beat}
    if match["auto"]:
        stated = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
        return arguments | {key: int(os.environ[name]) for key, name in stated.items() if os.environ.get(name, "").isdigit()}
    count, index = int(match["count"]), int(match["index"])
    if not index < count:
        raise UserError(f"distributed={text!r}: the index of one of {count} processes is 0 to {count - 1}, found {index}")
    return arguments | {"coordinator_address": match["address"], "num_processes": count, "process_id": index}


def begin(text: str, experiment: str) -> None:
    """Join the other processes; nothing may have asked JAX for its devices before. An empty text is a run of one process.

    Raises:
      UserError: a text of another form, no cluster that is known, or an experiment that one process runs.
    """
    global _begun
    if not text:
        return
    arguments = parse(text)
    if not getattr(importlib.import_module(f"experiments.{experiment}"), "SEVERAL_PROCESSES", False):
        raise UserError(f"distributed={text!r}: the experiment {experiment!r} runs in one process; study and post_train_hf run "
                        "in several")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which asks this run to save and stop
    if arguments.get("process_id") and "coordinator_address" in arguments:
        _reach(arguments["coordinator_address"], _PATIENCE)
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=int(_PATIENCE))
    except (ValueError, RuntimeError) as error:
        raise UserError(f"distributed={text!r}: {str(error).splitlines()[0]}; say who is who: HOST:PORT,PROCESSES,INDEX, the "
                        "same address and number on every host") from error
    _begun = True
    processes.any_of(False)  # all meet now, before they compile at their own pace


def _reach(address: str, seconds: float) -> None:
    """Wait until process 0 listens: JAX's runtime would abort with pages of text. Raises: UserError: it does not."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(f"distributed: process 0 does not listen at {address} after {seconds:.0f} s ({error}); start "
                                "it with the same address, and let the hosts reach each other on that port") from error
            time.sleep(0.5)


def lost(error: Exception) -> int:
    """Say what ended this process; the others cannot be reached, or end for want of it. Returns the exit code.

    Raises:
      Exception: the error itself, in a run of one process.
    """
    if not _begun:
        raise error
    if not processes.lost(error):
        traceback.print_exception(error)
        return 1
    return refuse(f"process {jax.process_index()} of {jax.process_count()}: another process of this run ended (its own message "
                  "says why); what was saved is kept: start all of them again with the same command", EXIT_LOST)


def end(code: int) -> int:
    """The exit code; a process of several ends here: with the others where all are done or stop, else at once."""
    if not _begun:
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the runtime says of processes that left is no news
    if code in (0, EXIT_STOPPED):
        leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        leaving.start()
        leaving.join(_LEAVING)
    elif jax.process_index() == 0:
        time.sleep(_AFTER)
    os._exit(code)
