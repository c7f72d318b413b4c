"""Meshes as text: sizes, what is left of the devices, and what is refused."""

import jax
import pytest

from experiments.harness import checks
from experiments.harness import config as configs
from experiments.harness.errors import UserError


@pytest.mark.parametrize(("text", "shape"), [
    ("data:2", (1, 2, 1, 1)),
    ("ensemble:2,data:-1", (2, 4, 1, 1)),
    ("fsdp:-1,tensor:2", (1, 1, 4, 2)),
])
def test_a_mesh_is_written_in_one_word(text, shape):
    assert jax.device_count() == 8
    config = configs.load("sft_then_ppo:smoke", {"mesh": text})
    assert tuple(checks.mesh(config.mesh, 32).shape.values()) == shape


@pytest.mark.parametrize(("text", "message"), [
    ("data=2", "expected AXIS:SIZE"),
    ("dat:2", "did you mean 'data'"),
    ("data:16", "needs 16 devices, found 8"),
    ("data:-1,fsdp:-1", "one axis at most"),
    ("data:3,fsdp:-1", "does not divide the 8 devices; nearest product: 2"),
    ("data:0", "a number of devices"),
    ("ensemble:2,fsdp:2,tensor:2", "cannot go together"),
])
def test_a_mesh_that_cannot_be_is_one_line(text, message):
    with pytest.raises(UserError, match=message):
        checks.mesh(configs.load("sft_then_ppo:smoke", {"mesh": text}).mesh, 32)


def test_rows_that_a_mesh_does_not_divide_are_refused():
    with pytest.raises(UserError, match="nearest valid"):
        checks.mesh(configs.load("sft_then_ppo:smoke", {"mesh": "data:8"}).mesh, 12)
