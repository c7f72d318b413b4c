"""Which probes an experiment runs: chosen from its config, checked before the run, priced against a step that is timed."""

import dataclasses
import functools
import importlib
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from experiments.harness import attention
from experiments.harness import config as configs
from experiments.harness.arms import Arm
from experiments.harness.errors import UserError
from experiments.harness.measure import infos, reference_shapes
from experiments.harness.session import Session
from jaxpost import models, objectives, probes, processes, records, sharding, training
from jaxpost.lookup import nearest
from jaxpost.probes import base, catalog, presets, price, routing, schedules, weights
from jaxpost.probes import page as document
from jaxpost.probes.policy import fisher
from jaxpost.probes.updates import ever_changed
from jaxpost.records import contents
from jaxpost.tasks import Task

CHUNKS = "gradient_chunks"
TARGETS = ("completion_NxT", "mask_NxT")  # the label of a demonstration


def _spec(model: models.TransformerConfig, pad: int) -> training.StepSpec:
    return training.StepSpec(model, objectives.get("cross_entropy"), (("name", "adamw"),), pad=pad)


@functools.cache
def demonstration_loss(model: models.TransformerConfig, pad: int = 0) -> Callable:
    """(params, one demonstration) -> cross-entropy, summed over its target tokens; `pad` left-pads its prompt."""
    spec = _spec(model, pad)

    def loss(params, example):
        row = jax.tree.map(lambda x: x[None], example)
        return -(training.token_logp(spec, params, row) * row.mask_NxT).sum()

    return loss


@functools.cache
def demonstration_rows(model: models.TransformerConfig, pad: int = 0) -> Callable:
    """(params, demonstrations, reader) -> `demonstration_loss` of each, parameters used through the reader."""
    spec = _spec(model, pad)
    return lambda params, rows, reader: -(training.token_logp(spec, params, rows, reader) * rows.mask_NxT).sum(axis=1)


@functools.cache
def demonstration_predictions(model: models.TransformerConfig, pad: int = 0) -> Callable:
    """(params, one demonstration) -> its logits, own tokens and mask."""
    def predict(params, example):
        logits_1xTxV = models.token_logits(model, params, example.prompt_NxP[None], example.completion_NxT[None], pad)
        return fisher.Predictions(logits_1xTxV[0], example.completion_NxT, example.mask_NxT)

    return predict


@functools.cache
def demonstration_solved(model: models.TransformerConfig, pad: int = 0) -> Callable:
    """(params, one demonstration) -> 1 if the likeliest token is the demonstrated one at every target position."""
    predict = demonstration_predictions(model, pad)

    def solved(params, example):
        predicted = predict(params, example)
        return ((predicted.logits_TxV.argmax(-1) == predicted.target_T) | (predicted.mask_T == 0)).all().astype(jnp.float32)

    return solved


@functools.cache
def demonstration_route(model: models.TransformerConfig, pad: int = 0) -> routing.Route:
    """(params, demonstrations) -> routing of the tokens that the model reads, padding apart, and how it answers.

    The model is a mixture of experts; an answer is correct if the likeliest token is the demonstrated one everywhere.
    """
    def route(params, rows):
        mask_NxT = rows.mask_NxT > 0
        out = models.teacher_forced(model, params, rows.prompt_NxP, rows.completion_NxT, pad, mask_NxT=mask_NxT)
        logp_NxT = jnp.take_along_axis(jax.nn.log_softmax(out.logits), rows.completion_NxT[..., None], axis=-1)[..., 0]
        loss_N = -jnp.where(mask_NxT, logp_NxT, 0.0).sum(axis=1) / jnp.maximum(mask_NxT.sum(axis=1), 1)
        correct_N = ((out.logits.argmax(axis=-1) == rows.completion_NxT) | ~mask_NxT).all(axis=1)
        return routing.Routed(out.router["logits"].swapaxes(0, 1), models.real_tokens(rows.prompt_NxP, mask_NxT, pad), loss_N,
                              correct_N)

    return route


def demonstration_batch(task: Task, rows: int):
    """A probe batch: the demonstrations of the first problems of split `id`. Raises: UserError: a closed loop has none."""
    if task.episodes is not None:
        raise UserError(f"task {task.name!r} is a closed loop, which has no demonstrations; leave out probes that need some")
    return training.demonstrations(task, "id", jnp.arange(rows))


