"""Low-rank adapters as a transform of the parameters: LoRA and PiSSA.

      W = F + s A B        F frozen [m, n], A [m, r] and B [r, n] trained, s = alpha / r

      LoRA   F = W0, A random, B = 0, so W = W0 at the start          (arXiv:2106.09685)
      PiSSA  A = U_r sqrt(S_r), B = sqrt(S_r) V_r', F = W0 - A B, s = 1  (arXiv:2404.02948)

The state's `params` are the effective weights W throughout, so sampling, evaluation, probes and checkpoints see a model like
any other. Gradients are taken with respect to W and pulled back (exact: W does not depend on the rows), so accumulation and
gradient probes stay as they are. Weight decay and clipping act on A and B.

Shapes: L layers, m inputs, n outputs, r rank.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpost import linalg
from jaxpost.training import optimizers

INITS = ("kaiming", "gaussian")


class LowRank(NamedTuple):
    """Frozen matrices and their trained factors, by module kind; stacked kinds carry the leading layer axis."""

    frozen: dict[str, jax.Array]  # kind -> f32[(L,) m, n]
    factors: dict[str, dict[str, jax.Array]]  # kind -> {"a": f32[(L,) m, r], "b": f32[(L,) r, n]}
    scale: jax.Array  # s

    def start(self, params: dict) -> dict:
        """The effective parameters, in the storage dtype of `params`."""
        return _put(params, {kind: self.frozen[kind] + x for kind, x in self._product(self.factors).items()})

    def moments(self, params: dict) -> dict:
        """What the optimizer's moments are shaped like: the factors."""
        return self.factors

    def advance(self, transform: optax.GradientTransformation, params: dict, grads: dict, opt_state: optax.OptState,
                learning_rate: jax.Array) -> tuple[dict, dict, optax.OptState, "LowRank"]:
        """(effective parameters, their updates before rounding, optimizer state, self) after one update of the factors."""
        before, pull = jax.vjp(self._product, self.factors)
        inner = pull({kind: _take(grads, kind).astype(x.dtype) for kind, x in before.items()})[0]
        direction, opt_state = transform.update(inner, opt_state, self.factors)
        factors, _ = optimizers.apply_direction(self.factors, direction, learning_rate)
        moved = self._replace(factors=factors)
        after = self._product(factors)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), params)
        updates = _put(zero, {kind: after[kind] - before[kind] for kind in after})
        return moved.start(params), updates, opt_state, moved

    def size(self) -> int:
        """Numbers that are trained."""
        return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(self.factors))

    def _product(self, factors: dict) -> dict[str, jax.Array]:
        return {kind: self.scale * linalg.matmul(f["a"], f["b"]) for kind, f in factors.items()}


def lora(params: Mapping, kinds: Sequence[str], rank: int, key: jax.Array, *, alpha: float | None = None,
         init: str = "kaiming") -> LowRank:
    """LoRA adapters on every matrix of some kinds; the start is the base, bit for bit.

    Args:
      params: the base.
      kinds: module kinds, such as ("q", "v"); a kind is adapted in every layer.
      alpha: s = alpha / rank; None is alpha = rank.
      init: of A: "kaiming" is uniform on +-1/sqrt(m), the authors' code (Kaiming with a = sqrt(5)); "gaussian" has variance
        1/m, the same but for a factor of three (the paper says Gaussian and not its variance: *reconstructed*).

    Raises:
      ValueError: an unknown kind or init, an alpha that is not above 0, or a rank that a matrix has not (the largest is
        named).
    """
    if alpha is not None and not alpha > 0:
        raise ValueError(f"lora: alpha={alpha} must be greater than 0, for example {rank}, the rank; at 0 nothing is trained")
    if init not in INITS:
        raise ValueError(f"lora: init={init!r} is unknown; choose one of {', '.join(INITS)}")
    frozen, factors = _chosen("lora", params, kinds, rank), {}
    for i, (kind, w) in enumerate(sorted(frozen.items())):
        *lead, m, n = w.shape
        own, shape = jax.random.fold_in(key, i), (*lead, m, rank)
        a = (jax.random.normal(own, shape, w.dtype) if init == "gaussian"
             else jax.random.uniform(own, shape, w.dtype, -1.0, 1.0))
        factors[kind] = {"a": a * m**-0.5, "b": jnp.zeros((*lead, rank, n), w.dtype)}
    return LowRank(frozen, factors, jnp.float32((rank if alpha is None else alpha) / rank))


