"""Single-bit flips over the files of a directory, and what a reader made of each."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np


def flip(path: Path, bit: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def tried(sound: Path, work: Path, count: int, read: Callable[[Path], str], seed: int = 0) -> Counter:
    """How often `read` of a copy with one flipped bit said "detected", "harmless" or anything else.

    Bits are drawn over all bytes of all files; every file gets one flip first.
    """
    files = sorted(path.relative_to(sound) for path in sound.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = np.asarray([(sound / name).stat().st_size for name in files])
    rng, seen = np.random.default_rng(seed), Counter()
    for i in range(count):
        at = i if i < min(len(files), count // 2) else int(rng.choice(len(files), p=sizes / sizes.sum()))
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(sound, work)
        bit = int(rng.integers(8 * sizes[at]))
        flip(work / files[at], bit)
        verdict = read(work)
        seen[verdict] += 1
        if verdict not in ("detected", "harmless"):
            print(f"{verdict}: bit {bit} of {files[at]}")
    print(f"{count} flips over {len(files)} files of {sizes.sum()} bytes: {dict(seen)}")
    return seen
