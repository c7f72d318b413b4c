"""Advantages of grouped samples and of single tokens. Shapes: B prompts, G samples a prompt, N = B*G rows, T tokens."""

import jax
import jax.numpy as jnp

FORMULAS = {  # baseline -> the centred reward, as docs/objectives.md writes it
    "none": "R",
    "mean": "R - mean_group(R)",
    "leave_one_out": "R - mean_others(R)",
    "batch_mean": "R - mean_batch(R)",
    "length_weighted": "R - sum_group(n R) / sum_group(n)",
    "best_gap": "max_group(R) - (second largest R of the group) in the row of the largest, else 0",
    "ignored": "0",
}
SCALE_FORMULAS = {  # of the centred reward c
    "none": "c",
    "group": "c / (std_group(R, ddof) + eps)",
    "batch": "c / (std_batch(R, ddof) + eps)",
    "informative": "c N / #(rows of groups whose R are not all equal)",
}
WEIGHT_FORMULAS = {  # further baselines of an objective, which are whole advantages
    "accepted": "G / #accepted of the group where R >= 1, else 0 (a group without an accepted sample carries no loss)",
    "positive": "max(R, 0)",
    "outside": "R - Batch.outside_N",
}
REJECTED_FORMULAS = {  # what becomes of rows that the baselines accepted and positive give A = 0
    "counted": "rows with A = 0 count as any other",
    "left_out": "rows with A = 0 do not count; with baseline accepted the others have A = 1",
}
WHITENING_FORMULAS = {
    "none": "A",
    "row": "(A - mean_rows(A)) / (std_rows(A) + eps)",
    "token": "(A - mean_tokens(A)) / sqrt(var_tokens(A) + 1e-8)",
}
BASELINES, SCALES, WHITENINGS = tuple(FORMULAS), tuple(SCALE_FORMULAS), tuple(WHITENING_FORMULAS)
REJECTED = tuple(REJECTED_FORMULAS)
LONE = ("zero", "reward")
COMPARING = ("mean", "leave_one_out", "length_weighted", "best_gap")  # baselines from the other rewards of the group


def written(baseline: str, scale: str, rejected: str = "counted") -> str:
    """The formula of an advantage: a baseline of FORMULAS or WEIGHT_FORMULAS, a scale, and what becomes of rejected rows."""
    if (baseline, rejected) == ("accepted", "left_out"):
        return "1 where R >= 1, else 0"
    if baseline in WEIGHT_FORMULAS:
        return WEIGHT_FORMULAS[baseline]
    centred = FORMULAS[baseline]
    bare = scale == "none" or baseline in ("none", "ignored")
    return SCALE_FORMULAS[scale].replace("c", centred if bare else f"({centred})", 1)


