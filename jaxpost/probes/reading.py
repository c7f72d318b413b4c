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
        "noise", "Gradient noise", ("gradient.mean_norm2", "gradient.noise_trace", "gradient.noise_scale", "gradient.gsnr"),
        "The noise scale is the batch, in examples, at which signal and noise of the mean gradient are equal.",
        "It is a ratio with a denominator that may be noise: unresolved rows are not large noise scales. GSNR is a mean of "
        "ratios and is dominated by coordinates that hardly vary.",
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
        "policy", "What the policy does", ("policy",),
        "Success against the best guess that does not solve the problem; KL to the base in both directions; entropy of own "
        "samples. All arms of a seed share prompts and noise, so differences are paired.",
        "KL per sequence grows with length, per token it does not; entropy falls with every kind of training. Success of the "
        "base is itself a noisy number: compare with the rows of arm base.",
        "KL in both directions between two categorical policies"),
)


def statistic_of(metric: str) -> Statistic | None:
    """The statistic that explains a metric; None for a user's own."""
    found = [(len(prefix), i) for i, statistic in enumerate(STATISTICS) for prefix in statistic.prefixes
             if metric == prefix or metric.startswith((f"{prefix}.", f"{prefix}_"))]
    return STATISTICS[max(found)[1]] if found else None


def metrics_of(statistic: Statistic) -> list[Metric]:
    """The registered metrics that a statistic explains, in order of registration."""
    return [metric for name, metric in METRICS.items() if statistic_of(name) is statistic]
