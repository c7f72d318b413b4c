"""Prices of probes beside the training that they watch: ratios in one run, two sides by turns, against fixed targets."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from ml_collections import ConfigDict

from experiments.harness import arms as arm_table
from experiments.harness import benchmark, checks, probing
from experiments.harness.base_model import Base
from experiments.harness.benchmark import Target, at_most, by_turns, seconds
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened
from experiments.harness.measure import Measurement
from experiments.harness.session import StopSignals
from jaxpost import linalg, models, objectives, probes, records, training
from jaxpost.lookup import nearest
from jaxpost.probes import presets, schedules
from jaxpost.probes.gradients import coherence

TITLE = "What probes cost"
QUESTION = "Is measuring cheap enough to leave on?"
ANGLE = probes.Metric("bench.angle_error", "largest principal angle between the computed and the planted leading right "
                      "singular subspace of a gapped matrix", "rad", "arXiv:1504.05477", "none: an error", "none",
                      "linalg.top_k; num_err is its certificate", ci_method="none: one matrix")


class Setup:
    """Everything a config determines before any compute.

    Raises:
      UserError: a value that cannot run; the message names the fix.
    """

    def __init__(self, config: ConfigDict):
        self.config, c, s = config, config.train, config.subspaces
        budgeted = [name for name, preset in presets.PRESETS.items() if preset.budget is not None]
        for name in config.presets:
            if name not in budgeted:
                raise UserError(f"presets: {name!r} is no preset with a budget{nearest(name, budgeted)}")
        for key, value in (("turns", config.turns), ("subspaces.turns", s.turns), ("train.rows", c.rows),
                           ("subspaces.k", s.k), ("train.microbatch", c.microbatch)):
            if value < 1:
                raise UserError(f"{key}={value}: must be at least 1")
        if s.k >= s.size or s.gap <= 0:
            raise UserError(f"subspaces.k={s.k}, size={s.size}, gap={s.gap}: needs k < size and a gap above 0")
        if not c.learning_rate > 0:
            raise UserError(f"train.learning_rate={c.learning_rate}: must be greater than 0")
        if c.rows % c.microbatch:
            near = min((b for b in range(1, c.rows + 1) if c.rows % b == 0), key=lambda b: abs(b - c.microbatch))
            raise UserError(f"train.microbatch={c.microbatch} does not divide train.rows={c.rows}; nearest valid: {near}")
        checks.one_device(config)
        self.task = arm_table.make_task(config.task)
        self.model = checks.model(config.model, (self.task,))
        spec = training.StepSpec(self.model, objectives.get("cross_entropy"), (("name", "adamw"),))
        self.arm = arm_table.Arm("sft", training.Demonstrations(((self.task, c.rows),)), spec,
                                 training.Scalars(c.learning_rate))
        self.batch = probing.demonstration_batch(self.task, c.rows)
        self.chosen = {name: presets.get((name,), schedule=schedules.At((1,))) for name in config.presets}


class Trainer:
    """One run of the step, a call a step."""

    def __init__(self, setup: Setup):
        params = models.init(setup.model, training.stream(0, "init", 0))
        self.base = Base(training.bf16_grid(params), "bench", 0, 0.0, 0.0)
        self.states = training.stack([training.create(setup.arm.spec, self.base.params, {})])
        self.members = training.stack([training.Member(jnp.uint32(0), setup.arm.scalars)])
        self.program = training.segment_program(setup.arm.source, setup.arm.spec, 1)

    def step(self) -> None:
        """One train step; returns when it is done."""
        self.states, self.history = training.run_segment(self.program, self.states, self.members, 1, None)

    def peak(self) -> float:
        """Bytes of the compiled step: arguments, results and temporaries."""
        return peak_bytes(self.program.lower(self.states, self.members, 1, None).compile())


def peak_bytes(compiled) -> float:
    """Bytes that a compiled program holds at once, as XLA plans them; a donated argument counts once."""
    memory = compiled.memory_analysis()
    return float(memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
                 - memory.alias_size_in_bytes)


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run every comparison, print the table, write the bundle. Raises: UserError, BundleError."""
    benchmark.refuse_claims(config, claims)
    setup = Setup(config)
    with opened(config, Stated(TITLE, QUESTION, (), (), [0], bases=0), workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        trainer, targets = Trainer(setup), []
        for part in (_shares, _coherence, _subspaces):
            targets += part(setup, trainer, bundle)
            session.boundary("nothing is kept of an unfinished benchmark")
        benchmark.publish(bundle, session, TITLE, targets, {ANGLE.id: ANGLE})


def _shares(setup: Setup, trainer: Trainer, bundle: records.Bundle) -> list[Target]:
    """A measurement of each preset, rows included, over the train steps between two measurements."""
    targets = []
    for name, selected in setup.chosen.items():
        preset = presets.PRESETS[name]
        measure = Measurement(trainer.base, setup.model, selected, batch=setup.batch, directory=bundle.path / "series")
        trainer.step()
        step_s, measure_s = by_turns(
            trainer.step, lambda m=measure: m(setup.arm, 1, [0], trainer.states.params, trainer.history), setup.config.turns)
        share = measure_s / (preset.every * step_s)
        bundle.cost(f"bench.{name}", wall_s=np.median(measure_s))
        bundle.cost(f"bench.step-beside-{name}", wall_s=np.median(step_s))
        targets.append(at_most(name, share, preset.budget, f"{np.median(measure_s):.2f} s each {preset.every} steps of "
                                                        f"{np.median(step_s):.2f} s", "of the training time"))
    return targets


def _coherence(setup: Setup, trainer: Trainer, bundle: records.Bundle) -> list[Target]:
    """Per-layer m-coherence against a plain gradient of the same batch, both by microbatches; and its memory."""
    microbatch, params = setup.config.train.microbatch, trainer.base.params
    loss, rows = probing.demonstration_loss(setup.model), probing.demonstration_rows(setup.model)
    probe = coherence.GradientCoherence(loss, rows=rows, microbatch=microbatch, intervals=False, gsnr=False)

    def plain(params, batch):
        parts = jax.tree.map(lambda x: x.reshape(-1, microbatch, *x.shape[1:]), batch)

        def add(total, part):
            grads = jax.grad(lambda w: rows(w, part, models.PLAIN).sum())(params)
            return jax.tree.map(jnp.add, total, grads), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)[0]

    def measured(params, batch):
        ctx = probes.Context({probes.PARAMS: params, probes.PROBE_BATCH: batch})
        return probe.measure(ctx, {}, jax.random.key(0))[1]

    programs = [jax.jit(f).lower(params, setup.batch).compile() for f in (plain, measured)]
    plain_s, probe_s = by_turns(*(lambda p=p: p(params, setup.batch) for p in programs), setup.config.turns)
    step, example = trainer.peak(), peak_bytes(programs[1])
    for name, quantities in (("gradient", {"wall_s": np.median(plain_s)}), ("step", {"peak_bytes": step}),
                             ("coherence", {"wall_s": np.median(probe_s), "peak_bytes": example})):
        bundle.cost(f"bench.{name}", **quantities)
    memory = np.asarray([example / step])
    return [at_most("coherence", probe_s / plain_s, 1.3, f"{np.median(probe_s):.2f} s and {np.median(plain_s):.2f} s",
                   "plain gradients of the batch"),
            at_most("memory", memory, 1.5, f"{example / 2**20:.0f} and {step / 2**20:.0f} MiB", "train steps")]