def advantage(reward_BxG: jax.Array, *, baseline: str, scale: str = "none", ddof: int = 1,
              eps: float = 1e-4, lone: str = "zero", length_BxG: jax.Array | None = None) -> jax.Array:
    """(reward - baseline) / (std + eps), over the rewards that are there.

      baseline  none: 0; mean: the group's mean; leave_one_out: mean of the other samples of the group (RLOO,
                arXiv:2402.14740); batch_mean: mean of all rewards; length_weighted: mean of the group weighted by the rows'
                lengths, which makes the variance of an on-policy gradient smallest where a row's squared gradient grows
                with its length (OPO, arXiv:2505.23585)
                best_gap: only the best row of a group has an advantage, by how much it beats the second (a leave-one-out
                baseline of the group's maximum, arXiv:2503.19595, as verl's grpo_passk; equal best rows: none)
                ignored: 0 whatever the reward, for rewards that are elsewhere, such as a KL to a teacher
      scale     none: divide by 1; group: standard deviation of the group's rewards; batch: of all rewards
                informative: multiply by (rows) / (rows of groups whose rewards differ), so that groups without a gradient
                do not make it smaller (GPG, arXiv:2504.02546)

    Args:
      reward_BxG: float rewards; NaN is a missing one: it is left out of every mean and its advantage is 0.
      ddof: 1 divides the variance by n-1 (TRL, Tunix, verl), 0 by n.
      eps: added to the standard deviation (TRL 1e-4, Tunix and verl 1e-6).
      lone: the advantage of the only reward that is there in a group, which has none to be compared with, for baselines of
        the group: "zero" (TRL), or "reward", the reward itself, not scaled (verl).
      length_BxG: counted tokens of the rows, of baseline "length_weighted".

    Returns:
      advantage_BxG. Equal rewards give 0.

    Raises:
      ValueError: unknown baseline, scale or rule for a lone reward.
    """
    if baseline not in BASELINES:
        raise ValueError(f"advantage baseline {baseline!r} is unknown; choose one of {', '.join(BASELINES)}")
    if scale not in SCALES:
        raise ValueError(f"advantage scale {scale!r} is unknown; choose one of {', '.join(SCALES)}")
    if lone not in LONE:
        raise ValueError(f"lone_reward {lone!r} is unknown; choose one of {', '.join(LONE)}")
    present = ~jnp.isnan(reward_BxG)
    r = jnp.where(present, reward_BxG, 0.0)
    n_Bx1 = present.sum(axis=1, keepdims=True)
    mean_Bx1, std_Bx1 = _moments(r, present, ddof, 1)
    if baseline == "none":
        centred = r
    elif baseline == "ignored":
        centred = jnp.zeros_like(r)
    elif baseline == "batch_mean":
        centred = r - _moments(r, present, ddof, None)[0]
    else:
        if baseline == "length_weighted":
            mean_Bx1 = _weighted_mean(r, length_BxG * present)
        if baseline == "best_gap":
            mean_Bx1, r = _second(r, present)
        share = n_Bx1 / jnp.maximum(n_Bx1 - 1, 1) if baseline == "leave_one_out" else 1.0
        flat_Bx1 = informative(reward_BxG) == 0  # exactly 0 there, whatever the mean rounds to
        centred = jnp.where(n_Bx1 > 1, jnp.where(flat_Bx1, 0.0, (r - mean_Bx1) * share), r if lone == "reward" else 0.0)
    if scale == "group":
        centred = jnp.where(n_Bx1 > 1, _over(centred, std_Bx1 + eps), centred)
    elif scale == "batch":
        centred = _over(centred, _moments(r, present, ddof, None)[1] + eps)
    elif scale == "informative":
        told_Bx1 = informative(reward_BxG) * n_Bx1
        centred = centred * (n_Bx1.sum() / jnp.maximum(told_Bx1.sum(), 1))
    return jnp.where(present, centred, 0.0)


def _weighted_mean(x, weight):
    total = weight.sum(axis=1, keepdims=True)
    return jnp.where(total > 0, (x * weight).sum(axis=1, keepdims=True) / jnp.where(total > 0, total, 1), 0.0)


def _second(r, present):
    """(second largest present reward of each group, the rewards with all but the largest at that value)."""
    ranked = jnp.sort(jnp.where(present, r, -jnp.inf), axis=1)
    second_Bx1 = ranked[:, -2:-1] if r.shape[1] > 1 else r
    second_Bx1 = jnp.where(jnp.isfinite(second_Bx1), second_Bx1, 0.0)
    return second_Bx1, jnp.where((r == ranked[:, -1:]) & present, r, second_Bx1)


def _over(x, spread):
    """x / spread; x itself where the spread is 0: nothing varies and no eps is added."""
    return x / jnp.where(spread > 0, spread, 1.0)


def _moments(x, present, ddof, axis):
    """Mean and standard deviation of the present entries; 0 where there are not enough. Equal entries are their own mean."""
    n = present.sum(axis=axis, keepdims=True)
    mean = jnp.where(present, x, 0.0).sum(axis=axis, keepdims=True) / jnp.maximum(n, 1)
    low = jnp.where(present, x, jnp.inf).min(axis=axis, keepdims=True)
    high = jnp.where(present, x, -jnp.inf).max(axis=axis, keepdims=True)
    mean = jnp.where(low == high, low, mean)  # exactly, whatever their sum rounds to
    square = jnp.where(present, (x - mean) ** 2, 0.0).sum(axis=axis, keepdims=True)
    return mean, jnp.sqrt(square / jnp.maximum(n - ddof, 1))


def accepted(reward_BxG: jax.Array, threshold: float = 1.0) -> jax.Array:
    """RAFT weights (arXiv:2304.06767): samples with reward >= threshold, repeated to fill their group.

    w_bg = G / #accepted_b on accepted samples, 0 elsewhere, so a group with one accepted sample keeps its rows and loss
    tokens. For means over rows this is cycling the accepted samples of a group through its G rows; for a token mean the
    direction is, while the denominator stays that of all the group's tokens (as in Minimal-RL, arXiv:2504.11343). A group
    without an accepted sample weighs 0 everywhere. The row `raft` leaves rejected rows out of the count instead
    (rejected="left_out"): maximum likelihood of the accepted samples, each counted once.
    """
    keep = (reward_BxG >= threshold).astype(reward_BxG.dtype)
    return keep * (reward_BxG.shape[1] / jnp.maximum(keep.sum(axis=1, keepdims=True), 1.0))


