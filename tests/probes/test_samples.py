"""pass@k against enumeration of subsets, distinct n-grams against Python sets, their nulls against enumeration and draws."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.probes import base, catalog, samples, schedules, toy
from jaxpost.probes.policy import several_samples

from .trajectories import as_rows, ids


def test_pass_at_k_is_the_share_of_subsets_with_a_solved_sample():
    worst = 0.0
    for n in range(1, 9):
        for k in range(1, n + 1):
            found = samples.pass_at_k(np.arange(n + 1), n, k)
            for c in range(n + 1):
                subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
                worst = max(worst, abs(found[c] - float(Fraction(sum(map(any, subsets)), len(subsets)))))
    assert worst == 0.0
    assert samples.pass_at_k(np.asarray([1]), 1000, 500)[0] == 0.5  # large n: exact, where floating binomials overflow


def test_pass_at_k_is_an_unbiased_estimate_and_grows_with_k():
    n, p = 6, 0.3
    law = np.asarray([float(len(list(itertools.combinations(range(n), c)))) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])
    means = [law @ samples.pass_at_k(np.arange(n + 1), n, k) for k in range(1, n + 1)]
    np.testing.assert_allclose(means, [1 - (1 - p) ** k for k in range(1, n + 1)], rtol=1e-13)
    grid = np.stack([samples.pass_at_k(np.arange(n + 1), n, k) for k in range(1, n + 1)])
    assert (np.diff(grid, axis=0) >= 0).all() and (np.diff(grid, axis=1) >= 0).all()


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


def by_hand(tokens, vocabulary):
    """Independent: sets of tuples, powers."""
    each = []
    for n in range(1, 6):
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        if grams:
            each.append(len(set(grams)) / (vocabulary * (1 - ((vocabulary - 1) / vocabulary) ** len(grams))))
    return np.mean(each) if each else np.nan


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 4, (60, 14)).astype(np.int32)
    return tokens, rng.random((60, 14)) < rng.random((60, 1))


def test_ead_is_that_of_sets_of_tuples(texts):
    tokens, word = texts
    distinct, words = jax.jit(jax.vmap(samples.distinct))(tokens, word)
    found = samples.ead(np.asarray(distinct), np.asarray(words), 11)
    want = np.asarray([by_hand(t[w].tolist(), 11) for t, w in zip(tokens, word, strict=True)])
    np.testing.assert_allclose(found, want, rtol=1e-13)
    np.testing.assert_array_equal(np.isnan(found), words == 0)
    unique = samples.ead(np.asarray([[5000, 5000, 5000, 5000, 5000]]), np.asarray([5000]), 50257)
    assert unique[0] == pytest.approx(1.05, abs=0.005)  # arXiv:2310.06452: V is the same for every n, so above 1


def test_ead_does_not_see_padding_nor_the_names_of_words(texts):
    tokens, word = texts
    def value(t, w):
        return samples.ead(*map(np.asarray, jax.vmap(samples.distinct)(t, w)), 11)

    plain = value(tokens, word)
    wider = np.pad(tokens, ((0, 0), (3, 5)), constant_values=2), np.pad(word, ((0, 0), (3, 5)))
    np.testing.assert_array_equal(value(*wider), plain)
    np.testing.assert_array_equal(value(np.asarray([3, 0, 2, 1])[tokens].astype(np.int32), word), plain)
    np.testing.assert_array_equal(samples.ead(np.ones((1, 5), int), np.asarray([7]), 1), 1.0)
    with pytest.raises(ValueError, match="at least 1"):
        samples.ead(np.ones((1, 5), int), np.asarray([7]), 0)


@pytest.mark.parametrize(("vocabulary", "length"), [(2, 7), (3, 6), (5, 4)])
def test_the_null_of_ead_is_the_mean_over_all_texts(vocabulary, length):
    every = np.asarray([by_hand(list(text), vocabulary) for text in itertools.product(range(vocabulary), repeat=length)])
    mean, deviation = samples.ead_null(np.asarray([length]), vocabulary)
    assert mean[0] == pytest.approx(every.mean(), rel=0.02)
    unigrams = [len(set(text)) for text in itertools.product(range(vocabulary), repeat=length)]
    assert samples.expected_distinct(length, vocabulary) == pytest.approx(np.mean(unigrams), rel=1e-12)
    assert samples._variance(length, vocabulary) == pytest.approx(np.var(unigrams), rel=1e-9, abs=1e-9)
    assert 0.98 * every.std() <= deviation[0] < 2.5 * every.std()


class Fixed:
    """A suite whose samples are given."""

    def __init__(self, reward, tokens, word):
        self.given = tuple(map(jnp.asarray, (reward, tokens, word)))

    def samples(self, params, key, count):
        return {"id": several_samples.Sampled(*(x * jnp.asarray(1, x.dtype) for x in self.given))}

    def vocabularies(self):
        return {"id": 11}


def rows(reward, tokens, word, guesses=(("id", 0.25),)):
    probe = several_samples.PolicySamples(Fixed(reward, tokens, word), guesses, reward.shape[1], (1, 2),
                                         schedule=schedules.At((1,)))
    values = jax.device_get(probe.measure(base.Context({base.PARAMS: {}}), {}, jax.random.key(0))[1])
    values = {name: np.stack([x, x]) for name, x in values.items()}
    return as_rows(probe.finalize(values, {}, arm="a", step=1, seeds=[3, 4], conditional_on="d", row_ids=ids))


def test_rows_are_means_over_prompts_with_intervals_and_nulls():
    rng = np.random.default_rng(2)
    reward = (rng.random((12, 4)) < 0.4).astype(np.float32) * np.float32(1.0)
    tokens, word = rng.integers(0, 11, (12, 4, 9)).astype(np.int32), rng.random((12, 4, 9)) < 0.9
    found = rows(reward, tokens, word)
    assert len(found) == 2 * 3 and {row["unit"] for row in found} == {"prompt"} and {row["n_units"] for row in found} == {12}
    each = np.asarray([np.mean([any(pair) for pair in itertools.combinations(r, 2)]) for r in reward])
    row = next(r for r in found if r["metric"] == "policy.pass_at_k" and r["k"] == 2 and r["seed"] == 4)
    assert row["value"] == pytest.approx(each.mean(), rel=1e-14)
    half = 2.200985160082949 * each.std(ddof=1) / np.sqrt(12)  # t, 11 degrees of freedom
    assert (row["ci_lo"], row["ci_hi"]) == pytest.approx((each.mean() - half, each.mean() + half))
    assert row["null_kind"] == "guess" and row["null_value"] == pytest.approx(1 - 0.75**2) and row["split"] == "id"
    row = next(r for r in found if r["metric"] == "policy.ead" and r["seed"] == 3)
    by = [np.mean([by_hand(t[w].tolist(), 11) for t, w in zip(*x, strict=True)]) for x in zip(tokens, word, strict=True)]
    assert row["value"] == pytest.approx(np.mean(by), rel=1e-13)
    assert row["null_lo"] < row["null_value"] < row["null_hi"] and row["null_lo"] <= row["value"] <= row["null_hi"]
    order = rng.permutation(12)
    again = rows(reward[order][:, ::-1], tokens[order][:, ::-1], word[order][:, ::-1])
    for a, b in zip(found, again, strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=1e-13)


def test_what_has_no_word_and_what_has_no_baseline_is_said():
    reward, tokens = np.zeros((3, 2), np.float32), np.zeros((3, 2, 4), np.int32)
    word = np.zeros((3, 2, 4), bool)
    found = rows(reward, tokens, word, guesses=())
    texts = [row for row in found if row["metric"] == "policy.ead"]
    assert {row["status"] for row in texts} == {"absent"} and "no sampled text has a word" in texts[0]["status_reason"]
    assert all(row.get("null_kind") is None for row in found if row["metric"] == "policy.pass_at_k")
    word[0] = True
    texts = [row for row in rows(reward, tokens, word) if row["metric"] == "policy.ead"]
    assert texts[0]["status"] == "ok" and texts[0]["n_units"] == 1 and "2 of 3 prompts" in texts[0]["status_reason"]


def test_a_suite_without_samples_is_refused():
    with pytest.raises(ValueError, match="needs a suite with samples"):
        several_samples.PolicySamples(object(), ())
