"""SFT and RLVR with probes on a Hugging Face directory and text data: load, train arm by arm and seed by seed, export."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from experiments.harness import arms as arm_table
from experiments.harness import (
    checks,
    comparisons,
    defaults,
    follower,
    matched,
    probing,
    program_report,
    programs,
    stages,
    trainable,
)
from experiments.harness import claims as claim_rules
from experiments.harness import config as configs
from experiments.harness.base_model import digest
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened, publish
from experiments.harness.measure import concatenate, grid, write_base_rows
from experiments.harness.session import Session, StopSignals
from experiments.post_train_hf import inputs, packed, stand_in
from experiments.post_train_hf import programs as hf_programs
from experiments.post_train_hf import runs as hf_runs
from jaxpost import models, probes, processes, records, tasks, training
from jaxpost.formats import FormatError
from jaxpost.lookup import nearest
from jaxpost.models import hf
from jaxpost.models.declare import EXPERT_PRODUCTS
from jaxpost.models.hf_adapter import inexpressible
from jaxpost.probes import policy
from jaxpost.probes.policy import general_text
from jaxpost.records import storage
from jaxpost.tasks import text, text_data, verifiers
from jaxpost.training import split

TITLE = "Post-training of a Hugging Face model on text"
QUESTION = "Do SFT and RL with verifiable rewards move the weights of a pretrained model differently on the same problems?"
METRICS = {**probes.METRICS, **trainable.METRICS}
SEVERAL_PROCESSES = True  # it runs in several (harness/distributed.py)
_MODEL_KEYS = ("directory", "compute_dtype", "expert_products")
TEXT = tuple(metric.id for metric in general_text.METRICS)
_MESH = ("ensemble", "data", "fsdp", "tensor")


class Setup:
    """Everything a config determines before weights are read; building it finds what a user got wrong.

    Raises:
      UserError: a value that cannot run; the message names the fix.
    """

    def __init__(self, config: ConfigDict, claims: Sequence[dict], devices: Sequence | None = None):
        self.config = config
        _check_sections(config, () if devices is None else ("model.directory", "data.", "ood."))
        checks.values(config)
        claim_rules.fields(claims)
        claim_rules.require_arms(claims, stages.names(config))
        self.claims = claim_rules.judgeable(claims, config.arms)
        claim_rules.check(self.claims, ("id", *config.ood))
        self.mesh = checks.mesh(config.mesh, config.train.prompts * config.train.group, devices)
        try:
            self.verifier = inputs.verifier_of(config)
            if devices is None:
                model, self.tokenizer = inputs.architecture(config.model.directory), inputs.tokenizer_of(config)
                self.train, held, further, self.overlap = inputs.data(config, self.tokenizer)
            else:
                model, self.tokenizer, held = stand_in.inputs(config)
                further = {}
            mixture = {"expert_products": config.model.expert_products} if model.experts else {}
            self.model = programs.model_with(config, dataclasses.replace(model, compute_dtype=config.model.compute_dtype,
                                                                         **mixture))
            self.task = text.make("text", held, self.tokenizer, self.verifier)
            tasks.require_vocab(self.task, self.model.vocab)
        except (ValueError, FormatError) as error:
            raise UserError(str(error)) from error
        self.arms = arm_table.build(config, self.model, {"task": self.task}, trainable.of_stage(config))
        for arm in self.arms:
            if arm.start != (stages.BASE,) or arm.steps != config.train.steps:
                raise UserError(f"arm {arm.name!r}: every arm of this experiment starts from the base and takes train.steps="
                                f"{config.train.steps} steps; chains of stages run in the experiment 'study'")
        self.grid = _grid(config)
        self.packed = {arm.name: packed.rows(arm, self) for arm in self.arms} if config.data.pack else {}
        self.suite, self.held = inputs.suite(config, self, self.task, held, "id"), held
        self.others = [inputs.suite(config, self, text.make(name, data, self.tokenizer, self.verifier), data, name)
                       for name, data in further.items()]
        self.general = None if devices is not None else inputs.general(config, self)
        if asked := [claim["id"] for claim in self.claims if claim["metric"] in TEXT and not config.measure.text]:
            raise UserError(f"claim {asked[0]!r} is about general text, and measure.text is empty; set it to "
                            f"{inputs.SHIPPED!r} or to a file")
        self.probes = _probes(config.measure, self.grid, self.model, self.task)
        probing.require((*self.probes, policy.PolicyStatistics(None, ())), (), self.claims)
        needed = probes.PROBE_BATCH in probes.merge_needs(self.probes)
        self.probe_batch = split.demonstrated(self.task, self.suite.rows_N) if needed else None

    def listed(self) -> Iterator[programs.Program | programs.Unseen]:
        """Every program that the arms would run but those of a few milliseconds, see `harness.programs`."""
        return hf_programs.listed(self)

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every arm."""
        return list(range(self.config.seeds.first, self.config.seeds.first + self.config.seeds.count))


