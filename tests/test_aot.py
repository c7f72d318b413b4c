"""What libtpu answers is told apart: in use, not known, something else."""

import sys
import types

import pytest
from jax.experimental import topologies

from jaxpost import aot


@pytest.mark.parametrize(("answer", "kind", "message"), [
    ('ABORTED: Internal error when accessing libtpu multi-process lockfile. Run "$ sudo rm /tmp/libtpu_lockfile".',
     aot.TopologyUnavailable, "libtpu is in use: .*holds its lock.*run this again when that process has ended"),
    ("The TPU is already in use by process with pid 7.", aot.TopologyUnavailable, "libtpu is in use"),
    ("INVALID_ARGUMENT: Invalid TPU external name: TPU v9", ValueError, "'v5e:4x4' is not known to libtpu"),
    ("INTERNAL: out of luck", aot.TopologyUnavailable, "could not be asked .*out of luck"),
])
def test_what_libtpu_answers_is_told_apart(monkeypatch, answer, kind, message):
    def refuse(**given):
        raise RuntimeError(answer)

    monkeypatch.setitem(sys.modules, "libtpu", types.ModuleType("libtpu"))
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(ValueError, match=message) as error:
        aot.devices("v5e:4x4")
    assert type(error.value) is kind and "rm " not in str(error.value) and "delete" not in str(error.value)
