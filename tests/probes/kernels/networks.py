"""A network of one hidden layer and what numpy says of its kernel, by hand."""

import jax.numpy as jnp
import numpy as np

from jaxpost.probes import kernels


def read(params, row):
    return kernels.Answer(params["v"] @ jnp.tanh(params["w"] @ row["x"]), row["y"])


def case(rows=6, seed=0, outputs=3, hidden=4, inputs=2):
    """(params, rows) in float64."""
    rng = np.random.default_rng(seed)
    params = {"v": rng.normal(size=(outputs, hidden)), "w": rng.normal(size=(hidden, inputs))}
    return params, {"x": rng.normal(size=(rows, inputs)), "y": np.eye(outputs)[np.arange(rows) % outputs]}


def kernel(params, rows, outputs):
    """The kernel in closed form: <dv_i, dv_j> + (x_i.x_j) sum_h a_h b_h, a = V' phi'."""
    h = np.tanh(rows["x"] @ params["w"].T)
    slope, inner, count = 1 - h**2, rows["x"] @ rows["x"].T, len(params["v"])
    if outputs == "sum":
        a = slope * params["v"].sum(0) / np.sqrt(count)
        return h @ h.T + inner * (a @ a.T)
    return h @ h.T + inner * sum((slope * v) @ (slope * v).T for v in params["v"]) / count
