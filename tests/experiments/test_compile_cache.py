"""The command keeps compiled programs for the next run, where nobody said otherwise."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import jax, jax.numpy as jnp
from experiments import compile_cache
print(compile_cache.keep(compile_cache.directory()))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3))).block_until_ready()
"""


def run(home, **environment):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XDG_"))}
    env |= {"JAX_PLATFORMS": "cpu", "HOME": str(home), **environment}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


@pytest.mark.parametrize("given, place", [
    ({}, ".cache/jaxpost"), ({"XDG_CACHE_HOME": "other"}, "other/jaxpost"), ({"JAX_COMPILATION_CACHE_DIR": "own"}, "own")])
def test_programs_are_kept_for_this_user_only_and_where_jax_was_told_to(tmp_path, given, place):
    kept = run(tmp_path, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
               **{name: str(tmp_path / value) for name, value in given.items()})
    assert kept == ("JAX_COMPILATION_CACHE_DIR" not in given)
    found = [path for path in tmp_path.iterdir() if path.name == place.partition("/")[0]]
    assert found == list(tmp_path.iterdir()) and any(found[0].rglob("*-cache"))
    if kept:
        assert (tmp_path / place).stat().st_mode & 0o77 == 0


def test_a_home_that_cannot_be_written_costs_compilations_only(tmp_path):
    (tmp_path / ".cache").write_text("a file where the directory should be")
    assert not run(tmp_path)
