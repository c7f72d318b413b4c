"""Files that survive a crash: atomic writes, the claim on a directory, and the append-only event log."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np


class BundleError(RuntimeError):
    """A bundle that cannot be opened, written or read; the message is one line and says what to do."""


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn an OSError on `path` (disk full, read-only, missing directory) into one line that says nothing is lost."""
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"cannot write {path}: {error.strerror or error} (errno {error.errno}); what was written before is intact: "
            f"make room or fix the permissions and run the same command again"
        ) from error


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    Args:
        path: the final name; its directory is made.
        write: called with a temporary path in the same directory; must leave the whole file there.

    Raises:
        BundleError: the file system refused; the temporary file is removed and the old file is untouched.
    """
    with _one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            write(temporary)
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def plain(value: object) -> object:
    """Turn numpy scalars, arrays, tuples and paths into what JSON holds; raises TypeError on anything else."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} {value!r} cannot be written as JSON")


def json_text(value: object) -> str:
    """JSON as files hold it: keys in the order given, two-space indent, a final newline; NaN and Inf are refused."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Write `json_text` atomically."""
    write_text(path, json_text(value))


def read_json(path: Path) -> dict:
    """Read a JSON object; BundleError names the file when it is missing, does not parse or holds something else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path} does not exist: is {path.parent} a measurement bundle?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(f"cannot read {path}: it holds a JSON {type(document).__name__}, expected an object")
    return document


OWN_DIGEST = "own_digest"  # key of a manifest: SHA-256 of the others


def _own_digest(manifest: dict) -> str:
    rest = {key: value for key, value in manifest.items() if key != OWN_DIGEST}
    return hashlib.sha256(json_text(rest).encode()).hexdigest()


def write_manifest(path: Path, manifest: dict) -> None:
    """Write a manifest atomically, with a digest of itself."""
    write_json(path, {key: x for key, x in manifest.items() if key != OWN_DIGEST} | {OWN_DIGEST: _own_digest(manifest)})


def read_manifest(path: Path) -> dict:
    """Read a manifest; one without a digest is of an earlier version.

    Raises:
        BundleError: it is missing, no JSON, or not what was written.
    """
    manifest = read_json(path)
    if OWN_DIGEST in manifest and manifest[OWN_DIGEST] != _own_digest(manifest):
        raise BundleError(f"{path} is not what was written (its own digest): take it from a copy, or choose another directory")
    return manifest


# --- the claim on a directory


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks, so that a reused pid is not taken for the old one; None if unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def _alive(owner: dict) -> bool:
    """Whether the process that wrote a lock still runs here; another host is always taken to be alive."""
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return owner.get("started") in (None, _started(int(owner["pid"])))


def claim_directory(directory: Path) -> None:
    """Make `directory` this process's: a `.lock` file with pid and host. Claiming twice in one process is allowed.

    Raises:
        BundleError: another living process, or any process of another host, holds it.
    """
    lock = directory / ".lock"
    me = {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid()), "time": time.time()}
    with _one_line(lock):
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY)
        try:  # two processes that find one stale lock take turns
            fcntl.flock(handle, fcntl.LOCK_EX)
            owner = _owner(lock)
            mine = owner and (owner.get("pid"), owner.get("host")) == (me["pid"], me["host"])
            if owner and not mine and _alive(owner):
                raise BundleError(
                    f"{directory} is in use by process {owner.get('pid')} on {owner.get('host')}; "
                    f"if that process is gone, delete {lock} and run again"
                )
            write_json(lock, me)
        finally:
            os.close(handle)


def _owner(lock: Path) -> dict | None:
    try:
        owner = json.loads(lock.read_text())
    except (FileNotFoundError, ValueError):  # a half-written lock belongs to a process that died while writing it
        return None
    return owner if isinstance(owner, dict) and "pid" in owner else None


def release_directory(directory: Path) -> None:
    """Give the directory back if this process holds it."""
    owner = _owner(directory / ".lock")
    if owner and (owner["pid"], owner.get("host")) == (os.getpid(), socket.gethostname()):
        (directory / ".lock").unlink(missing_ok=True)


# --- events.jsonl


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # JSON has no NaN: the word stays readable and cannot be taken for a number
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value


def append_event(path: Path, event: dict) -> None:
    """Append one JSON line; a torn last line (a crash while writing) is cut off first."""
    line = json.dumps(_finite(plain(event)), allow_nan=False, ensure_ascii=False) + "\n"
    with _one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as handle:
            size = handle.seek(0, os.SEEK_END)
            if size:
                handle.seek(size - 1)
                if handle.read(1) != b"\n":
                    handle.seek(0)
                    handle.truncate(handle.read().rfind(b"\n") + 1)
            handle.write(line.encode())
            handle.flush()
            os.fsync(handle.fileno())


def read_events(path: Path) -> list[dict]:
    """All events in order; a torn last line is left out, a broken line elsewhere raises BundleError with its number."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise BundleError(f"{path} line {number} is not JSON: {error}") from error
    return events
