"""The weight metrics: what each number is, in one table.

Formulas use dW = W1 - W0, s singular values, U V the top-k singular vectors of W0.
"""

from __future__ import annotations

from jaxpost.probes import catalog
from jaxpost.probes.base import Metric, register
from jaxpost.probes.weights.panel import Panel

PNT = "The Path Not Taken, arXiv:2511.08567"
OPDG = "On the Geometry of On-Policy Distillation, arXiv:2606.07082"
_SVD = "LAPACK gesdd, float32, on fp32 masters and on their bf16 cast upcast to float32"
_SUBSPACE = _SVD + '; level "top": block Krylov, certified by its residuals (linalg.top_k)'
_BLIND = ("permuted: the update's entries in another order, drawn at the measurement and read in the same view (law_range "
          "where masters are bf16); 95 % prediction interval of the draws")
_ISOTROPIC = ("isotropic update of the master's norm, rounded as the view is; 95 % prediction interval of the draws. In a "
              "comparison of checkpoints: permuted, or law_range, drawn with the value")
_CONDITIONED = ("magnitude_conditioned: the update's entries in another order, read in the same view (law_range where masters "
                "are bf16); moments in closed form, the band that of a Beta law with them")
_VISIBLE = ("permuted (bf16 view): norm that bf16 shows of the update's entries in another order, closed form; none where "
            "masters are bf16, whose blind law is matched to it")
_LEADING = _SVD + '; level "top": one block Krylov space, its residuals as error (linalg.leading_values)'
_CODES = "integer bit patterns, round to nearest even"

