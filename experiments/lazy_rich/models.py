"""What an arm fits a problem with: the network, its linearisation at the initial parameters, or regression with its kernel.

With h the network before the output scale a, w0 the initial parameters and s = 0 or 1 (whether the problem is centred):

    network      f(w) = a (h(w) - s h(w0))
    linearised   f(w) = a ((1 - s) h(w0) + J0 (w - w0)), J0 = dh/dw at w0, trained like the network
    kernel       f(x) = f0(x) + K0(x, X) (K0(X, X) + r I)^-1 (y - f0(X)), K0 the mean kernel over outputs, r = ridge
                 tr K0(X, X) / m: of one output the end of the linearised model's training as r -> 0

Legend: m training rows, n rows, O outputs.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lazy_rich.problems import SPLITS, Problem
from jaxpost.probes import kernels

KINDS = ("network", "linearised", "kernel")


def outputs(problem: Problem, kind: str, scale: jax.Array, params0: Any, params: Any, x: jax.Array) -> jax.Array:
    """f of every input, [n, O]. Args: kind: network or linearised."""
    def of_row(x):
        if kind == "network":
            value = problem.hidden(params, x)
            return scale * (value - problem.hidden(params0, x) if problem.centred else value)
        moved = jax.tree.map(jnp.subtract, params, params0)
        start, slope = jax.jvp(lambda w: problem.hidden(w, x), (params0,), (moved,))
        return scale * (slope if problem.centred else start + slope)

    return jax.vmap(of_row)(x)


def read(problem: Problem):
    """The network for the kernel probe; a row brings its output scale, so that arms share a program."""
    return lambda params, row: kernels.Answer(row["scale"] * problem.hidden(params, row["x"]), row["y"])


def regression(problem: Problem, scale: float, params0: Any, data: dict, ridge: float) -> dict[str, np.ndarray]:
    """{split: f of its rows} of regression with the initial kernel, in float64: small eigenvalues carry the polynomial."""
    count = len(data["train"]["x"])
    with jax.enable_x64(True):
        wide0, wide = (jax.tree.map(lambda z: z.astype(jnp.promote_types(z.dtype, jnp.float64)) if z.dtype.kind == "f" else z,
                                    tree) for tree in (params0, data))
        x, y = (jnp.concatenate([wide[split][field] for split in SPLITS]) for field in "xy")
        rows = {"x": x, "y": y, "scale": jnp.full(len(x), scale, jnp.float64)}
        how = kernels.Jacobian("each", microbatch=1)
        k, start = jax.jit(lambda w, rows: (kernels.kernel(read(problem), w, rows, how, jax.random.key(0))[0],
                                            outputs(problem, "network", scale, w, w, rows["x"])))(wide0, rows)
        k, start, y = (np.asarray(z) for z in (k, start, y))
    inside = k[:count, :count]
    weights = np.linalg.solve(inside + ridge * np.trace(inside) / count * np.eye(count), y[:count] - start[:count])
    return dict(zip(SPLITS, np.split(start + k[:, :count] @ weights, [count]), strict=True))
