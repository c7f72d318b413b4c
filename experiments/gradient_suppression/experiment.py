"""Training on partly random labels under gradient suppression: arms x seeds, compared at equal accuracy on clean labels.

Legend: m examples of a batch, n of a split, C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.coherence_labels import problems as label_problems
from experiments.gradient_suppression import rules
from experiments.harness import checks, matched
from experiments.harness import claims as claim_rules
from experiments.harness.errors import Diverged, UserError
from experiments.harness.lifecycle import Stated, opened, publish, seed_by_seed
from experiments.harness.measure import concatenate, grid
from experiments.harness.session import Session, StopSignals
from jaxpost import probes, records, training
from jaxpost.lookup import nearest

TITLE = "Gradient suppression and random labels"
SPLITS = ("id", "clean", "random")  # fresh problems; training examples with their own labels; those with permuted ones
FIT = probes.Metric("fit.agreement", "share of the split's examples whose given label has the largest logit", "1", "jaxpost",
                    "permuted_labels: the given labels permuted within the split, mean and 95 % band in closed form",
                    "mean over examples", "float32 logits; noise floor: share of examples that rounding may decide",
                    higher_is_better=True)
METRICS = {**probes.METRICS, FIT.id: FIT}
BASE = "base"  # the arm of rows before the first step, which all arms share
_DERIVED = "matched"


class Arm(NamedTuple):
    """A row of the section `arm`."""

    rule: str = "mean"  # of rules.NAMES
    suppressed: bool = True  # False: the mean of the same gradients at the length of the suppressed one
    rate: float = 1.0  # times that of the clusters


class Setup:
    """Everything a config determines before any compute; building it finds what a user got wrong.

    Raises:
      UserError: a value or a claim that cannot run; the message names the fix.
    """

    def __init__(self, config: ConfigDict, claims: Sequence[Mapping]):
        self.config, train = config, config.train
        for key, value in (("seeds.count", config.seeds.count), ("train.steps", train.steps), ("train.batch", train.batch),
                           ("train.test", train.test)):
            if value < 1:
                raise UserError(f"{key}={value}: expected at least 1")
        self.random = round(train.noise * train.examples)
        if not 0 < self.random < train.examples:
            raise UserError(f"train.noise={train.noise} leaves {self.random} of {train.examples} examples with random labels; "
                            "expected at least one of each kind")
        if not 0 <= train.percent < 50:
            raise UserError(f"train.percent={train.percent} is outside [0, 50); 10 is the paper's")
        checks.one_device(config)
        self.arms = {name: _arm(name, config) for name in config.arms}
        claim_rules.fields(claims, METRICS)
        claim_rules.require_arms(claims, config.arm)
        self.claims = claim_rules.judgeable(claims, config.arms)
        claim_rules.check(self.claims, SPLITS)
        self.grid = grid(train.steps, config.measure.grid_points)
        self.problem = label_problems.clusters(config.clusters, train.examples + train.test)

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every arm."""
        return list(range(self.config.seeds.first, self.config.seeds.first + self.config.seeds.count))

    def draw(self, key: jax.Array) -> dict[str, dict]:
        """{split: examples} of one drawing of the clusters; labels of `random` are permuted among themselves."""
        n, drawn = self.config.train.examples, self.problem.draw(jax.random.fold_in(key, 0))
        parts = {"random": slice(0, self.random), "clean": slice(self.random, n), "id": slice(n, None)}
        order = jax.random.permutation(jax.random.fold_in(key, 2), len(drawn["label"]))  # classes lie in turn
        split = {name: jax.tree.map(lambda x, part=part: x[order][part], drawn) for name, part in parts.items()}
        label = jax.random.permutation(jax.random.fold_in(key, 1), split["random"]["label"])
        return split | {"random": split["random"] | {"label": label}}


def _arm(name: str, config: ConfigDict) -> Arm:
    if name not in config.arm:
        raise UserError(f"arms: {name!r} is not known{nearest(name, config.arm)}")
    table = config.arm[name].to_dict()
    if unknown := [field for field in table if field not in Arm._fields]:
        raise UserError(f"arm {name!r}: field {unknown[0]!r} is not known{nearest(unknown[0], Arm._fields)}")
    arm = Arm(**table)
    if arm.rule not in rules.NAMES:
        raise UserError(f"arm {name!r}: rule={arm.rule!r} is not known{nearest(arm.rule, rules.NAMES)}")
    if arm.rate <= 0:
        raise UserError(f"arm {name!r}: rate={arm.rate}; expected a positive share of clusters.learning_rate")
    return arm


