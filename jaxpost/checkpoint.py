"""Orbax checkpoints of a training state: asynchronous, committed atomically, parameters restorable alone.

Items of a step: `params`, `training` (all other fields of the state), `probe_state`, `about` (JSON). Probe state is an
item of its own, so that changing probes never breaks a restore.
"""

import logging
from pathlib import Path

import orbax.checkpoint as ocp

_ITEMS = ("params", "training", "probe_state", "about")
logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every phase of every save at INFO and WARNING


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or written; the message names it and the way on."""


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
      directory: created when missing.
      keep: how many of the latest steps stay.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        self._directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self._directory, options=options, item_names=_ITEMS)

    def save(self, step: int, state, about: dict, probe_state: dict | None = None) -> None:
        """Start saving; returns when the arrays are copied, so that the caller may donate them.

        Args:
          step: label of the checkpoint; an existing one is left as it is.
          state: a NamedTuple with a `params` field.
          about: JSON-serialisable facts that `latest` gives back.
        """
        if step in self._manager.all_steps():
            return
        rest = {k: v for k, v in state._asdict().items() if k != "params"}
        try:
            items = {"params": ocp.args.StandardSave(state.params), "training": ocp.args.StandardSave(rest),
                     "about": ocp.args.JsonSave(about)}
            if probe_state is not None:
                items["probe_state"] = ocp.args.StandardSave(probe_state)
            self._manager.save(step, args=ocp.args.Composite(**items))
        except OSError as error:
            raise CheckpointError(f"cannot write checkpoint {self._directory}/{step}: {error.strerror or error}; "
                                  "free space or choose another --workdir, then run the same command again") from error

    def latest(self) -> tuple[int, dict] | None:
        """(step, about) of the newest committed checkpoint, or None."""
        step = self._manager.latest_step()
        if step is None:
            return None
        return step, self._read(step, about=ocp.args.JsonRestore())["about"]

    def restore(self, step: int, abstract):
        """The state of `step`, shaped, typed and placed like `abstract` (arrays or ShapeDtypeStructs)."""
        rest = {k: v for k, v in abstract._asdict().items() if k != "params"}
        read = self._read(step, params=ocp.args.StandardRestore(abstract.params),
                          training=ocp.args.StandardRestore(rest))
        return abstract._replace(params=read["params"], **read["training"])

    def restore_params(self, step: int, abstract: dict | None = None) -> dict:
        """The parameters of `step` alone; `abstract` gives shapes and placement, by default those on disk."""
        return self._read(step, params=ocp.args.StandardRestore(abstract))["params"]

    def close(self) -> None:
        """Wait for pending writes and release the directory."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _read(self, step: int, **items):
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise many types for a damaged file
            earlier = [s for s in self._manager.all_steps() if s < step]
            way = f"the run then resumes from step {max(earlier)}" if earlier else "the run then starts this part again"
            raise CheckpointError(f"checkpoint {self._directory}/{step} cannot be read "
                                  f"({str(error).splitlines()[0][:160]}); remove that directory: {way}") from error
