"""Do update masks belong to coordinates or to the function? Train from a base and from a transformed twin of it."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.harness import arms as arm_table
from experiments.harness import checks, defaults, ensemble, final_weights, probing
from experiments.harness import claims as claim_rules
from experiments.harness.base_model import Base, Pretraining
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened, publish
from experiments.harness.measure import Measurement, concatenate, grid, infos, write_base_rows
from experiments.harness.session import Session, StopSignals
from experiments.harness.stages import Stage
from experiments.rlvr_intervention import transforms as interventions
from jaxpost import models, probes, records, training
from jaxpost.lookup import nearest
from jaxpost.models import symmetries
from jaxpost.probes.updates import mask_pairs

TITLE = "Rotating and permuting attention before RLVR"
QUESTION = ("Do the entries that RLVR changes follow the coordinates of the weights: does a transform that keeps the "
            "function move them, beyond what it does to magnitudes?")
ARMS = ("plain", "independent", "intervened")
# (against, arm, mapping): `against` is run 1. The last two share every batch and every sampling key.
PAIRS = (("plain", "independent", "raw"), ("plain", "intervened", "raw"), ("plain", "intervened", "back"),
         ("independent", "intervened", "raw"), ("independent", "intervened", "back"))


class Setup:
    """Everything a config determines before any compute; building it finds what a user got wrong.

    Raises:
      UserError: a value that cannot run; the message names the fix.
    """

    def __init__(self, config: ConfigDict, claims: Sequence[dict]):
        self.config = config
        checks.values(config)
        self.task, self.second = arm_table.make_task(config.task), arm_table.make_task(config.second)
        checks.competence(config.pretrain, self.task)
        self.model = checks.model(config.model, (self.task, self.second))
        self.mesh = checks.mesh(config.mesh, config.train.prompts * config.train.group)
        self.symmetries = interventions.drawn(config.intervene, self.model)
        self.infos = infos(self.model)
        self.groups = interventions.groups(self.infos, self.symmetries)
        self.claims = list(claims)
        claim_rules.fields(self.claims, mask_pairs.METRICS)
        claim_rules.check(self.claims, ("id", "second"))
        _check_pairs(self.claims, list(self.groups))
        self.arms = [self._arm(name) for name in ARMS]
        self.grid = grid(config.train.steps, config.measure.grid_points)
        self.suite = training.Suite(self.model, (("id", self.task, "id"), ("second", self.second, "id")),
                                    config.measure.problems, "id")
        self.probes = probing.build_on_suite(("policy", "loss_tokens"), self.suite, self.grid)

    def _arm(self, name: str) -> arm_table.Arm:
        rate = self.config.train.learning_rate
        train = self.config.train
        stage = Stage(objective=train.objective, family="rl", learning_rate=rate, steps=train.steps, prompts=train.prompts,
                      group=train.group, microbatches=train.microbatches, independent=name != "plain",
                      keys=tuple((key, f"train.{key}") for key in ("objective", "learning_rate", "microbatches")))
        return arm_table.make(name, stage, self.model, {"task": self.task})

    @property
    def seeds(self) -> list[int]:
        """The test seeds; a seed is one run of each arm."""
        return list(range(self.config.seeds.first, self.config.seeds.first + self.config.seeds.count))


def _check_pairs(claims: Sequence[Mapping], groups: Sequence[str]) -> None:
    """Refuse terms of pairs of runs, or groups of matrices, that are not measured. Raises: UserError."""
    for claim in claims:
        for sign, term in claim.get("terms", ()):
            params = term.get("params", {})
            if (pair := (params.get("against"), term["arm"], params.get("map"))) not in PAIRS:
                raise UserError(f"claim {claim['id']!r}: term ({sign}, {pair}) is not a sign and one of {list(PAIRS)}")
            if params.get("group") not in groups:
                raise UserError(f"claim {claim['id']!r}: group {params.get('group')!r} is not known"
                                f"{nearest(params.get('group'), groups)}")


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume, add seeds to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError, CheckpointError: one clear line; nothing that was written is lost.
    """
    setup = Setup(config, claims)
    stated = Stated(TITLE, QUESTION, setup.claims, ARMS, setup.seeds)
    with opened(config, stated, workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        directory, began = bundle.path / "base-0", time.monotonic()
        base = Pretraining(config.pretrain, setup.model, setup.task, setup.second, config.seeds.base).run(
            directory, session, config.checkpoint.every_seconds)
        bundle.require_base("base-0", base.digest)
        session.say(f"base {base.digest}: step {base.step}, new task {base.success:.3f}, second task {base.second:.3f}")
        bundle.cost("pretrain", arm="base-0", wall_s=time.monotonic() - began)
        inventory = _train_and_compare(setup, base, bundle, session)
        gate = claim_rules.gates.success_moved(dict.fromkeys(ARMS, claim_rules.End(setup.grid[-1])))
        metrics = {**probes.METRICS, **mask_pairs.METRICS, interventions.LOGIT_CHANGE.id: interventions.LOGIT_CHANGE}
        judge = claim_rules.judging(setup.claims, dict.fromkeys(ARMS, setup.grid[-1]), gate)
        publish(stated, bundle, session, judge, metrics=metrics, tensors=inventory, papers=defaults.RLVR_PAPERS)


def _train_and_compare(setup: Setup, base: Base, bundle: records.Bundle, session: Session) -> dict:
    """Every arm, then every pair of runs; returns the tensor inventory."""
    config = setup.config
    twin = interventions.transformed(base, setup.model, setup.symmetries)
    measure = Measurement(base, setup.model, setup.probes, mesh=setup.mesh, bundle=bundle)
    write_base_rows(bundle, "", measure, setup.seeds)
    _write_function_change(setup, base, twin, measure, bundle, session)
    plan = ensemble.Plan(base, "", setup.grid, config.train.steps_per_call, config.checkpoint.every_seconds, setup.mesh,
                         measure)
    finals = {}
    for arm in setup.arms:
        began = time.monotonic()
        own = dataclasses.replace(plan, base=twin.rounded) if arm.name == "intervened" else plan
        blocks = ensemble.blocks(bundle.path / "base-0" / "arms", arm.name, setup.seeds, config.mesh.ensemble)
        for block in blocks:
            ensemble.train(arm, block, own, bundle, session)
        finals[arm.name] = jax.vmap(lambda p: models.matrices(p, setup.model))(ensemble.final_params(arm, blocks, own))
        session.say(f"{arm.name}: {len(setup.seeds)} seeds, {setup.grid[-1]} steps, {time.monotonic() - began:.0f} s")
        session.boundary(f"{arm.name} is finished")
    _write_pairs(setup, base, twin, finals, bundle)
    session.boundary("all arms are finished")
    return final_weights.inventory(setup.infos, base, finals, setup.seeds)


def _write_function_change(setup: Setup, base: Base, twin: interventions.Transformed, measure: Measurement, bundle,
                           session: Session) -> None:
    """What the transform and its rounding do to logits, and to the policy for the seeds that have no rows yet."""
    logits = interventions.logit_rows(base, twin, setup.suite, setup.task)
    bundle.write_rows("logits", logits)
    session.say(f"the transform moves logits by {logits['value'][0]:.1e} of their norm, with its rounding to bf16 by "
                f"{logits['value'][1]:.1e}")
    if missing := _missing(bundle, "rounded", setup.seeds):
        bundle.write_rows(f"transformed-seeds-{missing[0]}-{missing[-1]}",
                          interventions.policy_rows(measure, twin, missing))


def _write_pairs(setup: Setup, base: Base, twin: interventions.Transformed, finals: dict, bundle) -> None:
    """Rows of PAIRS of the seeds that have none yet, and the masks that figures show."""
    w0 = models.matrices(base.params, setup.model)
    moved_w0 = models.matrices(twin.rounded.params, setup.model)
    back = symmetries.weights_back(setup.model, w0, moved_w0, finals["intervened"], setup.symmetries)
    weights = {(arm, "raw"): w for arm, w in finals.items()} | {("intervened", "back"): back}
    start = {("intervened", "raw"): moved_w0}
    if missing := _missing(bundle, "intervened", setup.seeds, next(iter(mask_pairs.METRICS))):
        indices = [setup.seeds.index(seed) for seed in missing]
        parts = []
        for against, arm, mapping in PAIRS:
            runs = [{name: np.asarray(x)[indices] for name, x in weights[key].items()}
                    for key in ((against, "raw"), (arm, mapping))]
            compared = mask_pairs.compare(w0, runs[0], start.get((arm, mapping), w0), runs[1])
            parts.append(mask_pairs.finalize(compared, setup.infos, setup.groups, arm=arm, against=against, mapping=mapping,
                                             step=setup.grid[-1], seeds=missing, conditional_on=base.digest,
                                             row_ids=records.row_ids))
        bundle.write_rows(f"pairs-seeds-{missing[0]}-{missing[-1]}", concatenate(*parts))
    tensors = [info.name for info in setup.infos if info.kind in ("q", "v")]
    bundle.write_arrays("masks", {f"{'-'.join(key)}/{name}": _changed(start.get(key, w0)[name], w[name])
                                  for key, w in weights.items() for name in tensors})


def _changed(w0, w1_S) -> np.ndarray:
    """Fraction of seeds whose update is visible in bf16, an entry: f32[m, n]."""
    before, after_S = (np.asarray(w).astype(jnp.bfloat16) for w in (w0, w1_S))
    return (after_S != before[None]).mean(axis=0, dtype=np.float32)


def _missing(bundle: records.Bundle, arm: str, seeds: Sequence[int], metric: str = "policy.success") -> list[int]:
    have = records.select(bundle.read_rows(), arm=arm, role="seed", metric=metric)["seed"].to_pylist()
    return sorted(set(seeds) - set(have))
