"""The RL batch: rollout, verify, and the rows that `train_step` updates on.

Shapes: B prompts, G rows a prompt of which S are sampled and G - S the oracle's, N = B*G rows (a prompt's rows adjacent,
the sampled ones first), P prompt and T completion tokens; over-sampling draws more prompts than B and keeps B of them.
`Rollouts.batch` fuses the three on device; with a verifier on the host, call `rollout`, verify there, then `rows_of`. How
answers are drawn is in `training.sampling`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost import curricula, models, sharding, tasks
from jaxpost.objectives import Batch, rewards
from jaxpost.training import needs, planning, rollout_checks
from jaxpost.training.forcing import role_codes
from jaxpost.training.reformulating import Reformulation
from jaxpost.training.replay import Buffered, Replay, joined, stored
from jaxpost.training.rewriting import Rewriting
from jaxpost.training.sampling import Sampling
from jaxpost.training.second import Rows, SecondPass
from jaxpost.training.state import Member, TrainState, stream


@dataclasses.dataclass(frozen=True)
class Rollouts(Sampling):
    """B prompts of a task a step, G rows each: samples from the current policy and, where the objective needs them, answers.

    Demonstrated rows are the task oracle's answers to the group's prompt: behaviour log-probability 0 (the demonstrator is
    taken to have been certain), reward by the verifier; only the other rows are sampled, shuffled by the permuted-reward
    control, and counted in metrics.

    Dynamic sampling (DAPO, arXiv:2503.14476) with `oversample` above 1: that many times B prompts are drawn, and the first
    B groups whose sampled rows do not all have the same reward are trained on, in the order drawn. Where there are fewer,
    groups of equal rewards fill up with mask 0 and no reward: they count nowhere (but in aggregation "constant", which counts
    rows). Cost: sampling and verifying take `oversample` times as long, whatever is kept; log-probabilities and gradients are
    taken of the B groups only. Differs from the paper in: one round of a fixed size instead of sampling until B groups are
    there, so that the step's shapes are static.

    A reward of several terms (`objectives.rewards`) replaces the verifier's score in what is trained on; metrics have the sum
    as `reward` and each term, without its weight, as `reward_<kind>`. The curriculum goes on seeing the verifier's score.

    With `replay`, groups of earlier steps stand behind the fresh ones (`training.replay`), with the behaviour log-probabilities
    that they were sampled with. Metrics: `replayed_rows`, the share of their places that is filled, and `replay_age`, in
    batches.

    With `second`, groups without a right answer are drawn again (`training.second`). Metrics: `hinted_groups`, the share of
    groups that were, `hint_share`, the mean share that groups were last hinted with (0: not at all; of a solution of n tokens
    floor(share * (n - 1)) are forced), and `first_reward`, of the first pass. Other second passes draw failed answers again
    behind the solution (`training.reformulating`), or rewritten problems (`training.rewriting`), with metrics of their own.

    With `forcing`, tokens of the sampled rows are given instead of drawn: the beginning of a demonstration, a hint, an
    interruption (`training.forcing`). Their log-probabilities are the policy's own. Of a task that is a closed loop
    (`tasks.closed`) so is what the environment answers to each action: observations are out of the loss, the reward is the sum
    of the episode's, and objectives that need turns have their rewards apart.

    A curriculum plans the problems and may leave rows out or scale their advantages (`curricula.Weights`). It sees sampled
    rows, not demonstrated ones. A row that is left out is masked and has no reward; over-sampling fills up its group's place
    where the whole group is left out. Metric `trained_rows`: the share of fresh rows that are in the loss, where some may not
    be. Lengths, of curricula and rewards, are of what the policy drew and of demonstrated beginnings, without other context.

    Raises:
      ValueError: the objective needs what rollouts do not give, or a number out of range.
    """

    reward: tuple[rewards.Reward, ...] = ()  # terms of the reward; none: the verifier's score alone
    replay: Replay | None = None  # groups of earlier steps that are trained on again
    second: SecondPass | Reformulation | Rewriting | None = None  # groups are drawn again in the step

    def __post_init__(self):
        if self.demonstrations is None:
            object.__setattr__(self, "demonstrations", int(self.needs_demonstrations))
        rollout_checks.require(self)
        if self.replay is not None and not isinstance(self.curriculum, Buffered):
            rows = rollout_checks.stored_shapes(self)
            object.__setattr__(self, "curriculum", Buffered(self.curriculum, self.replay, rows))
        jax.eval_shape(lambda: self._plan(self.curriculum.init(jax.random.key(0)), jax.random.key(0), 0,  # refuses budgets
                                          lambda index_K: jnp.zeros((index_K.shape[0], self.spec.model.width))))

    @property
    def rows(self) -> int:
        """N = B * G, rows that are trained on, and with replay as many more as it replays."""
        return (self.prompts + (self.replay.groups if self.replay else 0)) * self.spec.group

    @property
    def needs_reference(self) -> bool:
        """Whether the parameters of a reference policy must be passed to a step."""
        return needs.reference_argument(self.spec)

    def rows_of(self, prompt_NxP, made: models.Completions, reward_N: jax.Array, member: Member, state: TrainState,
                reference: dict | None, outside_N: jax.Array | None = None,
                weights: curricula.Weights | None = None, terms: dict[str, jax.Array] | None = None,
                turns_NxU: jax.Array | None = None) -> Batch:
        """The training rows of verified rollouts; the permuted-reward control shuffles the samples of each group.

        Args:
          terms: value_N of each term of the reward, where the objective needs them.
          turns_NxU: rewards of the turns of episodes, likewise; None: one turn.
        """
        group, sampled = self.spec.group, self.spec.group - self.demonstrations
        index_BxG = jnp.broadcast_to(jnp.arange(group), (reward_N.size // group, group))
        shuffled = jax.random.permutation(stream(member.seed, "permute", state.step), index_BxG[:, :sampled], axis=1,
                                          independent=True)
        permuted_BxG = jnp.concatenate([shuffled, index_BxG[:, sampled:]], axis=1) if self.demonstrations else shuffled
        order_BxG = jnp.where(member.scalars.permute_rewards, permuted_BxG, index_BxG)

        def ordered(x_N):
            return jnp.take_along_axis(x_N.reshape(-1, group), order_BxG, axis=1).reshape(-1)

        batch = Batch(prompt_NxP, made.tokens_NxT, made.mask_NxT, ordered(reward_N), made.logp_NxT, outside_N=outside_N,
                      role_NxT=needs.roles_of(self.task, made.tokens_NxT))
        if self.spec.model.experts:
            batch = batch._replace(real_NxT=jax.lax.cummax(made.mask_NxT, axis=1, reverse=True))
        if made.forced_NxT is not None:
            batch = self._forced(batch, made.forced_NxT)
        if "terms" in self.spec.objective.needs:
            weight_K = jnp.stack([jnp.asarray(term.at(state.step), jnp.float32) for term in self.reward])
            batch = batch._replace(term_NxK=jnp.stack([ordered(terms[term.kind]) for term in self.reward], axis=1),
                                   term_weight_NxK=jnp.broadcast_to(weight_K, (reward_N.size, len(self.reward))))
        if "turns" in self.spec.objective.needs:
            batch = self._with_turns(batch, turns_NxU, order_BxG)
        batch = batch if weights is None else planning.weighed(batch, weights, self.demonstrations)
        if self.oversample > 1:
            batch = self._keep(batch, informative(batch.reward_N.reshape(-1, group)[:, :sampled]))
        if self.demonstrations:
            shown_G = (jnp.arange(group) >= sampled).astype(jnp.float32)
            batch = batch._replace(demonstration_NxT=jnp.tile(shown_G, self.prompts)[:, None] * batch.mask_NxT)
        if "truncated" in self.spec.objective.needs:
            ended_N = tasks.ends(batch.completion_NxT, self.task.ends).any(axis=1)
            batch = batch._replace(truncated_N=1 - ended_N.astype(jnp.float32))
        if self.replay is not None:
            key = stream(member.seed, "replay", state.step)
            batch = joined(batch, *self.replay.sample(state.curriculum_state["buffer"], key, state.step), group)
        also = self.curriculum.needs & {"entropy"}
        return needs.fill(self.spec, batch, member, state, reference, also)

    def _with_turns(self, batch: Batch, turns_NxU: jax.Array | None, order_BxG: jax.Array) -> Batch:
        """The batch with the actions of its episodes and their rewards, in the order of the rows' rewards."""
        if turns_NxU is None and self.task.episodes is not None:
            raise ValueError(f"objective {self.spec.objective.name!r} needs the rewards of an episode's turns, which the fused "
                             "loop makes and rows verified elsewhere do not have; train with Rollouts.batch")
        if turns_NxU is None:
            return batch._replace(turn_NxT=jnp.zeros(batch.mask_NxT.shape, jnp.int32), turn_reward_NxU=batch.reward_N[:, None])
        grouped = turns_NxU.reshape(*order_BxG.shape, -1)
        ordered = jnp.take_along_axis(grouped, order_BxG[..., None], axis=1).reshape(turns_NxU.shape)
        turn_NxT = jnp.broadcast_to(self.task.episodes.turn_T, batch.mask_NxT.shape)
        return batch._replace(turn_NxT=turn_NxT, turn_reward_NxU=ordered)

    def _forced(self, batch: Batch, forced_NxT: jax.Array) -> Batch:
        """The batch with forced tokens demonstrated, or masked as context; their roles say which they are."""
        other = "hint" if self.task.episodes is None else "observation"
        role = other if self.forcing is None else self.forcing.role
        batch = batch._replace(role_NxT=role_codes(batch.role_NxT, forced_NxT, role))
        if self.forces_demonstrations:
            return batch._replace(demonstration_NxT=forced_NxT)
        return batch._replace(mask_NxT=batch.mask_NxT * (1 - forced_NxT))

    def _keep(self, batch: Batch, informative_B: jax.Array) -> Batch:
        """The first B informative groups, filled up with others that have no reward and mask 0."""
        kept_B = jnp.argsort(~informative_B, stable=True)[:self.prompts]
        grouped = jax.tree.map(lambda x: x.reshape(-1, self.spec.group, *x.shape[1:])[kept_B], batch)
        batch = sharding.constrain(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), grouped), ("batch",))
        counts_N = jnp.repeat(informative_B[kept_B], self.spec.group)
        batch = batch._replace(reward_N=jnp.where(counts_N, batch.reward_N, jnp.nan))
        return needs.left_out(batch, ~counts_N)

    def batch(self, member: Member, state: TrainState, reference: dict | None) -> tuple[Batch, dict, dict]:
        """Fused rollout and verification: (rows, metrics, curriculum state) of the state's step."""
        problems_N, prompt_NxP, made, planned = self.rollout(state.params, member.seed, state.step,
                                                             state.curriculum_state)
        reward_N = self.verify(problems_N, made)
        if self.second is not None:
            return self._second_pass(member, state, reference, problems_N, prompt_NxP, made, planned, reward_N)
        outside_B = self.verify(*self.greedy(state.params, problems_N, prompt_NxP)) if self.needs_greedy else None
        turns = self.task.episodes is not None and "turns" in self.spec.objective.needs
        turns_NxU = jax.vmap(self.task.episodes.rewards)(problems_N, made.tokens_NxT) if turns else None
        return self.verified(member, state, reference, prompt_NxP, made, planned, reward_N, outside_B, turns_NxU=turns_NxU)

    def _second_pass(self, member, state, reference, problems_N, prompt_NxP, made, planned, first_N):
        """As `batch`; the curriculum sees rewards and lengths of the first pass, metrics what came of the second."""
        def draw(problems_M, prompt_MxP, key, forced_MxT=None):
            forced_MxT = None if forced_MxT is None else sharding.constrain(forced_MxT, ())
            again = self._sample(state.params, sharding.constrain(prompt_MxP, ("batch",)), key, self.spec.temperature,
                                 forced_NxT=forced_MxT)
            return again, self.verify(problems_M, again)

        rows, told, weights = self.second.again(self.task, Rows(problems_N, prompt_NxP, made, first_N), planned.plan,
                                                self.spec.group, draw, stream(member.seed, "second", state.step))
        batch, metrics, curriculum_state = self.verified(member, state, reference, rows.prompt_NxP, rows.made, planned,
                                                         rows.reward_N, first=(made, first_N), second=weights)
        return batch, metrics | told, curriculum_state

    def verified(self, member: Member, state: TrainState, reference: dict | None, prompt_NxP: jax.Array,
                 made: models.Completions, planned: planning.Planned, reward_N: jax.Array,
                 outside_B: jax.Array | None = None,
                 first: tuple[models.Completions, jax.Array] | None = None,
                 second: curricula.Weights | None = None,
                 turns_NxU: jax.Array | None = None) -> tuple[Batch, dict, dict]:
        """(rows, metrics, curriculum state) of answers with their rewards, wherever these were found.

        Args:
          planned: of `rollout`.
          outside_B: reward of each group's greedy answer, where `needs_greedy`.
          first: answers of the first of two passes and their rewards, which are what the curriculum sees.
          second: how much rows count by the second pass.
          turns_NxU: as in `rows_of`.
        """
        outside_N = None if outside_B is None else jnp.repeat(outside_B, self.spec.group)
        if (limit := planned.plan.knobs.get("length_limit")) is not None:
            made, reward_N = planning.within(made, reward_N, limit, self.task.pad)
        score_N, parts = reward_N, {}
        told = (made, reward_N) if first is None else first
        if self.reward:
            budget = planned.plan.knobs.get("length_budget")
            per_row = budget is not None and jnp.ndim(budget) == 1
            budget = jnp.repeat(budget, self.spec.group) if per_row else budget
            answer = self._answer(made, score_N)._replace(budget=budget)
            reward_N, parts = rewards.compose(self.reward, answer, state.step)
        feedback, weights = self._feedback(state, *told, planned.plan)
        weights = weights if second is None else weights.times(*second)
        if "advantage" in self.curriculum.needs:
            batch = self.rows_of(prompt_NxP, made, reward_N, member, state, reference, outside_N, weights, parts, turns_NxU)
            feedback = feedback._replace(advantage_BxG=self._advantages(batch, member, state))
            if "entropy" in self.curriculum.needs:
                counted, entropy = (self._groups(x_NxT)[0].reshape(*feedback.used_BxG.shape, -1)
                                    for x_NxT in (batch.mask_NxT, batch.entropy_NxT))
                feedback = feedback._replace(counted_BxGxT=counted, entropy_BxGxT=entropy)
            curriculum_state, weights = self.curriculum.observe(planned.state, feedback, weights)
            batch = planning.weighed(batch, weights, self.demonstrations)
        else:
            curriculum_state, weights = self.curriculum.observe(planned.state, feedback, weights)
            batch = self.rows_of(prompt_NxP, made, reward_N, member, state, reference, outside_N, weights, parts, turns_NxU)
        if self.curriculum.probes:
            batch = needs.probed(batch, planned.plan.train)
        if self.replay is not None:
            buffer = curriculum_state["buffer"]
            fresh = stored(self._fresh(batch), buffer["rows"])
            kept = self.replay.insert(buffer, fresh, state.step, self.spec.group)
            curriculum_state = curriculum_state | {"buffer": kept}
        metrics = self._metrics(batch, {"reward": reward_N} | {f"reward_{name}": x_N for name, x_N in parts.items()})
        if self.curriculum.probes or any(weight_BxS is not None for weight_BxS in weights):
            metrics["trained_rows"] = needs.trained_rows(self._fresh(batch))
        return batch, metrics, curriculum_state

    def _fresh(self, batch: Batch) -> Batch:
        """The rows of this step, without those that are replayed."""
        return batch.where(slice(0, self.prompts * self.spec.group))

    def _metrics(self, batch: Batch, rewards_N: dict[str, jax.Array]) -> dict:
        """{name: (sum, count)} of the rewards of sampled rows, of replayed rows and of informative groups."""
        own = {name: self._groups(x_N)[0] for name, x_N in rewards_N.items()}
        metrics = {name: (own_N.sum(), jnp.asarray(own_N.size, jnp.float32)) for name, own_N in own.items()}
        if self.replay is not None:
            old_N = ((batch.age_N > 0) & (batch.mask_NxT.sum(axis=1) > 0)).astype(jnp.float32)
            metrics |= {"replayed_rows": (old_N.sum(), jnp.asarray(self.replay.groups * self.spec.group, jnp.float32)),
                        "replay_age": ((batch.age_N * old_N).sum(), old_N.sum())}
        if self.oversample > 1:
            told_B = informative(own["reward"].reshape(-1, self.spec.group - self.demonstrations)).astype(jnp.float32)
            metrics["informative"] = (told_B.sum(), jnp.asarray(told_B.size, jnp.float32))
        return metrics

    def _feedback(self, state: TrainState, made: models.Completions, score_N: jax.Array,
                  plan: curricula.Plan) -> tuple[curricula.Feedback, curricula.Weights]:
        """(what the curriculum sees of the sampled rows but for their advantages, the weights that its plan implies)."""
        score_BxS, length_BxS = (self._groups(x_N)[0].reshape(plan.index_B.shape[0], -1)
                                 for x_N in (score_N, self._length(made)))
        used_BxS, weights = jnp.ones(score_BxS.shape), curricula.Weights()
        if plan.rollouts_B is not None:
            used_BxS = (jnp.arange(score_BxS.shape[1])[None] < plan.rollouts_B[:, None]).astype(jnp.float32)
            weights = weights.times(keep=used_BxS)
        return curricula.Feedback(state.step, plan, used_BxS, score_BxS, length_BxG=length_BxS), weights

    def _advantages(self, batch: Batch, member: Member, state: TrainState) -> jax.Array:
        """advantage_BxS of the sampled rows, the mean over a row's counted tokens; 0 for a row without one."""
        prepared = self.spec.objective.prepare(batch, self.spec.group, member.scalars.kl_coef, state.objective_state)
        counted_NxT = prepared.mask_NxT > 0
        total_N = jnp.where(counted_NxT, prepared.advantage_NxT, 0.0).sum(axis=1)
        return self._groups(total_N / jnp.maximum(counted_NxT.sum(axis=1), 1))[0].reshape(
            -1, self.spec.group - self.demonstrations)

    def _answer(self, made: models.Completions, score_N: jax.Array) -> rewards.Answer:
        """What the terms of a reward may read."""
        finished_N = tasks.ends(made.tokens_NxT, self.task.ends).any(axis=1).astype(jnp.float32)
        return rewards.Answer(score_N, self._length(made), finished_N, made.tokens_NxT, group=self.spec.group)

def informative(reward_BxG: jax.Array) -> jax.Array:
    """informative_B: whether the rewards of a group are not all equal; missing ones (NaN) take no part."""
    return jnp.nanmax(reward_BxG, axis=1) > jnp.nanmin(reward_BxG, axis=1)
