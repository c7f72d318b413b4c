"""Transforms of attention that leave the function as it is and move its weights: rotate values, permute heads.

      ROTATE    v_k -> v_k R_k, o_h -> R_k(h)' o_h          R_k orthogonal, one a key/value head
      PERMUTE   heads renumbered in q, k, v and o alike     every query head stays with its key/value head

They are the causal test of arXiv:2511.08567 section 4.3 (proposition D.1: both are exact): a bias towards coordinates
follows them, a bias of the function does not notice.

Host side, float64 inside, back in the dtype that came: a transform adds one rounding. Rotated weights leave the bf16 grid.

Shapes: D width, H/K query/key-value heads, E head dimension, G = H/K.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxpost.models.declare import TransformerConfig

ROTATIONS = ("haar", "hadamard")
_BY_QUERY = ("q", "o")  # kinds whose heads are query heads; those of k and v are key/value heads
_TURNED = ("v", "o")


@dataclasses.dataclass(frozen=True, eq=False)
class HeadSymmetry:
    """One layer's transform: first every head is rotated, then heads are renumbered."""

    layer: int
    rotation_KxExE: np.ndarray | None = None  # float64, orthogonal
    head_order_H: np.ndarray | None = None  # position h is taken by the query head that was at head_order_H[h]

    def turns(self, kind: str) -> bool:
        """Whether the entries of this kind of matrix are mixed, so that none can be followed."""
        return self.rotation_KxExE is not None and kind in _TURNED

    def renumbers(self, kind: str) -> bool:
        """Whether the entries of this kind of matrix change place."""
        return self.head_order_H is not None and kind in ("q", "k", "v", "o")


def draw(config: TransformerConfig, layer: int, key: jax.Array, *, rotation: str | None = None,
         permute: bool = False) -> HeadSymmetry:
    """A random transform of one layer.

    Args:
      rotation: "haar" (uniform on the orthogonal group, QR of a Gaussian with the signs of R's diagonal), "hadamard"
        (H_E / sqrt(E) after random signs of the head dimensions), or None; each key/value head has its own.
      permute: renumber key/value heads by a random cycle (none keeps its place), and the query heads of each by another.
        Differs from the paper in: query heads move within their group as well.

    Raises:
      ValueError: no such layer or rotation, a head dimension that is no power of two (hadamard), no head to exchange,
        heads that share a norm (`qk_norm_joint`: its gain would have to move too), or nothing asked for.
    """
    if not 0 <= layer < config.layers:
        raise ValueError(f"layer {layer} does not exist; the model has layers 0 to {config.layers - 1}")
    if rotation not in (None, *ROTATIONS):
        raise ValueError(f"rotation={rotation!r} is unknown; choose one of {', '.join(ROTATIONS)}, or None")
    if rotation is None and not permute:
        raise ValueError(f"layer {layer}: nothing to do; set rotation to one of {', '.join(ROTATIONS)}, or permute")
    if permute and config.qk_norm_joint:
        raise ValueError("permute with qk_norm_joint=True: heads share one norm and its gain; use rotation instead")
    turn = order = None
    if rotation is not None:
        shape = (config.kv_heads, config.head_dim, config.head_dim)
        normal_KxExE = np.asarray(jax.random.normal(jax.random.fold_in(key, 0), shape, jnp.float32), np.float64)
        turn = np.stack([_haar(x) if rotation == "haar" else _hadamard(x[0]) for x in normal_KxExE])
    if permute:
        order = _head_order(config, jax.random.fold_in(key, 1))
    return HeadSymmetry(layer, turn, order)


def _haar(normal_ExE: np.ndarray) -> np.ndarray:
    q, r = np.linalg.qr(normal_ExE)
    return q * np.sign(np.diag(r))


def _hadamard(normal_E: np.ndarray) -> np.ndarray:
    size = len(normal_E)
    if size & (size - 1):
        near = 1 << (size.bit_length() - 1)
        raise ValueError(f"rotation='hadamard' needs a head dimension that is a power of two, found {size}; nearest valid: "
                         f"{near}, or rotation='haar'")
    return np.sign(normal_E)[:, None] * scipy.linalg.hadamard(size) / np.sqrt(size)


def _head_order(config: TransformerConfig, key: jax.Array) -> np.ndarray:
    if config.heads == 1:
        raise ValueError("permute needs at least two heads, found heads=1; use rotation instead")
    group = config.heads // config.kv_heads

    def cycle(count, stream):  # every element follows another in one random round
        ring = np.asarray(jax.random.permutation(jax.random.fold_in(key, stream), count))
        order = np.empty(count, int)
        order[ring] = np.roll(ring, 1)
        return order

    kv_order_K = cycle(config.kv_heads, 0)
    return np.concatenate([old * group + cycle(group, 1 + new) for new, old in enumerate(kv_order_K)])


def transform(config: TransformerConfig, params: Mapping, symmetries: Sequence[HeadSymmetry]) -> dict:
    """Parameters of the same function with chosen layers transformed, in the dtypes that came.

    Raises:
      ValueError: two transforms of one layer.
    """
    layers = {name: np.array(w) for name, w in params["layers"].items()}
    for symmetry in _one_a_layer(symmetries).values():
        for kind in ("q", "k", "v", "o"):
            for name in {kind, f"{kind}_bias"} & set(layers):
                layers[name][symmetry.layer] = _move(config, symmetry, name, layers[name][symmetry.layer])
    return {**params, "layers": {name: jnp.asarray(w) for name, w in layers.items()}}


