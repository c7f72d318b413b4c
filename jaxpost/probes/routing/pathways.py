"""Pathways of samples through the experts, and the edit distance between them.

Per layer a sample's mean routing probabilities are ranked (ties by expert index); its experts are the shortest descending
prefix whose cumulative weight is strictly greater than the threshold. The pathway is the concatenation over layers; a symbol
is a (layer, expert) pair, and the distance is Levenshtein's on these symbols (arXiv:2506.21551; the paper does not say
whether it counts characters or experts: experts are *reconstructed*).

Host side, float64. Legend: N samples, L layers, E experts, P pairs of samples, M longest pathway.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxpost.probes.rows.pooling import divide

THRESHOLD = 0.7


class Pathways(NamedTuple):
    """Experts of every layer by falling weight, how many of them belong to the pathway, and their weights."""

    order_NxLxE: np.ndarray  # int
    length_NxL: np.ndarray  # int, 1 .. E
    weight_NxLxE: np.ndarray  # float64, in that order

    def take(self, members: np.ndarray) -> Pathways:
        """Those of some samples."""
        return Pathways(*(x[members] for x in self))


def pathways(probs_NxLxE: np.ndarray, threshold: float = THRESHOLD) -> Pathways:
    """The pathways of mean routing probabilities."""
    probs = np.asarray(probs_NxLxE, np.float64)
    order = np.argsort(-probs, axis=-1, kind="stable")
    weight = np.take_along_axis(probs, order, axis=-1)
    length = (np.cumsum(weight, axis=-1) <= threshold).sum(-1) + 1
    return Pathways(order, np.minimum(length, probs.shape[-1]), weight)


def symbols(order_NxLxE: np.ndarray, length_NxL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(symbols int32[N, M] padded with -1, lengths int[N]) of whole pathways: layer * E + expert, layer after layer."""
    N, L, E = order_NxLxE.shape
    inside = (np.arange(E) < length_NxL[..., None]).reshape(N, L * E)
    coded = (order_NxLxE + E * np.arange(L)[:, None]).reshape(N, L * E)
    first = np.argsort(~inside, axis=1, kind="stable")[:, :length_NxL.sum(1).max(initial=0)]
    kept = np.take_along_axis(inside, first, 1)
    return np.where(kept, np.take_along_axis(coded, first, 1), -1).astype(np.int32), length_NxL.sum(1)


def levenshtein(a_PxM: np.ndarray, a_len_P: np.ndarray, b_PxM: np.ndarray, b_len_P: np.ndarray) -> np.ndarray:
    """Edit distances of P pairs of padded sequences (insertion, deletion and substitution cost 1), int[P].

    A row of the table is filled at once: with t_j the best of deletion and substitution, d_j = min over i <= j of
    t_i + (j - i), a running minimum. Source: Levenshtein 1966; Wagner and Fischer 1974.
    """
    a_len_P, b_len_P = np.asarray(a_len_P), np.asarray(b_len_P)
    narrow = np.int16 if max(a_PxM.shape[1], b_PxM.shape[1]) < 2**14 else np.int32
    place = np.arange(b_len_P.max(initial=0) + 1, dtype=narrow)
    b_PxM = b_PxM[:, : len(place) - 1]
    row = np.broadcast_to(place, (len(a_len_P), len(place)))
    out = np.where(a_len_P == 0, b_len_P, 0)
    for i in range(1, a_len_P.max(initial=0) + 1):
        replaced = row[:, :-1] + (b_PxM != a_PxM[:, i - 1 : i])
        best = np.concatenate([np.full((len(row), 1), i, narrow), np.minimum(replaced, row[:, 1:] + 1)], axis=1)
        row = np.minimum.accumulate(best - place, axis=1) + place
        done = a_len_P == i
        out[done] = row[done, b_len_P[done]]
    return out


def distances(order_NxLxE: np.ndarray, length_NxL: np.ndarray, first_P: np.ndarray, second_P: np.ndarray
              ) -> tuple[np.ndarray, np.ndarray]:
    """(distance int[P], the longer length int[P]) of pairs of samples; pairs of equal pathways are computed once."""
    coded, length = symbols(order_NxLxE, length_NxL)
    _, unique, place = np.unique(coded, axis=0, return_index=True, return_inverse=True)
    a_P, b_P = place.ravel()[first_P], place.ravel()[second_P]
    pair, where = np.unique(np.minimum(a_P, b_P) * len(unique) + np.maximum(a_P, b_P), return_inverse=True)
    a, b = (unique[side] for side in np.divmod(pair, len(unique)))
    return levenshtein(coded[a], length[a], coded[b], length[b])[where], np.maximum(length[first_P], length[second_P])


