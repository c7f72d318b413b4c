"""Where a number comes from: hashes of configs and files, versions, hardware, code."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open

from jaxpost import __version__
from jaxpost.records.storage import plain

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "ml_dtypes",
    "safetensors",
    "pyarrow",
    "matplotlib",
    "ml_collections",
    "grain",
)
VARIABLES = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
)
CHANGES_BITS = ("python", "packages", "variables", "cores", "machine", "devices")  # what exact resume rests on


def canonical_json(value: object) -> str:
    """JSON with sorted keys, no spaces and floats as `repr`: equal values give equal text. NaN and Inf are refused."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _without(config: Mapping, exclude: set[str], prefix: str = "") -> dict:
    kept = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if path not in exclude:
            kept[key] = _without(value, exclude, f"{path}.") if isinstance(value, Mapping) else value
    return kept


def config_hash(config: Mapping, exclude: Sequence[str] = ()) -> str:
    """SHA-256 of a config without the fields that cannot change a result.

    Args:
        config: nested mapping of JSON values (`ConfigDict.to_dict()`).
        exclude: dotted paths to leave out, e.g. ("workdir", "tracking.mode"); a path may name a whole section.

    Returns:
        64 hex digits.

    Raises:
        TypeError: a value that JSON does not hold. ValueError: NaN or Inf.
    """
    return hashlib.sha256(canonical_json(_without(config, set(exclude))).encode()).hexdigest()


def _flat(config: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def config_difference(before: Mapping, now: Mapping) -> str:
    """The first three keys in which two configs differ, for an error message."""
    old, new = _flat(before), _flat(now)
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    differences = ", ".join(f"{key} ({old.get(key)!r} there, {new.get(key)!r} here)" for key in keys[:3])
    return differences + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def claims_hash(claims: Sequence[Mapping]) -> str:
    """SHA-256 of the claims in the order given, as they stand before the run."""
    return hashlib.sha256(canonical_json(list(claims)).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def arrays_digest(path: Path) -> str:
    """SHA-256 of what a safetensors file holds (names, dtypes, shapes, bytes), whatever the layout of the file."""
    digest = hashlib.sha256()
    with safe_open(path, framework="numpy") as arrays:
        for name in sorted(arrays.keys()):
            value = np.ascontiguousarray(arrays.get_tensor(name))
            digest.update(f"\x1e{name}\x1f{value.dtype}\x1f{value.shape}\x1f".encode())
            digest.update(value.tobytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def environment(devices: Mapping[str, object] | None = None) -> dict:
    """Versions and hardware of this process.

    Args:
        devices: what the caller's JAX sees, e.g. `{"platform": "tpu", "kind": "TPU v5e", "count": 8, "processes": 2}`
            (records do not import jax). Absent from the result when not given.

    Returns:
        A JSON mapping: python, system, machine, processor (its model's name, where Linux says it), cores (usable, not
        installed), packages, variables (set ones only), and devices.
    """
    about = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": _cores(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    return about | ({"devices": plain(dict(devices))} if devices is not None else {})


def _processor() -> str:
    """The model of the processor; empty where /proc does not name it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def environment_changes(before: Mapping, now: Mapping) -> list[str]:
    """One line per thing that differs and can change low-order bits, e.g. "cores: 2 -> 8"."""
    return [
        f"{name}: {before.get(name)} -> {now.get(name)}" for name in CHANGES_BITS if before.get(name) != now.get(name)
    ]


def _git(directory: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def code_state(directory: Path | None = None) -> dict:
    """Commit of the clone that `directory` (default: this package) is in, and a digest of what differs from it.

    Returns:
        `{"version", "commit", "dirty", "diff_sha256"}`; the last three are absent where there is no git clone, and
        `diff_sha256` where nothing differs. Untracked Python files enter by name and content.
    """
    directory = Path(directory or __file__).resolve()
    directory = directory if directory.is_dir() else directory.parent
    state = {"version": __version__}
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return state
    top = Path(_git(directory, "rev-parse", "--show-toplevel").decode().strip())
    diff = _git(top, "diff", "HEAD") or b""
    untracked = sorted(
        filter(None, (_git(top, "ls-files", "-o", "--exclude-standard", "-z", "*.py") or b"").split(b"\0"))
    )
    state |= {"commit": commit.decode().strip(), "dirty": bool(diff or untracked)}
    if state["dirty"]:
        digest = hashlib.sha256(diff)
        for name in untracked:
            path = top / os.fsdecode(name)
            digest.update(b"\0" + name + b"\0" + (file_digest(path).encode() if path.is_file() else b""))
        state["diff_sha256"] = digest.hexdigest()
    return state
