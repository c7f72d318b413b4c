"""A few answers of every policy at every measurement: to the bundle's completions and to the mirrors.

The prompts and the sampling noise of a seed are the same at every step and in every arm: a change is the policy's. It is
a program of its own (one more sampling of a few rows): training and measurements do not know of it.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.arms import Arm
from jaxpost import models, processes, sharding, tasks, training
from jaxpost.objectives import rewards
from jaxpost.records import Bundle, format_params
from jaxpost.tasks import Task, vocab

HEADER = ("prompt", "answer", "reward", "parts", "logp", "tokens", "finished")
_HIDDEN = (vocab.PAD, vocab.EOS)  # whether an answer has ended stands beside it


class Answers:
    """Asks and keeps.

    Args:
      model, task, split: whose first `count` problems are asked; 0 asks nothing.
      bundle, telemetry: where answers go. prefix: of the bundle's shards.
    """

    def __init__(self, model: models.TransformerConfig, task: Task, split: str, count: int, bundle: Bundle, telemetry, *,
                 mesh=None, prefix: str = ""):
        self.model, self.task, self.split, self.count = model, task, split, count
        self.bundle, self.telemetry, self.mesh, self.prefix = bundle, telemetry, mesh, prefix

    def __call__(self, arm: Arm | str, step: int, seeds: Sequence[int], params_S: Mapping) -> None:
        """Ask every seed's policy; parameters have a leading axis S. `arm` is "base" for the base."""
        if not self.count:
            return
        with sharding.on_mesh(self.mesh):
            policy_S = {name: x for name, x in params_S.items() if name != "value"}  # without a critic's head
            program = _program(self.model, self.task, self.split, self.count, self.mesh)
            answered = processes.whole(program(policy_S, jnp.asarray(seeds, jnp.uint32)))
        terms = () if isinstance(arm, str) else getattr(arm.source, "reward", ())
        rows = [{"seed": seed} | row for i, seed in enumerate(seeds)
                for row in self._rows(jax.tree.map(lambda x, i=i: x[i], answered), terms, step)]
        keep(self.bundle, self.telemetry, rows, arm if isinstance(arm, str) else arm.name, step, self.prefix)

    def _rows(self, answered: Mapping, terms: tuple, step: int) -> list[dict]:
        made: models.Completions = answered["made"]
        length_N = made.mask_NxT.sum(axis=1).astype(int)
        ended_N = np.asarray(tasks.ends(made.tokens_NxT, self.task.ends)).any(axis=1)
        reward_N, parts = answered["score"], {}
        if terms:
            answer = rewards.Answer(answered["score"], made.mask_NxT.sum(axis=1), ended_N.astype(np.float32), made.tokens_NxT)
            reward_N, parts = jax.device_get(rewards.compose(terms, answer, step))
        rows = []
        for i in range(self.count):
            terms_text = format_params({name: f"{float(x[i]):.4g}" for name, x in parts.items()})
            tokens = answered["prompt"][i], made.tokens_NxT[i][:length_N[i]]
            asked, answer = (tasks.to_text(self.task, x, _HIDDEN) for x in tokens)
            rows.append({"split": self.split, "problem": i, "prompt": asked, "answer": answer, "reward": float(reward_N[i]),
                         "parts": terms_text or None, "logp": float(made.logp_NxT[i].sum()), "tokens": int(length_N[i]),
                         "finished": bool(ended_N[i])})
        return rows


def keep(bundle: Bundle, telemetry, rows: Sequence[Mapping], arm: str, step: int, prefix: str = "") -> None:
    """Rows of answers (with `seed`) of one arm and step, to the bundle and the mirrors."""
    if not rows:
        return
    seeds = sorted({row["seed"] for row in rows})
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"arm": [arm] * len(rows), "step": [step] * len(rows)}
    bundle.write_completions(f"{prefix}{arm}-{step:05d}-seeds-{seeds[0]}-{seeds[-1]}", columns)
    for seed in seeds:
        lines = [[row[name] for name in HEADER] for row in rows if row["seed"] == seed]
        telemetry.table(arm, seed, step, "completions", HEADER, lines)


@functools.cache
def _program(model: models.TransformerConfig, task: Task, split: str, count: int, mesh):
    """jit of (parameters [S, ...], seeds [S]) -> prompts, completions and scores of every seed."""
    def one(member):
        params, seed = jax.tree.map(lambda w: w.astype(jnp.float32), member[0]), member[1]
        problems_N = tasks.problems(task, split, jnp.arange(count))
        prompt_NxP = jax.vmap(task.prompt)(problems_N)
        made = models.sample(model, params, prompt_NxP, training.stream(seed, "completions", 0), length=task.completion_len,
                             eos=task.ends, pad=task.pad)
        return {"prompt": prompt_NxP, "made": made, "score": jax.vmap(task.verify)(problems_N, made.tokens_NxT)}

    mapped = sharding.map_members(one, mesh, whole=True)
    return jax.jit(lambda params_S, seeds_S: mapped((params_S, seeds_S)))
