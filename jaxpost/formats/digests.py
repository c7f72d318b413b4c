"""Digests of arrays, and of the JSON beside them, so that what is read is what was written, to the last bit.

The digest of an array is SHA-256 over its dtype, its shape and the SHA-256 of every 64 MiB of its bytes in row-major order: of
the values, not of files, so that it holds whatever the layout on disk, the sharding or the compression.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

CHUNK = 2**26
ABOUT, DIGESTS, OWN = "about", "digests", "sha256"  # keys of a sealed `about`
_KEYS = frozenset((ABOUT, DIGESTS, OWN))


class DigestError(ValueError):
    """What was read is not what was written; one line."""


def array_digest(x: np.ndarray) -> str:
    """The digest of one array."""
    array = np.ascontiguousarray(x)
    flat = array.reshape(-1).view(np.uint8) if array.size else np.zeros(0, np.uint8)
    whole = hashlib.sha256(f"{array.dtype.name}\x1f{tuple(np.shape(x))}\x1f".encode())
    for first in range(0, flat.size, CHUNK):
        whole.update(hashlib.sha256(flat[first:first + CHUNK].data).digest())
    return whole.hexdigest()


def array_digests(makers: Mapping[str, Callable[[], np.ndarray]]) -> dict[str, str]:
    """Name -> digest of what each call makes, on all cores (hashing runs without Python's lock)."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(makers, pool.map(lambda make: array_digest(make()), makers.values())))


def json_digest(value: object) -> str:
    """SHA-256 of a JSON value, whatever its spacing and the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(about: object, digests: Mapping[str, Mapping[str, str]]) -> dict:
    """`about` and the digests of the items beside it (item -> array -> digest), with a digest of both."""
    plain = {ABOUT: json.loads(json.dumps(about)), DIGESTS: {item: dict(own) for item, own in digests.items()}}
    return plain | {OWN: json_digest(plain)}


def opened(document: object) -> tuple[object, dict[str, dict[str, str]] | None]:
    """(about, digests) of what `sealed` made; (the value itself, None) of one that was written before there were digests.

    Raises:
      DigestError: it has changed since.
    """
    keys = set(document) if isinstance(document, Mapping) else set()
    if not keys & _KEYS:
        return document, None
    if keys != _KEYS or json_digest({key: document[key] for key in (ABOUT, DIGESTS)}) != document[OWN]:
        raise DigestError("its JSON is not what was written (digest)")
    return document[ABOUT], document[DIGESTS]