setup_of = Setup


def _check_sections(config: ConfigDict, unread: Sequence[str]) -> None:
    """Refuse what the open sections do not have, and what this experiment cannot do. Raises: UserError."""
    for section, known in (("model", _MODEL_KEYS), ("mesh", _MESH)):
        for key in config[section]:
            if key not in known:
                raise UserError(f"config key '{section}.{key}' is not known{nearest(key, known)}")
    if "id" in config.ood:
        raise UserError("ood.id: id is the name of data.evaluate in the measurements; choose another")
    if config.mesh.ensemble != 1:
        raise UserError(f"mesh.ensemble={config.mesh.ensemble}: seeds run one after another here; set it to 1")
    for key, known in (("model.compute_dtype", ("bfloat16", "float32")), ("model.expert_products", EXPERT_PRODUCTS),
                       ("export.dtype", ("float32", "bfloat16", "float16"))):
        section, _, name = key.partition(".")
        if config[section][name] not in known:
            raise UserError(f"{key}={config[section][name]!r}{nearest(config[section][name], known)}")
    for key in ("data.prompt_tokens", "data.answer_tokens", "measure.rows"):
        section, _, name = key.partition(".")
        if config[section][name] < 1:
            raise UserError(f"{key}={config[section][name]}: must be at least 1")
    needed = {"model.directory": "a Hugging Face directory",
              **dict.fromkeys(("data.train", "data.evaluate", *(f"ood.{name}" for name in config.ood)),
                              "a JSONL file or tfds:NAME:SPLIT")}
    given = configs.leaves(config)
    for key, what in needed.items():
        if not given[key] and not key.startswith(tuple(unread)):
            raise UserError(f"{key} is empty; give {what}: --config.{key}=... (python -m experiments.tiny_hf DIR makes a tiny "
                            "one)")


def _grid(config: ConfigDict) -> tuple[int, ...]:
    """Measured steps: log-spaced ones, and every `measure.every` steps. Raises: UserError."""
    steps, every = config.train.steps, config.measure.every
    if every < 0:
        raise UserError(f"measure.every={every}: a number of steps, or 0 (at measure.grid_points log-spaced steps alone)")
    even = range(every, steps, every) if every else ()
    return tuple(sorted({*grid(steps, config.measure.grid_points), *even}))


