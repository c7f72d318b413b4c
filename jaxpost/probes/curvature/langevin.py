"""Draws around a centre by stochastic gradient Langevin dynamics, and what a finite step does to them.

The law is exp(-U), U(w) = nb L(w) + g/2 |w - w*|^2, with L the mean loss of the rows, nb the inverse temperature times the
number of rows and g the localisation. A step of size e is

    w <- w - e/2 grad U_B(w) + sqrt(e) z,   z standard normal, U_B the same of a batch of rows

In the stationary law of these steps E |w - w*|^2 does not change, hence E <w - w*, grad U> = P + e/4 E |grad U_B|^2, where
continuous time has P, the number of parameters: e/4 E |grad U_B|^2 / P is the relative error of the step, exact on average
over the directions of a quadratic, the noise of batches included.

Source: Welling and Teh 2011, localised as in arXiv:2308.12108.

Legend: C chains, N draws, P parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from jaxpost.probes.curvature import krylov
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.policy import example_rows


class Walk(NamedTuple):
    """How to draw."""

    chains: int
    burn_in: int  # steps before the first draw
    draws: int
    thin: int  # steps a draw
    step: float  # e
    localisation: float  # g
    batch: int  # rows a gradient, drawn without replacement; all of them leave no noise of batches
    microbatch: int  # rows at once where a loss is read on all of them


class Draws(NamedTuple):
    """L(w) - L(w*) on all rows at every draw, and the mean of |grad U_B|^2 over its steps; [C, N]."""

    excess_CxN: jax.Array
    gradient2_CxN: jax.Array


def excess(loss: gradient_sums.Loss, params: Any, centre: Any, rows: Any, microbatch: int) -> jax.Array:
    """L(params) - L(centre), subtracted row by row."""
    return (example_rows.of_examples(loss, params, rows, microbatch)
            - example_rows.of_examples(loss, centre, rows, microbatch)).mean()


def draws(loss: gradient_sums.Loss, centre: Any, rows: Any, inverse_temperature: float, walk: Walk, key: jax.Array) -> Draws:
    """Chains that all start at the centre, a tree of floating arrays; one after another, so memory is that of one.

    Raises: ValueError when the batch is larger than the rows, or the microbatch does not divide them.
    """
    count = len(jax.tree.leaves(rows)[0])
    if walk.batch > count:
        raise ValueError(f"langevin: batch={walk.batch} is larger than the {count} rows")

    def gradient(w, key):
        minibatch = rows if walk.batch == count else jax.tree.map(
            lambda x: x[jax.random.choice(key, count, (walk.batch,), replace=False)], rows)
        slope = jax.grad(lambda w: jax.vmap(lambda row: loss(w, row))(minibatch).mean())(w)
        return jax.tree.map(lambda g, x, c: inverse_temperature * g + walk.localisation * (x - c), slope, w, centre)

    def advance(w, key):
        g, z = gradient(w, jax.random.fold_in(key, 0)), krylov.gaussian(centre, 1, jax.random.fold_in(key, 1))
        moved = jax.tree.map(lambda x, g, z: x - walk.step / 2 * g + walk.step**0.5 * z[0], w, g, z)
        return moved, sum((x**2).sum() for x in jax.tree.leaves(g))

    def draw(w, key):
        w, gradient2 = jax.lax.scan(advance, w, jax.random.split(key, walk.thin))
        return w, Draws(excess(loss, w, centre, rows, walk.microbatch), gradient2.mean())

    def chain(key):
        w = jax.lax.scan(advance, centre, jax.random.split(jax.random.fold_in(key, 0), walk.burn_in))[0]
        return jax.lax.scan(draw, w, jax.random.split(jax.random.fold_in(key, 1), walk.draws))[1]

    return jax.lax.map(chain, jax.random.split(key, walk.chains))