def advance(setup: Setup, arm: Arm):
    """The compiled (params, state, examples, seed, first, last) -> (params, state), and the state before the first step.

    A step is a minibatch; the range is traced, so that every stretch of the grid is one program.
    """
    train, loss = setup.config.train, setup.problem.loss
    rule = rules.make(arm.rule, suppressed=arm.suppressed, percent=train.percent)

    def program(params, state, examples, seed, first, last):
        def step(t, carry):
            params, state = carry
            index_m = jax.random.randint(training.stream(seed, "batch", t), (train.batch,), 0, train.examples)
            batch = jax.tree.map(lambda x: x[index_m], examples)
            grads_m = jax.vmap(jax.grad(loss), (None, 0))(params, batch)
            direction, state = rule.transform.update(rule.reduce(grads_m), state, params)
            return training.optimizers.apply_direction(params, direction, setup.problem.learning_rate * arm.rate)[0], state

        return jax.lax.fori_loop(first, last, step, (params, state))

    return jax.jit(program), rule.transform.init


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
        bundle.write_rows(_DERIVED, _at_equal_accuracy(setup, bundle))
        gate = claim_rules.gates.mean_reached(FIT.id, "id", config.measure.learned)
        judge = claim_rules.judging(setup.claims, dict.fromkeys(config.arms, setup.grid[-1]), gate)
        publish(stated, bundle, session, judge, metrics=METRICS, papers=config.papers)


def _at_equal_accuracy(setup: Setup, bundle: records.Bundle) -> dict:
    """Fit of the training examples where every run of a claim first had the accuracy that all of them reach at their best."""
    runs = matched.Trajectories(bundle.read_rows(exclude=(_DERIVED, "summary", "claims")))
    sets = {claim_rules.among(claim): tuple(claim["arms"]) for claim in setup.claims if claim["at"] == "matched_success"}
    read = [(FIT.id, split) for split in SPLITS if split != "id"]
    return concatenate(*(matched.at_matched_success(runs, arms, None, among, read=read, metric=FIT.id, level=np.max)[0]
                         for among, arms in sets.items()))


def _train(setup: Setup, name: str, bundle: records.Bundle, session: Session) -> None:
    """Every seed of an arm that has no rows yet, and what the seed starts from."""
    (program, fresh), draw = advance(setup, setup.arms[name]), jax.jit(setup.draw)

    def rows_of(seed):
        data = draw(training.stream(seed, "examples", 0))
        examples = jax.tree.map(lambda *x: jnp.concatenate(x), data["random"], data["clean"])
        params = setup.problem.init(training.stream(seed, "init", 0))
        state, parts = fresh(params), []
        if not bundle.has_rows(f"{BASE}-seed-{seed}"):
            bundle.write_rows(f"{BASE}-seed-{seed}", _rows(setup, BASE, seed, 0, params, data))
        for before, step in zip((0, *setup.grid), setup.grid, strict=False):
            params, state = program(params, state, examples, seed, before, step)
            parts.append(_rows(setup, name, seed, step, params, data))
        return concatenate(*parts)

    seed_by_seed(name, setup.seeds, setup.grid[-1], rows_of, bundle, session)


def _rows(setup: Setup, arm: str, seed: int, step: int, params, data: Mapping) -> dict:
    """Rows of one measurement. Raises: Diverged where a logit is not finite."""
    rows = []
    for split in SPLITS:
        logits_nxC = np.asarray(label_problems.logits(params, data[split]["x"]), np.float64)
        if not np.isfinite(logits_nxC).all():
            raise Diverged(f"{arm}: a logit of seed {seed} is not finite at step {step}; lower the learning rate")
        label_n, said_n = np.asarray(data[split]["label"]), logits_nxC.argmax(axis=1)
        second_n, first_n = np.sort(logits_nxC, axis=1)[:, -2:].T
        rounding = 2.0**-24 * setup.config.clusters.width * np.abs(logits_nxC).max()
        mean, deviation = permuted(said_n, label_n, logits_nxC.shape[1])
        rows.append({"metric": FIT.id, "arm": arm, "role": "seed", "step": step, "seed": seed, "granularity": "policy",
                     "split": split, "dtype": "fp32", "n_units": 1, "unit": "seed", "value": float((said_n == label_n).mean()),
                     "noise_floor": float((first_n - second_n <= 2 * rounding).mean()), "null_kind": "permuted_labels",
                     "null_value": mean, "null_lo": mean - 1.96 * deviation, "null_hi": mean + 1.96 * deviation})
    return {name: [row[name] for row in rows] for name in rows[0]}


def permuted(said_n: np.ndarray, label_n: np.ndarray, classes: int) -> tuple[float, float]:
    """(mean, standard deviation) of the share of matches when the labels are permuted, every permutation as likely.

      x_ij = 1[said_i = label_j];   mean = sum x / n^2;   variance = sum d^2 / ((n - 1) n^2),  d = x centred by rows and columns

    (Hoeffding, 1951), over the classes of answers and labels instead of over n^2 pairs.

    >>> permuted(np.array([0, 1]), np.array([0, 1]), 2)  # both right, or none
    (0.5, 0.5)
    """
    n, (said_C, label_C) = len(label_n), (np.bincount(x, minlength=classes) for x in (said_n, label_n))
    mean = float(said_C @ label_C / n**2)
    d_CxC = np.eye(classes) - label_C[:, None] / n - said_C[None] / n + mean
    variance = (said_C[:, None] * label_C[None] * d_CxC**2).sum() / max(n - 1, 1) / n**2
    return mean, float(np.sqrt(variance))
