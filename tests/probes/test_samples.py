"""pass@k and all@k against enumeration of subsets, EAD against Python sets, their nulls against enumeration; rows of all."""

import itertools
from collections import Counter
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxpost import models, tasks, training
from jaxpost.probes import base, catalog, samples, schedules, toy
from jaxpost.probes.policy import answer_rows, several_samples, text_sets
from jaxpost.probes.policy.answer_rows import NO_WORD

from .trajectories import as_rows, ids


def test_pass_at_k_is_the_share_of_subsets_with_a_solved_sample():
    worst = 0.0
    for n in range(1, 9):
        for k in range(1, n + 1):
            for found, rule in ((samples.pass_at_k, any), (samples.all_at_k, all)):
                for c, value in enumerate(found(np.arange(n + 1), n, k)):
                    subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
                    worst = max(worst, abs(value - float(Fraction(sum(map(rule, subsets)), len(subsets)))))
    assert worst == 0.0
    assert samples.pass_at_k(np.asarray([1]), 1000, 500)[0] == 0.5  # large n: exact, where floating binomials overflow


def test_pass_at_k_is_an_unbiased_estimate_and_grows_with_k():
    n, p = 6, 0.3
    law = np.asarray([float(len(list(itertools.combinations(range(n), c)))) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])
    means = [law @ samples.pass_at_k(np.arange(n + 1), n, k) for k in range(1, n + 1)]
    np.testing.assert_allclose(means, [1 - (1 - p) ** k for k in range(1, n + 1)], rtol=1e-13)
    grid = np.stack([samples.pass_at_k(np.arange(n + 1), n, k) for k in range(1, n + 1)])
    assert (np.diff(grid, axis=0) >= 0).all() and (np.diff(grid, axis=1) >= 0).all()
    every = np.stack([samples.all_at_k(np.arange(n + 1), n, k) for k in range(1, n + 1)])
    np.testing.assert_allclose(law @ every.T, p ** np.arange(1, n + 1), rtol=1e-12)
    np.testing.assert_allclose(grid + every[:, ::-1], 1, rtol=1e-15)  # k are all not solved, or one is


@pytest.mark.parametrize(("k", "near"), [(9, "k=8, or samples=9"), (0, "k=1")])
def test_k_above_n_is_an_error_with_the_nearest_valid(k, near):
    with pytest.raises(ValueError, match=f"k={k} of n=8.*nearest valid: {near}"):
        samples.pass_at_k(np.asarray([1]), 8, k)
    with pytest.raises(ValueError, match="found|nearest valid"):
        catalog.get("samples", subject=toy.SUBJECT, ks=(k,))
    with pytest.raises(ValueError, match="expected 0 to n=4"):
        samples.pass_at_k(np.asarray([5]), 4, 2)


def test_the_guess_null_holds_what_guessers_read():
    rng, g, k, n, N = np.random.default_rng(0), 0.3, 4, 4, 400
    value, lo, hi = samples.guess_at_k(g, k, N)
    independent = samples.pass_at_k((rng.random((N, n)) < g).sum(1), n, k).mean()
    same = (rng.random(N) < g).mean()  # one guess said k times
    others = (rng.integers(0, 10, N) < 10 * g * k).mean()  # k guesses that exclude each other
    assert abs(independent - value) < 0.08
    assert all(lo <= x <= hi for x in (independent, same, others))
    assert samples.guess_at_k(0.0, 3, 10) == (0.0, 0.0, 0.0)
    value, lo, hi = samples.guess_all_at_k(g, k, N)
    each = samples.all_at_k((rng.random((N, n)) < g).sum(1), n, k).mean()
    assert abs(each - value) < 0.03 and lo == 0.0 <= each <= hi
    assert np.mean((rng.random((200, N)) < g).mean(1) <= hi) > 0.93  # one guess said k times: 97.5 %, four deviations


def by_hand(tokens, vocabulary):
    """Independent: sets of tuples, powers."""
    each = []
    for n in range(1, 6):
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        if grams:
            each.append(len(set(grams)) / (vocabulary * (1 - ((vocabulary - 1) / vocabulary) ** len(grams))))
    return np.mean(each) if each else np.nan


def ead(tokens, word, vocabulary=11):
    grams = text_sets.grams(text_sets.aligned(np.where(word, tokens, text_sets.NO_WORD)))
    return samples.ead(*text_sets.distinct(grams, np.arange(len(tokens)), len(tokens)), vocabulary)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 4, (60, 14)).astype(np.int32)
    return tokens, rng.random((60, 14)) < rng.random((60, 1))