def by_layer(order_NxLxE: np.ndarray, length_NxL: np.ndarray, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
    """Distances of every layer's pathway alone, int[P, L]."""
    layers = range(order_NxLxE.shape[1])
    return np.stack([distances(order_NxLxE[:, [i]], length_NxL[:, [i]], first_P, second_P)[0] for i in layers], axis=1)


def pairs(members: np.ndarray, cap: int) -> tuple[np.ndarray, np.ndarray]:
    """Unordered pairs of distinct members (sample numbers): all, or of more than `cap` those with the smallest hashes.

    The hash is of the two numbers alone, so a pair that was chosen among many members is chosen among fewer too.
    """
    members = np.sort(np.asarray(members))
    i, j = np.triu_indices(len(members), 1)
    first, second = members[i], members[j]
    if len(first) <= cap:
        return first, second
    kept = np.sort(np.argsort(_hash(first, second), kind="stable")[:cap])
    return first[kept], second[kept]


def _hash(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """splitmix64 of the two numbers (Steele, Lea and Flood 2014), uint64."""
    x = (first.astype(np.uint64) << np.uint64(32)) + second.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def mean_of_pairs(x_P: np.ndarray, first_P: np.ndarray, second_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean over pairs, the same without each sample in turn [n]), n the samples that are in some pair.

    Without a sample that is in every pair nothing is left: NaN. The delete-one jackknife of these values is, over all pairs,
    `stats.jackknife_pairs`.
    """
    x_P = np.asarray(x_P, np.float64)
    used, place = np.unique(np.concatenate([first_P, second_P]), return_inverse=True)
    held = np.bincount(place, np.concatenate([x_P, x_P]), len(used))
    left = len(x_P) - np.bincount(place, minlength=len(used))
    return np.float64(x_P.mean()), divide(x_P.sum() - held, left)


def unsettled(paths: Pathways, tolerance: float, threshold: float = THRESHOLD) -> tuple[np.ndarray, int]:
    """How far rounding of the weights could move pathways: (edits float64[N, L], prefixes that end within rounding).

    A prefix whose cumulative weight lies within `tolerance` of the threshold may be one expert shorter or longer, and experts
    within `tolerance` of a neighbour in the ranking may change places: each costs at most one edit, so that the distance of
    two samples changes by at most the sum of theirs.
    """
    E = paths.weight_NxLxE.shape[-1]
    close = paths.weight_NxLxE[..., :-1] - paths.weight_NxLxE[..., 1:] <= tolerance
    none = np.zeros((*close.shape[:-1], 1), bool)
    tied = np.concatenate([close, none], -1) | np.concatenate([none, close], -1)
    swapped = (tied & (np.arange(E) < paths.length_NxL[..., None])).sum(-1)
    cumulative = np.cumsum(paths.weight_NxLxE, axis=-1)[..., :-1]  # all experts together are no cut
    ends = (np.abs(cumulative - threshold) <= tolerance).any(-1)
    return (swapped + ends).astype(np.float64), int(ends.sum())


def random_routing(load_LxE: np.ndarray, length_NxL: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Experts drawn for every sample one after another without replacement, with the layer's load as weights: order[N, L, E].

    The first `length` of each are a random pathway of the observed length. Source: Plackett 1975, by Gumbel noise.
    """
    with np.errstate(divide="ignore"):
        weight = np.log(np.asarray(load_LxE, np.float64))
    noise = rng.gumbel(size=(*length_NxL.shape, weight.shape[-1]))
    return np.argsort(-(weight + noise), axis=-1, kind="stable")


def shuffled_samples(paths: Pathways, rng: np.random.Generator) -> Pathways:
    """In each layer the pathway of another sample, by a random permutation: the layers' couplings are gone."""
    source = rng.permuted(np.broadcast_to(np.arange(len(paths.length_NxL))[:, None], paths.length_NxL.shape), axis=0)
    layer = np.arange(paths.length_NxL.shape[1])
    return Pathways(*(x[source, layer] for x in paths))
