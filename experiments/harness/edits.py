"""Arms that are made of other ends without training: the weights of one where they are another's, or parts of its update.

An arm of no steps names places to start from, W0 and W1 (for `add` any number of further ones), and what is made of them:

    c.arm = ConfigDict({
        "sft": {"objective": "cross_entropy"},
        "sft-wise": {"start": ("base", "sft"), "edit": {"mix": {"share": 0.3}}},
        "sft-without-attention": {"start": ("base", "sft"), "edit": {"restore": {"kinds": ("q", "k", "v", "o")}}},
        "both-skills": {"start": ("base", "sft", "other"), "edit": {"add": {"shares": (1.0, 1.0)}}}})

Without an edit it is their average. Linear matrices are those of `masking.LINEAR`; all else is W1's, but for `mix`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.errors import UserError
from experiments.harness.stages import Stage, one_rule
from jaxpost import training
from jaxpost.lookup import nearest
from jaxpost.probes.updates import fixed_spectrum, rank_one
from jaxpost.training import masking


def mix(key: jax.Array, base: dict, tuned: dict, *, share: float) -> dict:
    """(1 - share) W0 + share W1 of every parameter (WiSE-FT, arXiv:2109.01903). Raises: ValueError."""
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} is outside [0, 1]")
    return jax.tree.map(lambda w0, w1: ((1 - share) * w0 + share * w1).astype(w1.dtype), base, tuned)


def add(key: jax.Array, base: dict, *tuned: dict, shares: Sequence[float]) -> dict:
    """W0 + sum_i shares_i (W_i - W0) of every parameter: skills added up in the space of parameters.

    Of ends that were trained through adapters of ranks r_i it is one adapter of rank sum_i r_i, their products with the shares
    as scales. Row 170 of the paper list, Skill Expansion and Composition in Parameter Space, is not more than this here:
    *reconstructed*, without its library of skills and the gate that chooses the shares. Raises: ValueError.
    """
    if len(shares) != len(tuned):
        raise ValueError(f"shares={tuple(shares)} of {len(tuned)} ends beside the base; give one each")
    return jax.tree.map(lambda w0, *w: (w0 + sum(c * (x - w0) for c, x in zip(shares, w, strict=True))).astype(w[0].dtype),
                        base, *tuned)


def restore(key: jax.Array, base: dict, tuned: dict, *, kinds: Sequence[str]) -> dict:
    """W1 with the linear matrices of some kinds as they are in W0. Raises: ValueError for a kind that is not there."""
    _require_kinds(base, kinds)
    return {**tuned, "layers": {**tuned["layers"], **{kind: base["layers"][kind] for kind in kinds}}}


def restore_random(key: jax.Array, base: dict, tuned: dict, *, kinds: Sequence[str]) -> dict:
    """The control of `restore`: as many entries as those kinds have, drawn from all linear matrices without replacement."""
    _require_kinds(base, kinds)
    names = _linear(base)
    sizes = [tuned["layers"][name].size for name in names]
    restored = jax.random.permutation(key, sum(sizes)) < sum(tuned["layers"][kind].size for kind in kinds)
    drawn = jnp.split(restored, np.cumsum(sizes)[:-1])
    mixed = {name: jnp.where(at.reshape(tuned["layers"][name].shape), base["layers"][name], tuned["layers"][name])
             for name, at in zip(names, drawn, strict=True)}
    return {**tuned, "layers": {**tuned["layers"], **mixed}}


def low_rank(key: jax.Array, base: dict, tuned: dict, *, k: int = 1, random: bool = False) -> dict:
    """The best rank-k part of every linear matrix's update at the whole update's norm (arXiv:2510.00553); with `random` the
    control, a Gaussian matrix of rank k at that norm. Raises: ValueError for a rank that no matrix has.
    """
    if k < 1:
        raise ValueError(f"k={k}: a rank is at least 1")

    def along(w0, w1, i):
        (m, n), keys = w0.shape, [jax.random.fold_in(jax.random.fold_in(key, i), side) for side in (0, 1)]
        drawn = jax.random.normal(keys[0], (m, k)) @ jax.random.normal(keys[1], (k, n))
        return w0 + jnp.linalg.norm(w1 - w0) / jnp.linalg.norm(drawn) * drawn

    def edited(w0, w1):
        if not random:
            return rank_one.low_rank_weights(w0, w1, k)
        return {name: along(w0[name], w1[name], i) for i, name in enumerate(sorted(w0))}

    return _by_matrix(edited, base, tuned)


def spectrum_reset(key: jax.Array, base: dict, tuned: dict) -> dict:
    """U1 S0 V1' of every linear matrix: the tuned frames on the base's singular values (arXiv:2607.19331)."""
    return _by_matrix(fixed_spectrum.spectrum_reset, base, tuned)


def spectrum_only(key: jax.Array, base: dict, tuned: dict) -> dict:
    """U0 S1 V0' of every linear matrix: the base's frames with the tuned singular values (arXiv:2607.19331)."""
    return _by_matrix(fixed_spectrum.spectrum_only, base, tuned)


RULES: dict[str, Callable] = {rule.__name__: rule for rule in (mix, add, restore, restore_random, low_rank,
                                                               spectrum_reset, spectrum_only)}


@dataclasses.dataclass(frozen=True)
class Edit:
    """([W0, W1, ...], seed) -> parameters. Random parts differ between seeds."""

    rule: str
    settings: tuple = ()

    def __call__(self, ends: Sequence[dict], seed: int) -> dict:
        base, *tuned = ends
        return jax.tree.map(np.asarray, _made(self, [{name: base[name] for name in tuned[0]}, *tuned], seed))


@functools.partial(jax.jit, static_argnums=0)
def _made(edit: Edit, ends: Sequence[dict], seed: int) -> dict:
    return RULES[edit.rule](training.stream(seed, "edit", 0), *ends, **dict(edit.settings))


def make(name: str, stage: Stage, shapes: Callable[[], dict]) -> Edit | None:
    """What a stage says is made of its ends; None where it says nothing.

    Args:
      shapes: () -> parameters of the arm's model, of which the shapes alone are read.

    Raises:
      UserError: a stage that trains or that has another number of ends, an unknown rule or setting, or one that does not fit.
    """
    if not stage.edit:
        return None
    rule, settings = one_rule(name, "edit", stage.edit, RULES)
    takes = inspect.signature(RULES[rule]).parameters.values()
    several = any(p.kind is p.VAR_POSITIONAL for p in takes)
    if len(stage.start) < 2 or len(stage.start) > 2 and not several or stage.steps:
        raise UserError(f"arm {name!r}: edit {rule} is made of two places to start from{' or more' if several else ''} and not "
                        f"trained; found start={stage.start} and steps={stage.steps}")
    known = [p.name for p in takes if p.kind is p.KEYWORD_ONLY]
    if unknown := [field for field in settings if field not in known]:
        raise UserError(f"arm {name!r}: edit {rule} takes {', '.join(known) or 'no settings'}, found {unknown[0]!r}"
                        f"{nearest(unknown[0], known)}")
    edit = Edit(rule, tuple((field, tuple(x) if isinstance(x, list) else x) for field, x in sorted(settings.items())))
    try:
        jax.eval_shape(lambda params: RULES[rule](jax.random.key(0), *[params] * len(stage.start), **dict(edit.settings)),
                       jax.eval_shape(shapes))
    except (ValueError, TypeError) as error:
        raise UserError(f"arm {name!r}: edit {rule}, {dict(edit.settings)}: {error}") from error
    return edit


def _linear(params: Mapping) -> list[str]:
    return [kind for kind in masking.LINEAR if kind in params["layers"]]


def _require_kinds(params: Mapping, kinds: Sequence[str]) -> None:
    known = _linear(params)
    if wrong := [kind for kind in kinds if kind not in known]:
        raise ValueError(f"kind {wrong[0]!r} is no linear matrix of the model{nearest(wrong[0], known)}")


def _by_matrix(edited: Callable[[dict, dict], dict], base: dict, tuned: dict) -> dict:
    """`edited` of every linear matrix by name, put back into stacks of layers."""
    def flat(params):
        return {f"{kind}/{'/'.join(map(str, index))}": params["layers"][kind][index] for kind in _linear(tuned)
                for index in np.ndindex(params["layers"][kind].shape[:-2])}

    matrices = edited(flat(base), flat(tuned))
    stacks = {}
    for kind in _linear(tuned):
        like = tuned["layers"][kind]
        parts = [matrices[f"{kind}/{'/'.join(map(str, index))}"] for index in np.ndindex(like.shape[:-2])]
        stacks[kind] = jnp.stack(parts).reshape(like.shape).astype(like.dtype)
    return {**tuned, "layers": {**tuned["layers"], **stacks}}
