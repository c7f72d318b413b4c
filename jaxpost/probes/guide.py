"""How to read each statistic and how it misleads: what docs/probes.md says beside the formulas of `METRICS`."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpost.probes.base import METRICS, Metric


@dataclass(frozen=True)
class Statistic:
    """Metrics that are read together. `prefixes` of metric ids: the longest that fits owns a metric."""

    name: str  # also of its example figure, docs/figures/probes/<name>.png
    title: str
    prefixes: tuple[str, ...]
    read: str
    misleads: str
    shows: str  # what the figure shows


STATISTICS = (
    Statistic(
        "size", "Size of the update", ("weight.update_norm", "weight.relative_norm"),
        "How far the weights went. Every other weight statistic depends on it: compare arms at one learning rate and at one "
        "norm, never at one step only.",
        "The bf16 view can be smaller or larger than the masters' own: an update below half an ULP vanishes, one just above it "
        "is rounded up to a whole one. The null row says what size a blind update of the same norm would show.",
        "visible norm of a blind update against its true norm"),
    Statistic(
        "sparsity", "Update sparsity", ("weight.sparsity",),
        "The share of entries that a reader of that dtype sees unchanged. Subtract the null: what a shuffled or Gaussian "
        "update of the same norm would leave unchanged.",
        "One update reads as 0 % or 98 % sparse by dtype and tolerance alone. Small updates are sparse in bf16 whatever made "
        "them; by_tensor weighs a small matrix like a large one.",
        "one blind update read in four definitions"),
    Statistic(
        "ever_changed", "Changed and brought back", ("weight.sparsity.ever", "weight.cancelled"),
        "The share of entries that no step ever changed in bf16, and of those that changed and equal the base again: what a "
        "comparison of two checkpoints cannot see.",
        "Every optimizer with noise brings entries back; there is no honest null, so compare arms at one learning rate and one "
        "number of steps.",
        "net and ever-changed share of entries along a random walk"),
    Statistic(
        "spectrum", "Spectral shift", ("weight.spectral",),
        "How much of the update changed singular values rather than rotated their vectors: rho is 1 for an update along the "
        "singular directions, about 1 / sqrt(max(m, n)) (kappa 1) for an isotropic one.",
        "A small spectral shift is what random directions give: read rho and kappa against the isotropic null, not against 0. "
        "kappa = 1 is first order only.",
        "rho of an update along the singular directions and of blind ones"),
    Statistic(
        "rotation", "Principal angles", ("weight.rotation",),
        "How far the leading k-dimensional singular subspaces turned, left and right. Read with the gap of the base: below a "
        "gap any noise turns them. The Wedin row bounds the largest sine where it exists.",
        "Rounding to bf16 alone turns a subspace by degrees where the gap is small (the floor says how many); arccos of a "
        "near-one cosine reports 3.5e-4 rad of nothing. A mean over matrices hides one that turned.",
        "angle of a blind update against its size, for a large and a small gap"),
    Statistic(
        "overlap", "Overlap with principal and low-magnitude masks", ("weight.overlap",),
        "The share of visible entries that lie in a mask made from the base. Compare with the magnitude-conditioned null: "
        "blind updates of the same size visibly move small weights more often.",
        "Against the mask's density every blind update looks off-principal: low-magnitude entries are easier to move visibly, "
        "and principal ones are large.",
        "overlap of blind updates against the mask density and against the right null"),
    Statistic(
        "energy", "Off-principal energy", ("weight.off_principal_energy", "weight.doubly_off_energy"),
        "The share of ||dW||^2 outside the leading k directions of the base: two-sided, one-sided, or outside on both sides. "
        "The Beta null gives what a random direction would have outside.",
        "k directions of a large matrix are few: a random update already has 1 - k^2 / (mn) of its energy outside, which looks "
        "like avoidance of the principal subspace.",
        "two-sided energy of random updates against k, with the Beta law"),
    Statistic(
        "rank", "Rank of the update", ("weight.rank",),
        "How many directions the update has. Stable rank is about its largest singular value, entropy and energy ranks about "
        "its whole spectrum; above_edge counts what rounding noise cannot explain.",
        "A bf16 checkpoint difference has full rank from rounding alone: a rank-8 update reads as rank ~1000 with a default "
        "tolerance. Hill assumes a power law that nobody tested here.",
        "ranks of a planted rank-8 update before and after rounding"),
    Statistic(
        "jaccard", "Agreement between runs", ("weight.jaccard",),
        "Whether runs from one base change the same entries. The excess over the magnitude-conditioned null is the finding.",
        "Plain independence is the wrong baseline: two blind updates of one base already agree, because small weights are "
        "easier to move visibly.",
        "Jaccard of two blind updates with both baselines"),
    Statistic(
        "pairs", "Agreement with a run from a transformed base", ("weight.pair",),
        "Whether a run changes the entries that another run changes: with the base rotated or permuted in between (raw), and "
        "mapped back to the first run's coordinates. Agreement that follows the transform belongs to the entries' roles, not "
        "to their places.",
        "Two blind runs agree wherever both bases have small weights in the same place: the magnitude-conditioned null of both "
        "bases says how much. Independence is right only where the two bases' magnitudes are unrelated.",
        "Jaccard of two blind runs, from one base and from two, with both baselines"),
    Statistic(
        "stripes", "Stripes of the update mask", ("weight.stripes",),
        "Whether whole rows or columns change more than others: cv is their spread, excess what is left of it after the blind "
        "update's own spread; stability says whether the same rows stay ahead.",
        "Rows of small weights change more often under any update: cv alone is not structure, excess is. The largest of many "
        "rows is large by itself.",
        "spread of row ratios of a blind update and of one with planted rows"),
    Statistic(
        "consensus", "Consensus of runs", ("weight.consensus",),
        "The share of entries that exactly j of R runs change. Above the blind law at j = 0 and j = R: runs agree on where.",
        "With few runs everything is 0 or R; entries with small weights are changed by all blind runs together.",
        "how many of eight runs change an entry: planted agreement against the blind laws"),
    Statistic(
        "rank_one", "The leading direction of the update", ("weight.rank_one",),
        "How much of the update is one direction (energy and norm are different shares), and whether that direction at one "
        "step is that of a later one.",
        "A walk keeps its past: two points of a blind random walk share a direction, more the closer they are. Random "
        "directions are too weak a null for neighbouring steps.",
        "cosine of the leading directions of a blind walk, and of independent updates"),
    Statistic(
        "fixed_spectrum", "Updates at a fixed spectrum", ("weight.fixed_spectrum",),
        "The share of the update that no matrix with the base's singular values explains: free frames (iso), or the left or "
        "right frame held as well.",
        "Small random updates hardly change a spectrum, so a small iso share is the null; keep-left and keep-right are "
        "reconstructed from printed numbers.",
        "unexplained share of a rotation, of an isotropic update and of a rescaling"),
    Statistic(
        "drift", "Distance against training time", ("weight.drift",),
        "Which law the distance follows at constant learning rate, judged on points that no fit saw: log_advantage above 0 "
        "means the logarithm predicts better than a power.",
        "A good R^2 of a + b log t proves little: a random walk over one decade has one too. Warm-up and decay phases bend "
        "every law.",
        "distance of a random walk and of a logarithmic drift, with log fits"),
    Statistic(
        "distance", "L1 and spectral norm of the update", ("weight.l1_mean", "weight.l1_sum", "weight.spectral_norm"),
        "Predictors of forgetting in weight space. Beside the Gaussian null: a small L1 for its Frobenius norm is a "
        "concentrated update, a large spectral norm a low-rank one.",
        "All of them follow the Frobenius norm first; a predictor that beats the others in one sweep of learning rates may "
        "only be the one that follows the learning rate best.",
        "L1 over Frobenius norm against the density of the update"),
    Statistic(
        "fisher", "Fisher-weighted length", ("fisher",),
        "The length of the update where the base's own predictions are sensitive: about twice the KL of a small step if the "
        "Fisher were diagonal.",
        "The diagonal leaves out all interaction; the empirical Fisher is another matrix; a far policy is beyond the "
        "quadratic. Compare with the same norm in a random direction.",
        "KL of a softmax policy against half its Fisher length"),
    Statistic(
        "gate_leash", "Gate I: the KL leash", ("gate.leash",),
        "Measured KL against half the update's squared length in the whole Fisher metric: a ratio of 1 is a small step, and "
        "says how far the leash idea holds.",
        "The probe rows' prefixes are fixed: KL on the policy's own samples is another number. A ratio near 1 says that the "
        "step is small, not that a leash made it so.",
        "ratio of length to sqrt(2 KL) as the step grows"),
    Statistic(
        "gate_curvature", "Gate II: curvature along directions of the base", ("gate.curvature",),
        "Curvature of the base's own predictions along a direction, relative to a random direction of the same matrix: 1 is "
        "nothing special. Principal masks and subspaces above their null say that the leading directions of W0 are the curved "
        "ones; an update below its shuffled twin avoids curvature beyond what its size and density do.",
        "A principal mask is a proxy of curvature that need not hold: published tests with Hessian products contradict each "
        "other (geometry of RLVR, 48 cells of which none cleared two standard errors). The conditioned form depends on its "
        "damping and rows: without damping it is 0. Many matrices are compared at once: one outside its band is expected in "
        "twenty. Targets are drawn from the base, so rows' noise is in the interval.",
        "relative curvature of a planted principal subspace and of random frames, against the strength of the plant"),
    Statistic(
        "curvature", "Spectrum of the Hessian or GGN", ("curvature",),
        "The largest eigenvalues (sharpness) bound the step that a gradient method can take without oscillating: 2 / sharpness "
        "for gradient descent, 38 / sharpness_adam for Adam with b1 = 0.9. The trace is the sum of all; share_above says how "
        "few directions carry it.",
        "Sequence sums: longer rows are sharper. The GGN leaves out the residuals' part of the Hessian, which is small only "
        "near a fit. Sharpness changes under a rescaling that leaves the function as it was. A Ritz value lies below its "
        "eigenvalue: read the numerical error.",
        "largest eigenvalue by Lanczos against products spent, with its residual"),
    Statistic(
        "gate_ulp", "Gate III: half an ULP", ("gate.ulp",),
        "The share of entries beyond 2^j half ULPs: how far from visible the rest is; size_free removes the size of the "
        "update.",
        "Small weights have small ULPs: visibility follows the weights as much as the update. Compare with a Gaussian of the "
        "same size.",
        "share of a blind update beyond multiples of half an ULP"),
    Statistic(
        "tails", "Tails and bulk of the spectrum", ("weight.tail", "weight.mp"),
        "Exploratory. A power-law exponent of the largest eigenvalues with its fit quality, and the Marchenko-Pastur bulk with "
        "what sticks out of it.",
        "Any spectrum gets an exponent: read it beside KS, the number of values in the tail and the lognormal alternative. The "
        "cut at xmin chooses what is a tail.",
        "spectrum of a Gaussian matrix with three planted spikes, and its bulk edge"),
    Statistic(
        "forgetting", "What predicts forgetting", ("forgetting",),
        "How well a quadratic in one distance explains the loss of the old task over runs, and predicts an arm that the fit "
        "has not seen.",
        "R^2 over runs that differ in learning rate mostly measures the learning rate. Judge by left-out arms and by permuted "
        "arms, not by R^2.",
        "a distance that predicts and one that only follows the arm"),
    Statistic(
        "interpolation", "The line between base and policy", ("interpolation",),
        "The loss along (1 - a) base + a policy, how far it rises above the chord of its ends, what the average solves that "
        "neither end does, and the average of logits at matched confidence.",
        "A chord is no theory: a convex bowl lies below it without any meaning, and eleven points miss a narrow ridge. "
        "FalseFalseTrue at chance is not emergence.",
        "loss along the line inside one bowl and between two"),
    Statistic(
        "coherence", "Gradient coherence", ("gradient.alpha", "gradient.m_coherence", "gradient.sum_norm2",
                                             "gradient.norm2_sum"),
        "alpha is 1 when all examples have one gradient and about 0 (unbiased) when they are orthogonal; m-coherence is how "
        "many examples one example helps, itself included.",
        "The plug-in value is 1/m for orthogonal gradients and depends on m and on the chunk; a mean-reduced loss or a shared "
        "output bias makes gradients agree about nothing. Compare with permuted labels.",
        "plug-in and unbiased alpha at planted coherence"),
    Statistic(
        "noise", "Gradient noise", ("gradient.mean_norm2", "gradient.noise_trace", "gradient.noise_scale", "gradient.gsnr",
                                    "gradient.gsnr_eps"),
        "The noise scale is the batch, in examples, at which signal and noise of the mean gradient are equal.",
        "It is a ratio with a denominator that may be noise: unresolved rows are not large noise scales. GSNR is a mean of "
        "ratios and is dominated by coordinates that hardly vary; gsnr_eps bounds them by eps, which has the units of a "
        "squared gradient: where variances are below it, it measures the scale of the loss.",
        "noise scale against the number of examples"),
    Statistic(
        "example_norm", "Norms of single examples' gradients", ("gradient.example_norm",),
        "Who makes the gradient: a few examples with large norms, or all alike.",
        "Norms follow the length of a row where losses are summed over tokens.",
        "norms of examples of unequal length"),
    Statistic(
        "gram", "Gram matrix of single examples' gradients", ("gradient.gram",),
        "In how many directions a few examples pull (effective rank), how much of it is one direction (top share), and how "
        "alike two of them are (mean cosine).",
        "Rank and share depend on how many examples there are and on the spread of their norms: compare at one m, with the "
        "orthogonal null of the same norms. One long example alone gives a low rank.",
        "effective rank of gradients that share a planted direction, and of orthogonal ones"),
    Statistic(
        "conflict", "Conflict between losses", ("gradient.conflict",),
        "The cosine of two losses' mean gradients on the same parameters. Read it against the ceiling: what two noisy means "
        "would show if their expectations were parallel.",
        "Noise pulls every cosine to 0: a small cosine of small batches is no conflict.",
        "cosine of parallel gradients under noise, and its ceiling"),
    Statistic(
        "trend", "Trends of two trajectories", ("trend",),
        "Whether a statistic and an outcome move together along a run: read given_time and change, beside the same statistic "
        "of a run that cannot reach the outcome and beside the outcome of other seeds (other_runs).",
        "Any two curves that drift correlate: independent monotone curves reach |r| above .9, and a block permutation of the "
        "plain reading calls them significant. Smooth residuals of a trend that log t does not straighten correlate as well.",
        "correlations of independent monotone curves, plain and given time"),
    Statistic(
        "pathway", "Pathways of samples through experts", ("pathway.distance", "pathway.length"),
        "How differently two samples are routed: edits between their sequences of experts. Read it below or above equal_load, "
        "what samples with the same loads and lengths would read if they chose at random; over=memorised is the paper's form.",
        "Early checkpoints have a low distance too, because every sample is routed alike: low is not generalised. It follows "
        "the pathway's length: a router that grows confident shortens every distance. Ties of a flat router are decided by "
        "expert numbers (num_err says how many edits that is).",
        "distance of unrelated samples and of two groups as a router grows sharp, with random routing of the same loads"),
    Statistic(
        "consistency", "Consistency of routing between layers", ("pathway.cosine", "pathway.consistency_c_paper"),
        "Whether the router vectors that a sample meets in consecutive layers point the same way. The raw cosine is primary, "
        "and its excess over shuffled_samples is what is the sample's own.",
        "Most of the cosine belongs to the routers, not to the sample: it is there for shuffled samples too. The paper's C is "
        "0 with two layers whatever the routing, and flips its sign where all cosines are negative.",
        "raw cosine and the paper's C as two routers turn from opposed to aligned"),
    Statistic(
        "complexity", "Complexity of routing", ("pathway.complexity",),
        "How many directions of routing a ridge of size lambda leaves: one if all samples are routed alike, more with groups "
        "of their own. Compare with shuffled samples, whose layers know nothing of each other.",
        "It grows with the number of samples at a fixed lambda and never exceeds layers times experts; the kernel inside an "
        "expert is taken as constant (reconstructed), so it says nothing of what experts compute.",
        "effective dimension of planted groups against their number"),
    Statistic(
        "router_entropy", "Entropy of routing", ("router.entropy",),
        "How undecided a token's router is: ln E when flat, 0 when it names one expert. The gap to layer_mean is what tokens "
        "are told apart by.",
        "It needs full probabilities: of renormalised top-k weights it reads low, of a second softmax near ln E. Low entropy "
        "with one expert for all is collapse, not specialisation.",
        "entropy of one router from its logits, from a second softmax and from renormalised top-2 weights"),
    Statistic(
        "router_load", "Load of experts", ("router.load", "router.dead_experts"),
        "How unequally the top-k choices fall: cv and the largest share beside what as many tokens choosing at random read; "
        "load_entropy is ln E at equal loads; dead experts are those that no token of the batch chose.",
        "A small batch leaves experts empty and shares unequal by chance: read the null. Tokens of one sample are no "
        "independent choices. With tied logits the lower experts win.",
        "load CV of balanced routing against the number of tokens"),
    Statistic(
        "coactivation", "Experts that are active together", ("router.coactivation", "router.coactivation_count"),
        "The share of co-active pairs that would have to change partners for experts to be chosen independently at their "
        "loads.",
        "Raw counts of pairs follow the loads; other tools count only pairs of adjacent ranks, 7 of the 28 of a top 8. Few "
        "tokens read above 0 without any structure.",
        "planted pairs among independent tokens, with the null of independence"),
    Statistic(
        "specialisation", "Specialisation of experts", ("router.specialisation",),
        "How much the choice of expert tells about the sample's label, in nats: at most the entropy of the labels.",
        "Positive for any finite batch: compare with permuted labels. Labels that differ in their tokens are told apart by any "
        "router, trained or not: compare with step 0.",
        "mutual information of planted and of unrelated labels against the number of samples"),
    Statistic(
        "saturation", "Saturation of routing", ("router.saturation",),
        "How much of each token's top k is already that of the last measured step.",
        "The last step is 1 by definition, and where a run is stopped decides what counts as late. Two steps with the same few "
        "busy experts overlap by load alone: that is the null of independence.",
        "overlap with the last step of a router that drifts, and of loads alone"),
    Statistic(
        "events", "Memorised and generalised samples", ("event",),
        "The share of samples whose loss is low and stays near its last value from a step on, and of those that are answered "
        "correctly from a step on. The gap between the two, on training and on held-out rows, is the delay of generalisation.",
        "Both look back from the last step: more steps can undo an event. eps decides what memorised means. Near the end few "
        "steps are left to fail, so shares rise without any order in time: shuffled_steps says how much.",
        "share memorised of samples that fall for good and of samples that flicker, with the null"),
    Statistic(
        "policy", "What the policy does", ("policy",),
        "Success against the best guess that does not solve the problem; KL to the base in both directions; entropy of own "
        "samples. pass@k is what the best of k samples solves, EAD how varied the words of one text are; the covariance of "
        "log-probability and advantage says whether a step raises what is likely already (entropy falls). All "
        "arms of a seed share prompts and noise, so differences are paired.",
        "KL per sequence grows with length, per token it does not; entropy falls with every kind of training. pass@k grows "
        "with k for guessers too: read it over its null. EAD falls with the length of a text. Success of the "
        "base is itself a noisy number: compare with the rows of arm base.",
        "KL in both directions between two categorical policies"),
    Statistic(
        "fit", "Fit of whole tables", ("fit",),
        "Loss and accuracy over every problem of a split, training and test: no sampling, so that a difference is one. The "
        "null is the best answer that does not read the problem.",
        "Accuracy jumps where the loss glides: it says when the right answer came first, not when the model began to find "
        "it. A loss below its floor is rounding.",
        "accuracy and loss of margins that grow steadily"),
    Statistic(
        "fourier", "Fourier progress measures of modular addition", ("fourier",),
        "Restricted loss: what the waves of a + b at the key frequencies say alone; it falls while the circuit forms. Excluded "
        "loss: what is left of the training fit without them; it rises as memory is given up for them. The key frequencies are "
        "frozen from the last step, so the measure does not move. Compare with other sets of as many frequencies.",
        "Projecting on a + b averages memorised answers into right ones: with most problems in training the restricted loss "
        "falls with memorisation, for any frequencies. With many keys among few frequencies random sets overlap them. Keys of "
        "a model that never generalised are the largest of nothing. A Gini over few frequencies is coarse.",
        "restricted loss of memorised answers against the share of problems in training"),
)


def statistic_of(metric: str) -> Statistic | None:
    """The statistic that explains a metric; None for a user's own."""
    found = [(len(prefix), i) for i, statistic in enumerate(STATISTICS) for prefix in statistic.prefixes
             if metric == prefix or metric.startswith((f"{prefix}.", f"{prefix}_"))]
    return STATISTICS[max(found)[1]] if found else None


def metrics_of(statistic: Statistic) -> list[Metric]:
    """The registered metrics that a statistic explains, in order of registration."""
    return [metric for name, metric in METRICS.items() if statistic_of(name) is statistic]