register(
    Metric("weight.update_norm", "||dW||_F", "1", PNT,
           _VISIBLE, "quadrature",
           "float32 sum of squares; both ends cast before subtracting"),
    Metric("weight.relative_norm", "||dW||_F / ||W0||_F", "1", PNT,
           "as weight.update_norm", "quadrature", "as weight.update_norm"),
    Metric("weight.sparsity.bf16", "share of entries with bf16(w1) = bf16(w0) as values (+0 = -0; NaN is changed unless "
           "bit-equal)", "1", PNT + " Def. 2.1",
           "halfulp_permuted: 1 - mean(p_i), p_i = 1 - [F(h_i+) - F(-h_i-)], F of the matrix's own "
           "fp32 update; law_range where masters are bf16: Gaussian, Laplace, t3 and log-normal of the same mean absolute "
           "visible update, the band holding all; gaussian_equal_norm as a further row",
           "ratio of sums", _CODES),
    Metric("weight.sparsity.fp32", "share of entries with w1 = w0 as float32 values", "1",
           "RL's Razor, arXiv:2509.04259", "halfulp_permuted at float32 boundaries; as weight.sparsity.bf16 where masters are "
           "bf16", "ratio of sums", _CODES),
    Metric("weight.sparsity.abs", "share of entries with |w1 - w0| <= tol, float32", "1",
           "Mukherjee et al., arXiv:2505.11711",
           "law_range: Gaussian, Laplace, t3 and log-normal of the update's mean absolute size (of its visible density, "
           "rounded to bf16, where masters are bf16), the band holding all",
           "ratio of sums", "float32 comparison"),
    Metric("weight.sparsity.rel", "share of entries with |w1 - w0| <= eta max(|w0|, |w1|), uncast float32", "1",
           PNT + " Def. 2.1 (there on bf16 values, where it is equality)",
           "law_range, in closed form given |w0|; none where masters are bf16: their steps are 0.4 to 0.8 % of an entry",
           "ratio of sums", "float32 comparison"),
    Metric("weight.spectral_shift", "NSS = ||s(W1) - s(W0)||_2 / ||s(W0)||_2, full descending spectra", "1",
           PNT + " 4.1", _ISOTROPIC, "mean over matrices", _SVD),
    Metric("weight.spectral_shift_over_update", "rho = NSS ||W0||_F / ||dW||_F", "1", "ISO, arXiv:2607.19331",
           _ISOTROPIC, "mean over matrices", _SVD),
    Metric("weight.spectral_kappa", "rho^2 max(m, n)", "1", "ISO, arXiv:2607.19331 (reconstructed)",
           _ISOTROPIC + " (1 to first order only)", "mean over matrices", _SVD),
    Metric("weight.rotation.mean_sin2", "||(I - U0 U0') U1||_F^2 / k of the top-k subspaces, left (U) or right (V)",
           "1", PNT + " 4.1", _ISOTROPIC, "mean over matrices",
           _SUBSPACE + "; sines, projected twice"),
    Metric("weight.rotation.max_angle", "largest principal angle of the top-k subspaces", "rad", PNT + " 4.1",
           _ISOTROPIC, "mean over matrices",
           _SUBSPACE + "; arcsin if sin^2 <= 1/2 else arccos"),
    Metric("weight.rotation.gap", "(s_k - s_{k+1}) / s_1 of W0", "1", "Wedin 1972",
           "none: a property of the base", "mean over matrices", _SUBSPACE),
    Metric("weight.rotation.wedin_bound", "||dW||_2 / (s_k(W0) - s_{k+1}(W1)), absent unless positive; bounds the "
           "largest sine on both sides", "1", "Wedin 1972", "none: a bound", "mean over matrices", _SUBSPACE),
    Metric("weight.overlap.principal", "share of bf16-visible entries inside the top ceil(alpha N) of |rank-k W0|", "1",
           PNT + " 4.2", "magnitude_conditioned: sum_M p_i / sum p_i (law_range at the visible density where masters are "
           "bf16); "
           "mask_density as a further row", "ratio of sums", _CODES + "; stable row-major ties"),
    Metric("weight.overlap.low_magnitude", "share of bf16-visible entries inside the bottom ceil(alpha N) of |W0|", "1",
           PNT + " 4.2", "as weight.overlap.principal", "ratio of sums", _CODES + "; stable row-major ties"),
    Metric("weight.overlap.principal_not_low", "share of bf16-visible entries in the principal but not the low mask",
           "1", PNT + " 4.2", "as weight.overlap.principal", "ratio of sums", _CODES + "; stable row-major ties"),
    Metric("weight.off_principal_energy", "1 - ||U'dWV||_F^2 / ||dW||_F^2 (both), 1 - ||U'dW||^2 / ||dW||^2 (left), "
           "1 - ||dWV||^2 / ||dW||^2 (right)", "1", OPDG, _CONDITIONED, "ratio of sums", "products at full float32 precision"),
    Metric("weight.doubly_off_energy", "||(I - UU') dW (I - VV')||_F^2 / ||dW||_F^2", "1", OPDG,
           "as weight.off_principal_energy", "ratio of sums",
           "1 - left - right + both of the captured shares"),
    Metric("weight.rank.stable", "||dW||_F^2 / ||dW||_2^2", "1", OPDG, _BLIND,
           "mean over matrices", _LEADING),
    Metric("weight.rank.energy", "smallest r with sum_{i<=r} s_i^2 >= q sum s_i^2", "1", "arXiv:2606.13657",
           _BLIND, "mean over matrices", _SVD),
    Metric("weight.rank.entropy", "exp(-sum p log p), p = s^2 / sum s^2", "1", "Roy and Vetterli 2007",
           _BLIND, "mean over matrices", _SVD),
    Metric("weight.rank.entropy_sigma", "exp(-sum p log p), p = s / sum s", "1", "arXiv:2606.13657",
           _BLIND, "mean over matrices", _SVD),
    Metric("weight.rank.above_edge", "number of s_i > q_rms (sqrt m + sqrt n), q_rms^2 = mean((ulp0^2 + ulp1^2)/2)/12",
           "1", "Marchenko and Pastur 1967", _BLIND, "mean over matrices", _SVD),
    Metric("weight.rank.hill", "[sum_{i<k} log(s_i / s_k) / (k - 1)]^-1 on the top k singular values", "1", OPDG,
           _BLIND, "mean over matrices", _LEADING),
    Metric("weight.jaccard", "|A & B| / |A | B| of the bf16-visible masks of two seeds, mean over pairs", "1",
           PNT + " 2.2", "magnitude_conditioned: sum p^a p^b / sum (p^a + p^b - p^a p^b) (law_range where "
           "masters are bf16), its band the spread over pairs of blind runs; independence a further row",
           "mean over pairs of seeds, ratio of sums over matrices", _CODES, ci_method="delete-one-seed jackknife, t"),
)

_LEVELS = {  # level -> what it adds to the cheaper ones
    "none": ("update_norm", "relative_norm", "sparsity.bf16", "sparsity.fp32", "sparsity.abs", "sparsity.rel",
             "overlap.low_magnitude"),
    "masks": ("overlap.principal", "overlap.principal_not_low"),
    "top": ("rotation.mean_sin2", "rotation.max_angle", "rotation.gap", "rotation.wedin_bound", "off_principal_energy",
            "doubly_off_energy", "rank.stable", "rank.hill"),
    "exact": ("spectral_shift", "spectral_shift_over_update", "spectral_kappa", "rank.energy", "rank.entropy",
              "rank.entropy_sigma", "rank.above_edge"),
}


def metrics_of(panel: Panel) -> tuple[str, ...]:
    """Ids of the metrics that a panel gives rows of."""
    return tuple(f"weight.{name}" for level, names in _LEVELS.items() if panel.reads(level) for name in names)


