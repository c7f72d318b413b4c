"""What each routing number means: the metrics of `routing.Routing`."""

from __future__ import annotations

from jaxpost.probes.base import Metric, register

PNT = "Where to find Grokking in LLM Pretraining?, arXiv:2506.21551"
OLMOE = "OLMoE, arXiv:2409.02060"
_EQUAL = ("equal_load: each sample's experts drawn at random with the layer's mean weights, as many as it has (mean and range "
          "of fixed draws)")
_SHUFFLED = "shuffled_samples (in each layer the pathway of another sample)"
_DISTANCE = (f"{_EQUAL}; {_SHUFFLED} as a further row; over=memorised has random_subset, as many samples of any kind (their "
             "expected mean, in closed form), in its place")
_PAIRS = ("float64 ranking of mean full probabilities, strictly above params threshold, ties by expert index; all unordered "
          "pairs of distinct samples, or params pairs of them by a fixed hash (nulls: a quarter as many); num_err: what "
          "rounding ties and cuts could change; noise_floor: standard error over samples")
_JACKKNIFE = "delete-one-sample jackknife, t with one less degree of freedom"
_TOPK = "top k (params top) of the router's logits, ties to the lower expert index, counted tokens only, before any capacity"
_SUMS = "float32 softmax and token means, float64 sums over samples"


def _metric(name, definition, unit, paper, null, pooling, algorithm, ci=_JACKKNIFE) -> Metric:
    return Metric(name, definition, unit, paper, null, pooling, algorithm, ci_method=ci)


