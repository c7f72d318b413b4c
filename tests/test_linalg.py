"""Spectra, subspaces and angles against float64 numpy and scipy, planted angles and ranks, and their invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxpost import linalg

KEY = jax.random.key(0)


def orthogonal(rng, n, k=None):
    return np.linalg.qr(rng.normal(size=(n, k or n)))[0]


def decaying(rng, m, n, power):
    q = min(m, n)
    return (orthogonal(rng, m, q) * np.arange(1, q + 1) ** -power) @ orthogonal(rng, n, q).T


def planted(rng, m, angles):
    """Two m x k frames with the given principal angles, in float64."""
    k = len(angles)
    frame = orthogonal(rng, m, 2 * k)
    u1 = frame[:, :k]
    u2 = u1 * np.cos(angles) + frame[:, k:] * np.sin(angles)
    return u1 @ orthogonal(rng, k), u2 @ orthogonal(rng, k)


def test_svd_reconstructs_and_returns_v_not_its_transpose():
    a = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    u, s, v = linalg.svd(jnp.asarray(a))
    assert u.shape == (30, 20) and v.shape == (20, 20)
    np.testing.assert_allclose(np.asarray((u * s[None, :]) @ v.T), a, atol=1e-5)
    np.testing.assert_allclose(s, np.linalg.svd(a.astype(np.float64), compute_uv=False), rtol=1e-5)
    np.testing.assert_array_equal(np.isnan(linalg.singular_values(jnp.full((4, 3), jnp.nan))), True)


@pytest.mark.parametrize("shape", [(160, 120), (120, 160)])
def test_block_krylov_finds_the_leading_subspace(shape):
    a = decaying(np.random.default_rng(1), *shape, 1.0)
    k = 6
    found = jax.jit(lambda x: linalg.block_krylov(x, k, KEY, block=14, depth=6))(jnp.asarray(a, jnp.float32))
    u, s, vt = np.linalg.svd(a)
    np.testing.assert_allclose(found.s_K, s[:k], rtol=1e-5)
    assert scipy.linalg.subspace_angles(np.asarray(found.u_MxK, np.float64), u[:, :k]).max() < 1e-4
    assert scipy.linalg.subspace_angles(np.asarray(found.v_NxK, np.float64), vt[:k].T).max() < 1e-4
    assert found.residual_K.max() < 1e-5


def test_block_krylov_survives_rank_deficiency():
    rng = np.random.default_rng(2)
    a = jnp.asarray(orthogonal(rng, 100, 3) @ orthogonal(rng, 80, 3).T, jnp.float32)
    found = linalg.block_krylov(a, 5, KEY, block=10, depth=5)
    np.testing.assert_allclose(found.s_K, [1, 1, 1, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found.v_NxK.T @ found.v_NxK, np.eye(5), atol=1e-5)


def test_block_krylov_refuses_what_it_cannot_do():
    a = jnp.zeros((64, 40))
    with pytest.raises(ValueError, match="block > k and depth >= 5"):
        linalg.block_krylov(a, 4, KEY, block=8, depth=2)
    with pytest.raises(ValueError, match="8 \\* 6 > 40"):
        linalg.block_krylov(a, 4, KEY, block=8, depth=6)


@pytest.mark.parametrize("flat", [False, True])
def test_top_k_is_exact_whether_or_not_the_krylov_space_converged(flat):
    rng = np.random.default_rng(3)
    a = rng.normal(size=(150, 140)) if flat else decaying(rng, 150, 140, 1.0)
    a = jnp.asarray(a, jnp.float32)
    k = 4
    found = jax.jit(lambda x: linalg.top_k(x, k, KEY))(a)
    exact = linalg.svd(a)
    angles = scipy.linalg.subspace_angles(np.asarray(found.u_MxK), np.asarray(exact.u_MxQ[:, :k]))
    assert angles.max() < 2e-4
    direct = linalg.block_krylov(a, k + 1, KEY, block=13, depth=6)
    gap = exact.s_Q[k - 1] - exact.s_Q[k]
    assert bool(direct.residual_K[:k].max() > 1e-4 * gap) == flat  # the flat spectrum is what needs the fallback
    assert found.residual_K.max() <= (1e-4 * gap if not flat else 1e-6 * exact.s_Q[0] * 10)  # float32 allows no less


def test_top_k_stops_early_restarts_and_falls_back():
    """One start certifies a wide gap, restarts a narrow one, and what no start certifies is the exact SVD, said so."""
    rng = np.random.default_rng(11)
    u, v = orthogonal(rng, 150), orthogonal(rng, 140)
    for ratio, cycles in ((0.5, 1), (0.93, 4)):
        s = np.r_[np.linspace(2, 1, 4), ratio * np.linspace(1, 0.5, 136)]
        a = jnp.asarray(u[:, :140] * s @ v.T, jnp.float32)
        found = jax.jit(lambda x, cycles=cycles: linalg.top_k(x, 4, KEY, cycles=cycles))(a)
        residual = jnp.append(found.residual_K, found.next_residual)
        error = linalg.subspace_error(residual, jnp.append(found.s_K, found.next_s), 4)
        left, right = (scipy.linalg.subspace_angles(np.asarray(x, np.float64), y[:, :4]).max()
                       for x, y in ((found.u_MxK, u), (found.v_NxK, v)))
        assert not found.fell_back and max(left, right) <= error < 1e-3
        assert -1e-6 <= s[4] - found.next_s <= found.next_residual < 0.1 * (s[3] - s[4])
    flat = jnp.asarray(rng.normal(size=(150, 140)), jnp.float32)
    found = jax.jit(lambda x: linalg.top_k(x, 4, KEY, cycles=1))(flat)
    assert found.fell_back
    np.testing.assert_allclose(found.s_K, np.linalg.svd(np.asarray(flat, np.float64), compute_uv=False)[:4], rtol=1e-5)
    assert not linalg.top_k(flat[:40, :40], 4, KEY).fell_back  # exact by size, not by failure


def test_large_matrices_get_deep_spaces():
    """520 / 4 columns hold 10 blocks of 13; the spectrum is known by construction."""
    rng = np.random.default_rng(15)
    h, g = (x / np.linalg.norm(x) for x in (rng.normal(size=600), rng.normal(size=520)))
    s = np.r_[np.linspace(2, 1.1, 4), np.linspace(1, 0, 516)]
    a = np.eye(600, 520) * s
    a -= 2 * np.outer(h, h @ a)
    a -= 2 * np.outer(a @ g, g)
    assert [linalg.krylov_depth(shape, 4) for shape in ((600, 520), (100, 90), (4096, 4096))] == [10, 5, 12]
    found = jax.jit(lambda x: linalg.top_k(x, 4, KEY))(jnp.asarray(a, jnp.float32))
    error = linalg.subspace_error(jnp.append(found.residual_K, found.next_residual), jnp.append(found.s_K, found.next_s), 4)
    u, v = np.eye(600, 4) - 2 * np.outer(h, h[:4]), np.eye(520, 4) - 2 * np.outer(g, g[:4])
    angle = max(scipy.linalg.subspace_angles(np.asarray(x, np.float64), y).max()
                for x, y in ((found.u_MxK, u), (found.v_NxK, v)))
    assert not found.fell_back and angle <= error <= 1e-4
    np.testing.assert_allclose(found.s_K, s[:4], atol=2 * linalg.VALUE_ERROR)


def test_top_k_certifies_the_dimensions_it_is_asked_for():
    rng = np.random.default_rng(12)
    s = np.r_[3.0, 2.0, 1.0, 1.0 - 1e-9, np.linspace(0.5, 0.1, 136)]  # no gap at 3
    a = jnp.asarray(orthogonal(rng, 150, 140) * s @ orthogonal(rng, 140).T, jnp.float32)
    found = linalg.top_k(a, 4, KEY, at=(2, 4))
    values = jnp.append(found.s_K, found.next_s)
    assert max(float(linalg.subspace_error(found.residual_K, values, k)) for k in (2, 4)) < 1e-3
    assert linalg.subspace_error(found.residual_K, values, 3) == 1  # no information


@pytest.mark.parametrize("flat", [False, True])
def test_leading_values_are_within_their_errors(flat):
    rng = np.random.default_rng(13)
    a = rng.normal(size=(160, 130)) if flat else decaying(rng, 160, 130, 1.0)
    s, error = linalg.leading_values(jnp.asarray(a, jnp.float32), 5, KEY)
    exact = np.linalg.svd(a, compute_uv=False)[:5]
    assert (np.abs(s - exact) <= error).all() and (error <= (0.3 if flat else 1e-5) * exact[0]).all()


@pytest.mark.parametrize(("shape", "power"), [((200, 150), None), ((120, 300), None), ((200, 150), 1.0), ((480, 480), None)])
def test_the_constants_of_float32_bound_lapack(shape, power):
    rng = np.random.default_rng(14)
    a = (rng.normal(size=shape) if power is None else decaying(rng, *shape, power)).astype(np.float32)
    exact = np.linalg.svd(a.astype(np.float64), compute_uv=False)
    u, s, v = linalg.svd(jnp.asarray(a))
    q, alone = len(s), linalg.singular_values(jnp.asarray(a))
    for found, each, whole in ((s, linalg.VALUE_ERROR, linalg.SPECTRUM_ERROR),
                               (alone, linalg.ALONE * linalg.VALUE_ERROR, linalg.ALONE * linalg.SPECTRUM_ERROR)):
        assert np.abs(found - exact).max() <= each * exact[0]
        assert np.linalg.norm(found - exact) <= whole * np.linalg.norm(exact)
    for frame in (np.asarray(u, np.float64), np.asarray(v, np.float64)):
        assert np.abs(frame.T @ frame - np.eye(q)).max() <= linalg.FRAME_ERROR
    assert linalg.residuals(jnp.asarray(a), u, s, v).max() <= linalg.RESIDUAL_FLOOR * exact[0]


@pytest.mark.parametrize("shape", [(90, 70), (20, 30)], ids=["krylov", "exact"])
@pytest.mark.parametrize("power", [-80, -60, 60])
def test_top_k_does_not_depend_on_scale(shape, power):
    a = jnp.asarray(decaying(np.random.default_rng(5), *shape, 1.0), jnp.float32)
    plain, scaled = (linalg.top_k(x, 3, KEY) for x in (a, a * 2.0**power))
    for name, x, y in zip(plain._fields, plain, scaled, strict=True):
        unit = 1.0 if name in ("u_MxK", "v_NxK", "fell_back") else 2.0**power
        np.testing.assert_array_equal(np.asarray(y, np.float64), np.asarray(x, np.float64) * unit, err_msg=name)


def test_top_k_names_the_range_of_k():
    with pytest.raises(ValueError, match="1 <= k < min\\(m, n\\) = 4; found k=4"):
        linalg.top_k(jnp.zeros((5, 4)), 4, KEY)


@pytest.mark.parametrize("theta", [1.5, 0.9, 0.1, 1e-3, 1e-4, 1e-6])
def test_planted_angles(theta):
    u1, u2 = planted(np.random.default_rng(4), 60, theta * np.array([1.0, 0.5, 0.25]))
    a, b = jnp.asarray(u1, jnp.float32), jnp.asarray(u2, jnp.float32)
    tolerance = 0.05 if theta < 1e-5 else 2e-3  # float32 entries are themselves 6e-8 off
    angles = linalg.principal_angles(a, b)
    np.testing.assert_allclose(angles[0], theta, rtol=tolerance)
    if theta >= 1e-4:
        np.testing.assert_allclose(angles, theta * np.array([1.0, 0.5, 0.25]), rtol=tolerance)
        np.testing.assert_allclose(angles, scipy.linalg.subspace_angles(u1, u2), rtol=tolerance)
    expected = np.mean(np.sin(theta * np.array([1.0, 0.5, 0.25])) ** 2)
    np.testing.assert_allclose(linalg.mean_sin2(a, b), expected, rtol=2 * tolerance)


def test_the_cosine_formula_would_fail_where_ours_does_not():
    u1, u2 = planted(np.random.default_rng(5), 60, np.array([1e-6]))
    a, b = jnp.asarray(u1, jnp.float32), jnp.asarray(u2, jnp.float32)
    naive = float(jnp.arccos(jnp.minimum(jnp.abs(a.T @ b), 1.0))[0, 0])
    assert naive == 0 or naive > 1e-4
    assert abs(float(linalg.principal_angles(a, b)[0]) - 1e-6) < 1e-7


def test_angles_do_not_depend_on_bases_or_order_and_identical_spaces_are_at_zero():
    rng = np.random.default_rng(6)
    u1, u2 = orthogonal(rng, 40, 5), orthogonal(rng, 40, 5)
    rotated = jnp.asarray(u1 @ orthogonal(rng, 5), jnp.float32), jnp.asarray(u2 @ orthogonal(rng, 5), jnp.float32)
    angles = linalg.principal_angles(jnp.asarray(u1, jnp.float32), jnp.asarray(u2, jnp.float32))
    np.testing.assert_allclose(linalg.principal_angles(*rotated), angles, atol=1e-4)
    np.testing.assert_allclose(linalg.principal_angles(*rotated[::-1]), angles, atol=1e-4)
    assert linalg.principal_angles(rotated[0], jnp.asarray(u1, jnp.float32))[0] < 1e-6


def test_subspace_rotation_is_the_first_k_columns_for_every_k():
    rng = np.random.default_rng(7)
    u1 = jnp.asarray(orthogonal(rng, 50, 8), jnp.float32)
    near = np.linalg.qr(np.asarray(u1) + 0.05 * rng.normal(size=u1.shape))[0]
    for u2 in (jnp.asarray(near, jnp.float32), jnp.asarray(orthogonal(rng, 50, 8), jnp.float32)):
        for k in (1, 3, 8):
            sin2, angle = jax.jit(linalg.subspace_rotation)(u1, u2, k)
            np.testing.assert_allclose(sin2, linalg.mean_sin2(u1[:, :k], u2[:, :k]), rtol=1e-5)
            np.testing.assert_allclose(angle, linalg.principal_angles(u1[:, :k], u2[:, :k])[0], rtol=1e-5)


def wedin_case(w0, w1, k):
    s0, s1 = (np.linalg.svd(w, compute_uv=False) for w in (w0, w1))
    bound = float(linalg.wedin_bound(np.linalg.norm(w1 - w0, 2), jnp.asarray(s0), jnp.asarray(s1), k))
    (u0, _, v0), (u1, _, v1) = np.linalg.svd(w0), np.linalg.svd(w1)
    sides = (u0[:, :k], u1[:, :k]), (v0[:k].T, v1[:k].T)
    return bound, max(np.sin(scipy.linalg.subspace_angles(a, b)).max() for a, b in sides)


def test_the_gap_of_w0_alone_is_not_a_bound_and_ours_is():
    t, cos = 0.498, 2 * 0.498  # the direction that rotates diag(1, 0) most: sin(2 theta) = 2 t
    sin = np.sqrt(1 - cos**2)
    w0 = np.diag([1.0, 0.0])
    bound, sine = wedin_case(w0, w0 + t * np.array([[-cos, sin], [sin, cos]]), 1)
    assert sine > 0.67 > t / 1.0  # ||dW||_2 / gap_k(W0) = 0.498 is exceeded
    assert np.isnan(bound) or bound >= sine


def test_wedin_bounds_the_sine_on_random_updates():
    rng = np.random.default_rng(8)
    for scale in (1e-3, 1e-2, 0.1, 0.5):
        w0 = decaying(rng, 20, 15, 1.0)
        dw = rng.normal(size=w0.shape)
        bound, sine = wedin_case(w0, w0 + scale * dw / np.linalg.norm(dw, 2), 3)
        assert np.isnan(bound) or bound >= sine * (1 - 1e-5)
    assert np.isnan(wedin_case(w0, w0 + 3 * dw, 3)[0])  # no gap left: absent, not infinite


def test_ranks_against_float64():
    s = np.sort(np.random.default_rng(9).gamma(0.5, size=40))[::-1]
    e = s**2 / (s**2).sum()
    p = s / s.sum()
    x = jnp.asarray(s, jnp.float32)
    np.testing.assert_allclose(linalg.stable_rank(x), (s**2).sum() / s[0] ** 2, rtol=1e-5)
    np.testing.assert_allclose(linalg.entropy_rank(x), np.exp(-(e * np.log(e)).sum()), rtol=1e-5)
    np.testing.assert_allclose(linalg.entropy_rank_sigma(x), np.exp(-(p * np.log(p)).sum()), rtol=1e-5)
    np.testing.assert_allclose(linalg.hill(x, 10), 1 / np.mean(np.log(s[:9] / s[9])), rtol=1e-5)
    for q in (0.9, 0.99):
        assert linalg.energy_rank(x, q) == 1 + np.argmax(np.cumsum(e) >= q)
    for rank in (
        linalg.stable_rank,
        linalg.entropy_rank,
        lambda x: linalg.energy_rank(x, 0.9),
        lambda x: linalg.hill(x, 5),
    ):
        np.testing.assert_allclose(rank(1e-12 * x), rank(x), rtol=1e-5)


def test_ranks_of_a_planted_rank_and_of_nothing():
    x = jnp.asarray([2.0] * 5 + [0.0] * 11)
    for rank in (
        linalg.stable_rank,
        linalg.entropy_rank,
        linalg.entropy_rank_sigma,
        lambda x: linalg.energy_rank(x, 0.99),
    ):
        np.testing.assert_allclose(rank(x), 5, rtol=1e-6)
        assert np.isnan(rank(jnp.zeros(4)))


def test_a_rank_that_holds_exactly_the_share_of_the_energy_is_enough():
    for q, rank in ((0.125, 1), (0.5, 4), (0.75, 6), (1.0, 8)):  # eighths are exact
        assert linalg.energy_rank(jnp.ones(8), q) == rank


def test_count_above_the_rounding_edge_finds_a_planted_rank():
    rng = np.random.default_rng(10)
    m, n, q_rms = 200, 120, 1e-3
    signal = orthogonal(rng, m, 8) @ orthogonal(rng, n, 8).T
    noise = q_rms * np.sqrt(12) * rng.uniform(-0.5, 0.5, size=(m, n))
    edge = linalg.rounding_edge(q_rms, m, n)
    assert linalg.count_above(linalg.singular_values(jnp.asarray(signal + noise, jnp.float32)), edge) == 8
    assert linalg.count_above(linalg.singular_values(jnp.asarray(noise, jnp.float32)), 1.05 * edge) == 0
