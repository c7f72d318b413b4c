"""Advantages that a group makes in other ways than from one baseline a row: a token each, for pass@k, or a reward term each.

Shapes: B prompts, G samples a prompt, N = B*G rows, T tokens, K terms of a reward.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import advantages
from jaxpost.objectives.base import Batch
from jaxpost.objectives.policy_gradient import PolicyGradient


def token_baseline(reward_NxT: jax.Array, energy_NxT: jax.Array, mask_NxT: jax.Array, present_N: jax.Array, group: int,
                   lone: str = "zero") -> jax.Array:
    """advantage_NxT = G - b over counted tokens, 0 off-mask; the baseline makes the variance of the gradient smallest.

      G_t = sum_{s>=t} reward_s    W_t = sum_{s<=t} energy_s    b = sum_group(W G) / sum_group(W) at the k-th counted token

    Args:
      reward_NxT: of each token.
      energy_NxT: squared norm of the gradient of a token's log-probability, or what stands for it.
      present_N: bool, rows that take part in their group.
      lone: advantages.LONE, where one row alone reaches the k-th token: 0, or G itself (verl's handle_zero_tail).
    """
    mask = (mask_NxT > 0) & present_N[:, None]
    order_NxT = jnp.argsort(~mask, axis=1, stable=True)  # counted tokens first, in their order
    place_NxT = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)

    def packed(x_NxT):
        return jnp.take_along_axis(jnp.where(mask, x_NxT, 0.0), order_NxT, axis=1).reshape(-1, group, x_NxT.shape[1])

    to_go_NxT = jnp.cumsum(jnp.where(mask, reward_NxT, 0.0)[:, ::-1], axis=1)[:, ::-1]
    G, there = packed(to_go_NxT), packed(mask.astype(reward_NxT.dtype)) > 0
    W = jnp.where(there, jnp.cumsum(packed(energy_NxT), axis=2), 0.0)
    total = W.sum(axis=1, keepdims=True)
    b = jnp.where(total > 0, (W * G).sum(axis=1, keepdims=True) / jnp.where(total > 0, total, 1.0), 0.0)
    alone = there.sum(axis=1, keepdims=True) < 2
    A = jnp.where(alone, G if lone == "reward" else 0.0, G - b).reshape(mask.shape)
    return jnp.where(mask, jnp.take_along_axis(A, place_NxT, axis=1), 0.0)


@dataclasses.dataclass(frozen=True)
class TokenBaseline(PolicyGradient):
    """Every token has a baseline of its own, from how much noise the row has gathered so far (OTB, arXiv:2602.07078).

      A_t = G_t - sum_group(W_t G_t) / sum_group(W_t)      W_t = sum_{s<=t} (1 - 2 q_s + sum_v q(v)^2)

    q is the old policy's probability of the token; 1 - 2 q + sum_v q(v)^2 is the squared norm of the gradient of its
    log-probability in the logits. Tokens are compared by their number among the counted ones. Where one row of the group alone
    is as long, `lone_reward` says what its advantage is.
    """

    credit_unit: str = "token"
    lone_reward: str = "reward"

    def __post_init__(self):
        super().__post_init__()
        self.require(self.credit_unit == "token", "credit_unit='row' contradicts a baseline a token; leave it 'token'")
        self.unread("with a baseline a token", "baseline", "scale", "gamma", "rejected", "informative_only")

    @property
    def compares(self) -> bool:
        """As `PolicyGradient.compares`: with the rows of the group, token by token."""
        return True

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"collision"}

    @property
    def refuses_replay(self) -> str:
        """As `Objective.refuses_replay`."""
        return "whose baseline compares probabilities of the policy that sampled a row with those of the policy now"

    def credit_formula(self) -> list[str]:
        """How rewards s_t become A."""
        alone = {"zero": "0", "reward": "G_t"}[self.lone_reward]
        return ["A_t = G_t - sum_group(W_t G_t) / sum_group(W_t),  G_t = sum of s from t on",
                f"   ({alone} where one row alone is as long)",
                "W_t = sum over tokens up to t of 1 - 2 exp(o) + sum_v pi_old(v)^2"]

    def credit(self, batch: Batch, kl_coef: jax.Array | float, group: int) -> Batch:
        """Fill `advantage_NxT`."""
        energy_NxT = 1 - 2 * jnp.exp(self.old(batch)) + batch.collision_NxT
        A = token_baseline(self.token_rewards(batch, kl_coef), energy_NxT, batch.mask_NxT, ~jnp.isnan(batch.reward_N), group,
                           self.lone_reward)
        return batch._replace(advantage_NxT=A)


def pass_at_k(reward_BxG: jax.Array, k: int) -> jax.Array:
    """Advantages of the group's samples when what is rewarded is that one of k drawn from it is right.

    With n present samples of which w are wrong (reward below 1), C binomial coefficients:

      M = 1 - C(w, k) / C(n, k)    S = sqrt(M (1 - M))
      A = (1 - M) / S where right, else (1 - M - C(w-1, k-1) / C(n-1, k-1)) / S

    M and S are mean and standard deviation of the reward of all C(n, k) subsets, A the mean over those that hold the sample.

    Returns:
      advantage_BxG; 0 where S is 0 (all subsets are right, or all wrong), in groups of fewer than k, and without a reward.
    """
    present = ~jnp.isnan(reward_BxG)
    right = present & (jnp.where(present, reward_BxG, 0.0) >= 1)
    n, w = present.sum(axis=1, keepdims=True), (present & ~right).sum(axis=1, keepdims=True)

    def share(wrong, of, draws):
        x = jnp.ones(wrong.shape, reward_BxG.dtype)
        for i in range(draws):
            x = x * jnp.maximum(wrong - i, 0) / jnp.maximum(of - i, 1)
        return x

    none = share(w, n, k)
    spread = jnp.sqrt(none * (1 - none))
    A = (none - jnp.where(right, 0.0, share(w - 1, n - 1, k - 1))) / jnp.where(spread > 0, spread, 1.0)
    return jnp.where(present & (spread > 0) & (n >= k), A, 0.0)


@dataclasses.dataclass(frozen=True)
class PassAtK(PolicyGradient):
    """GRPO whose reward is that one of k samples is right, in closed form over a group's subsets (arXiv:2508.10751).

    As `pass_at_k` says; a sample is right from a score of 1 on. The closed form is checked
    against all subsets.
    """

    pass_k: int = 4  # k

    def __post_init__(self):
        super().__post_init__()
        self.require(isinstance(self.pass_k, int) and self.pass_k >= 1, f"pass_k={self.pass_k} must be a whole number of at "
                     "least 1")
        self.unread("where the advantage is that of pass@k", "baseline", "scale", "rejected", "reward_low", "informative_only")
        self.require(self.kl_place != "reward" and self.overlong_limit is None,
                     "pass@k asks for a score of 1, which a penalty in the reward takes from every row; put the KL in the loss "
                     "and leave overlong_limit None")

    def centred_formula(self) -> str:
        """As `PolicyGradient.centred_formula`."""
        return ("((1 - M) - (0 where R >= 1, else C(w - 1, pass_k - 1) / C(n - 1, pass_k - 1))) / sqrt(M (1 - M)), "
                "w of the group's n samples wrong, M = 1 - C(w, pass_k) / C(n, pass_k)")

    def centred(self, batch: Batch, score_BxG: jax.Array) -> jax.Array:
        """advantage_BxG."""
        group = score_BxG.shape[1]
        self.require(group >= self.pass_k, f"pass_k={self.pass_k} in groups of {group}; nearest valid: pass_k={group}")
        return pass_at_k(score_BxG, self.pass_k)


@dataclasses.dataclass(frozen=True)
class TermNormalised(PolicyGradient):
    """Every term of a composed reward is normalised in its group before they are summed (GDPO, arXiv:2601.05242).

      A = sum_k w_k (r_k - mean_group(r_k)) / (std_group(r_k, ddof) + eps), then whitened over the rows of the batch

    So that two different mixtures of terms with the same sum have different advantages. A term that a row does not have (NaN)
    adds nothing to it. As TRL's normalize_then_sum.
    """

    whiten: str = "row"

    def __post_init__(self):
        super().__post_init__()
        self.unread("where every term is normalised in its group", "baseline", "scale", "rejected", "reward_low",
                    "informative_only", "overlong_limit")
        self.require(self.kl_place != "reward", "kl_place='reward' is not a term of the reward; put the KL in the loss")

    @property
    def compares(self) -> bool:
        """As `PolicyGradient.compares`."""
        return True

    @property
    def takes_deviation(self) -> bool:
        """As `PolicyGradient.takes_deviation`."""
        return True

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"terms"}

    def centred_formula(self) -> str:
        """As `PolicyGradient.centred_formula`."""
        return "sum_k w_k (r_k - mean_group(r_k)) / (std_group(r_k, ddof) + eps) of the reward's terms r_k, weights w_k"

    def apart(self, batch: Batch, score_BxG: jax.Array) -> jax.Array:
        """advantage_BxGxK of the terms, each with its weight; 0 where a row has no such term or no reward."""
        gone = jnp.isnan(score_BxG)[..., None]
        term_BxGxK = jnp.where(gone, jnp.nan, batch.term_NxK.reshape(*score_BxG.shape, -1))
        z = jax.vmap(lambda r: advantages.advantage(r, baseline="mean", scale="group", ddof=self.ddof, eps=self.eps,
                                                    lone=self.lone_reward), in_axes=2, out_axes=2)(term_BxGxK)
        weight = batch.term_weight_NxK.reshape(term_BxGxK.shape)
        return jnp.where(jnp.isnan(term_BxGxK) | jnp.isnan(weight), 0.0, weight * z)

    def centred(self, batch: Batch, score_BxG: jax.Array) -> jax.Array:
        """advantage_BxG."""
        return self.apart(batch, score_BxG).sum(axis=2)


_RATIO = {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2}
ROWS = (
    TokenBaseline("optimal_token_baseline", "rl", "arXiv:2602.07078", "groups", **_RATIO),
    PassAtK("pass_at_k", "rl", "arXiv:2508.10751", "groups", aggregation="sequence", **_RATIO),
    TermNormalised("gdpo", "rl", "arXiv:2601.05242", "groups", aggregation="sequence", **_RATIO),
)
