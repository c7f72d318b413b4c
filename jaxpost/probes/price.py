"""What measuring costs: predicted from shapes before a run, compared with a budget, and refused when it does not fit.

A `Cost` counts work; `rates` says how fast this machine does it; a price is seconds. Prices never enter science rows.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpost.probes import base, schedules
from jaxpost.probes.tracing import svd_flops, traced

__all__ = ["Priced", "Rates", "check_budget", "fastest", "one", "priced", "rates", "require_due", "seconds", "svd_flops",
           "traced"]

SIZES = (64, 256)  # of the square matrices that rates are measured on; between them rates are interpolated
_TRIALS, _SPENT = 3, 0.06  # calls, at least, and seconds: on a busy machine the fastest of many is what counts


@dataclass(frozen=True)
class Rates:
    """What this machine does a second, on matrices of one size."""

    products: float  # floating-point operations of matrix products
    factorisations: float  # those of an SVD with vectors, counted by `svd_flops`
    streamed: float  # bytes of element-wise passes
    call: float  # seconds of one program call


def fastest(call: Callable[..., object], *arguments: object) -> float:
    """Seconds of the fastest of some calls, after one that may compile."""
    jax.block_until_ready(call(*arguments))
    seconds, first = [], time.perf_counter()
    while len(seconds) < _TRIALS or time.perf_counter() - first < _SPENT:
        began = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@functools.cache
def rates() -> tuple[Rates, ...]:
    """Rates at each of SIZES, measured in about a second, once a process."""
    passed = jnp.ones(2**24)  # beyond the caches
    stream = 2 * passed.nbytes / fastest(jax.jit(lambda x: x * 1.5 + 0.5), passed)
    call = fastest(jax.jit(lambda x: x + 1), jnp.ones(()))
    by_size = []
    for size in SIZES:
        a = jax.random.normal(jax.random.key(0), (size, size))
        product = fastest(jax.jit(lambda x: x @ x), a)
        decomposition = fastest(jax.jit(jnp.linalg.svd), a)
        by_size.append(Rates(2 * size**3 / product, svd_flops(size, size) / decomposition, stream, call))
    return tuple(by_size)


def _at(size: float, measured: Sequence[Rates]) -> Rates:
    """Rates at a size: log-linear between the measured ones, constant outside."""
    small, large = measured[0], measured[-1]
    share = min(max(math.log(size / SIZES[0]) / math.log(SIZES[-1] / SIZES[0]), 0.0), 1.0)
    mixed = {name: getattr(small, name) ** (1 - share) * getattr(large, name) ** share
             for name in ("products", "factorisations")}
    return Rates(**mixed, streamed=large.streamed, call=large.call)


def seconds(cost: base.Cost, size: float, measured: Sequence[Rates] | None = None) -> float:
    """Predicted seconds of a cost whose matrices have about `size` rows and columns."""
    rate = _at(size, rates() if measured is None else measured)
    return (cost.products / rate.products + cost.factorisations / rate.factorisations + cost.streamed / rate.streamed
            + rate.call)


@dataclass(frozen=True)
class Priced:
    """One line of the table that is printed before a run."""

    id: str
    lane: str
    needs: tuple[str, ...]
    cost: base.Cost
    seconds: float  # a measurement of one policy
    measurements: int  # in a run of one policy
    share: float  # of the training time of that policy
    once: float = 0.0  # seconds of the references, once a base, where the probe predicts them; not in the share


def require_due(probe: base.Probe, total: int) -> int:
    """How often a probe is due in steps 1 .. total. Raises: ValueError when it never is."""
    due = [step for step in schedules.steps(probe.schedule, total) if step > 0]
    if not due:
        raise ValueError(f"probe {probe.id!r}: its schedule {probe.schedule} never fires in the {total} steps of the run; "
                         f"nearest valid: a step between 1 and {total}")
    return len(due)


def priced(probes: Sequence[base.Probe], given: Mapping[base.Need, object], total: int, step_seconds: float,
           measured: Sequence[Rates] | None = None) -> list[Priced]:
    """The price of every probe in a run of `total` steps.

    Args:
      given: need -> pytree of ShapeDtypeStructs, of one policy.
      step_seconds: a train step's own time, of one policy.

    Raises:
      ValueError: a schedule that never fires. KeyError: a need that is not given.
    """
    lines = []
    for probe in probes:
        count = require_due(probe, total)
        cost, each = one(probe, given, measured)
        needs = tuple(sorted(base.need_label(need) for need in probe.needs))
        share = each * count / (step_seconds * total)
        lines.append(Priced(probe.id, probe.lane, needs, cost, each, count, share, _once(probe, given, measured)))
    return lines


def one(probe: base.Probe, given: Mapping[base.Need, object], measured: Sequence[Rates] | None = None
        ) -> tuple[base.Cost, float]:
    """(cost, seconds) of one measurement of one policy; an inline probe's work is part of the step."""
    if probe.lane == "inline":
        return base.Cost(), 0.0
    ctx = base.Context({need: given[need] for need in probe.needs if need in given})
    cost = probe.cost(ctx)
    return cost, seconds(cost, _size(ctx.given), measured)


def _once(probe: base.Probe, given: Mapping[base.Need, object], measured: Sequence[Rates] | None) -> float:
    if not hasattr(probe, "cost_of_init"):
        return 0.0
    ctx = base.Context({need: given[need] for need in probe.needs})
    return seconds(probe.cost_of_init(ctx), _size(ctx.given), measured)


def _size(given: Mapping[base.Need, object]) -> float:
    """Geometric mean of the sides of the matrices, each weighed by its number of entries."""
    shapes = [leaf.shape[-2:] for leaf in jax.tree.leaves(list(given.values())) if getattr(leaf, "ndim", 0) >= 2]
    weight = sum(math.prod(shape) for shape in shapes)
    return math.exp(sum(math.prod(s) * math.log(math.prod(s)) / 2 for s in shapes if math.prod(s)) / weight) if weight else 1.0


def check_budget(lines: Sequence[Priced], budget: float | None, cheaper: str | None = None) -> None:
    """Refuse probes that would take more than `budget` of the training time.

    Args:
      budget: a share, or None for no limit; cheaper: name of the next lower preset, if there is one.

    Raises:
      ValueError: names the most expensive probe, and what would fit.
    """
    total = sum(line.share for line in lines)
    if budget is None or total <= budget:
        return
    most_expensive = max(lines, key=lambda line: line.share)
    left = budget - (total - most_expensive.share)
    fits = math.floor(most_expensive.measurements * left / most_expensive.share) if left > 0 else 0
    without = "leave it out" if left >= 0 else "leave it out and more"
    ways = [f"measure it {fits} times instead of {most_expensive.measurements} (a longer cadence)" if fits else without]
    ways += [f"take the preset {cheaper!r}"] if cheaper else []
    raise ValueError(f"the probes would take {total:.1%} of the training time, the budget is {budget:.1%}; the most expensive "
                     f"is {most_expensive.id!r} with {most_expensive.share:.1%} ({most_expensive.measurements} measurements of "
                     f"{most_expensive.seconds:.2g} s); {', or '.join(ways)}, or raise the budget")
