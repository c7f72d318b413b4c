"""Which processes ask for quick compilation, and that what was given counts more."""

import pytest

from tests import quick_compilation


@pytest.mark.parametrize("platforms, given, asked", [
    ("cpu", "", True), ("tpu", "", False), ("tpu,cpu", "--x=1", False),
    ("cpu", "--x=1 --xla_backend_optimization_level=2", True)])
def test_processes_on_cpu_ask_and_flags_that_are_given_come_last(monkeypatch, platforms, given, asked):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("XLA_FLAGS", given)
    quick_compilation.ask()
    quick_compilation.ask()  # of a child: nothing is said twice
    flags = quick_compilation.os.environ["XLA_FLAGS"].split()
    assert flags[len(flags) - len(given.split()):] == given.split() and len(set(flags)) == len(flags)
    assert (quick_compilation.FLAGS[0] in flags) == asked
