"""Scale is a mesh, not a code path: the mesh builder and the ordered rules from logical axes to mesh axes.

Only `make_mesh` looks at devices. Everything else names logical axes (declared with each parameter) and lets the
rules place them; on one device every placement is the trivial one and the same program runs.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("ensemble", "data", "fsdp", "tensor")

# Ordered: the first rule whose logical name matches wins; a mesh axis is used once per array.
RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("member", ("ensemble",)),
    ("batch", ("data", "fsdp")),
    ("batch_by_data", ("data",)),  # rows on their way between arrays that fsdp splits and rows that it splits
    ("matrix_rows", ("data", "fsdp")),  # of a matrix whose columns are rotated: chips send each other sums alone
    ("vocab", ("tensor",)),
    ("heads", ("tensor",)),
    ("kv_heads", ("tensor",)),
    ("expert", ("tensor",)),  # before mlp: whole experts, where the mesh divides their number
    ("mlp", ("tensor",)),
    ("embed", ("fsdp",)),
    ("layers", ()),
)


def make_mesh(sizes: Mapping[str, int] | None = None, devices: Sequence | None = None) -> Mesh:
    """A mesh over `devices` (default: all) with the axes of MESH_AXES; sizes not given are 1.

    With a mesh of several CPU devices, the process compiles all programs anew from here on (`_without_compilation_cache`).

    Args:
      sizes: e.g. {"data": 2, "fsdp": 4}.
      devices: the devices to use, also abstract ones of an ahead-of-time topology.

    Raises:
      ValueError: an unknown axis, or sizes whose product is not the number of devices.
    """
    sizes = dict(sizes or {})
    devices = list(jax.devices() if devices is None else devices)
    unknown = set(sizes) - set(MESH_AXES)
    if unknown:
        raise ValueError(f"mesh axis {sorted(unknown)[0]!r} is unknown; the axes are {', '.join(MESH_AXES)}")
    shape = [sizes.get(axis, 1) for axis in MESH_AXES]
    if math.prod(shape) != len(devices):
        raise ValueError(f"mesh {dict(zip(MESH_AXES, shape))} needs {math.prod(shape)} devices, found {len(devices)}; "
                         f"nearest valid: data={len(devices)}")
    if len(devices) > 1 and devices[0].platform == "cpu":
        _without_compilation_cache()
    return Mesh(np.asarray(devices).reshape(shape), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _without_compilation_cache() -> None:
    """Read no compiled program from disk any more: XLA for CPUs (jaxlib 0.10.2) loses the order of its collectives there.

    A program as it was compiled runs its collectives one after the other; one that was read from JAX's persistent cache runs
    those that are ready, so that devices wait for each other in different ones until XLA aborts the process after 40 s.
    """
    if jax.config.jax_enable_compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX asks the option once


def partition(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """The PartitionSpec of an array with logical `axes`; a dimension that a mesh axis does not divide stays whole.

    Raises:
      ValueError: a logical axis without a rule.
    """
    rules, used, spec = dict(RULES), set(), []
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in rules:
            raise ValueError(f"logical axis {axis!r} has no sharding rule; known: {', '.join(rules)}")
        mesh_axes = tuple(a for a in (rules[axis] if axis else ()) if a not in used and mesh.shape[a] > 1)
        if mesh_axes and size % math.prod(mesh.shape[a] for a in mesh_axes) == 0:
            used |= set(mesh_axes)
            spec.append(mesh_axes[0] if len(mesh_axes) == 1 else mesh_axes)
        else:
            spec.append(None)
    return PartitionSpec(*spec)


def ways(axis: str, size: int) -> int:
    """Into how many equal parts the mesh that is set (`on_mesh`) splits a dimension of a logical axis; 1 without one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    split = [name for name in dict(RULES)[axis] if name not in mesh.manual_axes]
    count = math.prod(mesh.shape[name] for name in split)
    return 1 if size % count else count


def parameter_shardings(table: dict, mesh: Mesh) -> dict:
    """A pytree of NamedSharding for a tree of declarations with `.shape` and `.axes` (models.parameter_table)."""
    return jax.tree.map(lambda p: NamedSharding(mesh, partition(p.axes, p.shape, mesh)), table,
                        is_leaf=lambda p: hasattr(p, "axes"))