catalog.add(
    __name__,
    catalog.Statistic(
        "size", "Size of the update", ("weight.update_norm", "weight.relative_norm"),
        "How far the weights went. Every other weight statistic depends on it: compare arms at one learning rate and at one "
        "norm, never at one step only.",
        "The bf16 view can be smaller or larger than the masters' own: an update below half an ULP vanishes, one just above it "
        "is rounded up to a whole one. The null row says what size a blind update of the same norm would show.",
        "visible norm of a blind update against its true norm",
        extremes={
            "weight.update_norm": ("the weights went far", "they stayed near the base"),
            "weight.relative_norm": ("the weights went far for their size", "they stayed near the base"),
        }),
    catalog.Statistic(
        "sparsity", "Update sparsity", ("weight.sparsity",),
        "The share of entries that a reader of that dtype sees unchanged. Subtract the null: what a shuffled or Gaussian "
        "update of the same norm would leave unchanged.",
        "One update reads as 0 % or 98 % sparse by dtype and tolerance alone. Small updates are sparse in bf16 whatever made "
        "them; by_tensor weighs a small matrix like a large one.",
        "one blind update read in four definitions",
        extremes={
            "weight.sparsity": (
                "few entries change to a reader of that dtype, as after any small update",
                "most entries change"),
        }),
    catalog.Statistic(
        "spectrum", "Spectral shift", ("weight.spectral",),
        "How much of the update changed singular values rather than rotated their vectors: rho is 1 for an update along the "
        "singular directions, about 1 / sqrt(max(m, n)) (kappa 1) for an isotropic one.",
        "A small spectral shift is what random directions give: read rho and kappa against the isotropic null, not against 0. "
        "kappa = 1 is first order only.",
        "rho of an update along the singular directions and of blind ones",
        extremes={
            "weight.spectral_shift": (
                "singular values changed",
                "they stayed: a small update, or one that turns their vectors"),
            "weight.spectral_shift_over_update": (
                "1: the update lies along the singular directions",
                "about 1 / sqrt(max(m, n)): it is isotropic"),
            "weight.spectral_kappa": (
                "above 1: more along the singular directions than an isotropic update",
                "1, to first order: isotropic"),
        }),
    catalog.Statistic(
        "rotation", "Principal angles", ("weight.rotation",),
        "How far the leading k-dimensional singular subspaces turned, left and right. Read with the gap of the base: below a "
        "gap any noise turns them. The Wedin row bounds the largest sine where it exists.",
        "Rounding to bf16 alone turns a subspace by degrees where the gap is small (the floor says how many); arccos of a "
        "near-one cosine reports 3.5e-4 rad of nothing. A mean over matrices hides one that turned.",
        "angle of a blind update against its size, for a large and a small gap",
        extremes={
            "weight.rotation.mean_sin2": ("the leading subspace turned, or its gap is small", "it stayed"),
            "weight.rotation.max_angle": ("some leading direction turned, or the gap is small", "none turned"),
            "weight.rotation.gap": ("the leading subspace is well separated", "any noise turns it"),
            "weight.rotation.wedin_bound": (
                "the update is large against the gap: the bound says little",
                "no angle can be large"),
        }),
    catalog.Statistic(
        "overlap", "Overlap with principal and low-magnitude masks", ("weight.overlap",),
        "The share of visible entries that lie in a mask made from the base. Compare with the magnitude-conditioned null: "
        "blind updates of the same size visibly move small weights more often.",
        "Against the mask's density every blind update looks off-principal: low-magnitude entries are easier to move visibly, "
        "and principal ones are large.",
        "overlap of blind updates against the mask density and against the right null",
        extremes={
            "weight.overlap.principal": (
                "visible changes fall on the base's principal entries",
                "they avoid them, as a blind update's do: principal entries are large"),
            "weight.overlap.low_magnitude": (
                "visible changes fall on small entries, as a blind update's do",
                "they avoid them"),
        }),
    catalog.Statistic(
        "energy", "Off-principal energy", ("weight.off_principal_energy", "weight.doubly_off_energy"),
        "The share of ||dW||^2 outside the leading k directions of the base: two-sided, one-sided, or outside on both sides. "
        "The Beta null gives what a random direction would have outside.",
        "k directions of a large matrix are few: a random update already has 1 - k^2 / (mn) of its energy outside, which looks "
        "like avoidance of the principal subspace.",
        "two-sided energy of random updates against k, with the Beta law",
        extremes={
            "weight.off_principal_energy": (
                "the update lies outside the leading directions, as a random one does",
                "it lies inside"),
            "weight.doubly_off_energy": (
                "the update lies outside on both sides, as a random one does",
                "it lies inside on a side"),
        }),
    catalog.Statistic(
        "rank", "Rank of the update", ("weight.rank",),
        "How many directions the update has. Stable rank is about its largest singular value, entropy and energy ranks about "
        "its whole spectrum; above_edge counts what rounding noise cannot explain.",
        "A bf16 checkpoint difference has full rank from rounding alone: a rank-8 update reads as rank ~1000 with a default "
        "tolerance. Hill assumes a power law that nobody tested here.",
        "ranks of a planted rank-8 update before and after rounding",
        extremes={
            "weight.rank": ("the update has many directions; rounding to bf16 alone gives it all", "it has few"),
            "weight.rank.above_edge": ("many directions that rounding cannot explain", "few"),
            "weight.rank.hill": ("the top k singular values are alike", "a few of them stand out"),
        }),
)
