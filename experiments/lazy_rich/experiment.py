"""Lazy and rich training: arms x seeds of full-batch gradient descent, measured on a grid, judged by fixed claims."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.harness import checks
from experiments.harness import claims as claim_rules
from experiments.harness.errors import Diverged, UserError
from experiments.harness.lifecycle import Stated, opened, publish, seed_by_seed
from experiments.harness.measure import concatenate, grid
from experiments.harness.session import Session, StopSignals
from experiments.lazy_rich import models
from experiments.lazy_rich import problems as lazy_problems
from jaxpost import probes, records, training
from jaxpost.lookup import nearest
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.kernels.probe import NeuralTangentKernel

TITLE = "From lazy to rich training"
PAPERS = ("2310.06110", "2301.05217")
R2 = probes.Metric("fit.r2", "1 - sum |f - y|^2 / sum |y - mean y|^2 over the rows of the split", "1", "jaxpost",
                   "constant: 0, the mean label of the split", "mean over examples",
                   "float32 outputs, sums in float64; noise floor: rounding of outputs", higher_is_better=True,
                   domain="(-inf, 1]")
NORM = probes.Metric("fit.weight_norm", "|w| / |w0|, all parameters", "1", "jaxpost", "unmoved: 1", "none",
                     "float32 parameters, sums in float64; noise floor: rounding of parameters", domain="[0, inf)")
METRICS = {**probes.METRICS, R2.id: R2, NORM.id: NORM}


class Arm(NamedTuple):
    """A row of the section `arm`."""

    problem: str  # of problems.MAKERS, and the section of its settings
    model: str = "network"  # of models.KINDS
    scale: float = 1.0  # of the output: large is lazy


class Setup:
    """Everything a config determines before any compute; building it finds what a user got wrong.

    Raises:
      UserError: a value or a claim that cannot run; the message names the fix.
    """

    def __init__(self, config: ConfigDict, claims: Sequence[Mapping]):
        self.config = config
        self.arms = {name: _arm(name, config) for name in config.arms}
        sizes = {f"{arm.problem}.{key}": config[arm.problem][key] for arm in self.arms.values()
                 for key in ("width", "steps", "grid_points")}
        for key, value in {"seeds.count": config.seeds.count, "kernel.rows": config.kernel.rows - 1, **sizes}.items():
            if value < 1:
                raise UserError(f"{key} is too small: a kernel needs two rows, the rest at least one")
        checks.one_device(config)
        claim_rules.fields(claims, METRICS)
        claim_rules.require_arms(claims, config.arm)
        self.claims = claim_rules.judgeable(claims, config.arms)
        claim_rules.check(self.claims, lazy_problems.SPLITS)
        made = {arm.problem: lazy_problems.MAKERS[arm.problem](config[arm.problem]) for arm in self.arms.values()}
        self.programs = {key: Program(made[key[0]], key[1], config) for key in {arm[:2] for arm in self.arms.values()}}
        for arm in self.arms.values():
            self.programs[arm[:2]].require_rows(arm.problem)

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every arm."""
        return list(range(self.config.seeds.first, self.config.seeds.first + self.config.seeds.count))

    @property
    def last(self) -> dict[str, int]:
        """{arm: its last step}."""
        return {name: self.programs[arm[:2]].grid[-1] for name, arm in self.arms.items()}


def _arm(name: str, config: ConfigDict) -> Arm:
    if name not in config.arm:
        raise UserError(f"arms: {name!r} is not known{nearest(name, config.arm)}")
    table = config.arm[name].to_dict()
    if unknown := [field for field in table if field not in Arm._fields]:
        raise UserError(f"arm {name!r}: field {unknown[0]!r} is not known{nearest(unknown[0], Arm._fields)}")
    arm = Arm(**table)
    for field, value, known in (("problem", arm.problem, lazy_problems.MAKERS), ("model", arm.model, models.KINDS)):
        if value not in known:
            raise UserError(f"arm {name!r}: {field}={value!r} is not known{nearest(value, known)}")
    if arm.scale <= 0:
        raise UserError(f"arm {name!r}: scale={arm.scale}; expected a positive number")
    return arm


