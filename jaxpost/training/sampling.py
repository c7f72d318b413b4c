"""Prompts that a curriculum plans, answered by the current policy and, where asked for, by the task's oracle.

Shapes: B prompts, G rows a prompt of which S are sampled and G - S the oracle's, N = B*G rows (a prompt's rows adjacent,
the sampled ones first), P prompt and T completion tokens; over-sampling draws more prompts than B.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpost import curricula, models, sharding, tasks
from jaxpost.tasks import Task
from jaxpost.training import closed_loop, needs, planning
from jaxpost.training.forcing import Interrupt, Prefix
from jaxpost.training.state import stream
from jaxpost.training.step import StepSpec

GREEDY = 1e-4  # a temperature at which float32 sampling takes the largest logit


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The answers of a step; what they are trained on is made by `rl.Rollouts`, which says what the fields mean."""

    task: Task
    prompts: int  # B
    spec: StepSpec  # its group is G, its temperature the behaviour's
    curriculum: curricula.Curriculum = curricula.Uniform()
    demonstrations: int | None = None  # G - S; None: 1 if the objective needs demonstrations, else 0
    oversample: int = 1  # prompts are drawn so many times over
    forcing: Prefix | Interrupt | None = None  # tokens of the sampled rows that are not drawn

    @property
    def needs_demonstrations(self) -> bool:
        """Whether the objective looks for demonstrated rows."""
        return "demonstrations" in self.spec.objective.needs

    @property
    def sampled(self) -> int:
        """Rows that are sampled a step."""
        return self.oversample * self.prompts * (self.spec.group - self.demonstrations)

    @property
    def lengths(self) -> tuple[int, int]:
        """(P, T)."""
        return self.task.prompt_len, self.task.completion_len

    def rollout(self, params: dict, seed: jax.Array, step: jax.Array, curriculum_state: dict, early_stop: bool = False):
        """(problems, prompts, Completions, Planned) of all prompts drawn, oversample*B*G rows, sampled from `params`."""
        planned = self._plan(curriculum_state, stream(seed, f"data/{self.task.name}", step), step,
                             lambda index_K: planning.prompt_states(self.task, self.spec, params, index_K))
        index_N, knobs_N = needs.planned_problems(self.task, planned.plan, self.spec.group)
        # Whole on every device: a redraw loop split over rows votes on its end with a collective an iteration.
        problems_N = sharding.constrain(tasks.problems(self.task, "train", index_N, knobs_N), ())
        share = planned.plan.knobs.get("hint_share")
        return problems_N, *self.answers(params, seed, step, problems_N, early_stop, share), planned

    def _plan(self, curriculum_state: Any, key: jax.Array, step: jax.Array | int, prompt_states: Callable) -> planning.Planned:
        blank = curricula.blank(key, self.oversample * self.prompts)
        context = curricula.Context(step, self.spec.group - self.demonstrations, prompt_states)
        return planning.Planned(*self.curriculum.sample(curriculum_state, key, blank, context))

    def answers(self, params: dict, seed: jax.Array, step: jax.Array, problems_N, early_stop: bool = False,
                hint_share: jax.Array | None = None) -> tuple[jax.Array, models.Completions]:
        """(prompts, Completions) of given problems, oversample*B*G rows, groups adjacent.

        Args:
          early_stop: as in models.sample.
          hint_share: of a curriculum, in place of that of the hint rule.
        """
        prompt_NxP = sharding.constrain(jax.vmap(self.task.prompt)(problems_N), ("batch",))
        key, forced_NxT = stream(seed, "rollout", step), None
        if self.task.episodes is not None:
            return prompt_NxP, closed_loop.play(self.spec.model, params, self.task, problems_N, prompt_NxP, key,
                                                self.spec.temperature, early_stop)
        if self.forcing is not None:
            more = {} if hint_share is None else {"share": hint_share}
            forced_NxT = self.forcing.tokens(self.task, self._groups(problems_N)[0], stream(seed, "forcing", step), step,
                                             self.spec.group - self.demonstrations, **more)
            forced_NxT = sharding.constrain(forced_NxT, ())
        made = self._sample(params, self._groups(prompt_NxP)[0], key, self.spec.temperature, early_stop=early_stop,
                            forced_NxT=forced_NxT)
        return prompt_NxP, self._demonstrated(problems_N, made, stream(seed, "oracle", step))

    def _sample(self, params: dict, prompt_NxP: jax.Array, key: jax.Array, temperature: float, **more) -> models.Completions:
        """Answers of the task's length and ends; `more` as in models.sample."""
        return models.sample(self.spec.model, params, prompt_NxP, key, length=self.task.completion_len,
                             temperature=temperature, eos=self.task.ends, pad=self.task.pad, **self.spec.truncation, **more)

    def _groups(self, tree):
        """(sampled, demonstrated) rows of a tree with a leading axis of whole groups."""
        if not self.demonstrations:
            return tree, None
        split = self.spec.group - self.demonstrations
        grouped = jax.tree.map(lambda x: x.reshape(-1, self.spec.group, *x.shape[1:]), tree)
        return tuple(jax.tree.map(lambda x, cut=cut: x[:, cut].reshape(-1, *x.shape[2:]), grouped)
                     for cut in (slice(None, split), slice(split, None)))

    def _demonstrated(self, problems_N, made: models.Completions, key: jax.Array) -> models.Completions:
        """The samples with the oracle's answers appended to each group."""
        if not self.demonstrations:
            return made
        asked = self._groups(problems_N)[1]
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(jax.tree.leaves(asked)[0].shape[0]))
        answer = sharding.constrain(jax.vmap(self.task.oracle)(asked, keys), ())  # as above: no vote in redraw loops
        zero = jnp.zeros(answer.shape, jnp.float32)
        demonstrated = models.Completions(answer, zero, tasks.through(answer, self.task.ends),
                                          None if made.forced_NxT is None else zero)

        def join(a, b):
            groups = self.oversample * self.prompts
            both = jnp.concatenate([x.reshape(groups, -1, *x.shape[1:]) for x in (a, b)], axis=1)
            return both.reshape(-1, *both.shape[2:])

        return jax.tree.map(join, made, demonstrated)

    def verify(self, problems_N, made: models.Completions) -> jax.Array:
        """reward_N in [0, 1] from the task's device verifier."""
        return jax.vmap(self.task.verify)(problems_N, made.tokens_NxT)

    def greedy(self, params: dict, problems_N, prompt_NxP: jax.Array, early_stop: bool = False):
        """(problems, Completions) of the greedy answer to each group's prompt; ReMax (arXiv:2310.10505) compares with it."""
        problems_B, prompt_BxP = jax.tree.map(lambda x: x[::self.spec.group], (problems_N, prompt_NxP))
        return problems_B, self._sample(params, sharding.constrain(prompt_BxP, ("batch",)), jax.random.key(0), GREEDY,
                                        early_stop=early_stop)

    @property
    def needs_greedy(self) -> bool:
        """Whether the objective looks for the reward of the greedy answer."""
        return "outside" in self.spec.objective.needs

    @property
    def forces_demonstrations(self) -> bool:
        """Whether forced tokens are a demonstration's; else they are context."""
        return self.forcing is not None and self.forcing.demonstrates

    def _length(self, made: models.Completions) -> jax.Array:
        """length_N of answers, for rewards and curricula as for the objective: context that was forced does not count."""
        context = made.forced_NxT is not None and not self.forces_demonstrations
        return (made.mask_NxT * (1 - made.forced_NxT) if context else made.mask_NxT).sum(axis=1)
