"""Pathway statistics of one policy as estimates: distances, lengths, consistency between layers, complexity, with their nulls.

Legend: N samples, L layers, E experts, P pairs, D draws of a null.
"""

from __future__ import annotations

import numpy as np

from jaxpost.probes.routing import pathways
from jaxpost.probes.routing.estimates import Estimate, Null, averaged, drawn, jackknifed, pooled
from jaxpost.probes.routing.pathways import Pathways
from jaxpost.probes.rows.pooling import divide

ONE_SAMPLE = ("absent", "fewer than two samples: no pair")
NO_VECTORS = ("absent", "the parameters have no router vectors")
NO_SAMPLE = ("absent", "no sample is memorised yet")
ONE_LAYER = ("absent", "one layer with a router: no consecutive layers")
_TINY = 1e-8  # of the paper's C


def tolerance(tokens: int, experts: int) -> float:
    """Absolute rounding of a float32 mean of `tokens` softmax probabilities over `experts`; that of the logits is not known."""
    return (tokens + experts + 4) * 2.0**-24


def distance_estimates(probs_NxLxE: np.ndarray, tokens: int, *, threshold: float, cap: int, draws: int, params: dict,
                      members: np.ndarray | None = None, layers: bool = True) -> list[Estimate]:
    """`pathway.distance`, its normalised form and, with `layers`, every layer's, over pairs of samples.

    Args:
      tokens: of the longest sample. members: sample numbers; None: all, else the null "random_subset" takes the place of
        "shuffled_samples". params: further parameters of the rows.
    """
    paths = pathways.pathways(probs_NxLxE, threshold)
    everyone = np.arange(len(probs_NxLxE))
    selected = everyone if members is None else members
    first, second = pathways.pairs(selected, cap)
    load_LxE = np.asarray(probs_NxLxE, np.float64)[selected].mean(0) if len(selected) else None
    possible = len(selected) * (len(selected) - 1) // 2
    params = params | {"threshold": threshold, "over": "all" if members is None else "memorised"}
    params |= {"pairs": cap} if possible > cap else {}
    if not len(first):
        return _no_pairs(params, probs_NxLxE.shape[1], layers, len(selected))
    edits_NxL, cuts = pathways.unsettled(paths, tolerance(tokens, probs_NxLxE.shape[-1]), threshold)
    note = f"{cuts} of {paths.length_NxL.size} prefixes end within rounding of the threshold" if cuts else None
    rng = np.random.default_rng(0)
    random = [paths._replace(order_NxLxE=pathways.random_routing(load_LxE, paths.length_NxL, rng)) for _ in range(draws)]
    fewer = pathways.pairs(selected, max(cap // 4, 1))
    nulls = [_drawn("equal_load", random, fewer)]
    if members is None:
        rng = np.random.default_rng(1)
        nulls.append(_drawn("shuffled_samples", [pathways.shuffled_samples(paths, rng) for _ in range(draws)], fewer))
    else:
        nulls.append([Null("random_subset", x.mean()) for x in _both(paths, *pathways.pairs(everyone, cap))])
    moved_PxL = edits_NxL[first] + edits_NxL[second]
    moved = moved_PxL.sum(1)
    length = paths.length_NxL.sum(1)
    errors = moved.mean(), (2 * moved / np.maximum(length[first], length[second])).mean()  # the length may move with it
    values = _both(paths, first, second)
    estimates = [
        Estimate(f"pathway.{name}", **jackknifed(*pathways.mean_of_pairs(values[i], first, second)), num_err=errors[i],
                nulls=tuple(null[i] for null in nulls), params=params, whole=True, note=note, n=len(selected))
        for i, name in enumerate(("distance", "distance_normalised"))]
    return estimates + ([_by_layer(paths, first, second, random, fewer, moved_PxL, params, len(selected))] if layers else [])


def _both(paths: Pathways, first, second) -> tuple[np.ndarray, np.ndarray]:
    """(distance, distance over the longer length) of pairs."""
    distance, longer = pathways.distances(paths.order_NxLxE, paths.length_NxL, first, second)
    return distance, distance / longer


def _drawn(kind: str, paths: list[Pathways], pairs) -> list[Null]:
    """The null of the distance and of its normalised form, from drawn pathways."""
    means = np.asarray([[x.mean() for x in _both(path, *pairs)] for path in paths])
    return [drawn(kind, x) for x in means.T]


def _by_layer(paths: Pathways, first, second, random, fewer, moved_PxL, params, n) -> Estimate:
    apart = pathways.by_layer(paths.order_NxLxE, paths.length_NxL, first, second)
    value, without = zip(*(pathways.mean_of_pairs(x, first, second) for x in (*apart.T, apart.sum(1))), strict=True)
    null = [pooled(pathways.by_layer(path.order_NxLxE, path.length_NxL, *fewer).mean(0), "sum") for path in random]
    return Estimate("pathway.distance_by_layer", **jackknifed(np.stack(value), np.stack(without)),
                   nulls=(drawn("equal_load", null),), num_err=pooled(moved_PxL.mean(0), "sum"), params=params, n=n)


def _no_pairs(params: dict, layers: int, by_layer: bool, n: int) -> list[Estimate]:
    names = ("equal_load", "random_subset" if params["over"] == "memorised" else "shuffled_samples")
    nulls = tuple(Null(name, np.nan) for name in names)
    estimates = [Estimate(f"pathway.{name}", np.nan, nulls=nulls, params=params, whole=True, n=n,
                     missing=ONE_SAMPLE) for name in ("distance", "distance_normalised")]
    if by_layer:
        estimates.append(Estimate("pathway.distance_by_layer", np.full(layers + 1, np.nan), nulls=nulls[:1], params=params,
                             missing=ONE_SAMPLE, n=n))
    return estimates


def length_estimate(probs_NxLxE: np.ndarray, tokens: int, threshold: float) -> Estimate:
    """`pathway.length`: mean experts a layer."""
    experts = probs_NxLxE.shape[-1]
    paths = pathways.pathways(probs_NxLxE, threshold)
    alike = pathways.pathways(np.asarray(probs_NxLxE, np.float64).mean(0)[None], threshold).length_NxL[0]
    flat = int(np.argmax(np.arange(1, experts + 1) / experts > threshold)) + 1
    cuts = pathways.unsettled(paths, tolerance(tokens, experts), threshold)[1]
    return Estimate("pathway.length", **averaged(pooled(paths.length_NxL)),
                   nulls=(Null("uniform", flat), Null("layer_mean", pooled(alike))),
                   num_err=cuts / paths.length_NxL.size, params={"threshold": threshold})


def cosines(probs_NxLxE: np.ndarray, gram_LxExE: np.ndarray, cross_LxExE: np.ndarray, other_NxLxE: np.ndarray | None = None
            ) -> np.ndarray:
    """cos(e_l, e_{l+1}) of every sample, float64[N, L - 1]; with `other`, e_{l+1} of these samples. NaN for a zero vector."""
    g, h = np.asarray(probs_NxLxE, np.float64), np.asarray(probs_NxLxE if other_NxLxE is None else other_NxLxE, np.float64)
    gram = np.asarray(gram_LxExE, np.float64)
    inner = np.einsum("nla,lab,nlb->nl", g[:, :-1], np.asarray(cross_LxExE, np.float64), h[:, 1:], optimize=True)
    norms = (np.sqrt(np.maximum(np.einsum("nla,lab,nlb->nl", x, gram, x, optimize=True), 0.0)) for x in (g, h))
    left, right = norms
    return divide(inner, left[:, :-1] * right[:, 1:])


def all_pairs_cosine(probs_NxLxE: np.ndarray, gram_LxExE: np.ndarray, cross_LxExE: np.ndarray) -> float:
    """Mean of cos(e_l of sample i, e_{l+1} of sample j) over i != j and layers: the unit vectors' sums, in closed form."""
    g, gram = np.asarray(probs_NxLxE, np.float64), np.asarray(gram_LxExE, np.float64)
    n = len(g)
    unit = divide(g, np.sqrt(np.maximum(np.einsum("nla,lab,nlb->nl", g, gram, g, optimize=True), 0.0))[..., None])
    both = np.einsum("la,lab,lb->", unit[:, :-1].sum(0), np.asarray(cross_LxExE, np.float64), unit[:, 1:].sum(0))
    own = cosines(g, gram, cross_LxExE).sum()
    return float((both - own) / (n * (n - 1) * len(cross_LxExE))) if n > 1 else np.nan


def consistency(cosine_NxL: np.ndarray) -> np.ndarray:
    """The paper's C of every sample: 1 - mean cosine / (largest cosine + 1e-8)."""
    return 1 - cosine_NxL.mean(-1) / (cosine_NxL.max(-1) + _TINY)


def cosine_errors(probs_NxLxE: np.ndarray, gram_LxExE: np.ndarray, relative: float) -> np.ndarray:
    """First-order bounds on the rounding of `cosines`: inner products err by `relative` of their absolute terms."""
    g, gram = np.asarray(probs_NxLxE, np.float64), np.asarray(gram_LxExE, np.float64)
    size = np.einsum("nla,la->nl", g, np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0.0)))
    ratio = divide(size, np.sqrt(np.maximum(np.einsum("nla,lab,nlb->nl", g, gram, g, optimize=True), 0.0)))
    return relative * (ratio[:, :-1] * ratio[:, 1:] + (ratio[:, :-1] ** 2 + ratio[:, 1:] ** 2) / 2)


