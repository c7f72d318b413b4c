"""One measurement a matrix: a program for every shape, values by tensor name, and what trajectories of them share.

Values of these probes are name -> statistics, so that matrices measured together (sidecar) or one by one (offline)
are the same pytree, merged by name.

Legend: S seeds, T matrices, C scopes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo, matrix_shape
from jaxpost.probes.rows.pooling import ABSENT, DEGENERATE, NAN, OK
from jaxpost.probes.weights import visibility

NO_ROWS = {name: np.empty(0, object) for name in ("metric", "arm", "role", "step", "seed", "granularity", "value", "status")}


def each(measure: Callable[..., Any], *trees: Mapping[str, Any]) -> dict[str, Any]:
    """measure(a, b, ...) of every tensor: name -> result. Matrices of one shape share a program (`lax.map`).

    Args: trees: name -> matrix or pytree, all with the same names; the first one's shapes form the groups.
    Raises: ValueError for unequal names, unequal shapes of two matrices of one name, or anything that is not a matrix.
    """
    first = trees[0]
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in sorted(first):
        groups.setdefault(matrix_shape(name, np.shape(first[name])), []).append(name)
    for other in trees[1:]:
        _check_same(first, other)
    out = {}
    for names in groups.values():
        stacked = tuple(jax.tree.map(lambda *x: jnp.stack(x), *[tree[name] for name in names]) for tree in trees)
        measured = jax.lax.map(lambda x: measure(*x), stacked)
        out |= {name: jax.tree.map(lambda x, i=i: x[i], measured) for i, name in enumerate(names)}
    return out


def _check_same(first: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    if missing := sorted(set(first) ^ set(other)):
        near = difflib.get_close_matches(missing[0], sorted(set(first) & set(other)), n=1)
        raise ValueError(f"tensors differ: {missing} are on one side only" + (f"; nearest: {near[0]!r}" if near else ""))
    for name, w in first.items():
        if hasattr(other[name], "shape") and tuple(np.shape(other[name])) != tuple(np.shape(w)):
            raise ValueError(f"{name!r} has shapes {np.shape(w)} and {np.shape(other[name])}: pair tensors by name")


def bf16_master(w: jax.Array) -> jax.Array:
    """Whether every entry lies on the bf16 grid: then the update before rounding is not known. bool[]."""
    return jnp.all(visibility.fp32_codes(w) & 0xFFFF == 0)


def rounding_rms(w0: jax.Array, w1: jax.Array) -> jax.Array:
    """Root mean square rounding error of one entry, q^2 = mean((ulp0^2 + ulp1^2) / 2) / 12, in the masters' dtype: f32[]."""
    q = jnp.sqrt(visibility.rounding_variance(visibility.bf16_codes(w0), visibility.bf16_codes(w1)))
    return q * jnp.where(bf16_master(w1), 1.0, 2.0**-16)  # float32 ULPs are 2^-16 of bf16's


def stacked(values: Mapping[str, Mapping[str, Any]], infos: Sequence[TensorInfo], name: str) -> np.ndarray:
    """A scalar statistic of every matrix, in the order of `infos`: f64[S, T, ...].

    Raises: ValueError when values lack a matrix of the inventory.
    """
    if missing := [info.name for info in infos if info.name not in values]:
        raise ValueError(f"values lack {missing}; they have {', '.join(sorted(values))}")
    return np.stack([np.asarray(values[info.name][name], np.float64) for info in infos], axis=1)


def state(nonfinite_SxT: np.ndarray, zero_SxT: np.ndarray, absent_T: Sequence[bool] | None = None) -> np.ndarray:
    """State of every matrix, as `pooling.statuses` reads it: absent, else not finite, else degenerate, else ok."""
    states = np.where(nonfinite_SxT > 0, NAN, np.where(zero_SxT, DEGENERATE, OK))
    return states if absent_T is None else np.where(np.asarray(absent_T, bool)[None, :], ABSENT, states)


def settled(value: np.ndarray, status: np.ndarray) -> np.ndarray:
    """The value where its status lets it stand, NaN elsewhere: a pool with a broken matrix has no value."""
    return np.where(np.isin(status, ("ok", "unresolved")), value, np.nan)


def dtypes(bf16_SxT: np.ndarray) -> np.ndarray:
    """The dtype an update was read in, object[S, 1]: "bf16" where all masters of a seed are stored in bf16."""
    return np.where((bf16_SxT > 0).all(1), "bf16", "fp32").astype(object)[:, None]


def kinds(conditioned: str, calibrated: str, bf16_SxT: np.ndarray, scopes: pooling.Scopes) -> np.ndarray:
    """Name of the null of every scope, object[S, C]: both, where it pools fp32 and bf16 masters."""
    share = pooling.mean(np.asarray(bf16_SxT > 0, np.float64), np.ones(bf16_SxT.shape, bool), scopes)
    kind = np.full(share.shape, f"{calibrated}; {conditioned}", object)
    kind[share == 0], kind[share == 1] = conditioned, calibrated
    return kind


def pairs(steps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(earlier, later) of measured steps: every neighbouring pair, and every step with the last; each once."""
    steps = sorted(steps)
    yield from dict.fromkeys([*zip(steps, steps[1:]), *((step, steps[-1]) for step in steps[:-1])])


def concatenate(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Columns of several row tables in one; NO_ROWS for none."""
    if not parts:
        return dict(NO_ROWS)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def regroup(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Arrays "statistic/tensor" -> tensor -> statistic -> array: undoes `flat`."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        statistic, _, tensor = key.partition("/")
        out.setdefault(tensor, {})[statistic] = array
    return out


def flat(values: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays worth keeping, "statistic/tensor" -> array, of some statistics of every tensor."""
    return {f"{name}/{tensor}": np.asarray(fields[name]) for tensor, fields in values.items() for name in names}
