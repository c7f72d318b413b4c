"""The supervised batch: oracle demonstrations of one task or of a mixture.

Shapes: N rows, P prompt tokens, T completion tokens. Prompts are left-padded and completions right-padded to the
common width, so that tasks of different lengths share a batch.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost import curricula, roles, sharding, tasks
from jaxpost.objectives import Batch
from jaxpost.tasks import Task
from jaxpost.training import needs
from jaxpost.training.state import Member, TrainState, stream
from jaxpost.training.step import StepSpec, output


@dataclasses.dataclass(frozen=True)
class Demonstrations:
    """Rows a step of each task: ((task, rows), ...).

    An objective that compares with aligned models (PoFT) compares with the reference policy: `outside_N` is its mean
    log-probability of the row's counted tokens.

    Raises:
      ValueError: the objective of `spec` needs what demonstrations do not give.
    """

    mixture: tuple[tuple[Task, int], ...]
    curriculum: curricula.Curriculum = curricula.Uniform()
    spec: StepSpec | None = None  # whose objective's needs are filled; None: the rows alone

    def __post_init__(self):
        if self.spec is not None:
            needs.require("Demonstrations", self.spec, *(task for task, _ in self.mixture))
        if self.curriculum.needs & {"loss", "logits"} and self.spec is None:
            raise ValueError("a curriculum that sees losses or logits needs the step's spec; pass spec")
        if "logits" in self.curriculum.needs and self.spec.model.in_parts:
            raise ValueError("the curriculum sees logits, and the model reads its vocabulary in parts; set logprob_chunk to 0")
        needs.require_curriculum("Demonstrations", self.curriculum, None, tuple(task for task, _ in self.mixture))

    @property
    def rows(self) -> int:
        """N."""
        return sum(count for _, count in self.mixture)

    @property
    def sampled(self) -> int:
        """Rows that are sampled a step: none."""
        return 0

    @property
    def lengths(self) -> tuple[int, int]:
        """(P, T), the longest of the mixture."""
        return max(task.prompt_len for task, _ in self.mixture), max(task.completion_len for task, _ in self.mixture)

    @property
    def needs_reference(self) -> bool:
        """Whether the parameters of a reference policy must be passed to a step."""
        return self.spec is not None and needs.reference_argument(self.spec)

    def batch(self, member: Member, state: TrainState, reference: dict | None) -> tuple[Batch, dict, dict]:
        """(rows, metrics, curriculum state) of the state's step.

        The rows are a pure function of (seed, step) and of what the curriculum has learned.
        """
        parts, curriculum_state = [], state.curriculum_state
        for task, count in self.mixture:
            key = stream(member.seed, f"data/{task.name}", state.step)
            curriculum_state, plan = self.curriculum.sample(curriculum_state, key, curricula.blank(key, count),
                                                            curricula.Context(state.step))
            parts.append(demonstrations(task, "train", *needs.planned_problems(task, plan)))
        batch = _stack(parts)
        if self.spec is not None:
            batch = needs.fill(self.spec, batch, member, state, reference)
        if len(parts) > 1:  # of several tasks: the curriculum learns nothing
            return batch, {}, curriculum_state
        feedback = curricula.Feedback(state.step, plan, jnp.ones((self.rows, 1)),
                                      length_BxG=batch.mask_NxT.sum(axis=1, keepdims=True),
                                      loss_BxG=self._losses(state, batch) if "loss" in self.curriculum.needs else None,
                                      logits_BxTxV=self._logits(state, batch) if "logits" in self.curriculum.needs else None)
        curriculum_state, weights = self.curriculum.observe(curriculum_state, feedback, curricula.Weights())
        metrics = {}
        for weight_Nx1 in (weights.keep_BxG, weights.train_BxG, weights.scale_BxG):
            if weight_Nx1 is not None:
                batch = needs.left_out(batch, weight_Nx1[:, 0] <= 0)
                batch = batch._replace(mask_NxT=batch.mask_NxT * weight_Nx1)
        if self.curriculum.probes:
            batch = needs.probed(batch, plan.train)
        if batch.absent_N is not None:
            metrics["trained_rows"] = needs.trained_rows(batch)
        return batch, metrics, curriculum_state

    def _losses(self, state: TrainState, batch: Batch) -> jax.Array:
        """loss_Nx1: mean negative log-likelihood of each row's counted tokens under the parameters before the update."""
        return -needs.mean_logp(self.spec, state.params, batch)[:, None]

    def _logits(self, state: TrainState, batch: Batch) -> jax.Array:
        """logits_NxTxV under the parameters before the update, 0 off counted tokens."""
        return output(self.spec, state.params, batch).logits * (batch.mask_NxT > 0)[..., None]


def demonstrations(task: Task, split: str, index_N: jax.Array, knobs_N: dict | None = None) -> Batch:
    """The oracle's answers as supervised rows; the end token counts, padding does not. knobs_N as in `tasks.examples`."""
    examples = sharding.constrain(tasks.examples(task, split, index_N, knobs_N), ())  # as in rl.rollout: no vote in redraws
    return Batch(examples.prompt_NxP, examples.answer_NxT, tasks.through(examples.answer_NxT, task.ends),
                 role_NxT=needs.roles_of(task, examples.answer_NxT))


def _stack(parts: list[Batch]) -> Batch:
    P = max(b.prompt_NxP.shape[1] for b in parts)
    T = max(b.completion_NxT.shape[1] for b in parts)
    with_roles = any(b.role_NxT is not None for b in parts)

    def role_of(b: Batch) -> jax.Array:
        return jnp.full(b.completion_NxT.shape, roles.ANSWER) if b.role_NxT is None else b.role_NxT

    def widen(b: Batch) -> Batch:
        after = ((0, 0), (0, T - b.mask_NxT.shape[1]))
        before = ((0, 0), (P - b.prompt_NxP.shape[1], 0))
        return Batch(jnp.pad(b.prompt_NxP, before), jnp.pad(b.completion_NxT, after), jnp.pad(b.mask_NxT, after),
                     role_NxT=jnp.pad(role_of(b), after) if with_roles else None)

    return jax.tree.map(lambda *x: jnp.concatenate(x), *map(widen, parts))