def pissa(params: Mapping, kinds: Sequence[str], rank: int) -> LowRank:
    """PiSSA adapters: the leading `rank` singular triplets are trained, the rest is frozen; starts at the base to rounding.

    Args, Raises: as in `lora`. The decomposition is exact (the paper offers a randomised one as well).
    """
    frozen, factors = {}, {}
    for kind, w in _chosen("pissa", params, kinds, rank).items():
        stack_LxMxN = w if w.ndim == 3 else w[None]
        u, s, v = jax.lax.map(linalg.svd, stack_LxMxN)
        root = jnp.sqrt(s[:, :rank])
        a, b = u[..., :rank] * root[:, None, :], root[:, :, None] * v[..., :rank].swapaxes(1, 2)
        rest = stack_LxMxN - linalg.matmul(a, b)
        frozen[kind], factors[kind] = rest.reshape(w.shape), {"a": a.reshape(*w.shape[:-1], rank),
                                                              "b": b.reshape(*w.shape[:-2], rank, w.shape[-1])}
    return LowRank(frozen, factors, jnp.float32(1.0))


def start_error(params: Mapping, adapter: LowRank) -> float:
    """||W_start - W0||_F / ||W0||_F over the adapted matrices, in float64: zero for LoRA, rounding for PiSSA."""
    started = adapter.start(dict(params))
    pairs = [(np.asarray(_take(started, k), np.float64), np.asarray(_take(params, k), np.float64)) for k in adapter.frozen]
    return float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs)))


def _take(params: Mapping, kind: str) -> jax.Array:
    return params["layers"][kind] if kind in params["layers"] else params[kind]


def _put(params: Mapping, factors: Mapping[str, jax.Array]) -> dict:
    """`params` with some kinds replaced, in the dtypes that they had."""
    cast = {kind: x.astype(_take(params, kind).dtype) for kind, x in factors.items()}
    outer = {kind: x for kind, x in cast.items() if kind not in params["layers"]}
    return {**params, **outer, "layers": params["layers"] | {k: x for k, x in cast.items() if k not in outer}}


def _chosen(what: str, params: Mapping, kinds: Sequence[str], rank: int) -> dict[str, jax.Array]:
    """The matrices of some kinds, upcast. Raises: ValueError."""
    known = {k: x for k, x in {**params, **params["layers"]}.items()
             if k != "layers" and x.ndim - (k in params["layers"]) == 2}
    if not kinds:
        raise ValueError(f"{what}: no module is named; choose from {', '.join(known)}")
    for kind in kinds:
        if kind in params["layers"] and params["layers"][kind].ndim == 4:
            raise ValueError(f"{what}: module {kind!r} is a stack of experts, which no adapter is made for; choose from "
                             f"{', '.join(known)}")
        if kind not in known:
            raise ValueError(f"{what}: module {kind!r} is no matrix of this model; choose from {', '.join(known)}")
    largest = min(min(known[kind].shape[-2:]) for kind in kinds)
    if not 1 <= rank <= largest:
        raise ValueError(f"{what}: rank={rank} is not between 1 and {largest}, the largest that every matrix of "
                         f"{', '.join(kinds)} has")
    return {kind: known[kind].astype(jnp.promote_types(known[kind].dtype, jnp.float32)) for kind in kinds}