def on_demonstrations(model: models.TransformerConfig, pad: int = 0, **parts) -> catalog.Subject:
    """What demonstrations let probes measure; `parts` are further fields of the subject.

    Of a mixture of experts gradients are taken example by example, without the routers' losses, which are of a whole batch.
    """
    if model.experts:
        parts = {"route": demonstration_route(model, pad), "top": model.experts_per_token} | parts
    return catalog.Subject(loss=demonstration_loss(model, pad), rows=None if model.experts else demonstration_rows(model, pad),
                           predict=demonstration_predictions(model, pad), solved=demonstration_solved(model, pad),
                           targets=TARGETS, **parts)


def subject(suite: training.Suite, names: Sequence[str] = ()) -> catalog.Subject:
    """What an experiment on a transformer lets the named probes measure: its demonstrations' loss, its fixed problems, and
    the attention of its heads.
    """
    guesses = tuple((label, task.guess(split)) for label, task, split in suite.splits)
    heads = attention.heads(suite.model, suite.splits[0][1]) if "induction" in names else None
    return on_demonstrations(suite.model, suite=suite, guesses=guesses, heads=heads)


def build_on_suite(names: Sequence[str], suite: training.Suite, steps: Sequence[int],
           settings: Mapping[str, Mapping] | None = None) -> tuple[probes.Probe, ...]:
    """The probes of a config on a suite's problems; see `build`."""
    return build(names, subject(suite, names), suite.model, steps, settings)


def build(names: Sequence[str], measured: catalog.Subject, model: models.TransformerConfig, steps: Sequence[int],
               settings: Mapping[str, Mapping] | None = None) -> tuple[probes.Probe, ...]:
    """The probes of a config, due at its measured steps (a user's own with a schedule: at that).

    A weight panel is read in full at the last step, and its primary part before.

    Raises:
      UserError: an unknown name, something a probe needs and the experiment does not have, a value out of range, a rank
        above every matrix, a schedule that never fires, or two probes of one id due at once.
    """
    try:
        built = presets.get(names, measured, schedules.At(tuple(steps)), settings)
        split = [part for probe in built for part in _settings_of(probe, steps)]
        for probe in split:
            price.require_due(probe, steps[-1])
    except ValueError as error:
        raise UserError(f"measure.probes: {error}") from error
    have = {*shapes(model), probes.PROBE_BATCH, probes.HISTORY}
    for probe in split:
        if lacking := sorted(map(base.need_label, probe.needs - have)):
            raise UserError(f"measure.probes: {probe.id!r} needs {lacking[0]}, which this model and experiment do not have; "
                            f"there is {', '.join(sorted(map(base.need_label, have)))}")
        _require_rank(probe, model)
    for step in measured_steps(split, steps[-1]):
        due = [probe.id for probe in split if probe.schedule(step)]
        if twice := [name for name in due if due.count(name) > 1]:
            raise UserError(f"measure.probes: two settings of probe {twice[0]!r} are due at step {step}; give them schedules "
                            "that never meet")
    return tuple(split)


def settings_of(config) -> dict[str, dict]:
    """{probe id: settings that differ from its defaults}: the panel of weights in section `measure`, the rest in `probe`."""
    settings: dict[str, dict] = {}
    if "ks" in config.measure:
        settings["weight"] = {"ks": config.measure.ks, "alphas": config.measure.alphas}
    for key, value in configs.leaves(config.probe).items():
        name, _, setting = key.rpartition(".")
        settings.setdefault(name, {})[setting] = value
    return settings


def _settings_of(probe: probes.Probe, steps: Sequence[int]) -> list[probes.Probe]:
    if not isinstance(probe, weights.WeightGeometry) or len(steps) < 2:
        return [probe]
    return [dataclasses.replace(probe, schedule=schedules.At((steps[-1],))),
            dataclasses.replace(probe, panel=probe.panel.primary(), schedule=schedules.At(tuple(steps[:-1])))]


def _require_rank(probe: probes.Probe, model: models.TransformerConfig) -> None:
    """Refuse a subspace that no matrix has. Raises: UserError."""
    largest = max(min(info.shape) for info in infos(model)) - 1
    asked = max(getattr(getattr(probe, "panel", None), "ks", (getattr(probe, "k", 0),)))
    if asked > largest:
        raise UserError(f"measure.ks, probe {probe.id!r}: k={asked} is above every matrix of the model; the largest possible "
                        f"is {largest}")


def measured_steps(measured: Sequence[probes.Probe], last: int) -> tuple[int, ...]:
    """Every step from 1 to the last at which a probe is due, and the last."""
    return tuple(sorted({step for probe in measured for step in schedules.steps(probe.schedule, last) if step} | {last}))


