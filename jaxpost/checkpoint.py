"""Orbax checkpoints of a training state: asynchronous, committed atomically, parameters restorable alone, checked when read.

Items of a step: `params`, `training` (the other fields of the state), `probe_state`, `about` (JSON). Probe state is an item
of its own, so that changing probes never breaks a restore. `about` holds, beside the caller's facts, the digest of every array,
taken from memory when the save begins, and one of itself: it is committed with the step or not at all, and what is
restored is compared with it. A step that does not pass is moved aside and the one before it is the latest.
"""

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxpost import processes
from jaxpost.formats import digests, orbax

_ITEMS = ("params", "training", "probe_state", "about")
ASIDE = "damaged-"  # prefix of the directory of a step that did not pass
logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax reports phases of saves, and failures that it raises as well


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _placed(tree, abstract):
    """Arrays whose abstract value names no sharding, freed from the device that Orbax tied them to."""
    return jax.tree.map(lambda x, a: x if getattr(a, "sharding", None) else jnp.asarray(np.asarray(x)), tree, abstract)


def _own(tree):
    """Of several processes: arrays that each holds for itself, as host arrays, which the first process writes."""
    def leaf(x):
        return np.asarray(x) if isinstance(x, jax.Array) and x.is_fully_addressable else x

    return jax.tree.map(leaf, tree) if processes.several() else tree


def _asked(abstract):
    """What Orbax is asked for: host arrays where no sharding is named, whatever layout and processes they were saved from."""
    def leaf(x):
        if getattr(x, "sharding", None):
            return x
        return np.broadcast_to(np.zeros((), x.dtype), x.shape)  # without memory

    return jax.tree.map(leaf, abstract)


def _rest(state) -> dict:
    """The fields of the item `training`."""
    return {k: v for k, v in state._asdict().items() if k not in ("params", "probe_state") and v is not None}


def _whole(x) -> np.ndarray:
    """An array on the host; of one that several processes share, gathered: every process must call this in the same order."""
    return processes.whole(x) if isinstance(x, jax.Array) else np.asarray(x)


