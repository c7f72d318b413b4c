"""The arms: which objective, optimizer, learning rate, storage dtype and reward each one trains with."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from experiments.harness.config import nearest
from experiments.harness.errors import UserError
from jaxpost import models, objectives, tasks, training
from jaxpost.tasks import Task

_NOT_HERE = {"value", "demonstrations", "token_weight"}  # needs that an RLVR arm's model and rollouts do not meet


def rl_objectives() -> list[str]:
    """The recipes that an RLVR arm may train with: over groups, with a baseline (RAFT has an arm of its own), samples alone."""
    return [name for name, o in objectives.RECIPES.items() if o.batch == "groups" and not o.needs & _NOT_HERE
            and getattr(o, "baseline", "accepted") != "accepted"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One column of the experiment. `source` makes its batches; `scalars` are arguments of the compiled program."""

    name: str
    source: training.Rollouts | training.Demonstrations | training.Preferences
    spec: training.StepSpec
    scalars: training.Scalars
    offset: int = 0  # added to a member's seed: arms that differ in it share no batch and no sample
    rate_key: str = "train.learning_rates"  # of the config: where its learning rate is set
    trainable: Callable[[dict, int], NamedTuple] | None = None  # (base parameters, seed) -> what is trained; None: all

    def fresh(self, params: dict, seed: int) -> training.TrainState:
        """The state of a member at step 0."""
        trainable = None if self.trainable is None else self.trainable(params, seed)
        return training.create(self.spec, params, self.source.curriculum.init(), trainable)


def _optimizer(name: str) -> tuple:
    return (("name", name), ("b2", 0.98)) if name == "adamw" else (("name", name),)


def build(config, model: models.TransformerConfig, task: Task) -> list[Arm]:
    """The arms named in `config.arms`, in that order.

    Raises:
      UserError: an unknown arm or objective.
    """
    train = config.train
    rates = train.learning_rates
    known = {}
    for i, rate in enumerate(rates):
        known[f"rlvr-lr{i}"] = ("rl", "adamw", rate, "float32", False)
        known[f"sft-lr{i}"] = ("sft", "adamw", rate, "float32", False)
    middle = rates[len(rates) // 2]
    known |= {"raft": ("raft", "adamw", middle, "float32", False), "permuted": ("rl", "adamw", middle, "float32", True),
              "rlvr-sgd": ("rl", "sgd", train.sgd_learning_rate, "float32", False),
              "sft-sgd": ("sft", "sgd", train.sgd_learning_rate, "float32", False),
              "rlvr-bf16": ("rl", "adamw", middle, "bfloat16", False),
              "sft-bf16": ("sft", "adamw", middle, "bfloat16", False)}
    arms = []
    for name in config.arms:
        if name not in known:
            raise UserError(f"arm {name!r} is not known{nearest(name, known)}")
        arms.append(one(name, *known[name], train, model, task))
    return arms


def one(name: str, kind: str, optimizer: str, rate: float, storage: str, permute: bool, train, model, task: Task) -> Arm:
    """One arm of a config's `train` section.

    Args:
      kind: rl (with `train.objective`), raft or sft.
      optimizer, rate, storage: its optimizer, learning rate and the dtype of its masters.
      permute: shuffle rewards within each group.

    Raises:
      UserError: microbatches that do not divide the rows, or an objective that is not one of RL.
    """
    rows = train.prompts * train.group
    if rows % train.microbatches:
        divisors = [m for m in range(1, rows + 1) if rows % m == 0]
        near = min(divisors, key=lambda m: abs(m - train.microbatches))
        raise UserError(f"train.microbatches={train.microbatches} does not divide the train.prompts * train.group = {rows} "
                        f"rows of a step; nearest valid: {near}")
    if train.objective not in rl_objectives():
        raise UserError(f"train.objective={train.objective!r} is not an RL objective"
                        f"{nearest(train.objective, rl_objectives())}")
    objective = {"rl": train.objective, "raft": "raft", "sft": "cross_entropy"}[kind]
    constant = objectives.RECIPES[objective].aggregation == "constant"
    overrides = {"aggregation_length": task.completion_len} if constant else {}
    spec = training.StepSpec(model, objectives.get(objective, **overrides), _optimizer(optimizer),
                             group=1 if kind == "sft" else train.group, microbatches=train.microbatches,
                             storage_dtype=storage, pad=task.pad)
    source = (training.Demonstrations(((task, rows),)) if kind == "sft"
              else training.Rollouts(task, train.prompts, spec))
    key = "train.learning_rates" if optimizer == "adamw" else "train.sgd_learning_rate"
    return Arm(name, source, spec, training.Scalars(rate, permute_rewards=permute), rate_key=key)


def make_task(section) -> Task:
    """The task of a config section {name, options...}.

    Raises:
      UserError: unknown family or option, or a value out of range.
    """
    options = {k: v for k, v in section.items() if k != "name"}
    try:
        return tasks.get(section.name, **options)
    except ValueError as error:
        raise UserError(str(error)) from error