def require(measured: Sequence[probes.Probe], wanted: Sequence[str], claims: Sequence[Mapping]) -> None:
    """Refuse to leave out probes that the experiment's comparisons, or its claims, are made of. Raises: UserError."""
    have = {probe.id for probe in measured}
    metrics = metrics_of(measured)
    for name in wanted:
        if name not in have:
            raise UserError(f"measure.probes lacks {name!r}, which this experiment's comparisons are made of; it has "
                            f"{', '.join(sorted(have))}")
    for claim in claims:
        if claim["metric"] not in metrics:
            owner = next((row.id for row in catalog.CATALOG.values() if claim["metric"] in catalog.example(row).metrics), None)
            fix = f"; {owner!r} leaves it out with the settings that it has here" if owner in have else f"; add {owner!r}"
            raise UserError(f"claim {claim['id']!r} needs {claim['metric']!r}, which no probe of measure.probes gives"
                            f"{fix if owner else ''}")


def metrics_of(measured: Sequence[probes.Probe]) -> set[str]:
    """The metrics of probes, and those that are always measured or measured by other programs."""
    return {metric for probe in measured for metric in probe.metrics} | {
        metric for row in catalog.CATALOG.values() if row.make is None for metric in row.metrics}


def require_settings(section: Mapping, measured: Sequence[probes.Probe]) -> None:
    """Refuse settings, in the section `probe`, of a probe that is not measured. Raises: UserError."""
    have = {probe.id for probe in measured}
    for key in configs.leaves(section):
        if (name := key.rpartition(".")[0]) not in have:
            raise UserError(f"config key 'probe.{key}': probe {name!r} is none of measure.probes{nearest(name, have)}")


def of_arm(arm: str, named: Sequence[str], measured: Sequence[probes.Probe], always: Sequence[str]) -> tuple[str, ...]:
    """The probes that measure an arm: those it names and `always`; none named: every one. Raises: UserError: no such probe."""
    have = {probe.id for probe in measured}
    for name in named:
        if name not in have:
            raise UserError(f"arm {arm!r}: probe {name!r} is none of measure.probes{nearest(name, have)}")
    return (*always, *named) if named else ()


def require_chunks(arms: Sequence[Arm], measured: Sequence[probes.Probe], claims: Sequence[Mapping]) -> None:
    """Refuse a claim on what microbatches agree on, where a step of one of its arms has one of them. Raises: UserError."""
    one = {arm.name for arm in arms if arm.spec.microbatches == 1}
    for claim in claims:
        givers = {probe.id for probe in measured if claim["metric"] in probe.metrics}
        if givers == {CHUNKS} and (named := sorted(one.intersection(claim["arms"]))):
            raise UserError(f"claim {claim['id']!r} needs {claim['metric']!r}, which compares the microbatches of a step, and "
                            f"{', '.join(map(repr, named))} has one: set train.microbatches to 2 or more")


def require_batch(measured: Sequence[probes.Probe], batch, model: models.TransformerConfig) -> None:
    """Refuse a probe batch of another vocabulary, or one that a probe's settings do not fit. Raises: UserError."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.size and (largest := int(leaf.max())) >= model.vocab:
            raise UserError(f"the probe batch is of another tokenizer: {jax.tree_util.keystr(path)} has token {largest}, and "
                            f"the model's vocabulary has {model.vocab}")
    given = shapes(model, batch)
    for probe in measured:
        if probes.PROBE_BATCH in probe.needs:
            ctx = probes.Context({need: given[need] for need in probe.needs})
            try:
                reference_shapes(probe, ctx, jax.random.key(0))
            except ValueError as error:
                raise UserError(f"measure.problems: the probe batch does not fit probe {probe.id!r}: {error}") from error


def shapes(model: models.TransformerConfig, batch=None) -> dict:
    """Need -> ShapeDtypeStructs of one policy: what costs are predicted from."""
    params = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    matrices = jax.eval_shape(lambda p: models.matrices(p, model), params)
    shapes_of = {probes.PARAMS0: params, probes.PARAMS: params, probes.WEIGHTS0: matrices, probes.WEIGHTS: matrices,
                 ever_changed.EVER: jax.eval_shape(ever_changed.start, params)[ever_changed.ITEM]}
    if batch is not None:
        shapes_of[probes.PROBE_BATCH] = jax.eval_shape(lambda: batch)
    return shapes_of


def step_seconds(arm: Arm, model: models.TransformerConfig, members: int, steps_per_call: int, mesh=None) -> float:
    """Seconds of one train step of one member: the arm's own program (which it uses again), timed on fresh parameters."""
    params = models.init(model, training.stream(0, "init", 0))
    states = training.stack([arm.fresh(params, 0)] * members)
    member = training.stack([training.Member(jnp.uint32(0), arm.scalars)] * members)
    program = training.segment_program(arm.source, arm.spec, steps_per_call, mesh)
    reference = params if arm.source.needs_reference else None
    steps = min(2, steps_per_call)
    for _ in range(2):  # the first call compiles
        began = time.monotonic()
        with sharding.on_mesh(mesh):
            states, _ = jax.block_until_ready(program(states, member, steps, reference))
    return (time.monotonic() - began) / steps / members


