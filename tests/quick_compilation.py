"""Tests compile quickly instead of well: most of their time is the compilation of small programs.

On CPU, LLVM's level 0 and, where jaxlib has them, the loop emitters before MLIR's take less than half the time of what
users' longer runs compile with; a small program is not split among threads. Results agree up to rounding. Flags that are set
already count more than these. Tracing and lowering make many objects that live long: Python looks for garbage less often.
What JAX makes anew for every program that it lowers is made once, and programs do not say from which lines they come.
"""

import functools
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
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    if not _on_cpu():
        return
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join([*(flag for flag in FLAGS if flag not in given), given]).strip()  # the last counts


def share_context():
    """Lower all programs in one MLIR context from here on; returns a function that drops it for another.

    JAX makes a context and fills it with dialects for every program: of the 5 ms that it takes to lower a small one, and of the
    CPU seconds of the tests a fifth. A context keeps the constants of its programs until it is dropped.
    """
    from jax._src.interpreters import mlir  # no public place; a version that has it elsewhere takes its time

    if not hasattr(mlir, "make_ir_context"):
        return lambda: None
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)
    return mlir.make_ir_context.cache_clear


def _on_cpu() -> bool:
    """Other platforms read the same variable, and may not know the flags."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
