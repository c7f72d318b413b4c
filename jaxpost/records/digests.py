"""Files of an unfinished bundle with a digest beside them: written before the file is, checked whenever it is read.

`rows/x.parquet` has `rows/.x.parquet.sha256` (a line of `sha256sum`). The digest is in place first, so that a crash between
the two leaves no file or one that is made again, never one that is believed. Sealing writes all digests into the manifest and
removes these files.
"""

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from jaxpost.records import storage
from jaxpost.records.storage import BundleError

ASIDE = ".damaged"  # suffix of a file that is not what was written


class DamagedError(BundleError):
    """A file is not what was written into it."""


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def write(path: Path, write_to: Callable[[Path], None]) -> None:
    """Write a file atomically, its digest first. Args and errors: of `storage.write_atomic`."""
    def make(temporary: Path) -> None:
        write_to(temporary)
        with open(temporary, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            os.fsync(handle.fileno())
        storage.write_text(_beside(path), f"{digest}  {path.name}\n")

    storage.write_atomic(path, make)


def read(path: Path) -> bytes:
    """The bytes of a file, after comparing them with its digest; one without a digest (of an earlier version) is said.

    Raises:
        DamagedError: they are not what was written.
        BundleError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
        line = _beside(path).read_text(encoding="utf-8", errors="replace") if _beside(path).exists() else None
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    if line is None:
        warnings.warn(f"files in {path.parent} were written before there were digests (no .*.sha256): they are read unchecked",
                      stacklevel=2)
    elif line != f"{hashlib.sha256(data).hexdigest()}  {path.name}\n":
        raise DamagedError(f"{path} is not what was written (SHA-256 {hashlib.sha256(data).hexdigest()[:12]}, expected "
                           f"{line[:12]!r}): run the same command again, it is moved aside and measured again")
    return data


def sound(path: Path) -> bool:
    """Whether a file is there and is what was written (or has no digest)."""
    try:
        read(path)
    except BundleError:
        return False
    return True


def move_aside(path: Path) -> Path:
    """Rename a file that is not what was written, so that it is missing, and forget its digest; returns the new path."""
    to = path.with_name(f".{path.name}{ASIDE}")  # hidden: part of nothing that is merged or sealed
    path.replace(to)
    _beside(path).unlink(missing_ok=True)
    return to


def forget(folder: Path) -> None:
    """Remove the digests beside the files of a folder: they are in the manifest now."""
    for file in folder.glob(".*.sha256"):
        file.unlink(missing_ok=True)