def test_ead_is_that_of_sets_of_tuples(texts):
    tokens, word = texts
    found, words = ead(tokens, word), word.sum(1)
    want = np.asarray([by_hand(t[w].tolist(), 11) for t, w in zip(tokens, word, strict=True)])
    np.testing.assert_allclose(found, want, rtol=1e-13)
    np.testing.assert_array_equal(np.isnan(found), words == 0)
    unique = samples.ead(np.full((1, 5), 5000), np.full((1, 5), 5000), 50257)
    assert unique[0] == pytest.approx(1.05, abs=0.005)  # arXiv:2310.06452: V is the same for every n, so above 1


def test_ead_does_not_see_padding_nor_the_names_of_words(texts):
    tokens, word = texts
    plain = ead(tokens, word)
    wider = np.pad(tokens, ((0, 0), (3, 5)), constant_values=2), np.pad(word, ((0, 0), (3, 5)))
    np.testing.assert_array_equal(ead(*wider), plain)
    np.testing.assert_array_equal(ead(np.asarray([3, 0, 2, 1])[tokens].astype(np.int32), word), plain)
    np.testing.assert_array_equal(samples.ead(np.ones((1, 5), int), samples.grams_of(np.asarray([7])), 1), 1.0)
    with pytest.raises(ValueError, match="at least 1"):
        samples.ead(np.ones((1, 5), int), samples.grams_of(np.asarray([7])), 0)


@pytest.mark.parametrize(("vocabulary", "length"), [(2, 7), (3, 6), (5, 4)])
def test_the_null_of_ead_is_the_mean_over_all_texts(vocabulary, length):
    every = np.asarray([by_hand(list(text), vocabulary) for text in itertools.product(range(vocabulary), repeat=length)])
    mean, deviation = samples.ead_null(samples.grams_of(np.asarray([length])), vocabulary)
    assert mean[0] == pytest.approx(every.mean(), rel=0.02)
    unigrams = [len(set(text)) for text in itertools.product(range(vocabulary), repeat=length)]
    assert samples.expected_distinct(length, vocabulary) == pytest.approx(np.mean(unigrams), rel=1e-12)
    assert samples._variance(length, vocabulary) == pytest.approx(np.var(unigrams), rel=1e-9, abs=1e-9)
    assert 0.98 * every.std() <= deviation[0] < 2.5 * every.std()


class Fixed:
    """A suite whose samples are given: fields of `Sampled` of a split, and the same samples solved less often on another."""

    def __init__(self, reward, tokens, word, logp):
        length = word.sum(2) + 1.0
        self.given = several_samples.Sampled(*map(jnp.asarray, (reward, tokens, word, logp, length, 0.5 * length[..., None])))

    def samples(self, params, key, count, temperatures):
        harder = self.given._replace(reward_NxG=self.given.reward_NxG * (jnp.arange(count) % 2)[None])
        return {"id": self.given, "ood/harder": harder}

    def vocabularies(self):
        return dict.fromkeys(("id", "ood/harder"), 11)


def rows(reward, tokens, word, guesses=(("id", 0.25), ("ood/harder", 0.125)), logp=None, **settings):
    logp = np.full(reward.shape, np.log(0.5), np.float32) if logp is None else logp
    probe = several_samples.PolicySamples(Fixed(reward, tokens, word, logp), guesses, reward.shape[1], (1, 2),
                                         schedule=schedules.At((1,)), **settings)
    values = jax.device_get(probe.measure(base.Context({base.PARAMS: {}}), {}, jax.random.key(0))[1])
    values = {name: np.stack([x, x]) for name, x in values.items()}
    return as_rows(probe.finalize(values, {}, arm="a", step=1, seeds=[3, 4], conditional_on="d", row_ids=ids))


def only(found, metric, **wanted):
    (row,) = [r for r in found if all(r[name] == value for name, value in
                                      {"metric": metric, "seed": 4, "split": "id", **wanted}.items())]
    return row


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(2)
    tokens, word = rng.integers(0, 3, (12, 4, 9)).astype(np.int32), rng.random((12, 4, 9)) < 0.9
    tokens[:, 1:3], word[:, 1:3] = tokens[:, :1], word[:, :1]  # three of four answers are the same
    return (rng.random((12, 4)) < 0.4).astype(np.float32), tokens, word


def half(x):
    return 2.200985160082949 * np.std(x, ddof=1) / np.sqrt(12)  # t, 11 degrees of freedom


