"""The two problems of `lazy_rich` and their models, as functions of parameters and one input; labels are vectors.

Legend: D inputs, N hidden units, C classes (p residues), O outputs, m rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SPLITS = ("train", "id")


@dataclasses.dataclass(frozen=True)
class Problem:
    """What an arm fits. A gradient step is `learning_rate` * `width` / scale^2: in the lazy limit the outputs then move alike
    whatever the scale.
    """

    init: Callable[[jax.Array], Any]  # key -> parameters
    draw: Callable[[jax.Array], dict]  # key -> {split: {"x": inputs [m, ...], "y": labels f32[m, O]}}
    hidden: Callable[[Any, jax.Array], jax.Array]  # (parameters, one input) -> f32[O], before the output scale
    centred: bool  # whether the output of the initial parameters is subtracted
    width: int
    learning_rate: float
    steps: int
    grid_points: int  # measured steps, log-spaced from 1 to the last, beside step 0


def polynomial(section) -> Problem:
    """y = (beta.x)^2 / 2 under f = (scale / N) sum_i phi(w_i.x), phi(h) = h + curve h^2 / 2; x ~ N(0, 1 / D), |beta|^2 = D.

    The setting of the theory of arXiv:2310.06110; `curve` is its epsilon.
    """
    def init(key):
        return {"w": jax.random.normal(key, (section.width, section.inputs))}

    def draw(key):
        x_key, beta_key = jax.random.split(key)
        x = jax.random.normal(x_key, (section.train + section.test, section.inputs)) / section.inputs**0.5
        beta = jax.random.normal(beta_key, (section.inputs,))
        y = 0.5 * section.inputs * (x @ (beta / jnp.linalg.norm(beta)))[:, None] ** 2
        return {"train": {"x": x[:section.train], "y": y[:section.train]},
                "id": {"x": x[section.train:], "y": y[section.train:]}}

    def hidden(params, x):
        h = params["w"] @ x
        return (h + section.curve / 2 * h**2).mean(keepdims=True)

    return Problem(init, draw, hidden, False, *_training(section))


def modular(section) -> Problem:
    """One-hot of (a + b) mod p, less its mean, under f_c = (scale / N) sum_i v_ci (s_i[a] + t_i[b])^2: two layers, all trained.

    A seed draws which pairs are trained on.
    """
    p = section.modulus
    pairs = np.stack(np.meshgrid(np.arange(p), np.arange(p), indexing="ij"), axis=-1).reshape(-1, 2)
    count = round(section.train_fraction * len(pairs))

    def init(key):
        return {name: jax.random.normal(jax.random.fold_in(key, i), (section.width, p)) for i, name in enumerate("stv")}

    def draw(key):
        x = jax.random.permutation(key, jnp.asarray(pairs))
        y = jax.nn.one_hot(x.sum(axis=1) % p, p) - 1 / p
        return {"train": {"x": x[:count], "y": y[:count]}, "id": {"x": x[count:], "y": y[count:]}}

    def hidden(params, x):
        return (params["s"][:, x[0]] + params["t"][:, x[1]]) ** 2 @ params["v"] / section.width

    return Problem(init, draw, hidden, True, *_training(section))


def _training(section) -> tuple:
    return section.width, section.learning_rate, section.steps, section.grid_points


MAKERS = {"polynomial": polynomial, "modular": modular}