def like_parameters(tree, table: dict, mesh: Mesh):
    """Shardings for a training state: subtrees built like the parameters follow their rules, all else is replicated.

    An array of such a subtree has its parameter's shape, or another last dimension (packed bits are shorter): the rules then
    apply to the shape that it has.

    Args:
      tree: arrays or ShapeDtypeStructs.
      table: declarations with `.shape` and `.axes` (models.parameter_table).

    Raises:
      ValueError: an array of another shape; names it, its shape and its parameter's.
    """
    layout = jax.tree.structure(table)
    replicated = NamedSharding(mesh, PartitionSpec())

    def follow(path, x, declared):
        if len(x.shape) != len(declared.shape) or x.shape[:-1] != declared.shape[:-1]:
            raise ValueError(f"{jax.tree_util.keystr(path)} is {x.shape} in a tree built like the parameters, where "
                             f"{declared.shape} is declared; only the last dimension may differ")
        return NamedSharding(mesh, partition(declared.axes, x.shape, mesh))

    def place(node):
        same = jax.tree.structure(node) == layout
        return jax.tree_util.tree_map_with_path(follow, node, table) if same else jax.tree.map(lambda _: replicated, node)

    return jax.tree.map(place, tree, is_leaf=lambda n: jax.tree.structure(n) == layout)


def check_divisible(rows: int, mesh: Mesh, what: str) -> None:
    """Refuse a batch that the mesh cannot split evenly.

    Raises:
      ValueError: names the batch, the mesh and the nearest valid row counts.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % ways:
        low = rows // ways * ways
        raise ValueError(f"{what} has {rows} rows, not divisible by mesh data*fsdp={ways}; "
                         f"nearest valid: {low or ways} or {low + ways}")


def on_mesh(mesh: Mesh | None):
    """Context in which `constrain` applies; None is no mesh."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def constants(compute: Callable[[], Any]):
    """What a function computes, as numpy arrays, now, whatever is being traced: constants of a program.

    On a thread of its own, since the mesh that arrays are computed on is a thread's: the chips of one that a program is
    compiled for may not be there.
    """
    with ThreadPoolExecutor(1) as thread:
        return jax.tree.map(np.asarray, thread.submit(compute).result())


def constrain(tree, axes: Sequence[str | None]):
    """Constrain the leading dimensions of every leaf to logical `axes`; the identity outside `on_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or set(mesh.manual_axes) == set(mesh.axis_names):
        return tree

    def leaf(x):
        names = (*axes, *(None,) * (x.ndim - len(axes)))
        return jax.lax.with_sharding_constraint(x, partition(names, x.shape, mesh))

    return jax.tree.map(leaf, tree)


def constrain_parameters(tree, table: dict):
    """Constrain subtrees built like the parameters to their rules (`like_parameters`); the identity where no mesh axis that
    the compiler may use splits parameters.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not any(mesh.shape[axis] > 1 and axis not in mesh.manual_axes for axis in ("fsdp", "tensor")):
        return tree
    layout = jax.tree.structure(table)

    def follow(node):
        if jax.tree.structure(node) != layout:
            return node
        return jax.tree.map(lambda x, p: jax.lax.with_sharding_constraint(x, partition(p.axes, x.shape, mesh)), node, table)

    return jax.tree.map(follow, tree, is_leaf=lambda n: jax.tree.structure(n) == layout)


def member_shardings(states_S, table: dict, mesh: Mesh):
    """Shardings of a stack of training states: members over the axis `ensemble`, each laid out as `like_parameters` says."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), states_S)
    first = "ensemble" if mesh.shape["ensemble"] > 1 else None
    return jax.tree.map(lambda place: NamedSharding(mesh, PartitionSpec(first, *place.spec)), like_parameters(one, table, mesh))


def map_members(function, mesh: Mesh | None = None, whole: bool = False):
    """`lax.map` of `function` over a leading axis of members, split by shard_map over mesh axis `ensemble`.

    `function(member, *shared)`; on one device a member's result equals the single run bit for bit. The other axes of the mesh
    are the compiler's, within each member; with `whole` every device of a member computes all of it. Devices that have no
    member of their own compute the last one again.
    """
    def mapped(members, *shared):
        return jax.lax.map(lambda member: function(member, *shared), members)

    if mesh is None or mesh.shape["ensemble"] == 1:
        return mapped
    member = PartitionSpec("ensemble")
    manual = mesh.axis_names if whole or mesh.shape["ensemble"] == mesh.size else ("ensemble",)

    def split(members, *shared):
        everywhere = jax.tree.map(lambda _: PartitionSpec(), shared)
        count = jax.tree.leaves(members)[0].shape[0]
        if spare := -count % mesh.shape["ensemble"]:
            members = jax.tree.map(lambda x: jnp.concatenate([x, *[x[-1:]] * spare]), members)
        out = jax.shard_map(mapped, mesh=mesh, in_specs=(member, *everywhere), out_specs=member, check_vma=False,
                            axis_names=frozenset(manual))(members, *shared)
        return jax.tree.map(lambda x: x[:count], out) if spare else out

    return split