@pytest.mark.parametrize("kinds", [1, 2, 3, 30, 810_000, 10**6, 10**7])
def test_the_variance_of_distinct_outcomes_is_that_of_exact_fractions(kinds):
    one, two = 1 - Fraction(1, kinds), max(1 - Fraction(2, kinds), Fraction(0))
    drawn = np.asarray([0, 1, 2, 10, 60])
    exact = [float(kinds * (kinds - 1) * two**c + kinds * one**c - (kinds * one**c) ** 2) for c in drawn.tolist()]
    np.testing.assert_allclose(samples._variance(drawn, float(kinds)), exact, rtol=1e-4, atol=1e-15)


def test_rows_are_means_over_prompts_with_intervals_and_nulls(given):
    reward, tokens, word = given
    found = rows(*given)
    assert {row["unit"] for row in found} == {"prompt"} and {row["metric"] for row in found} == set(answer_rows.MAKERS)
    each = np.asarray([np.mean([any(pair) for pair in itertools.combinations(r, 2)]) for r in reward])
    row = only(found, "policy.pass_at_k", k=2)
    assert row["value"] == pytest.approx(each.mean(), rel=1e-14) and row["n_units"] == 12
    assert (row["ci_lo"], row["ci_hi"]) == pytest.approx((each.mean() - half(each), each.mean() + half(each)))
    assert row["null_kind"] == "guess" and row["null_value"] == pytest.approx(1 - 0.75**2)
    assert only(found, "policy.all_at_k", k=2)["null_value"] == pytest.approx(0.25**2)
    row = only(found, "policy.ead")
    by = [np.mean([by_hand(t[w].tolist(), 11) for t, w in zip(*x, strict=True)]) for x in zip(tokens, word, strict=True)]
    assert row["value"] == pytest.approx(np.mean(by), rel=1e-13)
    assert row["null_lo"] < row["null_value"] < row["null_hi"]
    order = np.random.default_rng(3).permutation(12)
    for a, b in zip(found, rows(reward[order], tokens[order], word[order]), strict=True):
        if not a["metric"].endswith("across_inputs") and a["metric"] != "policy.calibration_error":
            assert a["value"] == pytest.approx(b["value"], rel=1e-13)  # the others are of first samples, or resampled
    across = only(found, "policy.similarity_across_inputs")["value"]
    assert only(rows(reward[order], tokens[order], word[order]), "policy.similarity_across_inputs")["value"] == \
        pytest.approx(across, rel=1e-13)


def test_repeated_answers_read_as_such_and_other_prompts_do_not(given):
    reward, tokens, word = given
    found = rows(*given)
    plain = [Counter(tuple(t[w]) for t, w in zip(*x, strict=True)).values() for x in zip(tokens, word, strict=True)]
    want = np.mean([-sum(c / 4 * np.log(c / 4) for c in counts) for counts in plain])
    row = only(found, "policy.answer_entropy")
    assert row["value"] == pytest.approx(want, rel=1e-13) and row["null_value"] > 1.3 > 0.6 > row["value"]  # log 4 = 1.386
    assert only(found, "policy.similarity_per_input")["value"] > only(found, "policy.similarity_per_input")["null_hi"]
    same = rows(np.ones_like(reward), np.repeat(tokens[:, :1], 4, 1), np.repeat(word[:, :1], 4, 1))
    for metric, value in (("answer_entropy", 0.0), ("semantic_entropy", 0.0), ("similarity_per_input", 1.0), ("ood_gap", None)):
        if value is not None:
            assert only(same, f"policy.{metric}")["value"] == pytest.approx(value, abs=1e-15)
    right = rows(np.ones_like(reward), tokens, word)
    assert only(right, "policy.semantic_entropy")["value"] == pytest.approx(0.0, abs=1e-15)  # different words, all right
    assert only(right, "policy.answer_entropy")["value"] == row["value"]


