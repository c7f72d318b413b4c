"""Router statistics of one policy as estimates: entropy, load, dead experts, co-activation, specialisation, saturation.

Legend: N samples, L layers, E experts, T positions, k experts a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpost.probes.routing import load as router_load
from jaxpost.probes.routing.estimates import Estimate, Null, drawn, jackknifed, pooled
from jaxpost.probes.rows.pooling import divide

ONE_EXPERT = ("degenerate", "one expert: ln E is 0")
NO_PAIR = ("absent", "one expert a token: nothing is co-active")
NO_LABEL = ("absent", "the route gives no label")
ONE_LABEL = ("degenerate", "all samples have one label")


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)


def entropy_estimates(entropy_NxL: np.ndarray, probs_NxLxE: np.ndarray, tokens_N: np.ndarray) -> list[Estimate]:
    """`router.entropy` and `router.entropy_relative`: means over tokens, so samples weigh by their tokens."""
    weight = np.asarray(tokens_N, np.float64)[:, None]
    total, count = weight * entropy_NxL, weight.sum()
    value = pooled(total.sum(0) / count)
    without = pooled(divide(router_load.without_one(total), count - weight)).T
    alike = pooled(_entropy((weight[..., None] * probs_NxLxE).sum(0) / count))
    most = np.log(probs_NxLxE.shape[-1])
    error = (tokens_N.max() + probs_NxLxE.shape[-1] + 4) * 2.0**-24
    estimates = [Estimate("router.entropy", **jackknifed(value, without), num_err=error * value,
                     nulls=(Null("uniform", most), Null("layer_mean", alike)))]
    if most == 0:
        nothing = np.full(value.shape, np.nan)
        return [*estimates, Estimate("router.entropy_relative", nothing, missing=ONE_EXPERT,
                                nulls=(Null("uniform", np.nan), Null("layer_mean", np.nan)))]
    return [*estimates, Estimate("router.entropy_relative", **jackknifed(value / most, without / most),
                            num_err=error * value / most, nulls=(Null("uniform", 1.0), Null("layer_mean", alike / most)))]


def load_estimates(top_NxLxTxk: np.ndarray, tied_NxL: np.ndarray, experts: int) -> list[Estimate]:
    """`router.load_cv`, `router.load_max`, `router.load_entropy` and `router.dead_experts`."""
    k = top_NxLxTxk.shape[-1]
    count_NxLxE = np.stack([router_load.selected_experts(top, experts) for top in _layers(top_NxLxTxk)], axis=1)
    left = router_load.without_one(count_NxLxE)
    total, tokens = count_NxLxE.sum(0), count_NxLxE.sum() / k / count_NxLxE.shape[1]
    ties = np.asarray(tied_NxL, np.float64).sum(0)
    layers = count_NxLxE.shape[1]
    note = f"{int(ties.sum())} of {int(tokens * layers)} tokens have tied logits at the top-k cut" if ties.any() else None
    largest, even = (np.repeat(null(experts, k, tokens)[:, None], layers + 1, axis=1)
                     for null in (router_load.load_max_null, router_load.load_entropy_null))
    cv_null = router_load.load_cv_null(experts, k, tokens)
    dead = (total == 0).sum(-1)
    return [
        Estimate("router.load_cv", **jackknifed(pooled(router_load.load_cv(total)), pooled(router_load.load_cv(left)).T),
                nulls=(Null("equal_load", cv_null),), num_err=pooled(ties * np.sqrt(2 * experts) / (k * tokens)),
                params={"top": k}, note=note),
        Estimate("router.load_max", **jackknifed(pooled(router_load.load_max(total)), pooled(router_load.load_max(left)).T),
                nulls=(drawn("equal_load", largest, quantiles=True),), num_err=pooled(ties / (k * tokens)),
                params={"top": k}, note=note),
        Estimate("router.load_entropy", **jackknifed(pooled(router_load.load_entropy(total)),
                                                    pooled(router_load.load_entropy(left)).T),
                nulls=(drawn("equal_load", even, quantiles=True),),
                num_err=pooled(ties / (k * tokens) * np.log(max(k * tokens, 2))), params={"top": k}, note=note),
        Estimate("router.dead_experts", pooled(dead, "sum"), params={"top": k}, note=note,
                num_err=pooled(np.minimum(ties, experts), "sum"),
                nulls=(Null("equal_load", pooled(np.full(layers, router_load.dead_null(experts, k, tokens)), "sum")),)),
    ]


def coactivation_estimates(top_NxLxTxk: np.ndarray, experts: int, draws: int) -> list[Estimate]:
    """`router.coactivation`, and the raw count of the commonest pair, `router.coactivation_count`."""
    k, layers = top_NxLxTxk.shape[-1], top_NxLxTxk.shape[1]
    if k == 1:
        return [Estimate(name, np.full(layers + 1, np.nan), missing=NO_PAIR, params={"top": k},
                        nulls=(Null("independence", np.nan),))
                for name in ("router.coactivation", "router.coactivation_count")]
    both = [router_load.together(top, experts) for top in _layers(top_NxLxTxk)]
    value = [router_load.coactivation(x.sum(0)) for x in both]
    without = [router_load.coactivation(router_load.without_one(x)) for x in both]
    pairs = [router_load.independent_pairs(x.sum(0), draws) for x in both]
    null, most_null = (np.stack([of(x) for x in pairs], axis=1) for of in (router_load.coactivation, router_load.most_together))
    N = len(top_NxLxTxk)
    most = [router_load.most_together(x.sum(0)) for x in both]
    most_left = [router_load.most_together(router_load.without_one(x)) * N / max(N - 1, 1) for x in both]
    return [
        Estimate("router.coactivation", **jackknifed(pooled(np.stack(value)), pooled(np.stack(without, 1)).T),
                nulls=(drawn("independence", pooled(null)),), params={"top": k}),
        Estimate("router.coactivation_count", **jackknifed(pooled(np.stack(most)), pooled(np.stack(most_left, 1)).T),
                nulls=(drawn("independence", pooled(most_null)),), params={"top": k}),
    ]


def specialisation_estimate(label_N: np.ndarray | None, probs_NxLxE: np.ndarray, relative: float) -> Estimate:
    """`router.specialisation`; `relative` is the weights' own error, of which the first order is bounded."""
    layers = probs_NxLxE.shape[1]
    missing = NO_LABEL if label_N is None else ONE_LABEL if len(np.unique(label_N)) < 2 else None
    if missing:
        return Estimate("router.specialisation", np.full(layers + 1, np.nan), missing=missing,
                       nulls=(Null("label_permutation", np.nan),))
    labels, place = np.unique(label_N, return_inverse=True)
    own = np.eye(len(labels))[place]  # [N, Y]
    value, without, null, error = [], [], [], []
    for weight in np.asarray(probs_NxLxE, np.float64).swapaxes(0, 1):
        joint = router_load.joint(label_N, weight)
        value.append(router_load.mutual_information(joint))
        without.append(router_load.mutual_information(joint - own[..., None] * weight[:, None]))
        null.append(router_load.label_permutations(label_N, weight))
        error.append(2 * relative * np.abs(router_load.information_terms(joint)).sum())
    return Estimate("router.specialisation", **jackknifed(pooled(np.stack(value)), pooled(np.stack(without, 1)).T),
                   nulls=(drawn("label_permutation", pooled(np.stack(null, 1)), quantiles=True),),
                   num_err=pooled(np.stack(error)), params={"labels": len(labels)})


