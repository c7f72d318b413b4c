"""The work of a function, counted from its jaxpr: what a probe without a hand-made count is priced by.

Loops of known length count every turn, a `while` counts one, a `cond` its most expensive branch. Fusion is not seen: streamed
bytes are those of every intermediate result written once, an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import jax
from jax.extend import core

from jaxpost.probes.base import Cost

_FREE = {"reshape", "broadcast_in_dim", "squeeze", "expand_dims", "stop_gradient", "convert_element_type", "copy", "iota"}


def svd_flops(m: int, n: int, vectors: bool = True) -> float:
    """Operations of a thin SVD: 6 m n^2 + 20 n^3 with vectors, 2 m n^2 + 2 n^3 without (m >= n).

    Source: Golub and Van Loan, Matrix Computations, R-SVD.
    """
    m, n = max(m, n), min(m, n)
    return 6.0 * m * n**2 + 20.0 * n**3 if vectors else 2.0 * m * n**2 + 2.0 * n**3


def traced(function: Callable, *args: object) -> Cost:
    """The Cost of `function(*args)`, from shapes alone; `args` may be ShapeDtypeStructs."""
    closed = jax.make_jaxpr(function)(*args)
    return _program(closed.jaxpr)


def _bytes(variables: Iterable) -> float:
    arrays = (v.aval for v in variables if hasattr(v.aval, "shape"))
    return float(sum(math.prod(a.shape) * getattr(a.dtype, "itemsize", 4) for a in arrays))


def _program(jaxpr) -> Cost:
    """Work of all equations; held: the most that intermediate results occupy at once."""
    last = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if isinstance(v, core.Var)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if isinstance(v, core.Var)}
    total, live, held = Cost(), 0.0, 0.0
    made = set()
    for i, eqn in enumerate(jaxpr.eqns):
        inner = _equation(eqn)
        live += _bytes(eqn.outvars)
        made |= set(eqn.outvars)
        held = max(held, live + inner.held)
        total += inner
        live -= _bytes({v for v in eqn.invars if isinstance(v, core.Var) and v in made and last[v] == i})
        live -= _bytes(v for v in eqn.outvars if v not in last)
    return Cost(total.products, total.factorisations, total.streamed, held)


def _equation(eqn) -> Cost:
    name = eqn.primitive.name
    inner = [_program(getattr(x, "jaxpr", x)) for x in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(x)]
    if name == "cond":
        return max(inner, key=lambda c: c.products + c.factorisations + c.streamed)
    if inner:
        turns = eqn.params["length"] if name == "scan" else 1
        one = sum(inner, Cost())
        return Cost(one.products * turns, one.factorisations * turns, one.streamed * turns, one.held)
    if name == "dot_general":
        return Cost(products=_product(eqn), streamed=_bytes(eqn.outvars))
    if (factorised := _factorisation(name, eqn)) is not None:
        return Cost(factorisations=factorised, streamed=_bytes(eqn.outvars))
    return Cost(streamed=0.0 if name in _FREE else _bytes(eqn.outvars))


def _is_jaxpr(x) -> bool:
    return isinstance(x, (core.Jaxpr, core.ClosedJaxpr))


def _product(eqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _factorisation(name: str, eqn) -> float | None:
    """Operations of LAPACK-like primitives on the last two axes; None for anything else."""
    shape = eqn.invars[0].aval.shape if eqn.invars and hasattr(eqn.invars[0].aval, "shape") else ()
    if len(shape) < 2:
        return None
    batch, (m, n) = math.prod(shape[:-2]), sorted(shape[-2:], reverse=True)
    count = {"svd": lambda: svd_flops(m, n, eqn.params.get("compute_uv", True)),
             "eigh": lambda: 9.0 * n**3, "geqrf": lambda: 2.0 * m * n**2, "qr": lambda: 4.0 * m * n**2,
             "householder_product": lambda: 2.0 * m * n**2, "cholesky": lambda: n**3 / 3, "lu": lambda: 2 * n**3 / 3}
    return batch * count[name]() if name in count else None