def positive(reward_BxG: jax.Array) -> jax.Array:
    """max(reward, 0): the weights of RAFT++ (arXiv:2504.11343), where rejected samples still count in the denominator."""
    return jnp.where(reward_BxG > 0, reward_BxG, 0.0)


def informative(reward_BxG: jax.Array) -> jax.Array:
    """1.0 for each group whose present rewards are not all equal, [B, 1]."""
    low = jnp.nanmin(reward_BxG, axis=1, keepdims=True)
    return (jnp.nanmax(reward_BxG, axis=1, keepdims=True) > low).astype(reward_BxG.dtype)


def whiten(advantage_NxT: jax.Array, mask_NxT: jax.Array, unit: str, eps: float = 1e-4,
           counted_N: jax.Array | None = None) -> jax.Array:
    """(A - mean) / spread over the whole batch, 0 off-mask; unbiased variance.

    Args:
      advantage_NxT, mask_NxT: values and which of them count.
      unit: one of WHITENINGS. "token": moments over counted tokens, spread = sqrt(variance + 1e-8) (PPO in TRL, verl and
        Tunix, REINFORCE++); "row": over rows with a counted token, each with its first value, spread = std + eps
        (TRL's RLOO); "none": as it is.
      eps: of unit "row".
      counted_N: of unit "row", whose values are one a row: 1 on the rows of the moments, whether they have a token or not.
    """
    if unit == "none":
        return advantage_NxT
    mask = mask_NxT > 0
    if counted_N is None:
        weigh = mask if unit == "token" else mask & (jnp.cumsum(mask, axis=1) == 1)
    else:
        weigh = (counted_N > 0)[:, None] & (jnp.arange(mask.shape[1]) == 0)[None]
    mean, std = _moments(advantage_NxT, weigh, 1, None)
    spread = jnp.sqrt(std * std + 1e-8) if unit == "token" else std + eps
    return jnp.where(mask, _over(advantage_NxT - mean, spread), 0.0)


def returns(reward_NxT: jax.Array, mask_NxT: jax.Array, gamma: float) -> jax.Array:
    """Discounted reward to go over counted tokens: R_t = r_t + gamma R_(next counted token), 0 off-mask."""
    def back(carry_N, x):
        reward_N, mask_N = x
        total_N = reward_N + gamma * carry_N
        return jnp.where(mask_N > 0, total_N, carry_N), jnp.where(mask_N > 0, total_N, 0.0)

    start_N = jnp.zeros_like(reward_NxT[:, 0])
    return jax.lax.scan(back, start_N, (reward_NxT.T, mask_NxT.T), reverse=True)[1].T


def generalised(reward_NxT: jax.Array, value_NxT: jax.Array, mask_NxT: jax.Array, gamma: float,
                lam: float) -> jax.Array:
    """Generalised advantage estimation (arXiv:1506.02438) over counted tokens, 0 off-mask.

      delta_t = r_t + gamma V_(t+1) - V_t        A_t = delta_t + gamma lam A_(t+1)

    t+1 is the next counted token; the value after the last one is 0. Tokens off the mask (padding, or text of a tool
    inside the row) are bridged: carry and next value pass through them.
    """
    def back(carry, x):
        advantage_N, next_N = carry
        reward_N, value_N, mask_N = x
        now_N = reward_N + gamma * next_N - value_N + gamma * lam * advantage_N
        live = mask_N > 0
        kept = jnp.where(live, now_N, advantage_N), jnp.where(live, value_N, next_N)
        return kept, jnp.where(live, now_N, 0.0)

    zero_N = jnp.zeros(value_NxT.shape[0], jnp.result_type(reward_NxT, value_NxT, float))
    reward_NxT, value_NxT = reward_NxT.astype(zero_N.dtype), value_NxT.astype(zero_N.dtype)
    return jax.lax.scan(back, (zero_N, zero_N), (reward_NxT.T, value_NxT.T, mask_NxT.T), reverse=True)[1].T


def on_last_token(score_N: jax.Array, mask_NxT: jax.Array) -> jax.Array:
    """reward_NxT with the row's score on its last counted token, 0 elsewhere."""
    after_NxT = jnp.cumsum((mask_NxT > 0)[:, ::-1], axis=1)[:, ::-1]
    return jnp.where((mask_NxT > 0) & (after_NxT == 1), score_N[:, None], 0.0)