def test_gap_entropy_and_calibration_are_those_of_scipy_and_plain_arithmetic(given):
    reward, tokens, word = given
    found, share = rows(*given), reward.mean(1)
    harder = (reward * (np.arange(4) % 2)).mean(1)
    row = only(found, "policy.ood_gap", split="ood/harder")
    test = scipy.stats.ttest_ind(share, harder, equal_var=False)
    assert row["value"] == pytest.approx(share.mean() - harder.mean()) and row["null_value"] == 0.125
    assert (row["ci_lo"], row["ci_hi"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert only(found, "policy.entropy_at_temperature")["value"] == pytest.approx(0.5, rel=1e-6)
    assert only(found, "policy.sequence_entropy")["value"] == pytest.approx(0.5 * (word.sum(2) + 1).mean(), rel=1e-6)
    row = only(found, "policy.calibration_error")
    assert row["value"] == pytest.approx(abs(reward[:, 0].mean() - 0.5), abs=1e-7)  # one bin
    assert row["null_lo"] <= row["null_value"] <= row["null_hi"] and row["ci_lo"] <= row["ci_hi"]


def test_what_has_no_word_and_what_has_no_baseline_is_said():
    reward, tokens = np.zeros((3, 2), np.float32), np.zeros((3, 2, 4), np.int32)
    word = np.zeros((3, 2, 4), bool)
    found = rows(reward, tokens, word, guesses=())
    assert only(found, "policy.ead")["status"] == "absent" and NO_WORD in only(found, "policy.ead")["status_reason"]
    assert all(row.get("null_kind") is None for row in found if row["metric"] in ("policy.pass_at_k", "policy.ood_gap"))
    assert only(found, "policy.similarity_per_input")["status"] == "absent"
    assert only(found, "policy.answer_entropy")["value"] == 0.0  # nothing was said, every time
    word[0] = True
    text = only(rows(reward, tokens, word), "policy.ead")
    assert text["status"] == "ok" and text["n_units"] == 1 and "2 of 3 prompts" in text["status_reason"]
    broken = only(rows(reward, tokens, word, logp=np.full((3, 2), np.nan, np.float32)), "policy.calibration_error")
    assert broken["status"] == "nan" and "log-probabilities" in broken["status_reason"]


@pytest.mark.parametrize(("settings", "expected"), [
    ({"metrics": ("policy.pass_at_l",)}, "did you mean 'policy.pass_at_k'"),
    ({"temperatures": (0.7,)}, "sequence entropy is read at 1, add it"),
    ({"temperatures": (1.0, 0.0)}, "all above 0"),
])
def test_settings_that_cannot_be_measured_are_refused(settings, expected):
    with pytest.raises(ValueError, match=expected):
        catalog.get("samples", subject=toy.SUBJECT, **settings)


def test_a_suite_without_samples_is_refused():
    with pytest.raises(ValueError, match="needs a suite with samples"):
        several_samples.PolicySamples(object(), ())


def test_entropies_and_log_probabilities_are_those_of_the_policy_on_its_own_samples():
    """Teacher-forced logits in float64: entropies of tokens at two temperatures, log-probabilities of answers."""
    task = tasks.Task("copies", 1, 2, 4, {"id": np.int32(0)}, lambda key, _: jax.random.bits(key) % 3 + 2,
                      lambda x: jnp.stack([x, x]).astype(jnp.int32), None, lambda x, tokens: jnp.float32(0), None, vocab_size=5)
    model = models.TransformerConfig(vocab=5, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, ff=8)
    suite = training.Suite(model, (("id", task, "id"),), 2, "id")

    @jax.jit
    def run(key):
        params = jax.tree.map(lambda w: 2 * w, models.init(model, key))
        found = suite.samples(params, key, 6, (0.5, 1.0))["id"]
        prompt_NxP = jnp.repeat(jax.vmap(task.prompt)(tasks.problems(task, "id", jnp.arange(2))), 6, axis=0)
        return found, models.token_logits(model, params, prompt_NxP, found.tokens_NxGxT.reshape(12, -1), task.pad)

    found, logits = jax.device_get(run(jax.random.key(1)))
    logits = np.asarray(logits, np.float64).reshape(*found.tokens_NxGxT.shape, -1)
    mask = np.arange(logits.shape[2]) < found.length_NxG[..., None]
    for k, temperature in enumerate((0.5, 1.0)):
        entropy = scipy.stats.entropy(scipy.special.softmax(logits / temperature, axis=-1), axis=-1)
        np.testing.assert_allclose(found.entropy_NxGxK[..., k], (entropy * mask).sum(-1), rtol=0, atol=4 * np.log(5) * 2.0**-20)
    logp = np.take_along_axis(scipy.special.log_softmax(logits, axis=-1), found.tokens_NxGxT[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found.logp_NxG, (logp * mask).sum(-1), rtol=0, atol=4 * 2.0**-18)
    assert (found.word_NxGxT.sum(-1) <= found.length_NxG).all() and found.length_NxG.min() < found.length_NxG.max()
