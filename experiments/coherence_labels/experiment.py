"""Gradient coherence of training on real and on random labels: arms x seeds, measured on a grid, judged by fixed claims."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.coherence_labels import problems as label_problems
from experiments.harness import checks
from experiments.harness import claims as claim_rules
from experiments.harness.errors import Diverged, UserError
from experiments.harness.lifecycle import Stated, opened, publish, seed_by_seed
from experiments.harness.measure import concatenate, grid
from experiments.harness.session import Session, StopSignals
from jaxpost import probes, records, training
from jaxpost.lookup import nearest
from jaxpost.probes.gradients import coherence
from jaxpost.probes.gradients import sums as gradient_sums

TITLE = "Gradient coherence on real and on random labels"
QUESTION = "Do per-example gradients agree more on real labels than on random ones, in every layer?"
ARMS = tuple(f"{problem}-{labels}" for problem in label_problems.MAKERS for labels in ("real", "random"))
LOSS = probes.Metric("fit.loss", "mean cross-entropy per target token on the training set", "nat", "jaxpost",
                     "none in the row: compare with step 0", "mean over tokens", "float32, all examples")
METRICS = {**probes.METRICS, LOSS.id: LOSS}


class Setup:
    """Everything a config determines before any compute; building it finds what a user got wrong.

    Raises:
      UserError: a value or a claim that cannot run; the message names the fix.
    """

    def __init__(self, config: ConfigDict, claims: Sequence[Mapping]):
        self.config, train, probe = config, config.train, config.probe
        for arm in config.arms:
            if arm not in ARMS:
                raise UserError(f"arms: {arm!r} is not known{nearest(arm, ARMS)}")
        for key, value in (("seeds.count", config.seeds.count), ("train.batch", train.batch), ("train.steps", train.steps),
                           ("probe.microbatch", probe.microbatch), ("probe.examples", probe.examples - 2)):
            if value < 1:
                raise UserError(f"{key} is too small: an interval over examples needs three of them, the rest at least one")
        checks.one_device(config)
        if probe.examples > train.examples:
            raise UserError(f"probe.examples={probe.examples} is more than the train.examples={train.examples} that it is "
                            "taken from")
        if probe.examples % probe.microbatch:
            near = min((b for b in range(1, probe.examples + 1) if probe.examples % b == 0),
                       key=lambda b: abs(b - probe.microbatch))
            raise UserError(f"probe.microbatch={probe.microbatch} does not divide probe.examples={probe.examples}; "
                            f"nearest valid: {near}")
        claim_rules.fields(claims, METRICS)
        claim_rules.require_arms(claims, ARMS)
        self.claims = claim_rules.judgeable(claims, config.arms)
        claim_rules.check(self.claims, ("train",))
        self.grid = (0, *grid(train.steps, probe.grid_points))
        self.programs = {name: Program(make(config[name], train.examples), config)
                         for name, make in label_problems.MAKERS.items() if any(a.startswith(name) for a in config.arms)}

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every arm."""
        return list(range(self.config.seeds.first, self.config.seeds.first + self.config.seeds.count))


class Program:
    """One problem's compiled programs; labels and seeds are arguments, so its arms share them."""

    def __init__(self, problem: label_problems.Problem, config: ConfigDict):
        self.problem, self.batch = problem, config.train.batch
        self.optimizer = optax.adam(problem.learning_rate)
        self.probe = coherence.GradientCoherence(problem.loss, rows=problem.rows, microbatch=config.probe.microbatch,
                                                 targets=problem.targets, draws=config.probe.draws)
        self.probed = config.probe.examples
        self.advance = jax.jit(self._advance)
        self.measure = jax.jit(self._measure)
        self.draw = jax.jit(problem.examples, static_argnums=1)

    def start(self, seed: int) -> tuple:
        """(params, optimizer state) of a seed, the same for both kinds of label."""
        params = self.problem.init(training.stream(seed, "init", 0))
        return params, self.optimizer.init(params)

    def _mean_loss(self, params, rows):
        losses = jax.vmap(self.problem.loss, (None, 0))(params, rows)
        return losses.sum() / self.problem.tokens(rows).sum()

    def _advance(self, params, opt_state, examples, seed, first, last):
        """Steps first .. last - 1; a traced range, so that every stretch of the grid is one program."""
        count = jax.tree.leaves(examples)[0].shape[0]

        def step(t, carry):
            params, opt_state = carry
            index = jax.random.randint(training.stream(seed, "batch", t), (self.batch,), 0, count)
            grads = jax.grad(self._mean_loss)(params, jax.tree.map(lambda x: x[index], examples))
            updates, opt_state = self.optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        return jax.lax.fori_loop(first, last, step, (params, opt_state))

    def _measure(self, params, examples, seed, step):
        """(training loss, the probe's values)."""
        batch = jax.tree.map(lambda x: x[:self.probed], examples)
        ctx = probes.Context({probes.PARAMS: params, probes.PROBE_BATCH: batch})
        key = training.stream(seed, f"probe/{self.probe.id}", step)
        return self._mean_loss(params, examples), self.probe.measure(ctx, {}, key)[1]


def run(config: ConfigDict, claims: Sequence[Mapping], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume (an arm of a seed is a unit), add seeds to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError: one clear line; nothing that was written is lost.
    """
    setup = Setup(config, claims)
    stated = Stated(TITLE, QUESTION, setup.claims, config.arms, setup.seeds, bases=0)
    with opened(config, stated, workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        for arm in config.arms:
            _train(setup, arm, bundle, session)
        last, gate = dict.fromkeys(config.arms, setup.grid[-1]), claim_rules.gates.fell(LOSS.id, config.learned)
        publish(stated, bundle, session, claim_rules.judging(setup.claims, last, gate), metrics=METRICS)


def _train(setup: Setup, arm: str, bundle: records.Bundle, session: Session) -> None:
    """Every seed of an arm that has no rows yet."""
    problem, labels = arm.split("-")
    program = setup.programs[problem]

    def rows_of(seed):
        examples = program.draw(training.stream(seed, f"examples/{problem}", 0), labels == "random")
        (params, opt_state), parts = program.start(seed), []
        for before, step in zip((0, *setup.grid), setup.grid, strict=False):
            params, opt_state = program.advance(params, opt_state, examples, seed, before, step)
            parts.append(_columns(program, arm, seed, step, params, *program.measure(params, examples, seed, step)))
        return concatenate(*parts)

    seed_by_seed(arm, setup.seeds, setup.grid[-1], rows_of, bundle, session)


def _columns(program: Program, arm: str, seed: int, step: int, params, loss, values) -> dict:
    """Rows of one measurement. Raises: Diverged when the loss is not finite."""
    if not np.isfinite(loss):
        raise Diverged(f"{arm}: the training loss of seed {seed} is not finite at step {step}; lower the learning rate")
    columns = program.probe.finalize(jax.tree.map(lambda x: np.asarray(x)[None], values), {},
                                     infos=gradient_sums.inventory(params), arm=arm, step=step, seeds=[seed],
                                     conditional_on=None, row_ids=records.row_ids, split="train")
    fit = {"metric": LOSS.id, "arm": arm, "role": "seed", "step": step, "seed": seed, "granularity": "experiment",
           "split": "train", "dtype": "fp32", "value": float(loss)}
    return concatenate(columns, {name: [x] for name, x in fit.items()})
