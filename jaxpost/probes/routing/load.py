"""Who carries the tokens: load, dead experts, co-activation, specialisation and saturation of one layer, with their nulls.

Formulas on counts, float64; leading axes are independent statistics (delete-one-sample counts, say).

Legend: N samples, T positions, E experts, k experts a token, Y labels, D draws of a null.
"""

from __future__ import annotations

import numpy as np

from jaxpost.probes.rows.pooling import divide

_LOAD_DRAWS = 999
LABEL_DRAWS = 199


def selected_experts(top_NxTxk: np.ndarray, experts: int) -> np.ndarray:
    """How many counted tokens of each sample chose each expert, float64[N, E]; entries below 0 are no choice."""
    N, place = len(top_NxTxk), np.asarray(top_NxTxk, np.int64)
    code = np.arange(N)[:, None, None] * experts + place
    return np.bincount(code[place >= 0], minlength=N * experts).reshape(N, experts).astype(np.float64)


def together(top_NxTxk: np.ndarray, experts: int) -> np.ndarray:
    """How many counted tokens of each sample chose both experts, over ALL pairs of the top k: symmetric, float64[N, E, E]."""
    N, T, k = top_NxTxk.shape
    place = np.asarray(top_NxTxk, np.int64)
    code = (np.arange(N)[:, None, None, None] * experts + place[..., :, None]) * experts + place[..., None, :]
    both = (place[..., :, None] >= 0) & (place[..., None, :] >= 0) & ~np.eye(k, dtype=bool)
    return np.bincount(code[both], minlength=N * experts**2).reshape(N, experts, experts).astype(np.float64)


def without_one(x_N: np.ndarray) -> np.ndarray:
    """Sums over the samples without each in turn, [N, ...]."""
    return x_N.sum(0) - x_N


def load_cv(count_E: np.ndarray) -> np.ndarray:
    """Standard deviation over mean of counts on the last axis, divisor E; NaN where there is no choice."""
    return divide(count_E.std(-1), count_E.mean(-1))


def load_cv_null(experts: int, k: int, tokens: float) -> float:
    """Root mean square of `load_cv` when tokens choose k of E experts at random, independently: sqrt((E/k - 1) / tokens).

    A count has variance tokens (k/E)(1 - k/E) about the mean tokens k/E, and the mean over experts is fixed.
    """
    return float(np.sqrt((experts / k - 1) / tokens)) if tokens else np.nan


def load_max(count_E: np.ndarray) -> np.ndarray:
    """Largest share of counts on the last axis."""
    return divide(count_E.max(-1), count_E.sum(-1))


def load_max_null(experts: int, k: int, tokens: float) -> np.ndarray:
    """Largest shares under independent uniform choices, float64[D]; see `_blind_shares`."""
    return _blind_shares(experts, k, tokens).max(1)


def load_entropy(count_E: np.ndarray) -> np.ndarray:
    """-sum_e f_e ln f_e of the shares f of counts on the last axis, nats; NaN where there is no choice."""
    share = divide(count_E, count_E.sum(-1, keepdims=True))
    return 0.0 - (share * np.log(np.where(share > 0, share, 1.0))).sum(-1)


def load_entropy_null(experts: int, k: int, tokens: float) -> np.ndarray:
    """Entropies of the shares under independent uniform choices, float64[D]; see `_blind_shares`."""
    return load_entropy(np.maximum(_blind_shares(experts, k, tokens), 0.0))


def _blind_shares(experts: int, k: int, tokens: float) -> np.ndarray:
    """Shares under independent uniform choices, float64[D, E]: Gaussian counts with their exact covariance (fixed draws)."""
    if experts == 1 or not tokens:
        return np.full((_LOAD_DRAWS, experts), 1.0 if tokens else np.nan)
    noise = np.random.default_rng(0).standard_normal((_LOAD_DRAWS, experts))
    noise = (noise - noise.mean(1, keepdims=True)) * np.sqrt(experts / (experts - 1))
    return (1 + load_cv_null(experts, k, tokens) * noise) / experts


def dead_null(experts: int, k: int, tokens: float) -> float:
    """Expected experts without a token when tokens choose k of E at random: E (1 - k/E)^tokens."""
    return float(experts * (1 - k / experts) ** tokens)


