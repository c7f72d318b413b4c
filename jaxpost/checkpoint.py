"""Orbax checkpoints of a training state: asynchronous, committed atomically, parameters restorable alone.

Items of a step: `params`, `training` (the other fields of the state), `probe_state`, `about` (JSON). Probe state is an item
of its own, so that changing probes never breaks a restore.
"""

import contextlib
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

_ITEMS = ("params", "training", "probe_state", "about")
logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax reports phases of saves, and failures that it raises as well


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _placed(tree, abstract):
    """Arrays whose abstract value names no sharding, freed from the device that Orbax tied them to."""
    return jax.tree.map(lambda x, a: x if getattr(a, "sharding", None) else jnp.asarray(np.asarray(x)), tree, abstract)


def _rest(state) -> dict:
    """The fields of the item `training`."""
    return {k: v for k, v in state._asdict().items() if k not in ("params", "probe_state") and v is not None}


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or written; the message names it and the way on."""


class Checkpoints:
    """The checkpoints of one run directory; also a context manager that closes them.

    Args:
      directory: created when missing.
      keep: how many of the latest steps stay.

    Raises:
      CheckpointError: the directory cannot be made or read.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        self._directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        with self._writing(self._directory):
            for rest in self._directory.glob("*.orbax-checkpoint-tmp*"):  # a kill or a full disk cut that save short
                shutil.rmtree(rest, ignore_errors=True)
            self._manager = ocp.CheckpointManager(self._directory, options=options, item_names=_ITEMS)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self.close()
        except CheckpointError:
            if error is None:
                raise  # otherwise what happened first is the better message

    def save(self, step: int, state, about: dict) -> None:
        """Start saving; returns when the arrays are copied, so that the caller may donate them.

        Args:
          step: label of the checkpoint; an existing one is left as it is.
          state: a NamedTuple with fields `params` and `probe_state` (None: there is none).
          about: JSON-serialisable facts that `latest` gives back.

        Raises:
          CheckpointError: this save, or an earlier one that was still being written, failed.
        """
        if step in self._manager.all_steps():
            return
        items = {"params": ocp.args.StandardSave(state.params), "training": ocp.args.StandardSave(_rest(state)),
                 "about": ocp.args.JsonSave(about)}
        if state.probe_state is not None:
            items["probe_state"] = ocp.args.StandardSave(state.probe_state)
        with self._writing(self._directory / str(step)):
            self._manager.save(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Return when every save is committed. Raises: CheckpointError when one failed."""
        with self._writing(self._directory):
            self._manager.wait_until_finished()

    def latest(self) -> tuple[int, dict] | None:
        """(step, about) of the newest committed checkpoint, or None."""
        step = self._manager.latest_step()
        if step is None:
            return None
        return step, self._read(step, about=ocp.args.JsonRestore())["about"]

    def restore(self, step: int, abstract):
        """The state of `step`, shaped, typed and placed like `abstract` (arrays or ShapeDtypeStructs).

        A step that was saved without probe state comes back without it.
        """
        items = {"params": ocp.args.StandardRestore(abstract.params), "training": ocp.args.StandardRestore(_rest(abstract))}
        if abstract.probe_state is not None and (self._directory / str(step) / "probe_state").exists():
            items["probe_state"] = ocp.args.StandardRestore(abstract.probe_state)
        else:
            abstract = abstract._replace(probe_state=None)
        read = self._read(step, **items)
        found = {"params": read["params"], "probe_state": read.get("probe_state"), **read["training"]}
        return _placed(abstract._replace(**found), abstract)

    def restore_params(self, step: int, abstract: dict | None = None) -> dict:
        """The parameters of `step` alone; `abstract` gives shapes and placement, by default those on disk."""
        read = self._read(step, params=ocp.args.StandardRestore(abstract))["params"]
        return read if abstract is None else _placed(read, abstract)

    def close(self) -> None:
        """Wait for pending writes and release the directory. Raises: CheckpointError when a write failed."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # it waits again, and a failed write fails again
                self._manager.close()

    @contextlib.contextmanager
    def _writing(self, path: Path):
        try:
            yield
        except Exception as error:  # an OSError, or what Orbax and TensorStore make of one in a writer thread
            reason = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
            reason = "No space left on device" if "No space left" in str(error) else reason
            raise CheckpointError(f"cannot write checkpoint {path}: {reason}; what was saved before is intact: free space or "
                                  "fix the permissions and run the same command again") from error

    def _read(self, step: int, **items):
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise many types for a damaged file
            earlier = [s for s in self._manager.all_steps() if s < step]
            way = f"the run then resumes from step {max(earlier)}" if earlier else "the run then starts this part again"
            raise CheckpointError(f"checkpoint {self._directory}/{step} cannot be read "
                                  f"({_first_line(error)}); remove that directory: {way}") from error
