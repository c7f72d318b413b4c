"""Training under a mask: entries that are not kept stay as they are, bit for bit, and count nowhere in the update.

      g <- m * g;  clip(g) over kept entries only;  d = optimizer(g) + decay;  w <- w - learning_rate * m * d

The mask is part of the state: an argument of the compiled program, one for each member of an ensemble. Masks of a base are
those of the weight probes (conventions: ceil(alpha N) entries of |W0| or of |rank-k W0|, ties in row-major order, on W0 as
bf16 stores it). Statistics of a step's gradient (`grad_norm`, `descent_cosine`) stay those of the whole gradient.

Source: the sparse runs of arXiv:2511.08567 (tables 4 and 5). Whether embeddings, head and gains were trained there is not
stated: here they are not, unless asked for (*reconstructed*).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpost import models
from jaxpost.probes.rows import inventory
from jaxpost.probes.weights import panel, spectra
from jaxpost.probes.weights import references as weight_references
from jaxpost.training import optimizers, state

# matrices that a mask chooses from; a router is none of them
LINEAR = ("q", "k", "v", "o", "gate", "up", "down", "shared_gate", "shared_up", "shared_down")
PATTERNS = ("dense", "principal", "complement", "low_magnitude", "safe")


class Mask(NamedTuple):
    """Which entries are trained: a tree of booleans shaped like the parameters."""

    kept: dict

    def start(self, params: dict) -> dict:
        """The parameters, as they are. Raises: ValueError for a mask of another tree."""
        shapes, wanted = (jax.tree.map(jnp.shape, tree) for tree in (self.kept, params))
        if shapes != wanted:
            raise ValueError(f"the mask is shaped {shapes}, the parameters {wanted}; build the mask from these parameters")
        return params

    def moments(self, params: dict) -> dict:
        """What the optimizer's moments are shaped like."""
        return optimizers.wide(params)

    def advance(self, transform: optax.GradientTransformation, params: dict, grads: dict, opt_state: optax.OptState,
                learning_rate: jax.Array) -> tuple[dict, dict, optax.OptState, "Mask"]:
        """(parameters, updates before rounding, optimizer state, self) after one update of the kept entries."""
        direction, opt_state = transform.update(self.only(grads), opt_state, optimizers.wide(params))
        moved, updates = optimizers.apply_direction(params, self.only(direction), learning_rate)
        return jax.tree.map(jnp.where, self.kept, moved, params), updates, opt_state, self

    def only(self, tree: dict) -> dict:
        """The tree with zeros where nothing is trained."""
        return jax.tree.map(lambda keep, x: jnp.where(keep, x, jnp.zeros((), x.dtype)), self.kept, tree)

    def size(self) -> int:
        """Entries that are trained."""
        return sum(int(np.sum(x)) for x in jax.tree.leaves(self.kept))


def settings_of(config: models.TransformerConfig, k: int, alpha: float) -> panel.Panel:
    """The weight probes' settings for one k and one alpha. Raises: ValueError, as `references`, before any compute."""
    shapes = [p.shape[-2:] for name, p in models.parameter_table(config)["layers"].items() if name in LINEAR]
    largest = min(min(shape) for shape in shapes) - 1
    if k > largest:
        raise ValueError(f"masks: k={k} is above the smallest matrix; at most {largest}")
    return panel.Panel(ks=(k,), alphas=(alpha,))


def references(config: models.TransformerConfig, params: Mapping, k: int, alpha: float) -> dict[str, dict[str, np.ndarray]]:
    """{"low", "principal"} masks of every linear matrix: name -> bool[m, n] each.

      low        bottom ceil(alpha N) of |W0|
      principal  top ceil(alpha N) of |rank-k W0|  (the proxy of arXiv:2511.08567 section 4.2 for curvature)

    Raises:
      ValueError: k or alpha out of range; the largest k is named.
    """
    settings, by_matrix = settings_of(config, k, alpha), {}
    matrices = {name: w for name, w in models.matrices(params, config).items() if name.split("/")[-1] in LINEAR}
    for name, w in state.bf16_grid(matrices).items():
        wide = inventory.is_wide(w.shape)  # measured transposed, as the weight probes do
        masks = _reference_masks(settings, (w.T if wide else w).astype(jnp.float32), wide)
        by_matrix[name] = {mask: np.asarray(x.T if wide else x) for mask, x in masks.items()}
    return by_matrix


@functools.partial(jax.jit, static_argnums=0)
def _reference_masks(settings: panel.Panel, w0: jax.Array, wide: bool) -> dict[str, jax.Array]:
    frame = spectra.frame(w0, settings.ks, settings.spectra)
    low, principal, _ = weight_references.reference_masks(settings, w0, frame, wide)
    return {"low": low[0], "principal": principal[0, 0]}


def pattern(name: str, by_matrix: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One of PATTERNS for every matrix of `references`.

      dense          every entry
      principal      M_princ
      complement     not M_princ
      low_magnitude  M_low
      safe           M_low or not M_princ

    Raises:
      ValueError: unknown name.
    """
    rules = {"dense": lambda low, principal: np.ones_like(low), "principal": lambda low, principal: principal,
             "complement": lambda low, principal: ~principal, "low_magnitude": lambda low, principal: low,
             "safe": lambda low, principal: low | ~principal}
    if name not in rules:
        raise ValueError(f"mask {name!r} is unknown; choose one of {', '.join(PATTERNS)}, or random_like one of them")
    return {matrix: rules[name](**masks) for matrix, masks in by_matrix.items()}


def random_like(masks: Mapping[str, np.ndarray], key: jax.Array) -> dict[str, np.ndarray]:
    """Masks with as many entries in every matrix, drawn uniformly without replacement."""
    drawn = {}
    for i, (name, mask) in enumerate(sorted(masks.items())):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, i), mask.size))
        drawn[name] = (order < mask.sum()).reshape(mask.shape)
    return drawn


def on_linear(params: Mapping[str, Any], masks: Mapping[str, np.ndarray], *, outside: bool = False) -> Mask:
    """The mask of a whole parameter tree.

    Args:
      masks: name as in `models.matrices` -> bool[m, n], for every linear matrix.
      outside: whether everything else (embeddings, head, gains, biases) is trained.
    """
    def stacked(kind: str, shape: tuple[int, ...]) -> np.ndarray:
        form = f"layers/{{}}/{kind}" if len(shape) == 3 else f"layers/{{}}/experts/{{}}/{kind}"
        return np.stack([masks[form.format(*index)] for index in np.ndindex(shape[:-2])]).reshape(shape)

    tree = jax.tree.map(lambda x: np.full(x.shape, outside), dict(params))
    linear: Sequence[str] = [kind for kind in LINEAR if kind in params["layers"]]
    return Mask({**tree, "layers": tree["layers"] | {kind: stacked(kind, params["layers"][kind].shape) for kind in linear}})


def without(params: Mapping[str, Any], names: Sequence[str]) -> Mask:
    """Everything is trained but parameters of some names, in every layer: ("router",) freezes what chooses the experts.

    Args:
      names: as the parameter tree has them, inside the layers or outside.

    Raises:
      ValueError: a name that no parameter has.
    """
    known = [name for name in params if name != "layers"] + list(params["layers"])
    for name in names:
        if name not in known:
            raise ValueError(f"parameter {name!r} is not known; choose from {', '.join(known)}")

    def kept(path, x):
        return np.full(x.shape, path[-1].key not in names)

    return Mask(jax.tree_util.tree_map_with_path(kept, dict(params)))