def predict(session: Session, measured: Sequence[probes.Probe], given: Mapping, total: int, names: Sequence[str], limit: float,
            step: float) -> None:
    """Print the predicted cost of every probe, and refuse what does not fit.

    Args:
      names: `measure.probes`; limit: `measure.budget`, a share of the training time. 0 holds the presets among `names` to
        their own budgets; single ids have none.

    Raises:
      UserError: over budget; names the most expensive probe and what would fit.
    """
    lines = price.priced(measured, given, total, step)
    session.console.print(document.price_table(lines, step))
    inside = {member for name in names if name in presets.PRESETS for member, _ in presets.PRESETS[name].members}
    held = lines if limit else [line for line in lines if line.id in inside]
    lower = next((presets.cheaper(name) for name in names if name in presets.PRESETS), None)
    try:
        price.check_budget(held, limit or presets.budget(names), lower)
    except ValueError as error:
        raise UserError(f"{error} (--config.measure.budget)") from error


def prices_of(reference: str) -> tuple[dict[str, float | str], list[price.Priced], float]:
    """(probe id -> seconds of a measurement or why it refuses, a line a chosen probe, seconds of a train step) of a config;
    nothing is run.

    The step is counted from its program, not timed.

    Raises:
      UserError: no such config, a mistake in it, or one whose experiment chooses no probes.
    """
    config = configs.load(reference, {})
    experiment = importlib.import_module(f"experiments.{config.experiment}")
    setup = getattr(experiment, "setup_of", experiment.Setup)(config, ())
    if not hasattr(setup, "batch"):
        raise UserError(f"config {reference!r}: its study has no base, or chooses no probes of the catalogue; prices are of "
                        "the probes of a study with a base")
    given = shapes(setup.model, demonstration_batch(setup.task, config.measure.problems))
    arm = setup.arms[0]
    state = jax.eval_shape(lambda p: training.create(arm.spec, p, arm.source.curriculum.init(jax.random.key(0))),
                           given[probes.PARAMS])
    member = training.Member(jnp.uint32(0), arm.scalars)
    cost = price.traced(lambda s, p: training.one_step(arm.source, arm.spec, member, s,
                                                       p if arm.source.needs_reference else None), state, given[probes.PARAMS])
    step = price.seconds(cost, setup.model.width)
    lines = price.priced(setup.probes, given, config.train.steps, step)
    return _prices_of_all(subject(setup.suite), given), lines, step


def _prices_of_all(measured: catalog.Subject, given: Mapping) -> dict[str, float | str]:
    """probe id -> seconds, of every probe of the catalogue that can be made here, or why it refuses, such as where problems
    have no reasoning that could be interrupted.
    """
    prices = {}
    for row in catalog.CATALOG.values():
        if row.make and all(getattr(measured, field) is not None for field in row.takes):
            try:
                prices[row.id] = price.one(catalog.get(row.id, subject=measured), given)[1]
            except ValueError as error:
                prices[row.id] = f"refused: {error}"
    return prices


def report_costs(bundle: records.Bundle, session: Session) -> None:
    """Print what measuring has cost, by probe: seconds, compilation, share of the training time (with its compilation)."""
    if not processes.first():
        return
    spent: dict[str, dict[str, list]] = {}
    for path in sorted((bundle.path / "costs").glob("*.json")):
        cost = contents.read_cost(path)
        for name, value in cost["quantities"].items():
            spent.setdefault(cost["phase"], {}).setdefault(name, []).append(value)
    training_s = np.sum(spent.get("train", {}).get("wall_s", [0.0]))
    view = Table("probe", "times", "s", "s compiling", "of training",
                 title="measured cost of measuring; training includes its compilation")
    for phase, quantities in spent.items():
        if phase.startswith("probe."):
            seconds = np.sum(quantities["wall_s"])
            share = f"{seconds / training_s:.1%}" if training_s else "-"
            view.add_row(phase.removeprefix("probe."), str(len(quantities["wall_s"])), f"{seconds:.2f}",
                         f"{np.sum(quantities.get('compile_s', [0.0])):.1f}", share)
    session.console.print(view)
