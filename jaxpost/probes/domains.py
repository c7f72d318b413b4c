"""In which values a metric can lie. Its intervals and null bands are cut at the ends: what is beyond cannot be the value.

The interval of a mean that lies in a domain keeps its coverage when it is intersected with it (`records.domains`). Metrics that
no rule names are any real number; "open: ..." says why the estimates of a metric may leave what it estimates.
"""

from fnmatch import fnmatchcase

SHARE, POSITIVE, COUNT, COSINE, ANGLE = "[0, 1]", "[0, inf)", "[1, inf)", "[-1, 1]", "[0, 1.5707963267948966]"

RULES = (  # the first pattern that fits
    ("*.unbiased", "open: an unbiased estimate lies outside for some samples, and cutting it would bias every mean over it"),
    ("gradient.mean_norm2", "open: an unbiased estimate of a square may be negative"),
    ("gradient.noise_scale", "open: a ratio with an unbiased estimate that may be negative"),
    ("weight.stripes.excess", "open: a difference from its null, negative values as they come"),
    ("weight.consensus.stripes", "open: a difference from its null, negative values as they come"),
    ("interpolation.barrier", "open: a difference of losses"),
    ("learning_coefficient.local", "open: negative where the policy is no minimum of the probe batch's loss"),
    ("learning_coefficient.*", POSITIVE),
    ("pathway.consistency_c_paper", "open: the paper's ratio has no bound where all cosines are negative"),
    ("router.specialisation", "open: a jackknifed plug-in estimate may be negative"),
    ("weight.sparsity.*", SHARE), ("weight.cancelled", SHARE), ("weight.overlap.*", SHARE), ("weight.jaccard", SHARE),
    ("weight.pair.*", SHARE), ("weight.consensus.share", SHARE), ("weight.*_energy", SHARE),
    ("weight.rotation.mean_sin2", SHARE), ("weight.rotation.max_angle", ANGLE), ("weight.rotation.gap", SHARE),
    ("weight.rotation.wedin_bound", POSITIVE), ("weight.rank.above_edge", POSITIVE), ("weight.rank.hill", POSITIVE),
    ("weight.rank.*", COUNT), ("weight.rank_one.linearity", "(-inf, 1]"), ("weight.rank_one.*", SHARE),
    ("weight.fixed_spectrum.unexplained", SHARE), ("weight.update_norm", POSITIVE), ("weight.relative_norm", POSITIVE),
    ("weight.l1_*", POSITIVE), ("weight.spectral_*", POSITIVE), ("weight.stripes.cv", POSITIVE),
    ("weight.stripes.max_over_mean", COUNT), ("weight.stripes.stability", COSINE), ("weight.mp.ks", SHARE),
    ("weight.mp.soft_rank", POSITIVE), ("weight.mp.*", POSITIVE), ("weight.tail.ks", SHARE),
    ("weight.tail.*_p", SHARE), ("weight.tail.alpha", COUNT), ("weight.tail.alpha_se", POSITIVE),
    ("weight.tail.count", POSITIVE), ("weight.tail.xmin", POSITIVE), ("weight.drift.log_r2", "(-inf, 1]"),
    ("weight.drift.holdout_error", POSITIVE), ("policy.success", SHARE), ("policy.pass_at_k", SHARE),
    ("policy.all_at_k", SHARE), ("policy.auc", SHARE), ("policy.similarity_*", SHARE), ("policy.calibration_error", SHARE),
    ("policy.ood_gap", COSINE), ("policy.teacher_forced_accuracy", SHARE), ("lifelong.*", COSINE),
    ("policy.interrupted_success", SHARE), ("policy.interrupted_share", SHARE), ("policy.success_given_reasoning", SHARE),
    ("policy.follows_reasoning", SHARE), ("strategy.unexplained", POSITIVE),
    ("strategy.odds.*", POSITIVE), ("strategy.*", SHARE),
    ("policy.ead*", POSITIVE), ("policy.*entropy*", POSITIVE), ("policy.kl_*", POSITIVE), ("policy.text_*", POSITIVE),
    ("policy.loss_tokens", POSITIVE), ("policy.effective_rows", POSITIVE),
    ("fit.accuracy", SHARE), ("fit.loss", POSITIVE), ("event.*", SHARE), ("interpolation.success", SHARE),
    ("interpolation.false_false_true", SHARE), ("interpolation.barrier_at", SHARE), ("interpolation.loss", POSITIVE),
    ("interpolation.balanced_*", POSITIVE), ("forgetting.permutation_p", SHARE), ("forgetting.left_out_error", POSITIVE),
    ("forgetting.r2", "(-inf, 1]"), ("fourier.*_share", SHARE), ("fourier.gini", SHARE), ("fourier.*_loss", POSITIVE),
    ("fourier.key_count", POSITIVE), ("fourier.sum_squares", POSITIVE), ("trend.correlation", COSINE), ("trend.p", SHARE),
    ("circuit.*", SHARE), ("pathway.cosine", COSINE), ("pathway.distance*", POSITIVE), ("pathway.length", POSITIVE),
    ("pathway.complexity", POSITIVE), ("router.load_max", SHARE), ("router.saturation", SHARE),
    ("router.entropy_relative", SHARE), ("router.coactivation", SHARE), ("router.*", POSITIVE), ("fisher.*", POSITIVE),
    ("curvature.share_above", SHARE), ("curvature.sharpness_adam", POSITIVE), ("gate.ulp.median", POSITIVE),
    ("gate.ulp.*", SHARE), ("gate.leash.*", POSITIVE), ("gate.curvature.remaining", SHARE), ("gate.curvature.*", POSITIVE),
    ("kernel.alignment.*", COSINE), ("kernel.effective_rank", COUNT), ("kernel.*", POSITIVE),
    ("gradient.gram.mean_cosine", COSINE), ("gradient.gram.top_share", SHARE), ("gradient.gram.effective_rank", COUNT),
    ("gradient.conflict.cosine", COSINE), ("gradient.conflict.split_half", COSINE), ("gradient.conflict.ceiling", SHARE),
    ("gradient.example_norm", POSITIVE), ("gradient.norm2_sum", POSITIVE), ("gradient.sum_norm2", POSITIVE),
    ("gradient.noise_trace", POSITIVE), ("gradient.alpha.plug_in", SHARE), ("gradient.m_coherence.plug_in", POSITIVE),
    ("gradient.gsnr*", POSITIVE),
    ("curvature.*", "open: eigenvalues and traces of a Hessian have either sign"),
)


def of(name: str) -> str:
    """The domain of a metric as text, "" for any real number; "open: ..." says why a domain is not enforced.

    >>> of("policy.success"), of("weight.rank.stable"), of("weight.drift.log_slope")
    ('[0, 1]', '[1, inf)', '')
    """
    return next((domain for pattern, domain in RULES if fnmatchcase(name, pattern)), "")
