"""The bundle of a run of several processes: the first process writes it; the others compute the same and write nothing."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa

from experiments.harness.errors import Diverged, Stopped, UserError
from jaxpost import processes, records
from jaxpost.checkpoint import CheckpointError
from jaxpost.records import BundleError

ERRORS = (Diverged, Stopped, UserError, CheckpointError, BundleError)  # that one process may meet and all end with


class Follower:
    """What stands for a `records.Bundle` in the other processes: its state and manifest, and writes that do nothing."""

    def __init__(self, path: Path, state: str, manifest: dict):
        self.path, self.state, self.manifest = Path(path), state, manifest

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def sealed_rows(self, name: str) -> bool:
        """As `records.Bundle.sealed_rows`: what is sealed does not change while a run lasts."""
        return name in self.manifest.get("sealed_shards", ())

    def _nothing(self, *given: object, **named: object) -> None:
        pass

    write_rows = write_arrays = write_completions = event = cost = require_base = _nothing


def opened(path: Path, claim: Callable[[], records.Bundle]) -> records.Bundle | Follower:
    """The bundle that `claim()` opens in the first process; a Follower of it elsewhere. Raises: as `claim`, everywhere."""
    held = []

    def told() -> dict:
        held.append(claim())
        return {"state": held[0].state, "manifest": held[0].manifest}

    leader = processes.agreed(told, ERRORS)
    return held[0] if held else Follower(path, leader["state"], leader["manifest"])


def read_rows(bundle: records.Bundle | Follower, exclude: Iterable[str] = ()) -> pa.Table:
    """`Bundle.read_rows` in every process."""
    if isinstance(bundle, records.Bundle) and not processes.several():
        return bundle.read_rows(exclude)

    def told() -> bytes:
        sink, table = pa.BufferOutputStream(), bundle.read_rows(exclude)
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue().to_pybytes()

    return pa.ipc.open_stream(processes.broadcast(told)).read_all()
