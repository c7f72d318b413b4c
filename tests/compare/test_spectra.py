"""Spectral values of a pair against float64 SVDs, and inside the errors that their rows state."""

import numpy as np
import pytest
import scipy.linalg

from jaxpost.compare import elementwise, gram, principal, spectra
from jaxpost.compare.tally import Tally
from jaxpost.probes.weights.panel import Panel
from tests.compare import checkpoints

K = 8
SHAPES = {"tall": (60, 33), "wide": (33, 60), "square": (40, 40)}


def matrices(shape, size=2e-3, seed=0):
    """A base with a decaying spectrum, on the bf16 grid, and a tuned side in float32."""
    rng = np.random.default_rng(seed)
    q = min(shape)
    u, v = (np.linalg.qr(rng.standard_normal((n, q)))[0] for n in shape)
    w0 = checkpoints.on_grid((u * 1.15 ** -np.arange(q)) @ v.T)
    return w0, (w0 + size * rng.standard_normal(shape)).astype(np.float32)


def measured(shape, level="exact", size=2e-3):
    panel = Panel(ks=(K,), alphas=(0.5, 0.3), null_draws=3, spectra=level)
    w0, w1 = matrices(shape, size)
    tally = Tally(panel)
    tally.add(w0.ravel(), w1.ravel())
    swap = shape[0] < shape[1]
    return w0, w1, spectra.measure(panel, "w", *(np.ascontiguousarray(w.T) if swap else w for w in (w0, w1)), swap,
                                   elementwise.references(tally), elementwise.blind_law(tally),
                                   np.sqrt(elementwise.rounding_variance(tally)))


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def found(request):
    return measured(SHAPES[request.param])


def views(w1):
    return w1.astype(np.float64), checkpoints.on_grid(w1).astype(np.float64)


def svd(w):
    u, s, vt = np.linalg.svd(w.astype(np.float64), full_matrices=False)
    return u, s, vt.T


def test_rotation_is_that_of_exact_subspaces(found):
    w0, w1, got = found
    u0, _, v0 = svd(w0)
    for i, w in enumerate(views(w1)):
        u1, _, v1 = svd(w)
        for side, (a, b) in enumerate(((u0, u1), (v0, v1))):
            theta = scipy.linalg.subspace_angles(a[:, :K], b[:, :K])
            for name, exact in (("mean_sin2", np.mean(np.sin(theta) ** 2)), ("max_angle", theta.max())):
                error = got.values[f"{name}_error"][i, side, 0]
                assert abs(got.values[name][i, side, 0] - exact) <= error + 1e-12 and error < 1e-5 * max(exact, 1e-2)
    np.testing.assert_allclose(np.sort(got.arrays["angles"][0]), np.sort(scipy.linalg.subspace_angles(
        u0[:, :K], svd(w1)[0][:, :K])), rtol=1e-9)


def test_energies_ranks_and_spectra_are_exact(found):
    w0, w1, got = found
    u0, s0, v0 = svd(w0)
    for i, w in enumerate(views(w1)):
        dw = (w.astype(np.float32) - w0).astype(np.float64)  # both sides cast, subtracted in float32
        s, s1 = np.linalg.svd(dw, compute_uv=False), np.linalg.svd(w, compute_uv=False)
        total = np.sum(dw**2)
        both, left, right = (np.sum(x**2) / total for x in (u0[:, :K].T @ dw @ v0[:, :K], u0[:, :K].T @ dw, dw @ v0[:, :K]))
        np.testing.assert_allclose(got.values["captured"][i, :, 0], [both, left, right], rtol=1e-9)
        energy = np.cumsum(s**2) / total
        p, p1 = s**2 / total, s / s.sum()
        ranks = [total / s[0] ** 2, 1 + np.sum(energy < 0.9), 1 + np.sum(energy < 0.99), np.exp(-np.sum(p * np.log(p))),
                 np.exp(-np.sum(p1 * np.log(p1))), (K - 1) / np.sum(np.log(s[:K - 1] / s[K - 1]))]
        np.testing.assert_allclose(got.values["ranks"][i], ranks, rtol=1e-8)
        shift = np.linalg.norm(s1 - s0) / np.linalg.norm(s0)
        assert abs(got.values["spectral_shift"][i] - shift) <= got.values["spectral_shift_error"][i] + 1e-13
        assert got.values["spectral_shift_error"][i] < 1e-5 * shift
        wedin = s[0] / (s0[K - 1] - s1[K])
        assert abs(got.values["wedin_bound"][i, 0] - wedin) <= got.values["wedin_bound_error"][i, 0] + 1e-12 * wedin
        assert got.values["above_edge"][i] == np.sum(s > got.arrays["edge"][i])
    np.testing.assert_allclose(got.arrays["base"], s0, rtol=1e-7, atol=1e-9)


def test_principal_masks_are_those_of_the_truncated_matrix(found):
    w0, _, got = found
    swap = w0.shape[0] < w0.shape[1]
    u, s, v = svd(w0)
    score = np.abs((u[:, :K] * s[:K]) @ v[:, :K].T)
    tall = np.ascontiguousarray(w0.T) if swap else w0
    chosen = principal.select(tall, got.frame.v_NxR, (0.5, 0.3), swap)
    made = [np.concatenate(x) for x in zip(*(masks for _, masks, _ in principal.masks(tall, got.frame.v_NxR, chosen)))]
    for alpha, mask in zip((0.5, 0.3), made):
        size = int(np.ceil(round(alpha * w0.size, 6)))
        exact = np.zeros(w0.size, bool)
        exact[np.argsort(-score.ravel(), kind="stable")[:size]] = True
        mask = mask.T if swap else mask
        assert mask.shape == w0.shape and mask.sum() == size
        assert np.count_nonzero(mask.ravel() != exact) <= 4


