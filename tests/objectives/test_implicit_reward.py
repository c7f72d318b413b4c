"""Links against numerical convex conjugates, implicit-reward losses and PoFT against float64 numpy and closed-form slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import implicit_reward
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


GENERATORS = {  # f of the divergence, where it is taken, and x inside the link's domain
    "linear": (lambda t: np.abs(t - 1) / 2, (0.0, 4.0), (-0.5, 0.5)),
    "pearson": (lambda t: (t - 1) ** 2, (-6.0, 8.0), (-3.0, 5.0)),
    "hellinger": (lambda t: (np.sqrt(t) - 1) ** 2, (0.0, 60.0), (-0.8, 4.0)),
    "jensen_shannon": (lambda t: t * np.log(t) - (1 + t) * np.log((1 + t) / 2), (1e-9, 60.0), (-0.6, 4.0)),
    "reverse_kl": (lambda t: -np.log(t), (1e-6, 60.0), (0.05, 4.0)),
    "forward_kl": (lambda t: t * np.log(t), (1e-9, 60.0), (-4.0, 4.0)),
}


def supremum(g, low, high):
    """Of a concave function: a grid, narrowed around its largest value until the cell is at rounding error."""
    for _ in range(6):
        t = np.linspace(low, high, 2001)
        best = int(np.argmax(g(t)))
        low, high = t[max(best - 1, 0)], t[min(best + 1, 2000)]
    return g(t).max()


@pytest.mark.parametrize("name", GENERATORS)
def test_a_link_is_minus_the_conjugate_of_its_divergence_at_minus_x(name):
    """phi(x) = -sup_t( -x t - f(t) ), the supremum found numerically."""
    f, (low, high), (first, last) = GENERATORS[name]
    x = np.linspace(first, last, 11)
    conjugate = np.array([supremum(lambda t, v=v: -v * t - f(t), low, high) for v in x])
    phi = implicit_reward.link(jnp.asarray(x), name, margin=0.01)
    np.testing.assert_allclose(phi, -conjugate, rtol=1e-12, atol=1e-12)
    assert set(GENERATORS) == set(implicit_reward.EDGES)


@pytest.mark.parametrize("name, edge", [(n, e) for n, e in implicit_reward.EDGES.items() if e is not None])
def test_below_its_edge_a_link_is_a_straight_line_or_constant(name, edge):
    x = jnp.array([-1e4, edge - 3.0, edge, edge + 0.05, edge + 0.1])
    tangent, clamp = (jax.vmap(jax.value_and_grad(lambda v, b=b: implicit_reward.link(v, name, b, 0.1)))(x)
                      for b in implicit_reward.BEYOND)
    value, slope = float(tangent[0][-1]), float(tangent[1][-1])
    assert slope > 0 and np.isfinite(tangent[0]).all()
    np.testing.assert_allclose(tangent[1], slope, rtol=1e-14)
    np.testing.assert_allclose(tangent[0], value + slope * (np.asarray(x) - (edge + 0.1)), rtol=1e-12)
    np.testing.assert_array_equal(clamp[0], value)
    assert not np.any(clamp[1])
    above = jax.value_and_grad(lambda v: implicit_reward.link(v, name, margin=0.1))(jnp.float64(edge + 0.1 + 1e-9))
    assert float(above[0]) == pytest.approx(value, rel=1e-6) and float(above[1]) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("name", implicit_reward.EDGES)
def test_a_link_is_finite_in_float32_everywhere(name):
    x = jnp.array([-3e4, -100.0, -1.0, 0.0, 100.0, 3e4], jnp.float32)
    value, slope = jax.vmap(jax.value_and_grad(lambda v: implicit_reward.link(v, name)))(x)
    assert value.dtype == jnp.float32 and np.isfinite(value).all() and np.isfinite(slope).all()


CLOSED = {  # phi and its slope, inside the domain
    "linear": (lambda x: x, lambda x: np.ones_like(x)),
    "pearson": (lambda x: x - x**2 / 4, lambda x: 1 - x / 2),
    "hellinger": (lambda x: x / (1 + x), lambda x: (1 + x) ** -2),
    "jensen_shannon": (lambda x: np.log(2 - np.exp(-x)), lambda x: np.exp(-x) / (2 - np.exp(-x))),
    "reverse_kl": (lambda x: 1 + np.log(x), lambda x: 1 / x),
    "forward_kl": (lambda x: -np.exp(-x - 1), lambda x: np.exp(-x - 1)),
}


@pytest.mark.parametrize("level", implicit_reward.LEVELS)
@pytest.mark.parametrize("divergence", CLOSED)
def test_value_and_gradient_against_numpy(divergence, level):
    """Log-ratios on both sides of the edge; below it the tangent at edge + 0.1."""
    view, batch = given.rows(1)
    parts = {} if divergence == "pearson" else {"divergence": divergence}
    objective = objectives.get("sft_pearson", level=level, beta=0.4, **parts)
    s, count, grads = given.differentiated(objective, view, given.prepared(objective, batch))
    m = np.asarray(batch.mask_NxT)
    ratio = 0.4 * (np.asarray(view.logp_NxT) - np.asarray(batch.reference_NxT))
    x = ratio if level == "token" else (ratio * m).sum(1)
    phi, slope = CLOSED[divergence]
    edge = implicit_reward.EDGES[divergence]
    start = -np.inf if edge is None else edge + 0.1
    inside = np.where(x > start, x, 1.0 if edge is None else start)
    value = np.where(x > start, phi(inside), phi(inside) + slope(inside) * np.where(x > start, 0.0, x - inside))
    g = -0.4 * slope(inside)
    if level == "token":
        assert (s, count) == (pytest.approx(-(value * m).sum(), rel=1e-12), m.sum())
        np.testing.assert_allclose(grads.logp_NxT, g * m, rtol=1e-12, atol=1e-15)
    else:
        assert (s, count) == (pytest.approx(-value.sum(), rel=1e-12), len(m))
        np.testing.assert_allclose(grads.logp_NxT, g[:, None] * m, rtol=1e-12, atol=1e-15)
    if edge not in (None, -60.0):
        assert np.any(x <= start) and np.any(x > start), "one side of the edge is not tested"


def test_linear_has_the_gradient_of_maximum_likelihood():
    view, batch = given.rows(2)
    objective = objectives.get("sft_pearson", divergence="linear")
    ours = given.differentiated(objective, view, batch)
    plain = given.differentiated(objectives.get("cross_entropy"), view, batch)
    np.testing.assert_array_equal(ours[2].logp_NxT, plain[2].logp_NxT)
    assert ours[1] == plain[1]


@pytest.mark.parametrize("beta, gamma", [(1.0, 0.0), (2.5, -0.7)])
def test_poft_against_numpy(beta, gamma):
    """-log sigma(beta (s - s_a) + gamma); slope -beta (1 - sigma) / n on a row's tokens; a NaN row does not count."""
    view, batch = given.rows(3)
    outside = np.asarray(batch.outside_N).copy()
    outside[1] = np.nan
    objective = objectives.get("poft", beta=beta, gamma=gamma)
    s, count, grads = given.differentiated(objective, view, objective.prepare(batch._replace(outside_N=jnp.asarray(outside))))
    m, known = np.asarray(batch.mask_NxT), ~np.isnan(outside)
    n = m.sum(1)
    u = beta * ((np.asarray(view.logp_NxT) * m).sum(1) / n - outside) + gamma
    assert count == known.sum() and s == pytest.approx(np.log1p(np.exp(-u[known])).sum(), rel=1e-12)
    g = np.where(known, -beta / (1 + np.exp(np.where(known, u, 0.0))) / n, 0.0)[:, None] * m
    np.testing.assert_allclose(grads.logp_NxT, g, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name, parts, message", [
    ("sft_pearson", {"divergence": "chi2"}, "choose one of linear, pearson, hellinger"),
    ("sft_pearson", {"margin": 0.2}, "has no effect with divergence='pearson'"),
    ("sft_hellinger", {"margin": 0.0}, "must be greater than 0"),
    ("sft_hellinger", {"beta": 0.0}, "must be greater than 0"),
    ("sft_hellinger", {"level": "row"}, "choose one of token, sequence"),
    ("sft_hellinger", {"level": "sequence", "aggregation": "sequence"}, "leave 'token'"),
    ("sft_hellinger", {"divergence": "reverse_kl", "beyond": "clamp"}, "no gradient where policy and reference agree"),
    ("poft", {"beta": -1.0}, "must be greater than 0"),
    ("poft", {"aggregation": "sequence"}, "leave 'token'"),
])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)
