"""Tests compile quickly instead of well: most of their time is the compilation of small programs.

On CPU, LLVM's level 0 and, where jaxlib has them, the loop emitters before MLIR's take less than half the time of what
users' longer runs compile with; a small program is not split among threads. Results agree up to rounding. Flags that are set
already count more than these. Tracing and lowering make many objects that live long: Python looks for garbage less often.
"""

import gc
import importlib.util
import os

import jaxlib

# Versions from 0.11 on have MLIR's emitters only, and abort on a flag that they do not know.
OLD_EMITTERS = tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 11)
OF_OLD = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
FLAGS = ("--xla_backend_optimization_level=0", *(OF_OLD if OLD_EMITTERS else ()))


def ask() -> None:
    """Compile quickly in this process and its children, if they compute on CPU. No effect once JAX has its devices."""
    gc.set_threshold(100_000, 50, 100)
    if not _on_cpu():
        return
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join([*(flag for flag in FLAGS if flag not in given), given]).strip()  # the last counts


def _on_cpu() -> bool:
    """Other platforms read the same variable, and may not know the flags."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
