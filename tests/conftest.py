"""Eight fake devices, no silent rank promotion, programs that compile quickly and are kept, few of them at a time."""

import functools
import gc
import os
import tempfile
from pathlib import Path

from tests import quick_compilation

os.environ.setdefault("JAX_PLATFORMS", "cpu")
quick_compilation.ask()  # less than half the CPU seconds: docs/decisions.md
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "jaxpost-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # most of the time goes to small programs

import jax  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

from jaxpost.records.drawing.style import RC  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Fonts as outlines instead of embedded ones, and few pixels: a report in 2.1 instead of 3.8 CPU seconds.
USERS_RC = RC | {}
RC.update({"pdf.fonttype": 3, "figure.dpi": 100})
drop_context = quick_compilation.share_context()
MAPS = Path("/proc/self/maps")  # compiled programs hold memory maps; Linux kills a process with more than 65,530 of them
MOST_MAPS = 20_000


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """After a file, drop what is compiled if it holds many memory maps; the compilation cache on disk has it again.

    A mesh of several devices turned the cache off for the rest of its file.
    """
    yield
    drop_context()
    if not jax.config.jax_enable_compilation_cache:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()
    if MAPS.exists() and MAPS.read_text().count("\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def users_figures(monkeypatch):
    """Figures as users have them."""
    for name, value in USERS_RC.items():
        monkeypatch.setitem(RC, name, value)


@pytest.fixture
def users_emitters(monkeypatch):
    """`jax.jit` with the loop emitters that users have: that two programs give equal bits is a law about those."""
    if quick_compilation.OLD_EMITTERS:
        options = {"xla_cpu_use_fusion_emitters": True}
        monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))
