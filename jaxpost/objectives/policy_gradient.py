"""Policy gradients over groups of samples: advantage x ratio x clip x KL, each chosen on its own.

Shapes: B prompts, G samples a prompt, N = B*G rows, T completion tokens, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import advantages, clipping, kl, policy_checks, policy_formula, ratios, rewards
from jaxpost.objectives.base import Batch, Objective, View, masked, mean_over


@dataclasses.dataclass(frozen=True)
class PolicyGradient(Objective):
    """Parts of an RL algorithm over groups.

    loss = aggregate( surrogate(ratio, advantage) + kl_coef * kl - entropy_coef * entropy )

    Differs from the papers in: `gvm_raft` is the loss of RAFT++ with its clip_high of 0.2, since its paper defines no loss of
    its own; the run script that it released raises the bound, which is clip_high=0.3 here.
    """

    reward_low: float = 0.0  # a verifier's score s in [0, 1] counts reward_low + (1 - reward_low) s
    baseline: str = "none"  # advantages.BASELINES, accepted (RAFT weights), positive (RAFT++) or outside (Batch.outside_N)
    rejected: str = "counted"  # advantages.REJECTED: rows of A = 0, of baselines accepted and positive
    scale: str = "none"  # advantages.SCALES
    ddof: int = 1  # of the standard deviation
    eps: float = 1e-4  # added to the standard deviation
    lone_reward: str = "zero"  # advantages.LONE: the advantage of a group's only reward (verl: "reward")
    whiten: str = "none"  # advantages.WHITENINGS, over the whole batch, after the group's
    informative_only: bool = False  # groups of equal rewards get advantage 0
    credit_unit: str = "row"  # row: one advantage a row; token: rewards to go, a KL reward penalty on its own token
    gamma: float = 1.0  # discount a token, of credit_unit "token"
    ratio: str = "none"  # ratios.LEVELS
    log_ratio_clamp: float | None = None  # |log ratio| of a token is held at it (verl, Tunix: 20)
    clip: str = "surrogate"  # clipping.RULES
    clip_low: float | None = None  # 1 - clip_low is the lower bound of the ratio
    clip_high: float | None = None  # 1 + clip_high is the upper bound
    clip_cap: float | None = None  # of clip "capped_weight": the ratio's bound itself (TRL: epsilon_high), instead of clip_high
    dual_clip: float | None = None  # c > 1: the loss of A < 0 is at most c |A| (verl: 3)
    ratio_cap: float | None = None  # the ratio itself is held below it, for any sign of A (TRL's delta)
    sampler_cap: float | None = None  # upper bound of the importance weight w = proximal / behaviour, which corrects for
    sampler_floor: float | None = None  # a sampler that is not quite the trainer; and its lower bound; both None: no weight
    sampler_level: str = "token"  # ratios.SAMPLER_LEVELS: what w is taken over
    sampler_rule: str = "truncate"  # ratios.SAMPLER_RULES: what becomes of w outside its bounds
    off_policy_limit: float | None = None  # tokens with A < 0 carry no loss in rows with mean_t(b - l) above it, nats
    kl_estimator: str = "k3"  # kl.ESTIMATORS, read when kl_place is not "none"
    kl_place: str = "none"  # kl.PLACES
    kl_gradient: str = "value"  # kl.GRADIENTS, of a KL in the loss
    kl_clamp: float | None = None  # a token's estimate is held in [-kl_clamp, kl_clamp] (verl's k3: 10)
    kl_log_ratio_clamp: float | None = None  # before that, its log-ratio to the reference (verl's k3: 20)
    kl_coef: float = 0.0  # default weight; a step may pass its own as an argument
    entropy_coef: float = 0.0  # weight of the entropy bonus
    mask_truncated: bool = False  # rows cut before their end token carry no loss
    overlong_limit: int | None = None  # DAPO's soft overlong reward: -1 from this length on
    overlong_cache: int = 0  # tokens before the limit over which it grows

    def __post_init__(self):
        super().__post_init__()
        self.choose(baseline=(*advantages.BASELINES, *policy_checks.OWN_SCALE), scale=advantages.SCALES,
                    whiten=advantages.WHITENINGS, credit_unit=("row", "token"), ratio=ratios.LEVELS,
                    clip=clipping.RULES, kl_estimator=kl.ESTIMATORS, kl_place=kl.PLACES, kl_gradient=kl.GRADIENTS,
                    ddof=(0, 1), lone_reward=advantages.LONE, rejected=advantages.REJECTED,
                    sampler_level=ratios.SAMPLER_LEVELS, sampler_rule=ratios.SAMPLER_RULES)
        policy_checks.consistent(self)
        policy_checks.ranges(self)
        policy_checks.unread(self)

    @property
    def counts_rows(self) -> bool:
        """As `Objective.counts_rows`; whitening over rows is a mean over them too."""
        return super().counts_rows or self.whiten == "row"

    @property
    def compares(self) -> bool:
        """Whether a row's advantage comes from the other rewards of its group, which a lone reward has not."""
        return self.baseline in advantages.COMPARING

    @property
    def takes_deviation(self) -> bool:
        """Whether an advantage is divided by a standard deviation."""
        return self.scale in ("group", "batch")

    @property
    def rejects(self) -> bool:
        """Whether some rows have advantage 0 because they are rejected."""
        return self.baseline in ("accepted", "positive")

    @property
    def never_negative(self) -> bool:
        """Whether no advantage can be below 0."""
        return self.rejects or (self.baseline, self.whiten) == ("best_gap", "none")

    @property
    def corrects_sampler(self) -> bool:
        """Whether the loss of a token is weighted for a sampler that is not quite the trainer."""
        return self.sampler_cap is not None or self.sampler_floor is not None

    @property
    def weighs_behaviour(self) -> bool:
        """Whether the loss of a token is weighted by its probability now over that when it was sampled."""
        return self.ratio != "none" or self.corrects_sampler

    @property
    def refuses_replay(self) -> str:
        """As `Objective.refuses_replay`."""
        if "replay" in self.needs:
            return ""
        if self.kl_place == "reward":
            return "whose KL in the reward is that of the policy that sampled a row"
        return "" if self.weighs_behaviour else "which has no importance ratio to the policy that sampled a row"

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        needed = set()
        if self.kl_place != "none":
            needed.add("reference_logits" if self.kl_estimator == "full" else "reference")
        if self.kl_place == "loss" and self.kl_estimator == "full":
            needed.add("logits")
        if self.entropy_bonus:
            needed.add("policy_entropy")
        if self.corrects_sampler:
            needed.add("proximal")
        if self.mask_truncated:
            needed.add("truncated")
        if self.baseline == "outside":
            needed.add("outside")
        return frozenset(needed)

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        return policy_formula.lines(self)

    def surrogate_formula(self) -> list[str]:
        """What `surrogate` takes of a token, and lines that say what it reads."""
        return [clipping.written(self.clip, self.clip_low, self.clip_high, self.clip_cap, self.ratio_cap),
                *(["where A < 0 the surrogate is at most dual_clip |A|, without gradient beyond"] if self.dual_clip else [])]

    def advantage_formula(self) -> list[str]:
        """How `prepare` makes A."""
        return policy_formula.advantage(self)

    def centred_formula(self) -> str:
        """What `centred` makes of the score of a row."""
        return advantages.written(self.baseline, self.scale, self.rejected)

    def credit_formula(self) -> list[str]:
        """How rewards s_t of tokens become A, with credit_unit="token"."""
        return ["A_t = s_t + gamma A_(t+1)"]

    def bonus_formula(self) -> str:
        """The entropy bonus of a token, with its weight."""
        return "entropy_coef H"

    def further_formula(self) -> str:
        """What a subclass adds to the loss of a token."""
        return ""

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """Fill `advantage_NxT` from the rewards of the whole batch; as `Objective.prepare`.

        Raises:
          ValueError: rows that G does not divide, or a field that `needs` names is missing.
        """
        batch = self.check(batch, group)
        for field in ("reward_N", "behaviour_NxT"):
            self.require(getattr(batch, field) is not None, f"needs Batch.{field}, and the batch has none")
        self.require(group > 1 or self.lone_reward == "reward" or not self.compares,
                     f"baseline={self.baseline!r} with one sample a prompt gives every row advantage 0; sample at least 2 "
                     "(group), or choose lone_reward='reward' or baseline='none'")
        coef = self.kl_coef if kl_coef is None else kl_coef
        score_N = self.score(batch, coef, state)
        batch = self.compare(batch, score_N, group)
        if self.mask_truncated:  # out of the loss, not out of its group
            batch = batch._replace(mask_NxT=batch.mask_NxT * (1 - batch.truncated_N)[:, None])
        batch = self.credit(batch, coef, group)
        if self.corrects_sampler and self.sampler_rule == "reject":
            batch = batch._replace(mask_NxT=batch.mask_NxT * self.sampler_weight(batch))
        present_Nx1 = self._compared(jnp.where(jnp.isnan(batch.reward_N), jnp.nan, score_N), group)[:, None]
        live_NxT = batch.mask_NxT * present_Nx1
        advantage_NxT = jnp.where(present_Nx1, batch.advantage_NxT, 0.0)
        counted_N = present_Nx1[:, 0] if self.whiten == "row" and self.aggregation_empty == "counted" else None
        return jax.lax.stop_gradient(batch._replace(
            advantage_NxT=advantages.whiten(advantage_NxT, live_NxT, self.whiten, self.eps, counted_N)))

    def _compared(self, score_N, group):
        """bool_N: rows with a reward and, unless `lone_reward` says otherwise, another one of their group to compare with."""
        present_BxG = ~jnp.isnan(score_N).reshape(-1, group)
        if self.lone_reward == "zero" and self.compares:
            present_BxG = present_BxG & (present_BxG.sum(axis=1, keepdims=True) > 1)
        return present_BxG.reshape(-1)

    def score(self, batch: Batch, kl_coef: jax.Array | float, state: dict | None) -> jax.Array:
        """reward_N after the shaping that the objective asks for: range, overlong penalty, KL penalty of the row."""
        del state
        score_N = self.reward_low + (1 - self.reward_low) * batch.reward_N
        if self.overlong_limit is not None:
            score_N = score_N + rewards.soft_overlong(batch.mask_NxT.sum(axis=1), self.overlong_limit, self.overlong_cache)
        if self.kl_place == "reward" and self.credit_unit == "row":
            score_N = score_N - kl_coef * self._sampled_kl(batch).sum(axis=1)
        return score_N

    def compare(self, batch: Batch, score_N: jax.Array, group: int) -> Batch:
        """Fill `advantage_NxT` with each row's score against its group, the same on all its tokens."""
        score_BxG = score_N.reshape(-1, group)
        advantage_BxG = self.centred(batch, score_BxG)
        if self.rejected == "left_out":
            rejected_N = advantage_BxG.reshape(-1) == 0
            batch = batch.leave_out(rejected_N)._replace(mask_NxT=batch.mask_NxT * ~rejected_N[:, None])
        elif self.baseline == "accepted":
            kept_N = jnp.repeat(advantage_BxG.sum(axis=1) > 0, group)
            batch = batch._replace(mask_NxT=batch.mask_NxT * kept_N[:, None])
        if self.informative_only:
            advantage_BxG = advantage_BxG * advantages.informative(score_BxG)
        return batch._replace(advantage_NxT=jnp.broadcast_to(advantage_BxG.reshape(-1, 1), batch.mask_NxT.shape))

    def centred(self, batch: Batch, score_BxG: jax.Array) -> jax.Array:
        """advantage_BxG of the rows, from their scores."""
        if self.baseline == "accepted":
            return (score_BxG >= 1).astype(score_BxG.dtype) if self.rejected == "left_out" else advantages.accepted(score_BxG)
        if self.baseline == "positive":
            return advantages.positive(score_BxG)
        if self.baseline == "outside":
            difference_BxG = score_BxG - batch.outside_N.reshape(score_BxG.shape)
            return jnp.where(jnp.isnan(difference_BxG), 0.0, difference_BxG)
        return advantages.advantage(score_BxG, baseline=self.baseline, scale=self.scale, ddof=self.ddof, eps=self.eps,
                                    lone=self.lone_reward, length_BxG=batch.mask_NxT.sum(axis=1).reshape(score_BxG.shape))

    def credit(self, batch: Batch, kl_coef: jax.Array | float, group: int) -> Batch:
        """Turn row advantages into token advantages: as they are, or rewards to go with a KL penalty a token."""
        del group
        if self.credit_unit == "row":
            return batch
        reward_NxT = self.token_rewards(batch, kl_coef)
        return batch._replace(advantage_NxT=advantages.returns(reward_NxT, batch.mask_NxT, self.gamma))

    def token_rewards(self, batch: Batch, kl_coef: jax.Array | float) -> jax.Array:
        """reward_NxT: the row's advantage on its last counted token, minus the KL penalty of each token."""
        reward_NxT = advantages.on_last_token(batch.advantage_NxT[:, 0], batch.mask_NxT)
        return reward_NxT - kl_coef * self._sampled_kl(batch) if self.kl_place == "reward" else reward_NxT

    def _sampled_kl(self, batch):
        k_NxT = kl.estimate(batch.behaviour_NxT, batch.reference_NxT, self.kl_estimator, self.kl_clamp, self.kl_log_ratio_clamp)
        return jnp.where(batch.mask_NxT > 0, k_NxT, 0.0)

    def old(self, batch: Batch) -> jax.Array:
        """old_NxT: log-probabilities under the proximal policy where the batch has it, else under the behaviour."""
        return batch.behaviour_NxT if batch.proximal_NxT is None else batch.proximal_NxT

    def importance(self, view: View, batch: Batch) -> jax.Array:
        """ratio_NxT of the current policy to the old one."""
        return ratios.ratio(view.logp_NxT, self.old(batch), batch.mask_NxT, self.ratio, self.log_ratio_clamp)

    def surrogate(self, view: View, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(per-token policy loss, which tokens the clip holds)."""
        return clipping.clipped(self.importance(view, batch), view.logp_NxT, batch.advantage_NxT, rule=self.clip,
                                low=self.clip_low, high=self.clip_high, cap=self.clip_cap, dual=self.dual_clip,
                                ratio_cap=self.ratio_cap)

    def sampler_weight(self, batch: Batch) -> jax.Array:
        """weight_NxT for a sampler that is not quite the trainer, without gradient; 1 on demonstrated tokens."""
        sampled_NxT = batch.sampled_NxT
        weight_NxT = ratios.sampler_weight(batch.proximal_NxT, batch.behaviour_NxT, sampled_NxT, level=self.sampler_level,
                                           rule=self.sampler_rule, low=self.sampler_floor, high=self.sampler_cap)
        return jnp.where((sampled_NxT > 0) | (batch.mask_NxT <= 0), weight_NxT, 1.0)

    def off_policy(self, view: View, batch: Batch) -> jax.Array:
        """bool_NxT: tokens with A < 0 in rows that the policy has left, mean b - l of sampled tokens > off_policy_limit."""
        counted_NxT = batch.sampled_NxT > 0
        away_NxT = jnp.where(counted_NxT, batch.behaviour_NxT - jax.lax.stop_gradient(view.logp_NxT), 0.0)
        mean_N = away_NxT.sum(axis=1) / jnp.maximum(counted_NxT.sum(axis=1), 1)
        return (batch.advantage_NxT < 0) & (mean_N > self.off_policy_limit)[:, None]

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`."""
        del state
        view, batch = masked(view, batch)
        x_NxT, aux = self.token_loss(view, batch, kl_coef)
        return *self.aggregate(x_NxT, batch), aux

    def token_loss(self, view: View, batch: Batch, kl_coef: jax.Array | float | None):
        """(per-token loss before aggregation, aux: means over sampled tokens)."""
        x_NxT, held = self.surrogate(view, batch)
        if self.off_policy_limit is not None:
            x_NxT = jnp.where(self.off_policy(view, batch), 0.0, x_NxT)
        if self.corrects_sampler and self.sampler_rule != "reject":  # which has left its tokens out
            x_NxT = x_NxT * self.sampler_weight(batch)
        aux = {"clipped": mean_over(held, batch.sampled_NxT)}
        if self.kl_place == "loss":
            coef = self.kl_coef if kl_coef is None else kl_coef
            k_NxT = self.kl_term(view, batch)
            aux["kl"] = mean_over(k_NxT, batch.sampled_NxT)
            weighed_NxT = k_NxT if batch.kl_weight_N is None else k_NxT * batch.kl_weight_N[:, None]
            x_NxT = x_NxT + coef * weighed_NxT
        if self.entropy_bonus:
            aux["entropy"] = mean_over(view.entropy_NxT, batch.sampled_NxT)
            x_NxT = x_NxT - self.entropy_weight(batch) * view.entropy_NxT
        return x_NxT, aux

    def kl_term(self, view: View, batch: Batch) -> jax.Array:
        """The KL of a token in the loss, before its weight."""
        if self.kl_estimator == "full":
            return kl.full_vocabulary(view.logits_NxTxV, view.reference_NxTxV)
        return kl.penalty(view.logp_NxT, batch.reference_NxT, self.kl_estimator, self.kl_gradient,
                          self.importance(view, batch), self.kl_clamp, self.kl_log_ratio_clamp)

    @property
    def entropy_bonus(self) -> bool:
        """Whether the loss has one."""
        return self.entropy_coef > 0

    def entropy_weight(self, batch: Batch) -> jax.Array | float:
        """The weight of the entropy bonus of a token."""
        return self.entropy_coef


ROWS = (
    PolicyGradient("raft", "rl", "arXiv:2304.06767", "groups", baseline="accepted", rejected="left_out"),
    PolicyGradient("reinforce", "rl", "doi:10.1007/BF00992696", "groups", baseline="mean", aggregation="sequence_sum"),
    PolicyGradient("remax", "rl", "arXiv:2310.10505", "groups", baseline="outside", aggregation="sequence_sum"),
    PolicyGradient("rloo", "rl", "arXiv:2402.14740", "groups", baseline="leave_one_out", ratio="sequence_product",
                   clip_low=0.2, clip_high=0.2, aggregation="sequence"),
    PolicyGradient("grpo", "rl", "arXiv:2402.03300", "groups", baseline="mean", scale="group", ratio="token",
                   clip_low=0.2, clip_high=0.2, aggregation="sequence"),
    PolicyGradient("dr_grpo", "rl", "arXiv:2503.20783", "groups", baseline="mean", ratio="token", clip_low=0.2,
                   clip_high=0.2, aggregation="constant", aggregation_length=1024),
    PolicyGradient("dapo", "rl", "arXiv:2503.14476", "groups", baseline="mean", scale="group", ratio="token",
                   clip_low=0.2, clip_high=0.28, mask_truncated=True, overlong_limit=20480, overlong_cache=4096),
    PolicyGradient("opo", "rl", "arXiv:2505.23585", "groups", baseline="length_weighted", aggregation="sequence_sum"),
    PolicyGradient("gpg", "rl", "arXiv:2504.02546", "groups", baseline="mean", scale="informative"),
    PolicyGradient("grpo_passk", "rl", "arXiv:2503.19595", "groups", baseline="best_gap", scale="group", ratio="token",
                   clip_high=0.2, aggregation="sequence"),
    PolicyGradient("deepseek_v3_2", "rl", "arXiv:2512.02556", "groups", baseline="mean", ratio="token", clip_low=0.2,
                   clip_high=0.2, aggregation="sequence", off_policy_limit=0.5, kl_place="loss", kl_coef=0.001,
                   kl_gradient="ratio_weighted"),
    PolicyGradient("tis", "rl", "F. Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL Training, 2025",
                   "groups", baseline="mean", scale="group", ratio="token", clip_low=0.2, clip_high=0.2, sampler_cap=2.0),
    PolicyGradient("mis", "rl", "J. Liu et al., When Speed Kills Stability, 2025", "groups", baseline="mean", scale="group",
                   ratio="token", clip_low=0.2, clip_high=0.2, sampler_cap=3.0, sampler_level="sequence", sampler_rule="mask"),
    PolicyGradient("icepop", "rl", "arXiv:2510.18855", "groups", baseline="mean", scale="group", ratio="token", clip_low=0.2,
                   clip_high=0.2, sampler_floor=0.5, sampler_cap=5.0, sampler_rule="mask"),
    PolicyGradient("gspo", "rl", "arXiv:2507.18071", "groups", baseline="mean", scale="group", ratio="sequence",
                   clip_low=3e-4, clip_high=4e-4, aggregation="sequence"),
    PolicyGradient("gspo_token", "rl", "arXiv:2507.18071", "groups", baseline="mean", scale="group",
                   ratio="sequence_token", clip_low=3e-4, clip_high=4e-4, aggregation="sequence"),
    PolicyGradient("luspo", "rl", "arXiv:2602.05261", "groups", baseline="mean", scale="group", ratio="sequence",
                   clip_low=0.2, clip_high=0.2, aggregation="sequence_sum"),
    PolicyGradient("cispo", "rl", "arXiv:2506.13585", "groups", baseline="mean", scale="group", ratio="token",
                   clip="weight", clip_high=0.28),
    PolicyGradient("reinforce_pp", "rl", "arXiv:2501.03262", "groups", credit_unit="token", whiten="token",
                   kl_place="reward", kl_estimator="k1", kl_coef=0.001, ratio="token", clip_low=0.2, clip_high=0.2),
    PolicyGradient("reinforce_pp_baseline", "rl", "arXiv:2501.03262", "groups", baseline="mean", whiten="token",
                   ratio="token", clip_low=0.2, clip_high=0.2, kl_place="loss", kl_estimator="k2", kl_coef=0.001),
    PolicyGradient("raft_pp", "rl", "arXiv:2504.11343", "groups", baseline="positive", reward_low=-1.0, ratio="token",
                   clip_high=0.2, kl_place="loss", kl_coef=0.001, entropy_coef=0.001),
    PolicyGradient("gvm_raft", "rl", "arXiv:2505.02391 (the loss)", "groups", baseline="positive", reward_low=-1.0,
                   ratio="token", clip_high=0.2, kl_place="loss", kl_coef=0.001, entropy_coef=0.001),
    PolicyGradient("reinforce_rej", "rl", "arXiv:2504.11343", "groups", reward_low=-1.0, informative_only=True,
                   ratio="token", clip_low=0.2, clip_high=0.2, dual_clip=3.0, kl_place="loss", kl_coef=0.001,
                   entropy_coef=0.001),
)