def consistency_estimates(probs_NxLxE: np.ndarray, router: dict[str, np.ndarray] | None, tokens: int, draws: int,
                         params: dict) -> list[Estimate]:
    """`pathway.cosine` and `pathway.consistency_c_paper`.

    Args: router: `gram_LxExE`, `cross_LxExE` and `width` (D) of the router vectors, or None.
    """
    missing = NO_VECTORS if router is None else ONE_LAYER if probs_NxLxE.shape[1] < 2 else NO_SAMPLE
    n = len(probs_NxLxE)
    names = ("shuffled_samples", "equal_load")
    if missing is not NO_SAMPLE or not n:
        nulls = tuple(Null(name, np.nan) for name in names)
        return [Estimate(f"pathway.{name}", np.nan, nulls=kept, params=params, whole=True, missing=missing, n=n)
                for name, kept in (("cosine", nulls), ("consistency_c_paper", nulls[:1]))]
    products = router["gram_LxExE"], router["cross_LxExE"]
    cosine = cosines(probs_NxLxE, *products)
    alike = np.asarray(probs_NxLxE, np.float64).mean(0)[None]
    nulls = (Null(names[0], all_pairs_cosine(probs_NxLxE, *products)), Null(names[1], cosines(alike, *products).mean()))
    rng = np.random.default_rng(0)
    mixed = [consistency(cosines(probs_NxLxE, *products, probs_NxLxE[rng.permutation(n)])).mean()
             for _ in range(draws)]
    largest = np.abs(cosine.max(1) + _TINY)
    relative = (int(router["width"]) + 2) * 2.0**-24 + 2 * tolerance(tokens, probs_NxLxE.shape[-1])
    error = cosine_errors(probs_NxLxE, products[0], relative)
    error_c = divide(error.mean(1) + np.abs(cosine.mean(1)) / largest * error.max(1), largest).mean()
    zero = ("degenerate", "a mean routing vector is zero")
    return [Estimate("pathway.cosine", **averaged(cosine.mean(1)), nulls=nulls, params=params, whole=True, missing=zero, n=n,
                    num_err=error.mean()),
            Estimate("pathway.consistency_c_paper", **averaged(consistency(cosine)), nulls=(drawn(names[0], mixed),),
                    params=params, whole=True, missing=zero, num_err=error_c, n=n)]