@pytest.mark.parametrize("shape", [(50, 20), (20, 50)])
def test_ties_at_the_threshold_are_taken_in_our_order_and_counts_are_those_of_whole_masks(shape, monkeypatch):
    monkeypatch.setattr(principal, "ROWS", 16)
    rng, swap = np.random.default_rng(0), shape[0] < shape[1]
    w0 = np.zeros(shape, np.float32)
    w0[:, :7] = checkpoints.on_grid(rng.choice([0.5, 1.0, 2.0], (shape[0], 7)))  # whole columns of equal scores
    w1 = checkpoints.on_grid(w0 + 0.01 * (rng.random(shape) < 0.3))
    panel = Panel(ks=(7,), alphas=(0.1, 0.3), spectra="top")
    tall0, tall1 = (np.ascontiguousarray(w.T) if swap else w for w in (w0, w1))
    v = np.eye(tall0.shape[1])[:, :7]
    frame = gram.Frame(np.eye(max(shape))[:, :7], np.ones(min(shape)), v, np.zeros(7), np.eye(min(shape)))
    score = np.abs(tall0.copy())
    score[:, 7:] = 0
    score = score.T if swap else score
    tally = Tally(panel)
    tally.add(w0.ravel(), w1.ravel())
    limits = elementwise.thresholds(panel, tally)
    cut = elementwise.ties(limits, lambda: ([(w0.ravel(), w1.ravel())], False), shape)
    low = elementwise.low_masks(tally, limits, cut)
    got, _ = principal.counts(panel, frame, tall0, tall1, swap, limits, cut, low)
    visible = w0 != w1
    for j, alpha in enumerate(panel.alphas):
        size = int(np.ceil(round(alpha * w0.size, 6)))
        top, bottom = (np.zeros(w0.size, bool) for _ in range(2))
        top[np.argsort(-score.ravel(), kind="stable")[:size]] = True
        bottom[np.argsort(np.abs(w0).ravel(), kind="stable")[:size]] = True
        for row, mask in ((2 + j, top), (4 + j, top & ~bottom)):
            assert got.size[row] == mask.sum() and got.overlap[row] == np.count_nonzero(mask & visible.ravel())


def test_the_bound_of_wedin_holds(found):
    _, _, got = found
    angle = np.sin(got.values["max_angle"][:, :, 0]).max(1)
    bound = got.values["wedin_bound"][:, 0]
    assert np.all((angle <= bound) | np.isnan(bound))


def test_the_first_order_null_is_what_decomposing_the_same_draws_reads():
    w0, w1 = matrices((60, 33), size=2e-4)
    found = []
    for level in ("top", "exact"):
        panel = Panel(ks=(K,), alphas=(0.5,), spectra=level)
        tally = Tally(panel)
        tally.add(w0.ravel(), w1.ravel())
        found.append(spectra.measure(panel, "w", w0, w1, False, elementwise.references(tally), elementwise.blind_law(tally),
                                     np.sqrt(elementwise.rounding_variance(tally))).values)
    first, exact = found
    for name in ("mean_sin2", "max_angle"):
        np.testing.assert_allclose(first[f"blind_{name}"], exact[f"blind_{name}"], rtol=0.02)
    np.testing.assert_allclose(first["blind_ranks"][..., 0], exact["blind_ranks"][..., 0], rtol=1e-6)
    np.testing.assert_allclose(first["blind_energy"], exact["blind_energy"])


def test_drawn_ranks_have_the_law_of_gaussian_matrices():
    rng = np.random.default_rng(2)
    exact = np.asarray([np.linalg.svd(rng.standard_normal((60, 33)), compute_uv=False) for _ in range(200)])
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    found = spectra.gaussian((33, 60), 200)
    spread = np.sqrt((exact.var(0) + found.var(0)) / 200)
    assert np.all(np.abs(found.mean(0) - exact.mean(0)) <= 5 * spread)


def test_transposing_swaps_sides_and_nothing_else():
    w0, w1 = matrices((40, 40))
    panel = Panel(ks=(K,), alphas=(0.5,), null_draws=1, spectra="exact")
    out = []
    for a, b in ((w0, w1), (w0.T.copy(), w1.T.copy())):
        before, after = gram.frame(a, K), gram.frame(b, K)
        out.append(gram.rotation(before, after, panel.ks, 40)["mean_sin2"][:, 0])
    np.testing.assert_allclose(out[0], out[1][::-1], rtol=1e-9)


def test_a_dimension_that_a_matrix_does_not_have_is_not_a_number():
    w0, w1 = matrices((60, 33))
    before, after = gram.frame(w0, 32), gram.frame(w1, 32)
    found = gram.rotation(before, after, (8, 33), 33)
    assert np.isfinite(found["mean_sin2"][:, 0]).all() and np.isnan(found["mean_sin2"][:, 1]).all()


def test_no_update_has_no_rotation():
    w0, _ = matrices((40, 40))
    turned = gram.rotation(gram.frame(w0, K), gram.frame(w0, K), (K,), 40)
    assert np.all(turned["mean_sin2"] < 1e-24) and np.all(turned["max_angle"] < 1e-11)
    assert np.isnan(spectra.ranks(np.zeros(40), 0.0, K, True)).all()
