"""The transformed base of an intervention: which layers, what it does to the function, which matrices it moves."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.harness.base_model import Base
from experiments.harness.errors import UserError
from experiments.harness.measure import Measurement, concatenate
from jaxpost import models, probes, tasks, training
from jaxpost.lookup import nearest
from jaxpost.models import symmetries
from jaxpost.tasks import Task

ATTENTION = ("q", "k", "v", "o")
LOGIT_CHANGE = probes.Metric(
    "model.logit_change", "||l' - l||_F / ||l||_F of the base's logits on the id problems' own answers, before (l) and "
    "after (l') a transform that keeps the function", "1", "The Path Not Taken, arXiv:2511.08567, section 4.3",
    "none: the transform is exact, so what is left is rounding", "none", "teacher-forced forward passes, float32")


@dataclasses.dataclass(frozen=True)
class Transformed:
    """The base after the transform, before and after its one rounding to the bf16 grid."""

    exact: dict
    rounded: Base  # training starts here


def drawn(section: ConfigDict, model: models.TransformerConfig) -> tuple[symmetries.HeadSymmetry, ...]:
    """The transforms of a config's `intervene` section.

    Raises:
      UserError: no layer or none left as the control, a layer named twice or missing, or a rotation that cannot be drawn.
    """
    both, turned = tuple(section.rotate_permute), tuple(section.rotate)
    if not both or not turned:
        raise UserError("intervene.rotate_permute and intervene.rotate need at least one layer each, found "
                        f"{both} and {turned}")
    if len({*both, *turned}) < len(both) + len(turned):
        raise UserError(f"intervene: a layer is named twice in rotate_permute={both} and rotate={turned}")
    if len(both) + len(turned) >= model.layers:
        raise UserError(f"intervene: {len(both) + len(turned)} of {model.layers} layers are transformed and none is left as "
                        f"the control; set model.layers to at least {len(both) + len(turned) + 1}")
    if section.rotation not in symmetries.ROTATIONS:
        raise UserError(f"intervene.rotation={section.rotation!r}{nearest(section.rotation, symmetries.ROTATIONS)}")
    try:
        return tuple(symmetries.draw(model, layer, training.stream(section.seed, "intervene", layer),
                                     rotation=section.rotation, permute=layer in both) for layer in (*both, *turned))
    except ValueError as error:
        raise UserError(f"intervene: {error}") from error


def transformed(base: Base, model: models.TransformerConfig, symmetry: Sequence[symmetries.HeadSymmetry]) -> Transformed:
    """The base transformed, and rounded once; its digest stays that of the base it is another form of."""
    exact = symmetries.transform(model, base.params, symmetry)
    return Transformed(exact, dataclasses.replace(base, params=training.bf16_grid(exact)))


def groups(infos: Sequence, applied: Sequence[symmetries.HeadSymmetry]) -> dict[str, list[str]]:
    """Matrices that are read together: by what was done to them, and attention and the rest of every layer."""
    treated = {symmetry.layer for symmetry in applied}
    out = {"rotated": [], "permuted": [], "moved": [], "neighbours": [], "untouched": []}
    for info in infos:
        done = symmetries.treatment(applied, info.name)
        if done != "same":
            out["moved"].append(info.name)
            out["permuted" if done == "permuted" else "rotated"].append(info.name)
        elif info.layer in treated:
            out["neighbours"].append(info.name)
        elif info.kind in ATTENTION:
            out["untouched"].append(info.name)
        if info.layer is not None:
            part = "attention" if info.kind in ATTENTION else "mlp"
            out.setdefault(f"layer {info.layer} {part}", []).append(info.name)
    return out


def logit_rows(base: Base, twin: Transformed, suite: training.Suite, task: Task) -> dict:
    """`model.logit_change` of the transform in float32 and of the rounded one; the first is the second's floor."""
    asked = tasks.examples(task, "id", jnp.arange(suite.problems))
    read = jax.jit(functools.partial(models.token_logits, suite.model))
    before, *after = (np.asarray(read(params, asked.prompt_NxP, asked.answer_NxT), np.float64)
                      for params in (base.params, twin.exact, twin.rounded.params))
    changes = [float(np.linalg.norm(x - before) / np.linalg.norm(before)) for x in after]
    return {"metric": [LOGIT_CHANGE.id] * 2, "arm": ["transformed", "rounded"], "role": ["estimate"] * 2, "step": [0, 0],
            "granularity": ["experiment"] * 2, "dtype": ["fp32"] * 2, "split": ["id"] * 2, "value": changes,
            "n_units": [1, 1], "unit": ["base"] * 2, "noise_floor": [None, changes[0]],
            "conditional_on": [base.digest] * 2}


def policy_rows(measure: Measurement, twin: Transformed, seeds: Sequence[int]) -> dict:
    """Success and KL to the base, of the transform in float32 and of the rounded one, as arms at step 0."""
    parts = []
    for arm, params in (("transformed", twin.exact), ("rounded", twin.rounded.params)):
        same_S = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(seeds), *x.shape)), params)
        parts.append(measure.rows(measure.named("policy"), arm, 0, seeds, same_S))
    return concatenate(*parts)
