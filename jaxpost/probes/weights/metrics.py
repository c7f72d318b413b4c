"""The weight metrics: what each number is, in one table.

Formulas use dW = W1 - W0, s singular values, U V the top-k singular vectors of W0.
"""

from __future__ import annotations

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
    "top": ("rotation.mean_sin2", "rotation.max_angle", "rotation.gap", "rotation.wedin_bound", "overlap.principal",
            "overlap.principal_not_low", "off_principal_energy", "doubly_off_energy", "rank.stable", "rank.hill"),
    "exact": ("spectral_shift", "spectral_shift_over_update", "spectral_kappa", "rank.energy", "rank.entropy",
              "rank.entropy_sigma", "rank.above_edge"),
}


def metrics_of(panel: Panel) -> tuple[str, ...]:
    """Ids of the metrics that a panel gives rows of."""
    return tuple(f"weight.{name}" for level, names in _LEVELS.items() if panel.reads(level) for name in names)