PATHWAY = (
    _metric("pathway.distance", "mean over pairs of Levenshtein(pathway_i, pathway_j), one symbol a (layer, expert); params "
            "over=all or memorised", "edit", f"{PNT} (token level: reconstructed)", _DISTANCE, "none", _PAIRS),
    _metric("pathway.distance_normalised", "mean over pairs of the distance over the longer pathway's length", "1",
            f"{PNT} (reconstructed)", _DISTANCE, "none", _PAIRS),
    _metric("pathway.distance_by_layer", "mean over pairs of the distance of one layer's pathways; the whole is their sum",
            "edit", f"{PNT} (token level: reconstructed)", _EQUAL, "sum over matrices", _PAIRS),
    _metric("pathway.length", "experts whose mean weights together exceed the threshold, a layer", "expert", PNT,
            "uniform: floor(threshold E) + 1; layer_mean (the pathway of the layer's mean weights) as a further row",
            "mean over matrices", _PAIRS, "t over samples"),
    _metric("pathway.cosine", "mean over samples and consecutive layers of cos(e_l, e_{l+1}), e_l = sum_k g_k v_k with g the "
            "sample's mean weights and v_k the router's vector of expert k: higher is more alike", "1", PNT,
            "shuffled_samples: the same with e_{l+1} of another sample, all pairs; equal_load (every sample routed by the "
            "layer's mean weights) as a further row", "mean over examples",
            "float32 inner products of router vectors, float64 from there", "t over samples"),
    _metric("pathway.consistency_c_paper", "C = 1 - mean_l cos(e_l, e_{l+1}) / (max_l cos + 1e-8), mean over samples: by the "
            "formula LOWER is more alike, 0 with two layers whatever the routing, and the sign of the ratio is lost where all "
            "cosines are negative", "1", f"{PNT} (its prose and its table disagree about the sign)",
            "shuffled_samples: cosines against the next layer of other samples (mean and range of fixed draws)",
            "mean over examples", "float32 inner products of router vectors, float64 from there", "t over samples"),
    _metric("pathway.complexity", "d_eff = Tr(H (H + lambda I)^-1), H_ij = sum_l sum_k g_k(x_i) g_k(x_j) K(x_i, x_j); params "
            "lambda, kernel (one: K = 1)", "direction", f"{PNT} (reconstructed: the theory's d_eff with a declared K)",
            "shuffled_samples: mean and range of fixed draws; equal_load (every sample alike: one direction) as a further row",
            "none", "eigenvalues of the routing features' Gram matrix, float64"),
)
ROUTER = (
    _metric("router.entropy", "mean over counted tokens of -sum_k p_k ln p_k of the full probabilities", "nat", OLMOE,
            "uniform: ln E; layer_mean (entropy of the mean probabilities: tokens routed alike at the same load) as a further "
            "row", "mean over matrices", _SUMS),
    _metric("router.entropy_relative", "router.entropy / ln E", "1", OLMOE,
            "uniform: 1; layer_mean as a further row", "mean over matrices", _SUMS),
    _metric("router.load_cv", "standard deviation over mean (divisor E) of the experts' shares of top-k choices", "1", OLMOE,
            "equal_load: root mean square CV of independent tokens with k experts each at random, sqrt((E/k - 1) / tokens)",
            "mean over matrices", _TOPK),
    _metric("router.load_max", "largest expert's share of top-k choices", "1", OLMOE,
            "equal_load: mean and 95 % range under independent uniform choices, Gaussian with their exact covariance (fixed "
            "draws)", "mean over matrices", _TOPK),
    _metric("router.load_entropy", "-sum_e f_e ln f_e, f_e the experts' shares of top-k choices: ln E when equal", "nat", OLMOE,
            "equal_load: mean and 95 % range under independent uniform choices, Gaussian with their exact covariance (fixed "
            "draws)", "mean over matrices", _TOPK),
    _metric("router.dead_experts", "experts that no counted token of the batch chose", "expert", OLMOE,
            "equal_load: E (1 - k/E)^tokens", "sum over matrices", _TOPK, "none: a count of this batch"),
    _metric("router.coactivation", "half the sum over ALL expert pairs of |q_ab - r_ab|: q the pair's share of co-active "
            "pairs, r that of quasi-independence with the same margins", "1", f"{OLMOE} (the statistic is reconstructed: the "
            "paper draws the matrix, its code counts pairs of adjacent ranks)",
            "independence: mean and range of as many pairs drawn from r (fixed draws)", "mean over matrices",
            f"{_TOPK}; r by proportional fitting"),
    _metric("router.coactivation_count", "tokens that chose both experts of the commonest of ALL pairs, raw; the counts of "
            "every pair are array together_LxExE", "token", OLMOE, "independence: largest count of as many pairs drawn from r "
            "(mean and range of fixed draws)", "mean over matrices", f"{_TOPK}; delete-one counts scaled to all samples"),
    _metric("router.specialisation", "mutual information of the sample's label and the expert: joint P(y, k) = mean over "
            "samples of 1[y] g_k", "nat", OLMOE, "label_permutation: mean and 95 % range of permuted labels (fixed draws)",
            "mean over matrices", f"{_SUMS}; labels by the caller"),
    _metric("router.saturation", "share of a counted token's top-k experts (params top) that are among those of the last "
            "measured step", "1", OLMOE, "independence: sum_k P_t(k) P_last(k) / top, P the share of tokens that chose k; "
            "random (top / E) as a further row", "mean over matrices", _TOPK),
)
EVENT = (
    _metric("event.memorised", "share of samples memorised by a step: from it on loss <= eps and |loss - last loss| <= delta; "
            "params eps, delta", "1", PNT, "shuffled_steps: expected share when each sample's measured steps before the last "
            "are in random order, closed form", "mean over examples", "float32 losses at the measured steps", "t over samples"),
    _metric("event.generalised", "share of samples generalised by a step: from some measured step up to it, mean accuracy "
            "> 0.8 with at most 1 error through the last", "1", PNT,
            "shuffled_steps: expected share when each sample's measured steps are in random order, closed form",
            "mean over examples", "exact counts", "t over samples"),
)
register(*PATHWAY, *ROUTER, *EVENT)
METRICS = (*PATHWAY, *ROUTER, *EVENT)