def saturation_estimates(top_NxLxTxk: np.ndarray, last_NxLxTxk: np.ndarray, tied_NxL: np.ndarray, experts: int
                         ) -> list[Estimate]:
    """`router.saturation` of the first choice and of all k, against the last step; `tied` at the k-th cut of both steps."""
    most = top_NxLxTxk.shape[-1]
    return [_saturation(top_NxLxTxk[..., :k], last_NxLxTxk[..., :k], k, experts, tied_NxL if k == most else tied_NxL * np.nan)
            for k in dict.fromkeys((1, most))]


def _saturation(top, last, k: int, experts: int, tied_NxL) -> Estimate:
    now, then = _layers(top), _layers(last)
    tokens_N = (top[:, 0, :, 0] >= 0).sum(-1).astype(np.float64)
    same = np.stack([router_load.overlap(a, b) for a, b in zip(now, then, strict=True)], axis=1)
    tokens = tokens_N.sum()
    loads = [[router_load.selected_experts(x, experts).sum(0) for x in pair] for pair in zip(now, then, strict=True)]
    null = np.asarray([router_load.overlap_null(*pair, tokens, k) for pair in loads])
    value = same.sum(0) / (k * tokens)
    without = divide(router_load.without_one(same), k * (tokens - tokens_N)[:, None])
    return Estimate("router.saturation", **jackknifed(pooled(value), pooled(without).T), params={"top": k},
                   num_err=pooled(tied_NxL.sum(0) / (k * tokens)),
                   nulls=(Null("independence", pooled(null)), Null("random", k / experts)))


def _layers(top_NxLxTxk: np.ndarray) -> Sequence[np.ndarray]:
    return [top_NxLxTxk[:, layer] for layer in range(top_NxLxTxk.shape[1])]