def planted(size: int, k: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """(matrix, its leading k right singular vectors), float32: singular values fall slowly to k, then by the gap, then on."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((size, size)).astype(np.float32))[0] for _ in range(2))
    s = np.concatenate([np.linspace(2.0, 1.0 + gap, k), np.linspace(1.0, 0.0, size - k)]).astype(np.float32)
    return (u * s) @ v.T, v[:, :k]


def _subspaces(setup: Setup, trainer: Trainer, bundle: records.Bundle) -> list[Target]:
    """Certified leading subspaces against the fastest exact SVD with vectors."""
    del trainer
    s = setup.config.subspaces
    host, right = planted(s.size, s.k, s.gap)
    a = jnp.asarray(host)
    program = jax.jit(lambda a: linalg.top_k(a, s.k, jax.random.key(1)))
    exact = {"JAX": jax.jit(lambda a: jnp.linalg.svd(a, full_matrices=False)),
             "SciPy gesdd": lambda a: scipy.linalg.svd(host, full_matrices=False, check_finite=False)}
    subspace = program(a)  # compiles
    times = [{name: seconds(lambda f=f: f(a)) for name, f in {**exact, "ours": program}.items()} for _ in range(s.turns)]
    best = min(exact, key=lambda name: min(turn[name] for turn in times))  # the first JAX turn compiles too
    exact_s, ours_s = (np.asarray([turn[name] for turn in times]) for name in (best, "ours"))
    spectrum = jnp.concatenate([subspace.s_K, jnp.asarray([subspace.next_s])])
    bound = float(jnp.arcsin(linalg.subspace_error(subspace.residual_K, spectrum, s.k)))
    angle = float(linalg.principal_angles(jnp.asarray(right), subspace.v_NxK)[0])
    for name, value in (("exact", exact_s), ("subspaces", ours_s)):
        bundle.cost(f"bench.{name}", wall_s=np.median(value))
    bundle.write_rows("angle", {"metric": ANGLE.id, "role": "seed", "seed": [0], "granularity": "experiment", "k": s.k,
                                "side": "right", "dtype": "fp32", "value": angle, "num_err": bound})
    speed = exact_s / ours_s
    return [Target("subspaces", ">= 3 times faster", float(np.median(speed)), (float(speed.min()), float(speed.max())),
                   bool(np.median(speed) >= 3), f"{np.median(ours_s):.1f} s, exact ({best}) {np.median(exact_s):.1f} s; "
                   f"{'fell back to exact' if bool(subspace.fell_back) else 'certified'}"),
            Target("angle", "< 1e-3 rad, certified", bound, (bound, bound), bound < 1e-3, f"against the planted: {angle:.1e}")]
