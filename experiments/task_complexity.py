"""Dimension, margin and inductive-bias complexity of tasks. A seed is a draw of problems; an arm is a task. No model.

Legend: N problems, P prompt tokens, V different tokens, D coordinates.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.harness import arms as arm_table
from experiments.harness import checks
from experiments.harness import claims as claim_rules
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened, publish
from experiments.harness.session import StopSignals
from jaxpost import probes
from jaxpost.lookup import nearest
from jaxpost.tasks import Task, complexity

TITLE = "Inductive-bias complexity of tasks"
QUESTION = "How much does a learner have to bring along to generalise on a task, and is it the dimension of the problems?"
PAPERS = ("2305.01034",)
_FLOOR = "noise floor: what half of the problems change"
METRICS = {m.id: m for m in (
    probes.Metric("task.intrinsic_dimension", "maximum-likelihood dimension of the prompts, one-hot, from distances to "
                  "params neighbours", "1", "arXiv:2305.01034", "independent: the tokens of every place permuted over problems",
                  "none", f"float64; {_FLOOR}", domain="[0, inf)"),
    probes.Metric("task.class_margin", "smallest distance between prompts with different answers", "1", "arXiv:2305.01034",
                  "permuted: answers permuted over problems", "none", f"float64; {_FLOOR}", domain="[0, inf)"),
    probes.Metric("task.inductive_bias_complexity", "log10 of the bits that single out what generalises among what fits the "
                  "problems (jaxpost.tasks.complexity), at params error", "log10 bits", "arXiv:2305.01034",
                  "permuted: answers permuted over problems", "none", f"float64; {_FLOOR}"),
)}


def check(config: ConfigDict, claims: Sequence[Mapping]) -> dict[str, Task]:
    """The tasks of the arms. Raises: UserError: a config or claims that cannot run."""
    for arm in config.arms:
        if arm not in config.tasks:
            raise UserError(f"arms: {arm!r} is not known{nearest(arm, config.tasks)}")
    for key, value, least in (("problems", config.problems, 4 * complexity.NEIGHBOURS), ("seeds.count", config.seeds.count, 1),
                              ("permutations", config.permutations, 2), ("seeds.first", config.seeds.first, 0)):
        if value < least:
            raise UserError(f"{key}={value}: must be at least {least}")
    if not 0 < config.error < 1:
        raise UserError(f"error={config.error}: a share of wrong answers that is allowed, inside (0, 1)")
    used = {arm: arm_table.make_task(config.tasks[arm]) for arm in config.arms}
    for arm, task in used.items():
        if config.split not in task.splits:
            raise UserError(f"split={config.split!r} of {arm!r} is not known{nearest(config.split, task.splits)}")
    checks.one_device(config)
    claim_rules.fields(claims, METRICS)
    claim_rules.require_arms(claims, tuple(config.tasks))
    return used


def measure(config: Mapping, arm: str, task: Task, seed: int) -> dict:
    """Columns of one task in one draw."""
    rng, N, error = np.random.default_rng(seed), config["problems"], config["error"]
    points_NxD, label_N = complexity.points_of(task, config["split"], np.arange(seed * N, (seed + 1) * N))
    own = complexity.of_points(points_NxD, label_N, error)
    half = complexity.of_points(points_NxD[:N // 2], label_N[:N // 2], error)
    permuted = [complexity.of_points(points_NxD, rng.permutation(label_N), error, own.dimension)
                for _ in range(config["permutations"])]
    independent = [complexity.intrinsic_dimension(_independent(rng, points_NxD, task.prompt_len))
                   for _ in range(config["permutations"])]
    neighbours, allowed = f"neighbours={complexity.NEIGHBOURS}", f"error={error:g}"
    rows = [_row("task.intrinsic_dimension", own.dimension, half.dimension, "independent", independent, neighbours),
            _row("task.class_margin", own.margin, half.margin, "permuted", [x.margin for x in permuted], None),
            _row("task.inductive_bias_complexity", own.log10_bits, half.log10_bits, "permuted",
                 [x.log10_bits for x in permuted], allowed)]
    shared = {"arm": arm, "role": "seed", "step": 0, "seed": seed, "granularity": "experiment"}
    return {name: [(shared | row)[name] for row in rows] for name in shared | rows[0]}


def _independent(rng: np.random.Generator, points_NxD: np.ndarray, places: int) -> np.ndarray:
    """The points with the tokens of every place permuted over problems."""
    points_NxPxV = points_NxD.reshape(len(points_NxD), places, -1)
    order_NxP = rng.permuted(np.broadcast_to(np.arange(len(points_NxD))[:, None], points_NxPxV.shape[:2]), axis=0)
    return points_NxPxV[order_NxP, np.arange(places)].reshape(points_NxD.shape)


def _row(metric: str, value: float, half: float, null_kind: str, null: Sequence[float], params: str | None) -> dict:
    """A value with its null and, as noise floor, what half of the problems change; absent where it is not finite."""
    ok = math.isfinite(value)
    row = {"metric": metric, "params": params, "value": value if ok else None, "status": "ok" if ok else "absent",
           "status_reason": None if ok else "the problems leave nothing open, or have one answer", "null_kind": null_kind,
           "null_value": None, "null_lo": None, "null_hi": None,
           "noise_floor": abs(value - half) if ok and math.isfinite(half) else None}
    if np.isfinite(null).all():
        lo, hi = np.quantile(null, (0.025, 0.975))
        row |= {"null_value": float(np.clip(np.mean(null), min(null), max(null))), "null_lo": lo, "null_hi": hi}
    return row


def run(config: ConfigDict, claims: Sequence[Mapping], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume (a task's draw is a unit), add draws to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError: one clear line; nothing that was written is lost.
    """
    used = check(config, claims)
    claims = claim_rules.judgeable(claims, config.arms)
    claim_rules.check(claims)
    seeds = list(range(config.seeds.first, config.seeds.first + config.seeds.count))
    stated = Stated(TITLE, QUESTION, claims, config.arms, seeds, bases=0)
    with opened(config, stated, workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        for arm, task in used.items():
            began = time.monotonic()
            for seed in seeds:
                if not bundle.has_rows(shard := f"{arm}-{seed}"):
                    bundle.write_rows(shard, measure(config.to_dict(), arm, task, seed))
                session.boundary(f"draw {seed} of {arm} is finished")
            session.say(f"{arm}: {len(seeds)} draws of {config.problems} problems, {time.monotonic() - began:.1f} s")
        judge = claim_rules.judging(claims, dict.fromkeys(config.arms, 0), claim_rules.gates.unconditional())
        publish(stated, bundle, session, judge, metrics=METRICS, papers=PAPERS)