class Program:
    """One problem's compiled programs under one kind of model; the output scale and the seed are arguments."""

    def __init__(self, problem: lazy_problems.Problem, kind: str, config: ConfigDict):
        self.problem, self.kind, self.ridge, self.rows = problem, kind, config.measure.ridge, config.kernel.rows
        self.grid = (0, *grid(problem.steps, problem.grid_points)) if kind != "kernel" else (0,)
        self.probe = NeuralTangentKernel(models.read(problem), outputs="each", microbatch=1, **config.kernel)
        self.advance, self.draw = jax.jit(self._advance), jax.jit(problem.draw)
        self.outputs = jax.jit(lambda *x: models.outputs(problem, kind, *x))
        self.measure, self.reference = jax.jit(self._measure), jax.jit(lambda ctx: self.probe.init(ctx, None))

    def require_rows(self, name: str) -> None:
        """Refuse a probe batch that is larger than the split it is taken from. Raises: UserError."""
        there = jax.eval_shape(self.problem.draw, jax.random.key(0))["id"]["x"].shape[0]
        if self.rows > there:
            raise UserError(f"kernel.rows={self.rows}: split id of {name} has {there} rows; nearest valid: {there}")

    def _advance(self, params, params0, data, scale, first, last):
        """Steps first .. last - 1 of gradient descent; a traced range, so that every stretch of the grid is one program."""
        def loss(w):
            outputs = models.outputs(self.problem, self.kind, scale, params0, w, data["x"])
            return 0.5 * ((outputs - data["y"]) ** 2).sum(axis=1).mean()

        def step(_, w):
            return jax.tree.map(lambda x, g: x - rate * g, w, jax.grad(loss)(w))

        rate = self.problem.learning_rate * self.problem.width / scale**2
        return jax.lax.fori_loop(first, last, step, params)

    def context(self, params0, params, data, scale) -> probes.Context:
        """What the probe is handed: the first rows of the test split."""
        rows = {name: x[:self.rows] for name, x in data["id"].items()} | {"scale": jnp.full(self.rows, scale)}
        return probes.Context({probes.PARAMS0: params0, probes.PARAMS: params, probes.PROBE_BATCH: rows})

    def _measure(self, ctx, state, seed, step):
        return self.probe.measure(ctx, state, training.stream(seed, f"probe/{self.probe.id}", step))[1]


def run(config: ConfigDict, claims: Sequence[Mapping], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume (an arm of a seed is a unit), add seeds to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError: one clear line; nothing that was written is lost.
    """
    setup = Setup(config, claims)
    stated = Stated(TITLE, config.question, setup.claims, config.arms, setup.seeds, bases=0)
    with opened(config, stated, workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        for arm in config.arms:
            _train(setup, arm, bundle, session)
        gate = claim_rules.gates.mean_reached(R2.id, "train", config.measure.learned, first_only=True)
        publish(stated, bundle, session, claim_rules.judging(setup.claims, setup.last, gate), metrics=METRICS, papers=PAPERS)


def _train(setup: Setup, name: str, bundle: records.Bundle, session: Session) -> None:
    """Every seed of an arm that has no rows yet."""
    arm = setup.arms[name]
    program = setup.programs[arm[:2]]

    def rows_of(seed):
        data = program.draw(training.stream(seed, f"examples/{arm.problem}", 0))
        params0 = program.problem.init(training.stream(seed, "init", 0))
        return concatenate(*_trained(program, arm, name, seed, params0, data))

    seed_by_seed(name, setup.seeds, program.grid[-1], rows_of, bundle, session)


def _trained(program: Program, arm: Arm, name: str, seed: int, params0, data: Mapping) -> list[dict]:
    """Columns of every measured step of a seed."""
    if arm.model == "kernel":
        return [_fit(name, seed, 0, models.regression(program.problem, arm.scale, params0, data, program.ridge), data)]
    params, parts = params0, []
    state = program.reference(program.context(params0, params0, data, arm.scale))
    for before, step in zip((0, *program.grid), program.grid, strict=False):
        params = program.advance(params, params0, data["train"], arm.scale, before, step)
        outputs = {split: program.outputs(arm.scale, params0, params, data[split]["x"]) for split in lazy_problems.SPLITS}
        parts += [_fit(name, seed, step, outputs, data), _norm(name, seed, step, params0, params)]
        if arm.model == "network":  # the kernel of a linearised model never moves
            values = program.measure(program.context(params0, params, data, arm.scale), state, seed, step)
            parts.append(program.probe.finalize(
                jax.tree.map(lambda x: np.asarray(x)[None], values), state, infos=gradient_sums.inventory(params), arm=name,
                step=step, seeds=[seed], conditional_on=None, row_ids=records.row_ids))
    return parts


def _fit(arm: str, seed: int, step: int, outputs: Mapping[str, np.ndarray], data: Mapping) -> dict:
    """Rows of R^2. Raises: Diverged where an output is not finite."""
    rows = []
    for split, f in outputs.items():
        f, y = (np.asarray(x, np.float64) for x in (f, data[split]["y"]))
        if not np.isfinite(f).all():
            raise Diverged(f"{arm}: an output of seed {seed} is not finite at step {step}; lower the learning rate")
        total = ((y - y.mean(axis=0)) ** 2).sum()
        rows.append(_row(R2.id, arm, seed, step, 1 - ((f - y) ** 2).sum() / total, "constant", 0.0, split=split,
                         noise_floor=2 * float((np.abs(f - y) * np.abs(f)).sum()) * 2.0**-24 / total))
    return {name: [row[name] for row in rows] for name in rows[0]}


def _norm(arm: str, seed: int, step: int, params0, params) -> dict:
    size0, size = (float(np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in jax.tree.leaves(w))))
                   for w in (params0, params))
    return {name: [x] for name, x in _row(NORM.id, arm, seed, step, size / size0, "unmoved", 1.0).items()}


def _row(metric: str, arm: str, seed: int, step: int, value: float, null_kind: str, null: float, **more) -> dict:
    return {"metric": metric, "arm": arm, "role": "seed", "step": step, "seed": seed, "granularity": "experiment",
            "dtype": "fp32", "n_units": 1, "unit": "seed", "value": value, "status": "ok", "null_kind": null_kind,
            "null_value": null, "noise_floor": 2.0**-24 * abs(value), **more}
