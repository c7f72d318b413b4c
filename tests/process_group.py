"""One of several processes: `python process_group.py PORT COUNT INDEX DIRECTORY`, started by test_processes; its last word is
"agreed".
"""

import sys

import jax

jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=int(sys.argv[2]), process_id=int(sys.argv[3]))

from typing import Any, NamedTuple  # noqa: E402

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from jaxpost import processes, sharding  # noqa: E402
from jaxpost.checkpoint import Checkpoints  # noqa: E402


class State(NamedTuple):
    step: Any
    params: Any
    probe_state: Any = None


class Refused(RuntimeError):
    pass


me = jax.process_index()
long = bytes(range(256)) * 40  # more than one block
assert processes.broadcast(lambda: long if me == 0 else b"never asked") == long
assert processes.agreed(lambda: {"who": me}) == {"who": 0}
assert processes.any_of(me == 1, False) == (True, False)


def refuse():
    raise Refused(f"said by {me}")


try:
    processes.agreed(refuse, (ValueError, Refused))
except Refused as error:
    assert str(error) == "said by 0"
else:
    raise AssertionError("the error of the first process must reach all")

try:
    processes.agreed(refuse, (ValueError,))
except RuntimeError as error:  # the first process's own, and its message in the other
    assert (type(error), str(error)) == ((Refused, "said by 0") if me == 0 else
                                         (RuntimeError, "the first process stopped: Refused: said by 0"))
else:
    raise AssertionError("an unexpected error of the first process must not leave the other waiting")

mesh = sharding.make_mesh({"fsdp": 4})
processes.connect(mesh)
rows = np.arange(24.0, dtype=np.float32).reshape(8, 3)
places = {"split": NamedSharding(mesh, PartitionSpec("fsdp")), "same": NamedSharding(mesh, PartitionSpec())}
split = processes.put({"split": rows, "same": rows[0]}, places)
assert not split["split"].is_fully_addressable
found = processes.whole({**split, "own": jnp.float32(me)})
np.testing.assert_array_equal(found["split"], rows)
np.testing.assert_array_equal(found["same"], rows[0])
assert found["own"] == me

state = State(jnp.uint32(7), {**split, "own": jnp.ones(3)})  # `own` is an array that each process holds for itself
with Checkpoints(sys.argv[4]) as saves:
    saves.save(7, state, {"about": "several processes"})
    saves.wait()
    step, about = saves.latest()
    assert (step, about) == (7, {"about": "several processes"})
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    abstract.params["split"] = abstract.params["split"].update(sharding=NamedSharding(mesh, PartitionSpec(None, None)))
    read = saves.restore(7, abstract)
np.testing.assert_array_equal(processes.whole(read.params["split"]), rows)
np.testing.assert_array_equal(np.asarray(read.params["own"]), np.ones(3))
assert int(read.step) == 7
print("agreed")
