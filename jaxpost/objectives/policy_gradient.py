"""Policy gradients over groups of samples: advantage x ratio x clip x KL, each chosen on its own.

Shapes: B prompts, G samples a prompt, N = B*G rows, T completion tokens, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import advantages, clipping, kl, policy_formula, ratios, rewards
from jaxpost.objectives.base import Batch, Objective, View, masked, mean_over

_OWN_SCALE = tuple(advantages.WEIGHT_FORMULAS)  # baselines that advantages.advantage does not know


@dataclasses.dataclass(frozen=True)
class PolicyGradient(Objective):
    """Parts of an RL algorithm over groups.

    loss = aggregate( surrogate(ratio, advantage) + kl_coef * kl - entropy_coef * entropy )
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
    sampler_cap: float | None = None  # truncated importance weight min(proximal / behaviour, cap) of each token
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
        self.choose(baseline=(*advantages.BASELINES, *_OWN_SCALE), scale=advantages.SCALES,
                    whiten=advantages.WHITENINGS, credit_unit=("row", "token"), ratio=ratios.LEVELS,
                    clip=clipping.RULES, kl_estimator=kl.ESTIMATORS, kl_place=kl.PLACES, kl_gradient=kl.GRADIENTS,
                    ddof=(0, 1), lone_reward=advantages.LONE,
                    rejected=advantages.REJECTED)
        self._require_consistent_parts()
        self._require_ranges()
        self._refuse_unread_parts()

    def _require_consistent_parts(self):
        self.require(self.clip_cap is None or self.clip == "capped_weight",
                     f"clip_cap={self.clip_cap} with clip={self.clip!r}: only 'capped_weight' takes a cap")
        self.require(self.clip != "capped_weight" or (self.clip_cap is None) != (self.clip_high is None),
                     f"clip='capped_weight' with clip_cap={self.clip_cap}, clip_high={self.clip_high} needs one of the two: "
                     "clip_cap is the bound of the ratio itself (TRL's epsilon_high, in spite of its name), clip_high its "
                     "distance from 1")
        self.require(self.clip == "surrogate" or self.ratio != "none",
                     f"clip={self.clip!r} weights by a ratio and needs one, e.g. ratio='token', not 'none'")
        self.require(self.baseline != "accepted" or (self.kl_place != "reward" and self.overlong_limit is None),
                     "baseline='accepted' asks for a score of 1, which a penalty in the reward takes from every row; "
                     "put the KL in the loss and leave overlong_limit None")
        self.require(not self.informative_only or self.whiten == "none",
                     f"informative_only with whiten={self.whiten!r} would give the other groups an advantage again; "
                     "choose whiten='none'")
        self.require(self.kl_estimator != "full" or self.kl_place != "reward",
                     "kl_estimator='full' is a term of the loss; in the reward use 'k1'")
        self.require(self.kl_estimator != "full" or self.kl_gradient == "value",
                     f"kl_estimator='full' is exact; kl_gradient={self.kl_gradient!r} must be 'value'")

    def _require_ranges(self):
        self.require(self.clip_cap is None or self.clip_cap > 0,
                     f"clip_cap={self.clip_cap} must be greater than 0; it is the bound of the ratio itself, e.g. 1.28; for a "
                     "distance from 1 use clip_high, e.g. 0.28")
        for field in ("clip_low", "clip_high"):
            value = getattr(self, field)
            self.require(value is None or value > 0,
                         f"{field}={value} must be greater than 0; it is a distance from 1, e.g. 0.2")
        self.require(self.clip_low is None or self.clip_low <= 1, f"clip_low={self.clip_low} is above 1: no ratio is that low; "
                     "for no lower bound use None")
        self.require(self.dual_clip is None or self.dual_clip > 1 + (self.clip_high or 0),
                     f"dual_clip={self.dual_clip} must be greater than 1 + clip_high, e.g. 3")
        for field in ("eps", "kl_coef"):
            self.require(getattr(self, field) >= 0, f"{field}={getattr(self, field)} is negative")
        self.require(0 <= self.gamma <= 1, f"gamma={self.gamma} must lie in [0, 1], e.g. 1")
        self.require(self.reward_low < 1, f"reward_low={self.reward_low} must be below 1, e.g. -1")
        self.require(self.overlong_limit is None or 0 < self.overlong_cache <= self.overlong_limit,
                     f"overlong_cache={self.overlong_cache} must lie in 1 .. overlong_limit={self.overlong_limit}")
        for field, usual in (("sampler_cap", 2), ("ratio_cap", 2)):
            value = getattr(self, field)
            self.require(value is None or value > 1, f"{field}={value} must be greater than 1, e.g. {usual}")
        for field, usual in (("log_ratio_clamp", 20), ("kl_log_ratio_clamp", 20), ("kl_clamp", 10)):
            value = getattr(self, field)
            self.require(value is None or value > 0, f"{field}={value} must be greater than 0, e.g. {usual}")

    def _refuse_unread_parts(self):
        if self.kl_place == "none":
            self.unread("with kl_place='none' (choose 'loss' or 'reward')", "kl_estimator", "kl_gradient", "kl_coef")
        if self.kl_place == "none" or self.kl_estimator == "full":
            self.unread("without a KL from log-probabilities of the sampled tokens", "kl_clamp", "kl_log_ratio_clamp")
        if self.kl_place == "reward":
            self.unread("with kl_place='reward': a reward has no gradient (choose kl_place='loss')", "kl_gradient")
        if self.ratio == "none":
            self.unread("with ratio='none', whose value is always 1 (choose ratio='token')", "clip_low", "clip_high",
                        "dual_clip", "ratio_cap", "log_ratio_clamp")
        if self.clip != "surrogate":
            self.unread(f"with clip={self.clip!r} (choose clip='surrogate')", "dual_clip", "ratio_cap")
        if self.clip == "capped_weight":
            self.unread("with clip='capped_weight' (choose clip='weight')", "clip_low")
        if self.scale == "none":
            self.unread("where no standard deviation is taken (choose a scale)", "ddof",
                        *(() if self.whiten == "row" else ("eps",)))
        if self.baseline not in ("mean", "leave_one_out"):
            self.unread(f"with baseline={self.baseline!r}, which compares with no other sample of the group", "lone_reward")
        if self.baseline in _OWN_SCALE:
            self.unread(f"with baseline={self.baseline!r}", "scale")
        if self.baseline in ("accepted", "positive"):
            self.unread(f"with baseline={self.baseline!r}, whose advantages are not negative", "clip_low", "dual_clip")
        if self.baseline == "accepted":
            self.unread("with baseline='accepted', which asks for a score of 1", "reward_low")
        if self.baseline not in ("accepted", "positive"):
            self.unread(f"with baseline={self.baseline!r}, which rejects no row (choose 'accepted' or 'positive')", "rejected")
        if self.baseline in ("mean", "leave_one_out"):
            self.unread(f"with baseline={self.baseline!r}, which gives equal rewards advantage 0 anyway", "informative_only")
        if self.credit_unit == "row":
            self.unread("with credit_unit='row' (choose credit_unit='token')", "gamma")
        elif self.gamma == 1 and self.kl_place != "reward":
            self.unread("with gamma=1 and no KL reward, where every token has its row's advantage", "credit_unit")
        if self.overlong_limit is None:
            self.unread("without an overlong_limit", "overlong_cache")

    @property
    def counts_rows(self) -> bool:
        """As `Objective.counts_rows`; whitening over rows is a mean over them too."""
        return super().counts_rows or self.whiten == "row"

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        found = set()
        if self.kl_place != "none":
            found.add("reference_logits" if self.kl_estimator == "full" else "reference")
        if self.kl_place == "loss" and self.kl_estimator == "full" or self.entropy_coef:
            found.add("logits")
        if self.sampler_cap is not None:
            found.add("proximal")
        if self.mask_truncated:
            found.add("truncated")
        if self.baseline == "outside":
            found.add("outside")
        return frozenset(found)

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

    def credit_formula(self) -> list[str]:
        """How rewards s_t of tokens become A, with credit_unit="token"."""
        return ["A_t = s_t + gamma A_(t+1)"]

    def further_formula(self) -> str:
        """What a subclass adds to the loss of a token."""
        return ""

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """Fill `advantage_NxT` from the rewards of the whole batch; as `Objective.prepare`.

        Raises:
          ValueError: rows that G does not divide, or a field that `needs` names is missing.
        """
        self.check(batch, group)
        for field in ("reward_N", "behaviour_NxT"):
            self.require(getattr(batch, field) is not None, f"needs Batch.{field}, and the batch has none")
        self.require(group > 1 or self.lone_reward == "reward" or self.baseline not in ("mean", "leave_one_out"),
                     f"baseline={self.baseline!r} with one sample a prompt gives every row advantage 0; sample at least 2 "
                     "(group), or choose lone_reward='reward' or baseline='none'")
        coef = self.kl_coef if kl_coef is None else kl_coef
        score_N = self.score(batch, coef, state)
        if self.mask_truncated:  # out of the loss, not out of its group
            batch = batch._replace(mask_NxT=batch.mask_NxT * (1 - batch.truncated_N)[:, None])
        batch = self.credit(self.compare(batch, score_N, group), coef)
        present_Nx1 = self._compared(jnp.where(jnp.isnan(batch.reward_N), jnp.nan, score_N), group)[:, None]
        live_NxT = batch.mask_NxT * present_Nx1
        advantage_NxT = jnp.where(present_Nx1, batch.advantage_NxT, 0.0)
        counted_N = present_Nx1[:, 0] if self.whiten == "row" and self.aggregation_empty == "counted" else None
        return jax.lax.stop_gradient(batch._replace(
            advantage_NxT=advantages.whiten(advantage_NxT, live_NxT, self.whiten, self.eps, counted_N)))

    def _compared(self, score_N, group):
        """bool_N: rows with a reward and, unless `lone_reward` says otherwise, another one of their group to compare with."""
        present_BxG = ~jnp.isnan(score_N).reshape(-1, group)
        if self.lone_reward == "zero" and self.baseline in ("mean", "leave_one_out"):
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
        if self.baseline == "accepted" and self.rejected == "left_out":
            advantage_BxG = (score_BxG >= 1).astype(score_BxG.dtype)
        elif self.baseline == "accepted":
            advantage_BxG = advantages.accepted(score_BxG)
            kept_N = jnp.repeat(advantage_BxG.sum(axis=1) > 0, group)
            batch = batch._replace(mask_NxT=batch.mask_NxT * kept_N[:, None])
        elif self.baseline == "positive":
            advantage_BxG = advantages.positive(score_BxG)
        elif self.baseline == "outside":
            difference_BxG = score_BxG - batch.outside_N.reshape(-1, group)
            advantage_BxG = jnp.where(jnp.isnan(difference_BxG), 0.0, difference_BxG)
        else:
            advantage_BxG = advantages.advantage(score_BxG, baseline=self.baseline, scale=self.scale, ddof=self.ddof,
                                                 eps=self.eps, lone=self.lone_reward)
        if self.rejected == "left_out":
            rejected_N = advantage_BxG.reshape(-1) == 0
            batch = batch.leave_out(rejected_N)._replace(mask_NxT=batch.mask_NxT * ~rejected_N[:, None])
        if self.informative_only:
            advantage_BxG = advantage_BxG * advantages.informative(score_BxG)
        return batch._replace(advantage_NxT=jnp.broadcast_to(advantage_BxG.reshape(-1, 1), batch.mask_NxT.shape))

    def credit(self, batch: Batch, kl_coef: jax.Array | float) -> Batch:
        """Turn row advantages into token advantages: as they are, or rewards to go with a KL penalty a token."""
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

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`."""
        del state
        view, batch = masked(view, batch)
        x_NxT, aux = self.token_loss(view, batch, kl_coef)
        return *self.aggregate(x_NxT, batch), aux

    def token_loss(self, view: View, batch: Batch, kl_coef: jax.Array | float | None):
        """(per-token loss before aggregation, aux)."""
        x_NxT, held = self.surrogate(view, batch)
        if self.sampler_cap is not None:
            weight_NxT = ratios.truncated_weight(batch.proximal_NxT, batch.behaviour_NxT, self.sampler_cap)
            shown = False if batch.demonstration_NxT is None else batch.demonstration_NxT > 0
            x_NxT = jnp.where(shown, x_NxT, x_NxT * weight_NxT)  # a demonstration was not sampled
        aux = {"clipped": mean_over(held, batch.mask_NxT)}
        if self.kl_place == "loss":
            coef = self.kl_coef if kl_coef is None else kl_coef
            if self.kl_estimator == "full":
                k_NxT = kl.full_vocabulary(view.logits_NxTxV, view.reference_NxTxV)
            else:
                k_NxT = kl.penalty(view.logp_NxT, batch.reference_NxT, self.kl_estimator, self.kl_gradient,
                                   self.importance(view, batch), self.kl_clamp, self.kl_log_ratio_clamp)
            aux["kl"] = mean_over(k_NxT, batch.mask_NxT)
            x_NxT = x_NxT + coef * k_NxT
        if self.entropy_coef:
            entropy_NxT = kl.entropy(view.logits_NxTxV)
            aux["entropy"] = mean_over(entropy_NxT, batch.mask_NxT)
            x_NxT = x_NxT - self.entropy_coef * entropy_NxT
        return x_NxT, aux


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
