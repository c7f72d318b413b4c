"""What the statistics of several answers to one prompt mean: formula, unit, null, interval, source."""

from jaxpost.probes.base import Metric, register

_KIRK = "arXiv:2310.06452"
_COUNTS, _SAMPLES = "exact counts and float64 on the host", "n KV-cached samples a prompt at temperature 1"
_OTHERS = ("other_prompts: the same of as many samples, each of another prompt; t over these sets; absent with fewer "
           "prompts than n")
PASS = Metric(
    "policy.pass_at_k", "1 - C(n - c, k) / C(n, k), c of n samples of a prompt with reward >= solved, averaged over prompts; "
    "column k; params samples (n), solved", "1", "arXiv:2107.03374",
    "guess: k independent guesses of the task's baseline g, 1 - (1 - g)^k; band from one guess said k times to k guesses "
    "that exclude each other, with the binomial noise of the prompts; no null where the task states no baseline",
    "mean over prompts", f"{_SAMPLES}, exact fractions", "t over prompts", higher_is_better=True)
ALL = Metric(
    "policy.all_at_k", "C(c, k) / C(n, k): that all of k attempts at a prompt are solved, averaged over prompts; otherwise as "
    "policy.pass_at_k", "1", "jaxpost (reliability over repeated attempts; unbiased for p^k)",
    "guess: k independent guesses, g^k; band from none to one guess said k times, g, with the binomial noise of the prompts",
    "mean over prompts", f"{_SAMPLES}, exact fractions", "t over prompts", higher_is_better=True)
EAD = Metric(
    "policy.ead", "distinct n-grams / (V (1 - ((V - 1) / V)^C)) of each text, C its n-grams over word tokens (no padding, no "
    "end token), V the task's vocabulary; averaged over n = 1 .. 5 (those the text is long enough for), texts of a prompt, "
    "prompts", "1", f"arXiv:2202.13587, {_KIRK}",
    "uniform_words: the same lengths of independent, equally likely words, closed form; its 95 % band from a bound of the "
    "variance", "mean over prompts", _COUNTS, "t over prompts")
EAD_PER_INPUT = Metric(
    "policy.ead_per_input", "policy.ead of the union of the n texts of one prompt, averaged over prompts", "1", _KIRK, _OTHERS,
    "mean over prompts", _COUNTS, "t over prompts")
EAD_ACROSS = Metric(
    "policy.ead_across_inputs", "policy.ead of the union of the first texts of all prompts", "1", _KIRK,
    "uniform_words: as many n-grams of independent, equally likely words, closed form; band from a bound of the variance",
    "none", _COUNTS, "delete-one-prompt t (counts of distinct kinds are not smooth: approximate)")
SIMILARITY = Metric(
    "policy.similarity_per_input", "mean over n = 1 .. 5 of the mean cosine between n-gram counts over pairs of the texts of "
    "one prompt that have an n-gram, averaged over prompts", "1",
    f"{_KIRK} (there of sentence embeddings: reconstructed)", _OTHERS, "mean over prompts", _COUNTS, "t over prompts")
SIMILARITY_ACROSS = Metric(
    "policy.similarity_across_inputs", "the same mean cosine over pairs of the first texts of all prompts", "1",
    f"{_KIRK} (there of sentence embeddings: reconstructed)", "none in the row: compare with the rows of arm base",
    "none", _COUNTS, "delete-one-prompt t")
ANSWERS = Metric(
    "policy.answer_entropy", "-sum_c p_c log p_c, p_c the share of the n samples of a prompt with the same words; averaged "
    "over prompts (plug-in: at most log n, biased down)", "nat", "jaxpost", _OTHERS, "mean over prompts", _COUNTS,
    "t over prompts")
SEMANTIC = Metric(
    "policy.semantic_entropy", "policy.answer_entropy with the verifier's classes: all samples that it accepts are one answer, "
    "others the same where their words are", "nat",
    "jaxpost (the entropy over strategic n-grams of arXiv:2509.03646 has the same name)", _OTHERS, "mean over prompts", _COUNTS,
    "t over prompts")
TEMPERED = Metric(
    "policy.entropy_at_temperature", "mean over the tokens of the samples of the entropy of softmax(logits / temperature), "
    "full vocabulary; params temperature; the states are those of samples at temperature 1", "nat", "arXiv:2506.13284",
    "none in the row: compare with the rows of arm base", "mean over tokens", "float32 logits of a pass over the samples, "
    "ratio of sums over prompts", "delete-one-prompt t")
SEQUENCE = Metric(
    "policy.sequence_entropy", "E sum_t H(pi(. | x, y_<t)), the entropy of whole answers: exact conditional entropies summed "
    "along each sample, averaged over samples and prompts (unbiased)", "nat", "jaxpost (chain rule of entropy)",
    "none in the row: compare with the rows of arm base", "mean over prompts", "float32 logits of a pass over the samples",
    "t over prompts")
GAP = Metric(
    "policy.ood_gap", "share of samples solved on split id minus that on an ood split (column split)", "1",
    f"{_KIRK} (in distribution minus out of distribution; of success, not of a judge's preference)",
    "guess: the difference of the task's baselines", "mean over prompts", "mean of each prompt's samples",
    "Welch's t over the prompts of both splits", higher_is_better=False)
CALIBRATION = Metric(
    "policy.calibration_error", "sum_b |sum_(i in b) (right_i - p_i)| / N over 10 equal bins of p, the policy's probability of "
    "the first sample of each prompt, right_i whether it is solved", "1", "Naeini et al. 2015, Guo et al. 2017",
    "calibrated: outcomes drawn with the same probabilities, mean and 95 % of 999 draws", "mean over prompts",
    "float32 log-probabilities summed along the sample, float64", "percentile bootstrap over prompts (biased up as the value "
    "is)", higher_is_better=False)
register(PASS, ALL, EAD, EAD_PER_INPUT, EAD_ACROSS, SIMILARITY, SIMILARITY_ACROSS, ANSWERS, SEMANTIC, TEMPERED, SEQUENCE, GAP,
         CALIBRATION)
