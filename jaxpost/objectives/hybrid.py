"""Supervised and RL signals in one loss: groups of samples in which some rows or tokens are a demonstrator's.

Shapes: B prompts, G rows a prompt, N = B*G rows, T completion tokens. `Batch.demonstration_NxT` says which tokens were
demonstrated. The behaviour log-probability of a wholly demonstrated row is 0 (the demonstrator is taken to have been certain),
that of a forced beginning, which `guidance` asks for, the policy's own.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxpost.objectives import aggregation, policy_formula, token_weights
from jaxpost.objectives.base import Batch, View, masked, mean_over
from jaxpost.objectives.policy_gradient import PolicyGradient

RESHAPE_FORMULAS = {"none": "p", "fraction": "p / (p + reshape_constant)", "power": "p^reshape_constant",
                    "logp": "l", "p_logp": "p l"}
RESHAPES = tuple(RESHAPE_FORMULAS)
GUIDANCE = ("prefix_rft", "uft")  # the rules of `training.forcing`, by name
LEFT_OUT = "wholly demonstrated rows take no part in their group's R"


@dataclasses.dataclass(frozen=True)
class MixedPolicy(PolicyGradient):
    """Demonstrations join their prompt's group and share its baseline (LUFFY, arXiv:2504.14945).

    loss of a demonstrated token = -A f(p), p = pi(token):  none: p;  fraction: p / (p + c);  power: p^c;
                                                            logp: log p;  p_logp: p log p
    loss of a sampled token      = as PolicyGradient

    With "fraction" the weight on grad log pi is c p / (p + c)^2: rare demonstrated tokens are not drowned.
    """

    reshape: str = "fraction"  # RESHAPES
    reshape_constant: float | None = 0.1  # c

    def __post_init__(self):
        super().__post_init__()
        self.choose(reshape=RESHAPES)
        self.require((self.reshape in ("fraction", "power")) == (self.reshape_constant is not None),
                     f"reshape_constant={self.reshape_constant} with reshape={self.reshape!r}: 'fraction' and 'power' need a "
                     "constant, the others take None")
        self.require(self.reshape_constant is None or self.reshape_constant > 0,
                     f"reshape_constant={self.reshape_constant} must be greater than 0, e.g. 0.1")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"demonstrations"}

    def surrogate_formula(self) -> list[str]:
        """As `PolicyGradient.surrogate_formula`."""
        x, *where = super().surrogate_formula()
        return [f"({x} on sampled tokens, -A {RESHAPE_FORMULAS[self.reshape]} on demonstrated ones)", *where, "p = exp(l)"]

    def surrogate(self, view: View, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(per-token policy loss, which tokens the clip holds); a demonstrated token is never held."""
        x_NxT, held = super().surrogate(view, batch)
        p_NxT = jnp.exp(view.logp_NxT)
        if self.reshape == "fraction":
            p_NxT = p_NxT / (p_NxT + self.reshape_constant)
        elif self.reshape == "power":
            p_NxT = jnp.exp(self.reshape_constant * view.logp_NxT)
        elif self.reshape in ("logp", "p_logp"):
            p_NxT = view.logp_NxT * (1.0 if self.reshape == "logp" else p_NxT)
        demonstrated = batch.demonstration_NxT > 0
        return jnp.where(demonstrated, -batch.advantage_NxT * p_NxT, x_NxT), held & ~demonstrated