def effective_dimension(probs_NxLxE: np.ndarray, ridge: float) -> float:
    """d_eff = Tr(H (H + lambda I)^-1), H = F F', F the concatenated mean probabilities: K = 1. From the smaller Gram matrix."""
    f = np.asarray(probs_NxLxE, np.float64).reshape(len(probs_NxLxE), -1)
    values = np.maximum(np.linalg.eigvalsh(f.T @ f if f.shape[1] < len(f) else f @ f.T), 0.0)
    return float((values / (values + ridge)).sum())


def without_one_dimension(probs_NxLxE: np.ndarray, ridge: float) -> np.ndarray:
    """`effective_dimension` without each sample in turn, float64[N].

    d_eff - lambda |B f|^2 / (1 - f'Bf), B = (F'F + lambda I)^-1. Source: Sherman and Morrison 1950.
    """
    f = np.asarray(probs_NxLxE, np.float64).reshape(len(probs_NxLxE), -1)
    solved = np.linalg.solve(f.T @ f + ridge * np.eye(f.shape[1]), f.T).T
    return effective_dimension(probs_NxLxE, ridge) - ridge * (solved**2).sum(1) / (1 - (f * solved).sum(1))


def complexity_estimate(probs_NxLxE: np.ndarray, tokens: int, ridge: float, draws: int) -> Estimate:
    """`pathway.complexity`; d_eff grows with the number of samples, which is among the params.

    x / (x + lambda) has slope at most 1 / lambda, so d_eff errs by at most 2 tau |F|^2 / lambda, tau the weights' own error.
    """
    n, rng, layer = len(probs_NxLxE), np.random.default_rng(0), np.arange(probs_NxLxE.shape[1])
    places = np.broadcast_to(np.arange(n)[:, None], (n, len(layer)))
    mixed = [effective_dimension(probs_NxLxE[rng.permuted(places, axis=0), layer], ridge) for _ in range(draws)]
    alike = np.broadcast_to(np.asarray(probs_NxLxE, np.float64).mean(0), probs_NxLxE.shape)
    error = 2 * tolerance(tokens, probs_NxLxE.shape[-1]) * float((np.asarray(probs_NxLxE, np.float64) ** 2).sum()) / ridge
    return Estimate("pathway.complexity", whole=True, params={"lambda": ridge, "kernel": "one", "samples": n}, num_err=error,
                   **jackknifed(np.float64(effective_dimension(probs_NxLxE, ridge)), without_one_dimension(probs_NxLxE, ridge)),
                   nulls=(drawn("shuffled_samples", mixed), Null("equal_load", effective_dimension(alike, ridge))))
