"""Compiled programs are kept on disk, so that a second run of a config starts without compiling.

A third of a first run is compilation. JAX keys an entry by the program, its options, the versions and the machine's features.
"""

import os
from pathlib import Path

import jax


def directory() -> Path:
    """`jaxpost` in the user's cache directory (`XDG_CACHE_HOME`, else `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxpost"


def keep(path: Path) -> bool:
    """Keep programs in `path`; returns whether it does. A cache that JAX was given (JAX_COMPILATION_CACHE_DIR) stays.

    A directory that cannot be made costs compilations and nothing else, so it is no error.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return False
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is in it is executed: for this user only
    except OSError:
        return False
    jax.config.update("jax_compilation_cache_dir", str(path))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a run has hundreds of small programs
    return True
