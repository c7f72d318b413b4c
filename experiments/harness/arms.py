"""The arms: each one's source, step and scalars, built from its stage."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.harness import edits, rollout_options
from experiments.harness.errors import UserError
from experiments.harness.stages import BASE, Stage, stages
from jaxpost import curricula, models, objectives, tasks, training
from jaxpost.lookup import nearest
from jaxpost.tasks import Task
from jaxpost.training import needs

SOURCES = ("", "table")
ADAMW = (("name", "adamw"), ("b2", 0.98))
OFFSET = 1_000_003  # of the seeds of an independent arm
MOST_PROGRAMS = 24  # that a study compiles for its arms
_NEVER = 2**30  # a refresh of the reference that no run reaches, but for the one at step 0


@dataclasses.dataclass(frozen=True)
class Arm:
    """One column of the experiment. `source` makes its batches; `scalars` are arguments of the compiled program."""

    name: str
    source: training.Rollouts | training.Demonstrations | training.Preferences | training.WholeTable
    spec: training.StepSpec
    scalars: training.Scalars
    offset: int = 0  # added to a member's seed: arms that differ in it share no batch and no sample
    rate_key: str = "train.learning_rates"  # of the config: where its learning rate is set
    trainable: Callable[[dict, int], NamedTuple] | None = None  # (base parameters, seed) -> what is trained; None: all
    start: tuple[str, ...] = (BASE,)  # the base, another arm's end, or the average of several
    reference: tuple[str, ...] = (BASE,)  # the same, of the policy that a KL or a ratio compares with
    steps: int = 0
    probes: tuple[str, ...] = ()  # that measure it; empty: all
    task: Task | None = None  # that it trains on
    edit: edits.Edit | None = None  # what is made of two starts; None: their average

    def fresh(self, params: dict, seed: int, reference: dict | None = None) -> training.TrainState:
        """The state of a member at step 0; a critic that the objective does not train is left behind.

        Args:
          reference: parameters that the state keeps as reference; None: those it starts from, where it keeps one.
        """
        if not self.spec.model.value_head:
            params = {name: x for name, x in params.items() if name != "value"}
        trainable = None if self.trainable is None else self.trainable(params, seed)
        state = training.create(self.spec, params, self.source.curriculum.init(training.stream(seed, "curriculum", 0)),
                                trainable)
        if reference is None:
            return state
        kept = {name: jax.tree.map(lambda own, other: jnp.asarray(other, own.dtype), state.params[name], part)
                for name, part in reference.items() if name in state.params}
        return state._replace(reference={**state.params, **kept})  # a critic's head is nobody's reference


def build(config, model: models.TransformerConfig | Callable[[Stage, Task], models.TransformerConfig],
          used: Mapping[str, Task], trainable: Callable[[Stage, models.TransformerConfig], Callable] | None = None
          ) -> list[Arm]:
    """The arms named in `config.arms` and those they start from, in an order in which each start comes first.

    Args:
      model: of the base that all arms share, or (stage, task) -> that of an arm which starts from scratch.
      used: name -> task, of the fields `task`.
      trainable: (stage, model) -> what it trains, for stages that do not train everything.

    Raises:
      UserError: an unknown arm, task or objective, values that do not fit, or more than MOST_PROGRAMS programs.
    """
    made, variants = [], {}
    for name, stage in stages(config).items():
        own = used
        if stage.task_settings and stage.task in used:
            key = stage.task, stage.task_settings
            variants[key] = variants.get(key) or variant(config, *key)
            own = {**used, stage.task: variants[key]}
        made.append(make(name, stage, model, own, trainable))
    programs = {(arm.source, arm.spec) for arm in made if arm.steps}
    if len(programs) > MOST_PROGRAMS:
        raise UserError(f"the {len(made)} arms compile {len(programs)} programs, and at most {MOST_PROGRAMS} are allowed; arms "
                        "that differ in learning rate, kl_coef, permuted rewards or start share one: run fewer in `arms`")
    return made


def make(name: str, stage: Stage, model: models.TransformerConfig | Callable, used: Mapping[str, Task],
         trainable: Callable[[Stage, models.TransformerConfig], Callable] | None = None) -> Arm:
    """One arm; arguments as in `build`.

    Raises:
      UserError: a task or objective that is not known, or rows that do not divide.
    """
    keys = dict(stage.keys)

    def setting(field: str) -> str:
        return f"{keys.get(field, f'arm.{name}.{field}')}={getattr(stage, field)!r}"

    if stage.task not in used:
        raise UserError(f"{setting('task')} is not known{nearest(stage.task, used)}")
    task, rows = used[stage.task], stage.prompts * stage.group
    if isinstance(model, models.TransformerConfig) and stage.model:
        raise UserError(f"arm {name!r}: model={dict(stage.model)}, and arms that start from one base share its model; set the "
                        "section model, or start from 'scratch'")
    if stage.source not in SOURCES:
        raise UserError(f"{setting('source')} is not known{nearest(stage.source, SOURCES)}")
    model = model if isinstance(model, models.TransformerConfig) else model(stage, task)
    for value, where in ((stage.microbatches, "microbatches"), (stage.minibatches, "minibatches")):
        if value < 1 or (rows % value and not stage.source):
            near = min((m for m in range(1, rows + 1) if rows % m == 0), key=lambda m, v=value: abs(m - v))
            raise UserError(f"{setting(where)} does not divide the train.prompts * train.group = {rows} rows of a step; "
                            f"nearest valid: {near}")
    if not stage.learning_rate > 0:
        raise UserError(f"{setting('learning_rate')}: a learning rate must be greater than 0")
    if stage.objective not in objectives.RECIPES:
        raise UserError(f"{setting('objective')} is not known{nearest(stage.objective, objectives.RECIPES)}")
    family = objectives.RECIPES[stage.objective].family
    if stage.family and family != stage.family:
        valid = [known for known, recipe in objectives.RECIPES.items() if recipe.family == stage.family]
        raise UserError(f"{setting('objective')} is of the family {family!r}, and arm {name!r} takes one of {stage.family!r}"
                        f"{nearest(stage.objective, valid)}")
    try:
        objective = objectives.get(stage.objective, **lengths(stage.objective, task.completion_len) | dict(stage.settings))
        if "value" in objective.needs:
            model = dataclasses.replace(model, value_head=True)
        demonstrated = needs.source_of(objective) == "Demonstrations"
        kept = _NEVER if stage.reference != (BASE,) else 0
        own = demonstrated and keys.get("temperature") == "train.temperature"  # of sampling: nothing is sampled here
        spec = training.StepSpec(model, objective, _optimizer(stage), group=1 if demonstrated else stage.group,
                                 microbatches=stage.microbatches, minibatches=stage.minibatches, epochs=stage.epochs,
                                 temperature=1.0 if own else stage.temperature, top_k=stage.top_k, top_p=stage.top_p,
                                 storage_dtype=stage.storage_dtype, pad=task.pad,
                                 reference_refresh=stage.refresh_every or kept)
        source = _table(name, stage, task, spec, demonstrated) if stage.source else training.source(
            task, spec, rows if demonstrated else stage.prompts)
        spec.transform()
    except (ValueError, TypeError) as error:
        raise UserError(f"arm {name!r}: {error}") from error
    source = rollout_options.changed(name, stage, source)
    if stage.pool or stage.curriculum:
        known = {"pool": stage.pool, "steps": stage.steps, "width": spec.model.width,
                 "difficulty": lambda: tasks.difficulties(task, "train", stage.pool)}
        try:
            source = dataclasses.replace(source, curriculum=curricula.for_run(dict(stage.curriculum), known))
        except (ValueError, TypeError) as error:
            raise UserError(f"arm {name!r}: {error}") from error
    scalars = training.Scalars(stage.learning_rate, stage.kl_coef, permute_rewards=stage.permute_rewards)
    return Arm(name, source, spec, scalars, offset=OFFSET if stage.independent else 0,
               rate_key=keys.get("learning_rate", f"arm.{name}.learning_rate"),
               trainable=trainable(stage, model) if trainable and stage.trainable else None, start=stage.start,
               reference=stage.reference, steps=stage.steps, probes=stage.probes, task=task,
               edit=edits.make(name, stage, lambda: models.init(spec.model, jax.random.key(0))))


def _table(name: str, stage: Stage, task: Task, spec: training.StepSpec, demonstrated: bool) -> training.WholeTable:
    """Every problem of the training split at every step. Raises: UserError: an objective that samples; ValueError."""
    if not demonstrated or stage.pool or stage.curriculum:
        raise UserError(f"arm {name!r}: source='table' trains on every problem at every step, with demonstrations: it takes no "
                        f"objective that samples ({stage.objective!r}), no pool and no curriculum")
    made = training.WholeTable(task, tokens=stage.answer_tokens or None, spec=spec)
    for value, where in ((stage.microbatches, "microbatches"), (stage.minibatches, "minibatches")):
        if made.rows % value:
            raise UserError(f"arm {name!r}: {where}={value} does not divide the {made.rows} problems of its table")
    return made


_OF_THE_ARM = ("name", "schedule", "warmup_steps", "steps", "final_share")  # fields of an arm's own table


def _optimizer(stage: Stage) -> tuple:
    """Sorted (name, value) pairs of `training.optimizers.make`; what is its default is left out. Raises: ValueError."""
    decays, steps = stage.schedule != "constant", stage.steps * stage.minibatches * stage.epochs
    training.optimizers.relative_rate(stage.schedule, stage.warmup_steps, steps, stage.final_share)
    along = {"schedule": stage.schedule, "steps": steps} if decays else {}
    along |= {"warmup_steps": stage.warmup_steps} if stage.warmup_steps else {}
    along |= {"final_share": stage.final_share} if decays and stage.final_share else {}
    known = [setting for setting in inspect.signature(training.optimizers.make).parameters if setting not in _OF_THE_ARM]
    if unknown := [setting for setting in dict(stage.optimizer_settings) if setting not in known]:
        raise ValueError(f"optimizer_settings: {unknown[0]!r} is not known{nearest(unknown[0], known)}")
    own = dict(ADAMW) if stage.optimizer == "adamw" else {"name": stage.optimizer}
    return tuple(sorted((own | dict(stage.optimizer_settings) | along).items(), key=lambda pair: (pair[0] != "name", pair[0])))


def lengths(name: str, length: int) -> dict:
    """Parts of a recipe that are lengths in tokens, which its paper states for other tasks: here the completion length T.

      aggregation_length = T; overlong_limit = T with a cache of T / 5 (the paper's 4096 of 20480), at least one token
    """
    objective, parts = objectives.RECIPES[name], {}
    if objective.aggregation_length is not None:
        parts["aggregation_length"] = length
    if getattr(objective, "overlong_limit", None) is not None:
        parts |= {"overlong_limit": length, "overlong_cache": max(1, length // 5)}
    return parts


def task_sections(config) -> dict:
    """{"task", "second" where there is one, name of section tasks: its section {name, options...}}."""
    own = {name: config[name] for name in ("task", "second") if name in config}
    return {**own, **config.get("tasks", {})}


def variant(config, name: str, settings: Sequence[tuple]) -> Task:
    """A task of the config with options that differ. Raises: UserError, as `make_task`."""
    return make_task(ConfigDict({**task_sections(config)[name].to_dict(), **dict(settings)}))


def make_task(section) -> Task:
    """The task of a config section {name, options...}; with `turns`, its closed loop of at most so many actions.

    Raises:
      UserError: unknown family or option, or a value out of range.
    """
    options = {k: v for k, v in section.items() if k != "name"}
    try:
        return (tasks.closed if "turns" in options else tasks.get)(section.name, **options)
    except ValueError as error:
        raise UserError(str(error)) from error