def _probes(section: ConfigDict, steps: Sequence[int], model: models.TransformerConfig, task) -> tuple[probes.Probe, ...]:
    """The probes of `measure.probes`; the probe batch is the demonstrations of the evaluated problems. Raises: UserError."""
    if "policy" in section.probes:
        raise UserError("measure.probes has 'policy', which is always measured here, its verifier on the host; leave it out")
    panel = {"ks": section.ks, "alphas": section.alphas, "spectra": section.spectra}
    return probing.build(section.probes, probing.on_demonstrations(model, task.pad), model, steps, {"weight": panel})


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume, add seeds to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError, CheckpointError: one clear line; nothing that was written is lost.
    """
    setup = Setup(config, claims)
    stated = Stated(TITLE, QUESTION, setup.claims, config.arms, setup.seeds)
    load, kept = functools.cache(lambda: _load(setup)), workdir / "inputs.json"
    with opened(config, stated, workdir, name, signals, unchanged=lambda: _require_same(load()[1], kept)) as running:
        if running is None:
            return
        bundle, session = running
        if config.memory.report:
            program_report.print_report(session, setup.listed())
        base, about, rounded = load()
        processes.agreed(lambda: _keep(about, kept), follower.ERRORS)
        _tell(setup, base, rounded, session)
        try:
            _train(setup, base, bundle, session)
        except verifiers.VerifierError as error:
            raise UserError(f"{error}; mend the file and run the same command with another --workdir") from error
        _compare(setup, base.digest, bundle)
        last = dict.fromkeys(config.arms, setup.grid[-1])
        gate = claim_rules.gates.success_moved(dict.fromkeys(config.arms, claim_rules.End(setup.grid[-1])))
        publish(stated, bundle, session, claim_rules.judging(setup.claims, last, gate), metrics=METRICS,
                papers=defaults.RLVR_PAPERS, extra={"inputs": about})


def _train(setup: Setup, base: hf_runs.Loaded, bundle: records.Bundle, session: Session) -> None:
    """The base measured, then every arm seed by seed. Raises: as `runs.carry_out`; VerifierError: a verifier that fails."""
    for arm in setup.arms:
        if count := setup.packed.get(arm.name):
            session.say(f"{arm.name}: {arm.source.rows} demonstrations a step in {count} packed rows")
        if arm.trainable and arm.trainable.name == "lora" and (why := inexpressible(setup.model, arm.trainable.modules)):
            session.say(f"{arm.name}: {why}; its policy is exported merged alone")
    measure = hf_runs.TextMeasurement(base, setup, bundle, session.telemetry)
    write_base_rows(bundle, "", measure, setup.seeds)
    if partial := trainable.budget_rows(setup.arms, base.params, base.digest, setup.seeds[0]):
        bundle.write_rows("budgets", partial)
    for arm in setup.arms:
        began = time.monotonic()
        for seed in setup.seeds:
            hf_runs.carry_out(hf_runs.Run(arm, seed, bundle.path), setup, base, measure, bundle, session)
        measure.finish(arm.name, setup.seeds)
        session.say(f"{arm.name}: {len(setup.seeds)} seeds, {setup.grid[-1]} steps, {time.monotonic() - began:.0f} s")


def _compare(setup: Setup, base: str, bundle: records.Bundle) -> None:
    """Rows at matched update norm and at matched success, where the norm is measured."""
    if not any(probe.id == "weight" for probe in setup.probes):
        return
    runs = matched.Trajectories(follower.read_rows(bundle, exclude=("matched", "summary", "claims")))
    read = [(matched.SUCCESS, name) for name in setup.config.ood]
    read += [] if setup.general is None else [(metric, None) for metric in TEXT]
    sets = comparisons.of_sets(runs, setup.claims, setup.config.arms, base, read)
    bundle.write_rows("matched", concatenate(*(part for compared in sets for part in compared.columns)))


def _load(setup: Setup) -> tuple[hf_runs.Loaded, dict, bool]:
    """(base, what the run is about, whether weights were rounded): weights on the mesh and on the bf16 grid; digests of all
    that was read.

    Raises:
      UserError: the weights do not fit config.json.
    """
    try:
        _, read = hf.load(setup.config.model.directory, mesh=setup.mesh)
    except FormatError as error:
        raise UserError(str(error)) from error
    params = training.bf16_grid(read)
    about = {"base": digest(params), "train": setup.train.digest, "evaluate": setup.held.digest,
              "tokenizer": setup.tokenizer.digest, "verifier": setup.verifier.name, "train_problems": len(setup.train),
              "train_dropped": dict(setup.train.dropped), "train_also_evaluated": setup.overlap,
              "evaluate_problems": len(setup.held), "evaluate_dropped": dict(setup.held.dropped),
              "guess": setup.task.guess("id")}
    about |= {"ood": {suite.label: suite.digest for suite in setup.others}} if setup.others else {}
    about |= {} if setup.general is None else {"text": setup.general.digest}
    return hf_runs.Loaded(params, about["base"]), about, digest(read) != about["base"]


def _tell(setup: Setup, base: hf_runs.Loaded, rounded: bool, session: Session) -> None:
    """What was read, on the terminal."""
    if rounded:
        session.say(f"{setup.config.model.directory}: weights are not on the bf16 grid; they were rounded once, all arms start "
                    "there")
    session.say(f"base {base.digest}: {models.count_parameters(setup.model):,} parameters")
    for key, data, also in (("train", setup.train, f", {setup.overlap} left out because they are evaluated"),
                            ("evaluate", setup.held, "")):
        session.say(f"{key} {data.digest[:16]}: {len(data)} problems; dropped: {text_data.dropped_label(data.dropped)}{also}")


def _require_same(about: dict, path: Path) -> None:
    """Compare what the run is about with what it began with. Raises: UserError: it is another."""
    before = storage.read_json(path)
    if changed := [key for key in about if before.get(key) != about[key]]:
        raise UserError(f"{changed[0]} is not what this run began with ({before.get(changed[0])}, now {about[changed[0]]}): "
                        "put it back, or choose another --workdir")


def _keep(about: dict, path: Path) -> None:
    """Write what the run is about, or compare it with what it began with. Raises: UserError: it is another."""
    if path.exists():
        _require_same(about, path)
    storage.write_json(path, about)
