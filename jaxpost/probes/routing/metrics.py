"""What each routing number means: the metrics of `routing.Routing`."""

from __future__ import annotations

from jaxpost.probes import catalog
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


catalog.add(
    __name__,
    catalog.Statistic(
        "pathway", "Pathways of samples through experts", ("pathway.distance", "pathway.length"),
        "How differently two samples are routed: edits between their sequences of experts. Read it below or above equal_load, "
        "what samples with the same loads and lengths would read if they chose at random; over=memorised is the paper's form.",
        "Early checkpoints have a low distance too, because every sample is routed alike: low is not generalised. It follows "
        "the pathway's length: a router that grows confident shortens every distance. Ties of a flat router are decided by "
        "expert numbers (num_err says how many edits that is).",
        "distance of unrelated samples and of two groups as a router grows sharp, with random routing of the same loads",
        extremes={
            "pathway.distance": ("samples take different experts", "they are routed alike, as in early checkpoints"),
            "pathway.length": ("the router is undecided", "it is confident"),
        }),
    catalog.Statistic(
        "consistency", "Consistency of routing between layers", ("pathway.cosine", "pathway.consistency_c_paper"),
        "Whether the router vectors that a sample meets in consecutive layers point the same way. The raw cosine is primary, "
        "and its excess over shuffled_samples is what is the sample's own.",
        "Most of the cosine belongs to the routers, not to the sample: it is there for shuffled samples too. The paper's C is "
        "0 with two layers whatever the routing, and flips its sign where all cosines are negative.",
        "raw cosine and the paper's C as two routers turn from opposed to aligned",
        extremes={
            "pathway.cosine": ("consecutive layers' router vectors point the same way", "they are unrelated, or opposed"),
            "pathway.consistency_c_paper": ("less alike, by the formula", "more alike; 0 with two layers whatever the routing"),
        }),
    catalog.Statistic(
        "complexity", "Complexity of routing", ("pathway.complexity",),
        "How many directions of routing a ridge of size lambda leaves: one if all samples are routed alike, more with groups "
        "of their own. Compare with shuffled samples, whose layers know nothing of each other.",
        "It grows with the number of samples at a fixed lambda and never exceeds layers times experts; the kernel inside an "
        "expert is taken as constant (reconstructed), so it says nothing of what experts compute.",
        "effective dimension of planted groups against their number",
        extremes={
            "pathway.complexity": ("samples are routed in many ways", "1: all alike"),
        }),
    catalog.Statistic(
        "router_entropy", "Entropy of routing", ("router.entropy",),
        "How undecided a token's router is: ln E when flat, 0 when it names one expert. The gap to layer_mean is what tokens "
        "are told apart by.",
        "It needs full probabilities: of renormalised top-k weights it reads low, of a second softmax near ln E. Low entropy "
        "with one expert for all is collapse, not specialisation.",
        "entropy of one router from its logits, from a second softmax and from renormalised top-2 weights",
        extremes={
            "router.entropy": ("ln E (relative: 1): the router is flat", "0: it names one expert, perhaps one for all"),
        }),
    catalog.Statistic(
        "router_load", "Load of experts", ("router.load", "router.dead_experts"),
        "How unequally the top-k choices fall: cv and the largest share beside what as many tokens choosing at random read; "
        "load_entropy is ln E at equal loads; dead experts are those that no token of the batch chose.",
        "A small batch leaves experts empty and shares unequal by chance: read the null. Tokens of one sample are no "
        "independent choices. With tied logits the lower experts win.",
        "load CV of balanced routing against the number of tokens",
        extremes={
            "router.load_cv": ("few experts take most tokens, or the batch is small", "0: loads are equal"),
            "router.load_max": ("one expert takes most choices", "1 / E: loads are equal"),
            "router.load_entropy": ("ln E: loads are equal", "few experts take most tokens"),
            "router.dead_experts": ("experts are unused, or the batch is small", "0: every expert is chosen"),
        }),
    catalog.Statistic(
        "coactivation", "Experts that are active together", ("router.coactivation", "router.coactivation_count"),
        "The share of co-active pairs that would have to change partners for experts to be chosen independently at their "
        "loads.",
        "Raw counts of pairs follow the loads; other tools count only pairs of adjacent ranks, 7 of the 28 of a top 8. Few "
        "tokens read above 0 without any structure.",
        "planted pairs among independent tokens, with the null of independence",
        extremes={
            "router.coactivation": (
                "experts go together beyond their loads, or tokens are few",
                "0: they are chosen independently"),
        }),
    catalog.Statistic(
        "specialisation", "Specialisation of experts", ("router.specialisation",),
        "How much the choice of expert tells about the sample's label, in nats: at most the entropy of the labels.",
        "Positive for any finite batch: compare with permuted labels. Labels that differ in their tokens are told apart by any "
        "router, trained or not: compare with step 0.",
        "mutual information of planted and of unrelated labels against the number of samples",
        extremes={
            "router.specialisation": ("the expert tells the sample's label", "0: it does not"),
        }),
    catalog.Statistic(
        "saturation", "Saturation of routing", ("router.saturation",),
        "How much of each token's top k is already that of the last measured step.",
        "The last step is 1 by definition, and where a run is stopped decides what counts as late. Two steps with the same few "
        "busy experts overlap by load alone: that is the null of independence.",
        "overlap with the last step of a router that drifts, and of loads alone",
        extremes={
            "router.saturation": ("the top k are those of the last step already", "routing still changes"),
        }),
    catalog.Statistic(
        "events", "Memorised and generalised samples", ("event",),
        "The share of samples whose loss is low and stays near its last value from a step on, and of those that are answered "
        "correctly from a step on. The gap between the two, on training and on held-out rows, is the delay of generalisation.",
        "Both look back from the last step: more steps can undo an event. eps decides what memorised means. Near the end few "
        "steps are left to fail, so shares rise without any order in time: shuffled_steps says how much.",
        "share memorised of samples that fall for good and of samples that flicker, with the null",
        extremes={
            "event.memorised": ("most losses are low for good", "few are"),
            "event.generalised": ("most samples are answered rightly for good", "few are"),
        }),
)
