"""Fourier mathematics against numpy's FFT, brute-force projections and logits that are planted waves."""

import itertools

import numpy as np
import pytest
import scipy.special

from jaxpost.probes.fourier import basis as fb

P = 11
F = (P - 1) // 2
SUM = np.add.outer(np.arange(P), np.arange(P)) % P


def planted(p=P, keys=(1, 3), amplitude=2.0):
    """logits[a, b, c] = amplitude sum_w cos(2 pi w (a + b - c) / p)."""
    a, b, c = np.meshgrid(*[np.arange(p)] * 3, indexing="ij")
    return amplitude * sum(np.cos(2 * np.pi * w * (a + b - c) / p) for w in keys)


def noise(seed=0, shape=(P, P, P)):
    return np.random.default_rng(seed).normal(size=shape)


def projected(logits, functions):
    """Least-squares projection over all problems on some functions of (a, b), f64 [K, p, p]."""
    basis = functions.reshape(len(functions), -1).T
    fitted = basis @ np.linalg.lstsq(basis, logits.reshape(-1, logits.shape[-1]), rcond=None)[0]
    return fitted.reshape(logits.shape)


def sum_waves(keys):
    angle = [2 * np.pi * w * SUM / P for w in keys]
    return np.stack([f(x) for x in angle for f in (np.cos, np.sin)])


def components(logits, keys):
    return fb.components(fb.sum_coefficients(logits), keys, P)


@pytest.mark.parametrize("keys", [(1,), (2, 5), tuple(range(1, F + 1))])
def test_components_are_the_least_squares_projection_on_the_waves(keys):
    logits = noise()
    np.testing.assert_allclose(components(logits, keys)[SUM], projected(logits, sum_waves(keys)), rtol=1e-9, atol=1e-12)


