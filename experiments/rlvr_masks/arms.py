"""Arms that train a part of the parameters: under masks of the base, or through low-rank adapters."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from experiments.harness import arms as arm_table
from experiments.harness.config import nearest
from experiments.harness.errors import UserError
from jaxpost import models, probes, training
from jaxpost.tasks import Task
from jaxpost.training import adapters, masking

RANDOM, ADAPTERS = "random", ("lora", "pissa")
HIGH = "-high"  # of an adapter's name: at the adapters' own learning rate
ARMS = (*masking.PATTERNS, RANDOM, *ADAPTERS, *(name + HIGH for name in ADAPTERS))

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
    name: str  # one of ARMS
    k: int
    alpha: float
    outside: bool
    rank: int
    lora_alpha: float
    modules: tuple[str, ...]

    def check(self) -> None:
        """Refuse ranks, fractions and modules that the model does not have, before any compute. Raises: UserError."""
        try:
            masking.settings_of(self.model, self.k, self.alpha)
            jax.eval_shape(lambda: adapters.lora(models.init(self.model, jax.random.key(0)), self.modules, self.rank,
                                                 jax.random.key(0), alpha=self.lora_alpha))
        except ValueError as error:
            raise UserError(f"tune: {error}") from error

    def __call__(self, params: dict, seed: int) -> NamedTuple:
        name = self.name.removesuffix(HIGH)
        if name == "lora":
            return adapters.lora(params, self.modules, self.rank, training.stream(seed, "adapter", 0), alpha=self.lora_alpha)
        if name == "pissa":
            return adapters.pissa(params, self.modules, self.rank)
        found = masking.references(self.model, params, self.k, self.alpha)
        masks = masking.pattern("safe" if name == RANDOM else name, found)
        if name == RANDOM:
            masks = masking.random_like(masks, training.stream(seed, "mask", 0))
        return masking.on_linear(params, masks, outside=self.outside)


def build(config: ConfigDict, model: models.TransformerConfig, task: Task) -> list[arm_table.Arm]:
    """The arms named in `config.arms`, in that order; those of one kind share one compiled program.

    Raises:
      UserError: an unknown arm, or a value of `config.tune` that the model does not have.
    """
    tune, made = config.tune, []
    for name in config.arms:
        if name not in ARMS:
            raise UserError(f"arm {name!r} is not known{nearest(name, ARMS)}")
        tuned = Tuned(model, name, tune.k, tune.alpha, tune.outside, tune.rank, tune.lora_alpha, tuple(tune.modules))
        tuned.check()
        rate, key = ((tune.adapter_learning_rate, "tune.adapter_learning_rate") if name.endswith(HIGH)
                     else (config.train.learning_rate, "train.learning_rate"))
        arm = arm_table.one(name, "rl", "adamw", rate, "float32", False, config.train, model, task)
        made.append(dataclasses.replace(arm, trainable=tuned, rate_key=key))
    return made


def budget_rows(arms: Sequence[arm_table.Arm], params: dict, digest: str, seed: int) -> dict:
    """`train.trained_parameters` of every arm, as a number and as a share, and `train.start_error` of adapters."""
    linear = sum(p.size for name, p in params["layers"].items() if name in masking.LINEAR)
    rows = []
    for arm in arms:
        trainable = arm.trainable(params, seed)
        found = [{"metric": TRAINED.id, "value": float(trainable.size())},
                 {"metric": TRAINED.id, "value": trainable.size() / linear, "params": "of=linear"}]
        if isinstance(trainable, adapters.LowRank):
            found.append({"metric": START.id, "value": adapters.start_error(params, trainable), "dtype": "fp32"})
        rows += [{"arm": arm.name, "role": "estimate", "step": 0, "granularity": "experiment", "n_units": 1, "unit": "base",
                  "conditional_on": digest, **row} for row in found]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