def update_back(config: TransformerConfig, updates: Mapping[str, np.ndarray], symmetries: Sequence[HeadSymmetry]) -> dict:
    """Updates of transformed weights in the coordinates of the original ones (linear: dW' = T(dW), so dW = T^-1(dW')).

    Args:
      updates: name as in `models.matrices` -> [..., m, n].
    """
    return {name: _back(config, symmetries, name, x) for name, x in updates.items()}


def weights_back(config: TransformerConfig, base: Mapping, moved_base: Mapping, weights: Mapping,
                 symmetries: Sequence[HeadSymmetry]) -> dict:
    """Weights that the original base would have after the same update: W0 + T^-1(W' - W0').

    Exact for matrices that are only permuted or not touched; where entries are mixed, float64 rounded once. W0' is the base
    that was trained from (rounded after the transform), so that this rounding is no part of the update.

    Args:
      base, moved_base: name -> [m, n]; weights: name -> [..., m, n].
    """
    out = {}
    for name, w in weights.items():
        if treatment(symmetries, name).startswith("rotated"):
            w, w0, moved_w0 = np.asarray(w), np.asarray(base[name], np.float64), np.asarray(moved_base[name], np.float64)
            out[name] = (w0 + _back(config, symmetries, name, w.astype(np.float64) - moved_w0)).astype(w.dtype)
        else:
            out[name] = _back(config, symmetries, name, w)
    return out


def mask_back(config: TransformerConfig, masks: Mapping[str, np.ndarray], symmetries: Sequence[HeadSymmetry]) -> dict:
    """Masks of transformed matrices in the coordinates of the original ones: exact where entries only change place.

    Raises:
      ValueError: a mask of a rotated matrix: its entries are mixtures. Rotate the update back (`weights_back`) and take
        the mask then.
    """
    for name in masks:
        if treatment(symmetries, name).startswith("rotated"):
            raise ValueError(f"the mask of {name!r} cannot be mapped back: a rotation mixes its entries; map the update "
                             "back with weights_back and take the mask of that")
    return {name: _back(config, symmetries, name, x) for name, x in masks.items()}


def treatment(symmetries: Sequence[HeadSymmetry], name: str) -> str:
    """What was done to a matrix of `models.matrices`: "same", "permuted", "rotated" or "rotated+permuted"."""
    kind, symmetry = _of(symmetries, name)
    if symmetry is None:
        return "same"
    done = [word for word, treated in (("rotated", symmetry.turns(kind)), ("permuted", symmetry.renumbers(kind))) if treated]
    return "+".join(done) or "same"


def _one_a_layer(symmetries: Sequence[HeadSymmetry]) -> dict[int, HeadSymmetry]:
    by_layer = {symmetry.layer: symmetry for symmetry in symmetries}
    if len(by_layer) < len(symmetries):
        raise ValueError(f"layers {sorted(s.layer for s in symmetries)}: one transform a layer; draw it with rotation and "
                         "permute together")
    return by_layer


def _of(symmetries, name: str) -> tuple[str, HeadSymmetry | None]:
    parts = name.split("/")
    return parts[-1], _one_a_layer(symmetries).get(int(parts[1])) if parts[0] == "layers" else None


def _back(config, symmetries, name: str, x) -> np.ndarray:
    kind, symmetry = _of(symmetries, name)
    if symmetry is None or not (symmetry.turns(kind) or symmetry.renumbers(kind)):
        return np.asarray(x)
    return _move(config, symmetry, kind, x, back=True)


def _move(config: TransformerConfig, symmetry: HeadSymmetry, name: str, w, back: bool = False) -> np.ndarray:
    """One matrix or bias transformed, or transformed back; leading axes are kept, values are only mixed where rotated."""
    kind, w = name.removesuffix("_bias"), np.asarray(w)
    group = config.heads // config.kv_heads
    heads = config.heads if kind in _BY_QUERY else config.kv_heads
    x = np.swapaxes(w, -1, -2) if kind == "o" else w  # v and o' are both multiplied by R from the right
    x = x.reshape(*x.shape[:-1], heads, config.head_dim)
    steps = [lambda x: _turned(symmetry, kind, x, group, back), lambda x: _renumbered(symmetry, kind, x, group, back)]
    for step in reversed(steps) if back else steps:
        x = step(x)
    x = x.reshape(*x.shape[:-2], heads * config.head_dim)
    return np.swapaxes(x, -1, -2) if kind == "o" else x


def _turned(symmetry: HeadSymmetry, kind: str, x: np.ndarray, group: int, back: bool) -> np.ndarray:
    if not symmetry.turns(kind):
        return x
    turn = symmetry.rotation_KxExE.swapaxes(1, 2) if back else symmetry.rotation_KxExE
    turn = np.repeat(turn, group, axis=0) if kind in _BY_QUERY else turn
    return np.einsum("...he,hef->...hf", x.astype(np.float64), turn).astype(x.dtype)


def _renumbered(symmetry: HeadSymmetry, kind: str, x: np.ndarray, group: int, back: bool) -> np.ndarray:
    if not symmetry.renumbers(kind):
        return x
    order = symmetry.head_order_H if kind in _BY_QUERY else symmetry.head_order_H[::group] // group
    return np.take(x, np.argsort(order) if back else order, axis=-2)