def _leaves(tree) -> dict[str, object]:
    """Leaves by their keys, joined by dots, as Orbax names them: the same for a NamedTuple and the dict that comes back."""
    def word(key) -> str:
        return str(next(getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name)))

    return {".".join(map(word, path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _digests(tree) -> dict[str, str]:
    """The digest of every leaf; leaves that several processes share one after the other, as gathering is collective."""
    leaves = _leaves(tree)
    shared = {name: digests.array_digest(_whole(x)) for name, x in leaves.items()
              if isinstance(x, jax.Array) and not x.is_fully_addressable}
    return shared | digests.array_digests({name: lambda x=x: _whole(x) for name, x in leaves.items() if name not in shared})


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or written; the message names it and the way on."""


class Checkpoints:
    """The checkpoints of one run directory; also a context manager that closes them.

    Args:
      directory: created when missing.
      keep: how many of the latest steps stay.
      say: told in one line of a damaged step and of one without digests; a warning by default.

    Raises:
      CheckpointError: the directory cannot be made or read.
    """

    def __init__(self, directory: str | Path, keep: int = 2, say: Callable[[str], None] = warnings.warn):
        self._directory, self._say, self._sound = Path(directory).absolute(), say, {}
        self._options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        with self._writing(self._directory):
            processes.agreed(self._remove_unfinished)
            self._manager = self._opened()

    def _remove_unfinished(self) -> None:
        for rest in self._directory.glob("*.orbax-checkpoint-tmp*"):  # a kill or a full disk cut that save short
            shutil.rmtree(rest, ignore_errors=True)

    def _opened(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self._directory, options=self._options, item_names=_ITEMS)

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
        trees = {"params": state.params, "training": _rest(state)}
        if state.probe_state is not None:
            trees["probe_state"] = state.probe_state
        with self._writing(self._directory / str(step)):
            facts = digests.sealed(about, {item: _digests(tree) for item, tree in trees.items()})
            items = {item: ocp.args.StandardSave(_own(tree)) for item, tree in trees.items()}
            self._manager.save(step, args=ocp.args.Composite(**items, about=ocp.args.JsonSave(facts)))

    def wait(self) -> None:
        """Return when every save is committed. Raises: CheckpointError when one failed."""
        with self._writing(self._directory):
            self._manager.wait_until_finished()

    def latest(self, before: int | None = None) -> tuple[int, dict] | None:
        """(step, about) of the newest committed checkpoint whose every array is what was saved, or None.

        Newer ones that are not are moved aside (`damaged-<step>`) and said.

        Args:
          before: only steps below this one.

        Raises:
          CheckpointError: there are checkpoints and none is sound; nothing was moved.
        """
        steps = [step for step in sorted(self._manager.all_steps(), reverse=True) if before is None or step < before]
        bad: dict[int, str] = {}
        for step in steps:
            try:
                about = processes.agreed(lambda step=step: self._checked(step), (CheckpointError,))
            except CheckpointError as error:
                bad[step] = str(error.__cause__ or error)
                continue
            self._move_aside(bad, step)
            return step, about
        if bad:
            reasons = "; ".join(f"{step}: {why[:120]}" for step, why in bad.items())
            raise CheckpointError(f"no checkpoint in {self._directory} is what was saved ({reasons}); remove the directories "
                                  "of these steps: the run then starts this part again")
        return None

    def _move_aside(self, bad: Mapping[int, str], step: int) -> None:
        for broken, why in bad.items():
            to = self._directory / f"{ASIDE}{broken}"
            with self._writing(self._directory / str(broken)):
                processes.agreed(lambda broken=broken, to=to: self._rename(broken, to), (OSError,))
            self._say(f"checkpoint {self._directory}/{broken} is damaged ({why[:160]}) and is now {to.name}; step {step}, the "
                      "newest sound one, is used")
        if bad:
            with self._writing(self._directory):
                self._manager.close()
                self._manager = self._opened()

    def _rename(self, step: int, to: Path) -> None:
        if to.exists():
            shutil.rmtree(to)
        (self._directory / str(step)).rename(to)

    def _checked(self, step: int) -> dict:
        """`about` of a step after reading every array of it once, one at a time. Raises: CheckpointError."""
        if step not in self._sound:
            about, expected = self._about(step)
            if expected is None:
                self._say(f"checkpoint {self._directory}/{step} was written before there were digests: it is read unchecked")
            for item, table in (expected or {}).items():
                with self._reading(step):
                    self._compare(step, item, table, self._stored(step, item, table))
            self._sound[step] = about
        return self._sound[step]

    def _stored(self, step: int, item: str, table: Mapping[str, str]) -> dict[str, str]:
        """Digests of the arrays on disk."""
        source = orbax.arrays_of(self._directory / str(step) / item, table)
        return digests.array_digests({name: lambda name=name: source.read(name) for name in table})

    def _about(self, step: int) -> tuple[dict, dict | None]:
        """(about, item -> array -> digest; None of a checkpoint of an earlier version)."""
        with self._reading(step):
            return digests.opened(json.loads((self._directory / str(step) / "about" / "metadata").read_text()))

    def _compare(self, step: int, item: str, expected: Mapping[str, str], read: Mapping[str, str]) -> None:
        if set(read) != set(expected):
            odd = sorted(set(read) ^ set(expected))[0]
            raise digests.DigestError(f"item {item!r} {'has no' if odd in expected else 'holds'} array {odd!r}")
        if wrong := sorted(name for name in expected if read[name] != expected[name]):
            raise digests.DigestError(f"array {wrong[0]!r} of item {item!r} is not what was saved (digest); {len(wrong)} of "
                                      f"{len(expected)} arrays differ")

    def restore(self, step: int, abstract):
        """The state of `step`, shaped, typed and placed like `abstract` (arrays or ShapeDtypeStructs), as it was saved.

        A step that was saved without probe state comes back without it.

        Raises:
          CheckpointError: it cannot be read, or an array is not what was saved.
        """
        items = {"params": abstract.params, "training": _rest(abstract)}
        if abstract.probe_state is not None and (self._directory / str(step) / "probe_state").exists():
            items["probe_state"] = abstract.probe_state
        else:
            abstract = abstract._replace(probe_state=None)
        read = self._items(step, items)
        fields = {"params": read["params"], "probe_state": read.get("probe_state"), **read["training"]}
        return _placed(abstract._replace(**fields), abstract)

    def restore_params(self, step: int, abstract: dict | None = None) -> dict:
        """The parameters of `step` alone; `abstract` gives shapes and placement, by default those on disk.

        Raises:
          CheckpointError: they cannot be read, or an array is not what was saved.
        """
        read = self._items(step, {"params": abstract})["params"]
        return read if abstract is None else _placed(read, abstract)

    def _items(self, step: int, items: Mapping[str, object]) -> dict:
        """Items restored like their abstract trees, compared with their digests."""
        _, expected = self._about(step)
        read = self._read(step, **{item: ocp.args.StandardRestore(_asked(abstract)) for item, abstract in items.items()})
        for item in items:
            with self._reading(step):
                if expected is None:
                    continue
                if item not in expected:
                    raise digests.DigestError(f"item {item!r} has no digests")
                self._compare(step, item, expected[item], _digests(read[item]))
        return read

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
            if processes.lost(error):
                raise  # nothing is wrong with the files
            reason = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
            reason = "No space left on device" if "No space left" in str(error) else reason
            raise CheckpointError(f"cannot write checkpoint {path}: {reason}; what was saved before is intact: free space or "
                                  "fix the permissions and run the same command again") from error

    def _read(self, step: int, **items):
        with self._reading(step):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _reading(self, step: int):
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many types for a damaged file
            if processes.lost(error):
                raise  # nothing is wrong with the files
            earlier = [s for s in self._manager.all_steps() if s < step]
            way = f"the run then resumes from step {max(earlier)}" if earlier else "the run then starts this part again"
            raise CheckpointError(f"checkpoint {self._directory}/{step} cannot be read "
                                  f"({_first_line(error)}); remove that directory: {way}") from error
