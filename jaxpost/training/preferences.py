"""The preference batch: the oracle's answer against a wrong sample of the reference policy, as pairs or as labelled rows.

Shapes: K pairs, N = 2K rows (2i the oracle's answer, 2i + 1 the sample, one prompt), P prompt and T completion tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost import curricula, models, sharding, tasks
from jaxpost.objectives import Batch
from jaxpost.tasks import Task
from jaxpost.training import needs
from jaxpost.training.state import Member, TrainState, stream
from jaxpost.training.step import StepSpec, given, token_logp


@dataclasses.dataclass(frozen=True)
class Ranked:
    """Which of several samples is the other answer of a pair: they are ranked from the easiest pair to the hardest.

    A pair is the easier the larger the gap between its ratings is (here: the sample's reward is low), and of equal ratings the
    larger the gap between the log-probabilities that the sampler gave them is (here: the sample's is low). A right sample comes
    last. Curry-DPO (arXiv:2403.07230) trains a stage on each rank, easy ones first.
    """

    responses: int = 3  # samples a prompt
    rank: int | None = None  # 0: the easiest pair; None: each pair draws its own

    def __post_init__(self):
        if self.responses < 1 or not (self.rank is None or 0 <= self.rank < self.responses):
            raise ValueError(f"rank={self.rank} of {self.responses} responses; expected 0 to {max(self.responses - 1, 0)}, or "
                             "None: any")

    def chosen(self, reward_KxR: jax.Array, logp_KxR: jax.Array, key: jax.Array) -> jax.Array:
        """int32[K], which sample of each prompt; logp of whole samples."""
        order_KxR = jnp.lexsort((logp_KxR, reward_KxR), axis=-1)
        rank_K = jax.random.randint(key, reward_KxR.shape[:1], 0, self.responses) if self.rank is None else jnp.full(
            reward_KxR.shape[:1], self.rank)
        return jnp.take_along_axis(order_KxR, rank_K[:, None], axis=1)[:, 0]


@dataclasses.dataclass(frozen=True)
class Preferences:
    """K pairs a step on fresh training problems; preferred is the oracle's answer, the other a sample of the reference policy.

    With `ranked`, several samples are drawn a prompt and the pair's is one of them. Where the sample is right itself there is
    nothing to prefer: the pair has mask 0 and counts nowhere, or is a tie for an objective that knows ties. Objectives without
    reference log-probabilities (SimPO, ORPO) still take their samples from the reference policy: the data then do not depend
    on the objective. For objectives on unpaired rows (those that need "label") the rows are the same, with

      label_N    1 on the oracle's answers, 0 on samples
      outside_N  sum_t( l - f ) of the row's completion after the prompt of the next pair (cyclic), under the parameters before
                 the update: rows of one pair share their prompt, so the next row's would be no mismatch

    Raises:
      ValueError: the objective needs what preferences do not give, or too few pairs for a mismatch.
    """

    task: Task
    pairs: int  # K
    spec: StepSpec  # its temperature is the sampler's
    curriculum: curricula.Curriculum = curricula.Uniform()
    ranked: Ranked | None = None  # several samples a prompt, of which one is taken by its rank; None: one sample

    def __post_init__(self):
        needs.require("Preferences", self.spec, self.task)
        needs.require_curriculum("Preferences", self.curriculum, self.spec.objective, (self.task,))
        if self.curriculum.probes:
            raise ValueError("the curriculum plans steps that do not train, and Preferences always trains")
        least = 2 if "outside" in self.spec.objective.needs else 1
        if self.pairs < least:
            raise ValueError(f"pairs={self.pairs} with objective {self.spec.objective.name!r}; nearest valid: {least}"
                             + (" (a mismatched prompt is another pair's)" if least == 2 else ""))

    @property
    def rows(self) -> int:
        """N = 2 K."""
        return 2 * self.pairs

    @property
    def sampled(self) -> int:
        """Rows that are sampled a step."""
        return self.pairs * (self.ranked.responses if self.ranked else 1)

    @property
    def lengths(self) -> tuple[int, int]:
        """(P, T)."""
        return self.task.prompt_len, self.task.completion_len

    @property
    def needs_reference(self) -> bool:
        """Whether the parameters of a reference policy must be passed to a step: it writes the other answers."""
        return needs.reference_argument(self.spec)

    def batch(self, member: Member, state: TrainState, reference: dict | None) -> tuple[Batch, dict, dict]:
        """(rows, metrics, curriculum state) of the state's step.

        Metrics: `reference_reward`, how right the reference policy's samples are, and `informative`, the share of pairs with a
        wrong sample; the others do not count, or count as ties for an objective that knows ties.
        """
        reference = given(self.spec, reference)
        key = stream(member.seed, f"data/{self.task.name}", state.step)
        curriculum_state, plan = self.curriculum.sample(state.curriculum_state, key, curricula.blank(key, self.pairs),
                                                        curricula.Context(state.step))
        examples = tasks.examples(self.task, "train", *needs.planned_problems(self.task, plan))
        examples = sharding.constrain(examples, ())  # as in rl.rollout: no vote in redraw loops
        made, reward_K = self._other(reference, examples, member, state)
        batch = self._filled(self.rows_of(examples, made, reward_K), member, state, reference)
        count = jnp.asarray(self.pairs, jnp.float32)
        metrics = {"reference_reward": (reward_K.sum(), count), "informative": ((reward_K != 1).sum(dtype=jnp.float32), count)}
        return batch, metrics, curriculum_state  # the policy's own success is not seen here

    def _other(self, reference, examples, member, state) -> tuple[models.Completions, jax.Array]:
        """(the other answer of each pair, its reward)."""
        problems, prompt_NxP = examples.problem, examples.prompt_NxP
        if self.ranked is not None:
            R = self.ranked.responses
            problems, prompt_NxP = jax.tree.map(lambda x: jnp.repeat(x, R, axis=0), (problems, prompt_NxP))
        made = models.sample(self.spec.model, reference, sharding.constrain(prompt_NxP, ("batch",)),
                             stream(member.seed, "rollout", state.step), length=self.task.completion_len,
                             temperature=self.spec.temperature, eos=self.task.ends, pad=self.task.pad, **self.spec.truncation)
        reward_N = jax.vmap(self.task.verify)(problems, made.tokens_NxT)
        if self.ranked is None:
            return made, reward_N
        which_K = self.ranked.chosen(reward_N.reshape(-1, R), made.logp_NxT.sum(axis=1).reshape(-1, R),
                                     stream(member.seed, "rank", state.step))
        return jax.tree.map(lambda x: x[jnp.arange(self.pairs) * R + which_K], (made, reward_N))

    def rows_of(self, examples: tasks.Examples, made: models.Completions, reward_K: jax.Array) -> Batch:
        """Answers and samples interleaved; a pair whose sample is right (reward 1) has mask 0."""
        def interleave(preferred, other):
            return jnp.stack([preferred, other], axis=1).reshape(-1, *other.shape[1:])

        mask_NxT = interleave(tasks.through(examples.answer_NxT, self.task.ends), made.mask_NxT)
        right_N = jnp.repeat(reward_K == 1, 2)
        ties = "tie" in self.spec.objective.needs
        wrong_Nx1 = jnp.ones_like(right_N)[:, None] if ties else ~right_N[:, None]
        tokens_NxT = interleave(examples.answer_NxT, made.tokens_NxT)
        return sharding.constrain(Batch(jnp.repeat(examples.prompt_NxP, 2, axis=0), tokens_NxT, mask_NxT * wrong_Nx1,
                                        role_NxT=needs.roles_of(self.task, tokens_NxT),
                                        tie_N=right_N.astype(jnp.float32) if ties else None), ("batch",))

    def _filled(self, batch, member, state, reference):
        spec, wanted = self.spec, self.spec.objective.needs
        if "label" in wanted:
            batch = batch._replace(label_N=jnp.tile(jnp.asarray([1.0, 0.0]), self.pairs))
        if "outside" in wanted:
            other = batch._replace(prompt_NxP=jnp.roll(batch.prompt_NxP, -2, axis=0))
            ratio_NxT = token_logp(spec, state.params, other) - token_logp(spec, reference, other)
            batch = batch._replace(outside_N=jnp.where(batch.mask_NxT > 0, ratio_NxT, 0.0).sum(axis=1))
        return needs.fill(spec, batch, member, state, reference)
