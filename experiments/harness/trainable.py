"""Arms that train a part of the parameters: under masks of the base, or through low-rank adapters."""

import dataclasses
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from experiments.harness.arms import Arm
from experiments.harness.errors import UserError
from experiments.harness.stages import Stage
from jaxpost import models, probes, training
from jaxpost.lookup import nearest
from jaxpost.training import adapters, masking

RANDOM, FROZEN_ROUTER, ADAPTERS = "random", "frozen_router", ("lora", "pissa")
NAMES = (*masking.PATTERNS, RANDOM, FROZEN_ROUTER, *ADAPTERS)
DEFAULTS = MappingProxyType({  # the section `tune`
    "k": 16, "alpha": 0.5,  # of the masks: rank of the reconstruction, share of the entries
    "outside": False,  # whether embeddings, head and gains are trained under masks
    "rank": 8, "lora_alpha": 16.0,  # of adapters; LoRA's scale is lora_alpha / rank, PiSSA's 1
    "modules": ("q", "k", "v", "o", "gate", "up", "down"),  # that are adapted
})

TRAINED = probes.Metric(
    "train.trained_parameters", "numbers that the optimizer moves; params of=linear: divided by the entries of all linear "
    "matrices", "1", "The Path Not Taken, arXiv:2511.08567, tables 4 and 5", "none: a property of the arm", "none",
    "exact count")
START = probes.Metric(
    "train.start_error", "||W_start - W0||_F / ||W0||_F over adapted matrices", "1", "PiSSA, arXiv:2404.02948",
    "none: rounding of the decomposition alone", "none", "float64 norms of float32 weights")
METRICS = {metric.id: metric for metric in (TRAINED, START)}


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What an arm trains: (base parameters, seed) -> mask or adapter. Random masks and LoRA's A differ between seeds."""

    model: models.TransformerConfig
    name: str  # one of NAMES
    k: int
    alpha: float
    outside: bool
    rank: int
    lora_alpha: float
    modules: tuple[str, ...]

    def check(self) -> None:
        """Refuse ranks, fractions and modules that the model does not have, before any compute. Raises: UserError."""
        if self.name == FROZEN_ROUTER:
            if not self.model.experts:
                raise UserError(f"trainable={FROZEN_ROUTER!r} of a model without experts; set experts in the section model")
            return
        try:
            if self.name not in ADAPTERS:
                masking.settings_of(self.model, self.k, self.alpha)
                return
            jax.eval_shape(lambda: adapters.lora(models.init(self.model, jax.random.key(0)), self.modules, self.rank,
                                                 jax.random.key(0), alpha=self.lora_alpha))
        except ValueError as error:
            raise UserError(f"tune: {error}") from error

    def __call__(self, params: dict, seed: int) -> NamedTuple:
        name = self.name
        if name == FROZEN_ROUTER:
            return masking.without(params, ("router",))
        if name == "lora":
            return adapters.lora(params, self.modules, self.rank, training.stream(seed, "adapter", 0), alpha=self.lora_alpha)
        if name == "pissa":
            return adapters.pissa(params, self.modules, self.rank)
        references = masking.references(self.model, params, self.k, self.alpha)
        masks = masking.pattern("safe" if name == RANDOM else name, references)
        if name == RANDOM:
            masks = masking.random_like(masks, training.stream(seed, "mask", 0))
        return masking.on_linear(params, masks, outside=self.outside)


def of_stage(config: ConfigDict) -> Callable[[Stage, models.TransformerConfig], Tuned]:
    """(stage, model) -> what it trains, with the settings of the config's section `tune` (DEFAULTS where it says nothing).

    Raises:
      UserError: a name or key that is not known, or a value that the model does not have.
    """
    given = config.get("tune", ConfigDict()).to_dict()
    for key in given:
        if key not in DEFAULTS:
            raise UserError(f"config key 'tune.{key}' is not known{nearest(key, DEFAULTS)}")
    tune = {**DEFAULTS, **given}

    def made(stage: Stage, model: models.TransformerConfig) -> Tuned:
        if stage.trainable not in NAMES:
            raise UserError(f"trainable={stage.trainable!r} is not known{nearest(stage.trainable, NAMES)}")
        tuned = Tuned(model, stage.trainable, tune["k"], tune["alpha"], tune["outside"], tune["rank"], tune["lora_alpha"],
                      tuple(tune["modules"]))
        tuned.check()
        return tuned

    return made


def budget_rows(arms: Sequence[Arm], params: dict, digest: str, seed: int) -> dict:
    """`train.trained_parameters` of the arms that train a part, as number and share; `train.start_error` of adapters."""
    linear = sum(p.size for name, p in params["layers"].items() if name in masking.LINEAR)
    rows = []
    for arm in (arm for arm in arms if arm.trainable):
        trainable = arm.trainable(params, seed)
        own = [{"metric": TRAINED.id, "value": float(trainable.size())},
               {"metric": TRAINED.id, "value": trainable.size() / linear, "params": "of=linear"}]
        if isinstance(trainable, adapters.LowRank):
            own.append({"metric": START.id, "value": adapters.start_error(params, trainable), "dtype": "fp32"})
        rows += [{"arm": arm.name, "role": "estimate", "step": 0, "granularity": "experiment", "n_units": 1, "unit": "base",
                  "conditional_on": digest, **row} for row in own]
    names = dict.fromkeys(name for row in rows for name in row)  # none where every arm trains everything
    return {name: [row.get(name) for row in rows] for name in names}