@dataclasses.dataclass(frozen=True)
class WeightedSum(PolicyGradient):
    """L = (1 - mu) L_RL + mu L_SFT, each a mean over its own tokens (CHORD, arXiv:2508.11408).

    L_RL is the policy gradient of the sampled rows, whose group statistics leave demonstrations out; L_SFT the weighted
    negative log-likelihood of demonstrated tokens. mu is constant, or rises linearly from 0 to `sft_weight` over
    `warmup` batches and falls along a cosine to `sft_weight_end` over the next `decay`.
    """

    sft_weight: float = 0.1  # mu, or its peak
    sft_weight_end: float | None = None  # None: mu is constant
    warmup: int = 0  # batches
    decay: int = 0  # batches
    complement: bool = True  # False: L_RL + mu L_SFT
    sft_token_weight: str = "none"  # token_weights.KINDS
    sft_cutoff: float | None = None  # demonstrated tokens of at least this probability have no gradient, l is held there
    sft_aggregation: str = "token"  # of L_SFT: token, sequence or sequence_sum
    guidance: str | None = None  # GUIDANCE of the source: demonstrations are the beginnings of answers, not answers apart

    def __post_init__(self):
        super().__post_init__()
        modes = ("token", "sequence", "sequence_sum")
        self.choose(sft_token_weight=token_weights.KINDS, sft_aggregation=modes, aggregation=modes, guidance=(None, *GUIDANCE))
        self.require(self.sft_weight >= 0, f"sft_weight={self.sft_weight} is negative, e.g. 0.1")
        self.require(not self.complement or self.sft_weight <= 1,
                     f"sft_weight={self.sft_weight} is above 1 and 1 - mu negative; for L_RL + mu L_SFT set complement=False")
        self.require(self.sft_cutoff is None or 0 < self.sft_cutoff < 1,
                     f"sft_cutoff={self.sft_cutoff} must lie between 0 and 1, e.g. 0.9; for no cutoff use None")
        scheduled = self.sft_weight_end is not None
        self.require(scheduled == (self.decay > 0) and (scheduled or not self.warmup),
                     f"sft_weight_end={self.sft_weight_end}, warmup={self.warmup}, decay={self.decay}: a schedule needs "
                     "sft_weight_end and decay > 0, a constant weight has neither of the three")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"demonstrations" if self.guidance is None else "prefixes"}

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        w = token_weights.FORMULAS[self.sft_token_weight]
        schedule = ["mu = sft_weight"] if self.sft_weight_end is None else [
            "mu rises linearly from 0 to sft_weight over warmup batches,",
            "   then falls along a cosine to sft_weight_end over decay batches"]
        likely = "l" if self.sft_cutoff is None else "min(l, log sft_cutoff)"
        x, where = (likely, "") if w == "1" else (f"{w} {likely}", ", p = exp(l)")
        return [f"loss = {'(1 - mu) ' if self.complement else ''}L_RL + mu L_SFT", *schedule,
                f"L_SFT = {aggregation.FORMULAS[self.sft_aggregation]} [ -{x} ] of demonstrated tokens{where}",
                *policy_formula.lines(self, "L_RL", " of sampled tokens"),
                LEFT_OUT if self.guidance is None else f"answers begin with forced tokens as guidance {self.guidance!r} says"]

    def init(self) -> dict:
        """The number of batches so far, if mu has a schedule."""
        return {} if self.sft_weight_end is None else {"batches": jnp.zeros((), jnp.int32)}

    def observe(self, state: dict, batch: Batch) -> dict:
        """Count the batch."""
        return jax.tree.map(lambda x: x + 1, state)

    def weight(self, state: dict) -> jax.Array | float:
        """mu at the present batch."""
        if self.sft_weight_end is None:
            return self.sft_weight
        step = state["batches"]
        rise = self.sft_weight * jnp.minimum(step / max(self.warmup, 1), 1.0)
        along = jnp.clip((step - self.warmup) / self.decay, 0.0, 1.0)
        fall = self.sft_weight_end + 0.5 * (self.sft_weight - self.sft_weight_end) * (1 + jnp.cos(jnp.pi * along))
        return jnp.where(step < self.warmup, rise, fall)

    def score(self, batch: Batch, kl_coef: jax.Array | float, state: dict | None) -> jax.Array:
        """As `PolicyGradient.score`; a wholly demonstrated row takes no part in its group."""
        return jnp.where(wholly_demonstrated(batch), jnp.nan, super().score(batch, kl_coef, state))

    def balance(self, batch: Batch) -> Batch:
        """Fill `share_NxT`: (count of L_RL) / (count of L_SFT) over the update's rows, and `total_N`: the first of the two.

        An update without anything sampled is on the count of L_SFT, with share 1.
        """
        sampled, demonstrated = parts(batch)
        count = self.aggregate(sampled, batch.leave_out(wholly_demonstrated(batch))._replace(mask_NxT=sampled))[1]
        own = aggregation.aggregate(demonstrated, demonstrated, self.sft_aggregation)[1]
        share = jnp.where(count > 0, count / jnp.maximum(own, 1.0), 1.0)
        return super().balance(batch)._replace(share_NxT=jnp.broadcast_to(share, demonstrated.shape),
                                               total_N=jnp.broadcast_to(count, demonstrated.shape[:1]))

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; the count is that of L_RL, of L_SFT in an update that sampled nothing."""
        demonstrated_N = wholly_demonstrated(batch)
        view, batch = masked(view, batch)
        sampled, demonstrated = parts(batch)
        x_NxT, aux = self.token_loss(view, batch, kl_coef)
        logp_NxT = view.logp_NxT if self.sft_cutoff is None else jnp.minimum(view.logp_NxT, math.log(self.sft_cutoff))
        nll_NxT = -logp_NxT * token_weights.stopped(view.logp_NxT, self.sft_token_weight)
        rl, count = self.aggregate(x_NxT, batch.leave_out(demonstrated_N)._replace(mask_NxT=sampled))
        sft, own = aggregation.aggregate(nll_NxT * batch.share_NxT, demonstrated, self.sft_aggregation)
        count = jnp.where(batch.total_N[0] > 0, count, own)
        mu = jnp.asarray(self.weight(state), rl.dtype)
        aux["sft"] = mean_over(nll_NxT, demonstrated)
        return (1 - mu if self.complement else 1.0) * rl + mu * sft, count, aux


@dataclasses.dataclass(frozen=True)
class SingleStage(PolicyGradient):
    """Four terms in one stage (SRFT, arXiv:2506.19767), *reconstructed* from excerpts; each a mean over its own tokens.

      demonstrations   shown_weight exp(-H) (-l)  -  A p               (they join their group's baseline)
      sampled rows     sampled_weight exp(+H) (-l) where the reward is at least `right`, else l

    H is the mean entropy of the policy on the counted tokens of the term before the update, p = pi(token). The sign of H in the
    second weight is printed inconsistently in the source; its prose says that the weight grows with entropy.
    """

    shown_weight: float = 0.5
    sampled_weight: float = 0.1
    right: float = 1.0  # rewards from here on are right answers

    def __post_init__(self):
        super().__post_init__()
        self.choose(aggregation=("token",), ratio=("none",), clip=("surrogate",), kl_place=("none", "reward"))
        self.unread("on terms with weights of their own", "entropy_coef", "sampler_cap", "sampler_floor", "off_policy_limit")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"demonstrations", "entropy"}

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        return ["loss = mean over sampled tokens of x_s + mean over demonstrated tokens of x_d",
                "x_s = -sampled_weight exp(H_s) l in rows whose score is at least right, else l",
                "x_d = -shown_weight exp(-H_d) l - A p, p = exp(l)",
                "H_s, H_d: mean entropy before the update of sampled and of demonstrated tokens, no gradient",
                *self.advantage_formula()]

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """As `PolicyGradient.prepare`; `share_NxT` is the weight of a token's likelihood, negative where it is to fall."""
        batch = super().prepare(batch, group, kl_coef, state)
        sampled, demonstrated = parts(batch)
        entropy = [jnp.where(m > 0, batch.entropy_NxT, 0.0).sum() / jnp.maximum(m.sum(), 1.0) for m in (sampled, demonstrated)]
        own_N = jnp.where(batch.reward_N >= self.right, self.sampled_weight * jnp.exp(entropy[0]), -1.0)
        own_Nx1 = jnp.where(jnp.isnan(batch.reward_N), 0.0, own_N)[:, None]
        weight_NxT = jnp.where(demonstrated > 0, self.shown_weight * jnp.exp(-entropy[1]), own_Nx1)
        return batch._replace(share_NxT=jax.lax.stop_gradient(jnp.where(batch.mask_NxT > 0, weight_NxT, 0.0)))

    def balance(self, batch: Batch) -> Batch:
        """Scale the demonstrations' terms to the count of the sampled tokens: weights here, advantages there.

        An update without anything sampled is on the count of the demonstrated tokens. `total_N` is the number of sampled ones.
        """
        sampled, demonstrated = parts(batch)
        count = sampled.sum()
        scale = jnp.where((demonstrated > 0) & (count > 0), count / jnp.maximum(demonstrated.sum(), 1.0), 1.0)
        return super().balance(batch)._replace(share_NxT=batch.share_NxT * scale, advantage_NxT=batch.advantage_NxT * scale,
                                               total_N=jnp.broadcast_to(count, demonstrated.shape[:1]))

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; the count is that of the sampled tokens, of the demonstrated ones where an update has none."""
        del state, kl_coef
        view, batch = masked(view, batch)
        sampled, demonstrated = parts(batch)
        x_NxT = -batch.share_NxT * view.logp_NxT
        x_NxT = x_NxT - jnp.where(demonstrated > 0, batch.advantage_NxT * jnp.exp(view.logp_NxT), 0.0)
        count = jnp.where(batch.total_N[0] > 0, sampled.sum(), demonstrated.sum())
        return jnp.where(batch.mask_NxT > 0, x_NxT, 0.0).sum(), count, {"sft": mean_over(-view.logp_NxT, demonstrated)}


def wholly_demonstrated(batch: Batch) -> jax.Array:
    """bool_N: rows with demonstrated tokens and no sampled one. An empty row is a sampled one."""
    return (batch.demonstration_NxT > 0).any(axis=1) & (parts(batch)[0].sum(axis=1) == 0)


def parts(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Masks of sampled and of demonstrated tokens."""
    demonstrated = jnp.where(batch.mask_NxT > 0, batch.demonstration_NxT, 0.0)
    return batch.sampled_NxT, demonstrated


ROWS = (
    MixedPolicy("luffy", "hybrid", "arXiv:2504.14945", "groups", baseline="mean", ratio="token",
                aggregation="constant_total", aggregation_length=8192, entropy_coef=0.001),
    MixedPolicy("luffy_logp", "hybrid", "arXiv:2504.14945 (reshape logp)", "groups", baseline="mean", ratio="token",
                aggregation="constant_total", aggregation_length=8192, entropy_coef=0.001, reshape="logp",
                reshape_constant=None),
    MixedPolicy("luffy_p_logp", "hybrid", "arXiv:2504.14945 (reshape p_logp)", "groups", baseline="mean", ratio="token",
                aggregation="constant_total", aggregation_length=8192, entropy_coef=0.001, reshape="p_logp",
                reshape_constant=None),
    WeightedSum("chord_mu", "hybrid", "arXiv:2508.11408", "groups", baseline="mean", scale="group", ratio="token",
                clip_low=0.2, clip_high=0.2, sft_weight=0.5, sft_weight_end=0.02, warmup=200, decay=400),
    WeightedSum("chord_phi", "hybrid", "arXiv:2508.11408", "groups", baseline="mean", scale="group", ratio="token",
                clip_low=0.2, clip_high=0.2, sft_weight=0.1, sft_token_weight="p(1-p)"),
    WeightedSum("chord_phi_cutoff", "hybrid", "arXiv:2508.11408 (cutoff_prob of Trinity-RFT)", "groups", baseline="mean",
                scale="group", ratio="token", clip_low=0.2, clip_high=0.2, sft_weight=0.1, sft_token_weight="p(1-p)",
                sft_cutoff=0.9),
    WeightedSum("rl_sft", "hybrid", "arXiv:2504.14945 (baseline RL + SFT)", "groups", baseline="mean", ratio="token",
                sft_weight=1.0, complement=False),
    WeightedSum("uft", "hybrid", "arXiv:2505.16984", "groups", baseline="mean", scale="group", ratio="token", clip_low=0.2,
                clip_high=0.2, sft_weight=0.001, complement=False, kl_place="loss", kl_coef=0.001, entropy_coef=0.001,
                guidance="uft"),
    SingleStage("srft", "hybrid", "arXiv:2506.19767 (reconstructed)", "groups", baseline="mean", scale="group"),
)