def quasi_independence(margin_E: np.ndarray) -> np.ndarray:
    """Shares r_ab = w_a w_b of ordered pairs of distinct experts that have the given margins: [..., E, E], sums to 1.

    w_a (W - w_a) = margin_a has two roots; all take the smaller one, unless one margin is so large that it takes the larger.
    The sum W solves one equation, by bisection of log W. An expert in every pair (margin 1/2) is the limit W -> infinity.

    Args: margin: >= 0, sums to 1, none above 1/2. Source: quasi-independence, Goodman 1968.
    """
    m = np.asarray(margin_E, np.float64)
    top = m.max(-1)
    least = 2 * np.sqrt(top)
    largest = m.argmax(-1)[..., None] == np.arange(m.shape[-1])

    def small(w):
        return 2 * m / (w + np.sqrt(np.maximum(w**2 - 4 * m, 0.0)))

    swaps = small(least[..., None]).sum(-1) < least  # no solution with smaller roots only
    low, high = np.log(least), np.log(least) + 20.0
    for _ in range(90):
        middle = (low + high) / 2
        total = np.exp(middle)
        logs = small(total[..., None])
        excess = np.where(swaps, logs.sum(-1) - 2 * np.where(largest, logs, 0.0).sum(-1), total - logs.sum(-1))
        above = excess > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    total = np.exp(high)[..., None]
    weight = small(total)
    weight = np.where(largest & swaps[..., None], total - weight, weight)
    r = weight[..., :, None] * weight[..., None, :] * (1 - np.eye(m.shape[-1]))
    return r / r.sum((-2, -1), keepdims=True)


def coactivation(both_ExE: np.ndarray) -> np.ndarray:
    """Half the sum of |q - r| over ordered pairs, q the shares of counts and r their quasi-independence; NaN without a pair."""
    q = divide(both_ExE, both_ExE.sum((-2, -1), keepdims=True))
    usable = np.isfinite(q).all((-2, -1))
    safe = np.where(usable[..., None, None], q, (1 - np.eye(q.shape[-1])) / (q.shape[-1] * (q.shape[-1] - 1)))
    return np.where(usable, np.abs(safe - quasi_independence(safe.sum(-1))).sum((-2, -1)) / 2, np.nan)


def coactivation_null(both_ExE: np.ndarray, draws: int) -> np.ndarray:
    """`coactivation` of as many unordered pairs drawn from the quasi-independence of the counts, float64[D].

    Pairs of one token count as independent draws; with k > 2 they are not quite.
    """
    return coactivation(independent_pairs(both_ExE, draws))


def most_together(both_ExE: np.ndarray) -> np.ndarray:
    """Largest count of an unordered pair of experts, last two axes."""
    return both_ExE.max((-2, -1))


def independent_pairs(both_ExE: np.ndarray, draws: int) -> np.ndarray:
    """Counts of as many unordered pairs drawn from the quasi-independence of the counts, symmetric float64[D, E, E]."""
    a, b = np.triu_indices(len(both_ExE), 1)
    pairs = int(both_ExE[a, b].sum())
    if not pairs:
        return np.full((draws, *both_ExE.shape), np.nan)
    r = quasi_independence(both_ExE.sum(-1) / both_ExE.sum())
    share = r[a, b] / r[a, b].sum()
    drawn = np.zeros((draws, *both_ExE.shape))
    drawn[:, a, b] = np.random.default_rng(0).multinomial(pairs, share, size=draws)
    return drawn + drawn.swapaxes(1, 2)


def information_terms(joint_YxE: np.ndarray) -> np.ndarray:
    """P(y, k) ln(P(y, k) / (P(y) P(k))) of counts on the last two axes, nats; 0 where P(y, k) is."""
    p = divide(joint_YxE, joint_YxE.sum((-2, -1), keepdims=True))
    apart = p.sum(-1, keepdims=True) * p.sum(-2, keepdims=True)
    return np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0) / np.where(apart > 0, apart, 1.0)), 0.0 * p)


def mutual_information(joint_YxE: np.ndarray) -> np.ndarray:
    """Sum of `information_terms`."""
    return information_terms(joint_YxE).sum((-2, -1))


def joint(label_N: np.ndarray, weight_NxE: np.ndarray) -> np.ndarray:
    """Sums of weights by label, [Y, E]; labels in ascending order."""
    return (np.unique(label_N)[:, None] == label_N).astype(np.float64) @ weight_NxE


def label_permutations(label_N: np.ndarray, weight_NxE: np.ndarray) -> np.ndarray:
    """`mutual_information` with permuted labels, float64[LABEL_DRAWS] (fixed draws)."""
    shuffled = np.random.default_rng(0).permuted(np.tile(label_N, (LABEL_DRAWS, 1)), axis=1)
    own = (np.unique(label_N)[:, None] == shuffled[:, None]).astype(np.float64)  # [D, Y, N]
    return mutual_information(own @ weight_NxE)


def overlap(top_NxTxk: np.ndarray, last_NxTxk: np.ndarray) -> np.ndarray:
    """Experts of each sample's counted tokens that are among those of the last step, summed over tokens: float64[N]."""
    same = (top_NxTxk[..., :, None] == last_NxTxk[..., None, :]) & (top_NxTxk[..., :, None] >= 0)
    return same.sum((1, 2, 3)).astype(np.float64)


def overlap_null(count_E: np.ndarray, last_E: np.ndarray, tokens: float, k: int) -> float:
    """Expected share of overlap when a token's choices at the two steps are independent with the two loads."""
    return float((count_E / tokens) @ (last_E / tokens) / k) if tokens else np.nan
