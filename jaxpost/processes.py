"""Several processes that act as one run: what the first one says, what any of them sees, and whole arrays on every host.

Every function here is collective: all processes call it, in the same order, as they call the compiled programs of a run. With
one process each is the identity. The processes are those of `jax.distributed.initialize`; the first has index 0.
"""

import itertools
import json
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_BROKEN = re.compile(r"Gloo|[Cc]oordination ?[Ss]ervice|heartbeat|Barrier|Connection (closed|reset)|UNAVAILABLE|"
                     r"DEADLINE_EXCEEDED")
_BLOCK = 4096  # bytes of a message; longer ones go in a second array, whose size is a power of two so that few programs compile


def first() -> bool:
    """Whether this process is the one that decides and writes."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether the run is of more than one process."""
    return jax.process_count() > 1


def lost(error: BaseException) -> bool:
    """Whether an error says that another process of the run cannot be reached, by the words of gloo and JAX's runtime."""
    return several() and bool(_BROKEN.search(str(error)))


def broadcast(make: Callable[[], bytes]) -> bytes:
    """What `make()` gives in the first process; the others do not call it."""
    if not several():
        return make()
    data = make() if first() else b""
    head = np.zeros(_BLOCK, np.uint8)
    head[:8] = np.frombuffer(len(data).to_bytes(8, "little"), np.uint8)
    start = np.frombuffer(data[: _BLOCK - 8], np.uint8)
    head[8 : 8 + len(start)] = start
    told = np.asarray(multihost_utils.broadcast_one_to_all(head), np.uint8).tobytes()
    size = int.from_bytes(told[:8], "little")
    if size <= _BLOCK - 8:
        return told[8 : 8 + size]
    rest = np.zeros(1 << (size - 1).bit_length(), np.uint8)
    rest[: len(data)] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(rest), np.uint8).tobytes()[:size]


def agreed(make: Callable[[], object], errors: Sequence[type[Exception]] = ()):
    """The JSON value that `make()` gives in the first process.

    Args:
      errors: types that are made from a message alone.

    Raises:
      one of `errors`, in every process: what `make()` raised.
      RuntimeError: `make()` raised something else, which the first process raises itself.
    """
    if not several():
        return make()
    raised: list[BaseException] = []

    def told() -> bytes:
        try:
            return json.dumps({"value": make()}).encode()
        except BaseException as error:  # also an interruption: the others wait for an answer
            raised.append(error)
            kind = next((i for i, known in enumerate(errors) if isinstance(error, known)), None)
            return json.dumps({"kind": kind, "type": type(error).__name__, "message": str(error)}).encode()

    message = json.loads(broadcast(told))
    if "kind" not in message:
        return message["value"]
    if message["kind"] is not None:
        raise errors[message["kind"]](message["message"])
    if raised:
        raise raised[0]
    raise RuntimeError(f"the first process stopped: {message['type']}: {message['message']}")


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Each flag: whether it is set in any process."""
    if not several():
        return flags
    told = multihost_utils.process_allgather(np.asarray(flags, np.int32))
    return tuple(bool(x) for x in np.asarray(told).reshape(-1, len(flags)).any(axis=0))


def connect(mesh: Mesh) -> None:
    """Let every group of devices that a mesh's axes form meet once, on a CPU; what compiles for minutes later may then differ.

    Gloo gives a group 30 seconds to meet for the first time, and processes do not compile equally fast.
    """
    if not several() or jax.default_backend() != "cpu":
        return
    axes = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
    for count in range(1, len(axes) + 1):
        for group in itertools.combinations(axes, count):
            one = jax.shard_map(lambda x, group=group: jax.lax.psum(x, group), mesh=mesh, in_specs=PartitionSpec(),
                                out_specs=PartitionSpec(), check_vma=False)
            any_of(False)
            jax.block_until_ready(jax.jit(one)(np.float32(1)))


def _foreign(x) -> bool:
    return isinstance(x, jax.Array) and not x.is_fully_addressable


def whole(tree):
    """Numpy arrays of all leaves; those that several processes share are replicated first, by one program."""
    leaves, layout = jax.tree.flatten(tree)
    if shared := [i for i, x in enumerate(leaves) if _foreign(x) and not x.is_fully_replicated]:
        places = tuple(NamedSharding(leaves[i].sharding.mesh, PartitionSpec()) for i in shared)
        for i, x in zip(shared, jax.jit(_same, out_shardings=places)(tuple(leaves[i] for i in shared)), strict=True):
            leaves[i] = x
    return jax.tree.unflatten(layout, jax.device_get(leaves))


def _same(x):
    return x


def put(tree, shardings):
    """Host arrays, equal in all processes, laid out as `shardings` say. One process: `jax.device_put`."""
    if not several():
        return jax.device_put(tree, shardings)

    def leaf(x, place):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, place, lambda index: x[index])

    return jax.tree.map(leaf, tree, shardings)
