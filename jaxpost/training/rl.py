"""The RL batch: rollout, verify, and the rows that `train_step` updates on.

Shapes: B prompts, G samples a prompt, N = B*G rows (a prompt's samples adjacent), P prompt and T completion tokens.
`Rollouts.batch` fuses the three on device; with a verifier on the host, call `rollout`, verify there, then `rows_of`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost import models, sharding, tasks
from jaxpost.curricula import Uniform
from jaxpost.objectives import Batch
from jaxpost.tasks import Task
from jaxpost.training.state import Member, TrainState, stream
from jaxpost.training.step import StepSpec, token_logp


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """B prompts of a task a step, G samples each from the current policy."""

    task: Task
    prompts: int  # B
    spec: StepSpec  # its group is G, its temperature the behaviour's
    curriculum: Uniform = Uniform()

    @property
    def rows(self) -> int:
        """N = B * G."""
        return self.prompts * self.spec.group

    def rollout(self, params: dict, seed: jax.Array, step: jax.Array, curriculum_state: dict):
        """(problems_N, prompt_NxP, Completions, index_B) sampled from `params`."""
        index_B = self.curriculum.sample(curriculum_state, stream(seed, f"data/{self.task.name}", step), self.prompts)
        # Whole on every device: a redraw loop split over rows votes on its end with a collective an iteration, and
        # on CPU that collective can deadlock with another one (it does in executables from the compilation cache).
        problems_N = sharding.constrain(tasks.problems(self.task, "train", jnp.repeat(index_B, self.spec.group)), ())
        prompt_NxP = sharding.constrain(jax.vmap(self.task.prompt)(problems_N), ("batch",))
        made = models.sample(self.spec.model, params, prompt_NxP, stream(seed, "rollout", step),
                             length=self.task.completion_len, temperature=self.spec.temperature, eos=tasks.vocab.EOS,
                             pad=tasks.vocab.PAD)
        return problems_N, prompt_NxP, made, index_B

    def verify(self, problems_N, made: models.Completions) -> jax.Array:
        """reward_N in [0, 1] from the task's device verifier."""
        return jax.vmap(self.task.verify)(problems_N, made.tokens_NxT)

    def rows_of(self, prompt_NxP, made: models.Completions, reward_N: jax.Array, member: Member,
                step: jax.Array, reference: dict | None) -> Batch:
        """The training rows of verified samples; the permuted-reward control shuffles within each group."""
        reward_BxG = reward_N.reshape(self.prompts, self.spec.group)
        shuffled = jax.random.permutation(stream(member.seed, "permute", step), reward_BxG, axis=1, independent=True)
        reward_N = jnp.where(member.scalars.permute_rewards, shuffled, reward_BxG).reshape(-1)
        batch = Batch(prompt_NxP, made.tokens_NxT, made.mask_NxT, reward_N, made.logp_NxT)
        if self.spec.objective.needs_reference:
            batch = batch._replace(reference_NxT=token_logp(self.spec, reference, batch))
        return batch

    def batch(self, member: Member, state: TrainState, reference: dict | None) -> tuple[Batch, dict, dict]:
        """Fused rollout and verification: (rows, metrics, curriculum state) of the state's step."""
        problems_N, prompt_NxP, made, index_B = self.rollout(state.params, member.seed, state.step,
                                                             state.curriculum_state)
        reward_N = self.verify(problems_N, made)
        batch = self.rows_of(prompt_NxP, made, reward_N, member, state.step, reference)
        success_B = reward_N.reshape(self.prompts, self.spec.group).mean(axis=1)
        metrics = {"reward": (reward_N.sum(), jnp.asarray(reward_N.size, jnp.float32))}
        return batch, metrics, self.curriculum.observe(state.curriculum_state, index_B, success_B)