def test_coefficients_are_the_diagonal_of_the_two_dimensional_fft():
    logits = noise(1)
    spectrum = np.fft.fft2(logits, axes=(0, 1))
    coefficients = fb.sum_coefficients(logits)
    for w in range(1, F + 1):  # sum_ab x exp(-2 pi i w (a + b) / p)
        np.testing.assert_allclose(coefficients[w - 1, 0], 2 / P**2 * spectrum[w, w].real, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(coefficients[w - 1, 1], -2 / P**2 * spectrum[w, w].imag, rtol=1e-9, atol=1e-12)


def test_planted_waves_hold_all_the_variance_and_are_chosen():
    logits = planted()
    total = ((logits - logits.mean((0, 1))) ** 2).sum()
    share = fb.shares(fb.sum_coefficients(logits), total, P)
    np.testing.assert_allclose(share, [0.5, 0, 0.5, 0, 0], atol=1e-12)
    assert sorted(fb.key_frequencies(share, 0.95, 8)) == [1, 3]
    np.testing.assert_allclose(components(logits, (1, 3))[SUM], logits, atol=1e-12)


def test_a_product_mask_would_keep_what_the_sum_direction_does_not():
    a, b = np.meshgrid(np.arange(P), np.arange(P), indexing="ij")
    cross = np.cos(2 * np.pi * 2 * (a - b) / P)[..., None] * np.arange(P)  # inside a product mask of frequency 2
    np.testing.assert_allclose(components(cross, (2,)), 0, atol=1e-12)
    spectrum = np.abs(np.fft.fft2(cross[..., 1])) > 1e-9
    assert set(zip(*np.nonzero(spectrum), strict=True)) == {(2, P - 2), (P - 2, 2)}
    assert len(sum_waves((1, 2, 3, 4))) == 2 * 4 and (1 + 2 * 4) ** 2 == 81


def test_frequencies_run_to_half_of_p_inclusive():
    assert fb.waves(P).shape == (F, 2, P)
    share = fb.shares(fb.sum_coefficients(planted(keys=(F,))), 1.0, P)
    assert np.argmax(share) == F - 1
    gram = fb.waves(P).reshape(-1, P) @ fb.waves(P).reshape(-1, P).T
    np.testing.assert_allclose(gram, np.eye(2 * F) * P / 2, atol=1e-12)
    with pytest.raises(ValueError, match="modulus 12; .*odd modulus"):
        fb.waves(12)


def test_the_choice_takes_the_fewest_in_order_and_stops_at_the_cap():
    share = np.array([0.1, 0.4, 0.05, 0.3, 0.1])
    assert list(fb.key_frequencies(share, 0.7, 8)) == [2, 4]
    assert list(fb.key_frequencies(share, 0.8, 8)) == [2, 4, 1]  # 0.8 of 0.95: ties go to the lower frequency
    assert list(fb.key_frequencies(share, 1.0, 2)) == [2, 4]
    assert len(fb.key_frequencies(share, 1.0, 8)) == 5 and len(fb.key_frequencies(np.zeros(5), 0.9, 8)) == 0


@pytest.mark.parametrize("keys", [(1,), (2, 4)])
def test_restricted_and_excluded_losses_are_those_of_brute_force_logits(keys):
    logits, answers = noise(2) * 3 + planted(), np.random.default_rng(3).integers(0, P, (P, P))
    train = np.random.default_rng(4).random((P, P)) < 0.6
    waves = projected(logits, sum_waves(keys))
    restricted = waves + (logits - waves).mean((0, 1))
    count = np.zeros((P, P))
    np.add.at(count, (SUM, answers), 1)
    part = components(logits, keys)
    want = [-np.log(scipy.special.softmax(x, axis=-1))[np.arange(P)[:, None], np.arange(P), answers]
            for x in (restricted, logits - waves)]
    assert fb.restricted_loss(logits.mean((0, 1)), part, count) == pytest.approx(want[0].mean(), rel=1e-10)
    assert fb.excluded_loss(logits[train], SUM[train], answers[train], part) == pytest.approx(want[1][train].mean(), rel=1e-10)


def test_losses_do_not_see_what_a_softmax_does_not():
    logits = noise(5)
    shifted = logits + noise(6, (P, P, 1)) * 100
    np.testing.assert_allclose(fb.centred(shifted), fb.centred(logits), atol=1e-11)
    assert fb.centred(logits.astype(np.float32)).dtype == np.float64


def test_the_loss_is_exact_where_float32_has_lost_it():
    for gap in (0.0, 20.0, 40.0, 200.0, -30.0, -800.0):
        logits = np.array([[gap, 0.0, 0.0]])
        want = np.log1p(2 * np.exp(-gap)) if gap >= 0 else -gap + np.log(np.exp(gap) + 2)
        assert fb.nll(logits, np.array([0]))[0] == pytest.approx(want, rel=1e-12)
    rows, answers = noise(7, (50, P)) * 10, np.arange(50) % P
    want = scipy.special.logsumexp(rows, axis=1) - rows[np.arange(50), answers]
    np.testing.assert_allclose(fb.nll(rows, answers), want, rtol=1e-9)


def test_gini_of_known_vectors():
    assert fb.gini(np.r_[np.ones(5), np.zeros(52)]) == pytest.approx(1 - 5 / 57)
    assert round(fb.gini(np.r_[np.ones(5), np.zeros(52)]), 3) == 0.912
    assert fb.gini(np.ones(9)) == pytest.approx(0) and np.isnan(fb.gini(np.zeros(4)))
    x = np.abs(noise(8, (30,)))
    mean_difference = np.mean([abs(a - b) for a, b in itertools.product(x, x)])
    assert fb.gini(x) == pytest.approx(mean_difference / (2 * x.mean())) == pytest.approx(fb.gini(7 * x[::-1]))


def test_norms_are_those_of_the_fft_keep_the_energy_and_do_not_see_rotations():
    table = noise(9, (P, 4))
    spectrum = np.linalg.norm(np.fft.fft(table, axis=0), axis=1) / np.sqrt(P)
    want = np.concatenate([spectrum[:1], np.sqrt(2) * spectrum[1 : F + 1]])
    np.testing.assert_allclose(fb.norms(table), want, rtol=1e-10)
    assert (fb.norms(table) ** 2).sum() == pytest.approx((table**2).sum())
    turned = table @ np.linalg.qr(noise(10, (4, 4)))[0]
    np.testing.assert_allclose(fb.norms(turned), want, rtol=1e-10)
    np.testing.assert_allclose(fb.norms(np.roll(table, 3, axis=0)), want, rtol=1e-10)


def test_cosine_coefficients_are_inner_products_with_the_waves_and_find_the_planted_ones():
    a, b, c = np.meshgrid(*[np.arange(P)] * 3, indexing="ij")
    logits = noise(3) + planted(keys=(2,), amplitude=1.5)
    brute = [2 / P**3 * (logits * np.cos(2 * np.pi * w * (a + b - c) / P)).sum() for w in range(1, F + 1)]
    np.testing.assert_allclose(fb.cosine_coefficients(fb.sum_coefficients(logits), P), brute, rtol=1e-9, atol=1e-12)
    found = fb.cosine_coefficients(fb.sum_coefficients(planted(keys=(2, 4), amplitude=1.5)), P)
    np.testing.assert_allclose(found, [0, 1.5, 0, 1.5, 0], atol=1e-12)
