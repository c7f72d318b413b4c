"""One of two processes that share rows: `python two_processes.py PORT RANK`, started by test_split_processes."""

import sys

import jax

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxpost import sharding  # noqa: E402
from jaxpost.training import split  # noqa: E402

ROWS = np.arange(24).reshape(8, 3)
mesh = sharding.make_mesh({"data": 2, "tensor": 2})
own = split.local(8, mesh)
assert list(own) == list(range(4)) if jax.process_index() == 0 else list(own) == list(range(4, 8)), own
placed = split.put(ROWS[own], mesh)
assert placed.shape == (8, 3) and not placed.is_fully_addressable
np.testing.assert_array_equal(split.own(placed), ROWS[own])
with sharding.on_mesh(mesh):
    doubled = jax.jit(lambda x: sharding.constrain(2 * x, ("batch",)))(placed)
    scored = split.put(split.own(doubled).sum(axis=1).astype(np.float32), mesh)  # what a verifier on the host does
    np.testing.assert_array_equal(jax.jit(lambda r: jnp.dot(r, jnp.arange(8.0)))(scored), 2 * ROWS.sum(1) @ np.arange(8))
try:
    split.row_sharding(8, sharding.make_mesh({"tensor": 4}))
except ValueError as error:
    assert "would lie on several processes" in str(error)
else:
    raise AssertionError("rows on both processes must be refused")
print("agreed")
