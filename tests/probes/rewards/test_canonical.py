"""Canonical forms: what each takes out, and that the potential form is the one that fails; formulas term by term."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from jaxpost.probes.rewards import canonical

_SPEC = importlib.util.spec_from_file_location("process", Path(__file__).with_name("test_finite.py"))
small = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(small)

FORMS = {"val": canonical.val, "value_potential": canonical.value_potential, "dard": canonical.dard,
         "epic": lambda mdp, reward: canonical.epic(reward, mdp.discount)}


def shaping(mdp, seed=7):
    phi = np.random.default_rng(seed).normal(size=small.S)
    return (mdp.discount * phi - phi[:, None])[:, None] + np.zeros((1, small.A, 1))


def redistribution(mdp, seed=8):
    noise = np.random.default_rng(seed).normal(size=mdp.transition_SxAxS.shape)
    return noise - mdp.expected(noise)[..., None]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_linear_and_blind_to_shaping_and_one_alone_to_redistribution(name):
    form, mdp, a, b = FORMS[name], small.process(), small.reward(1), small.reward(2)
    np.testing.assert_allclose(form(mdp, 2 * a - 3 * b), 2 * form(mdp, a) - 3 * form(mdp, b), atol=1e-13)
    np.testing.assert_allclose(form(mdp, a + 5 * shaping(mdp)), form(mdp, a), atol=1e-12)
    moved = np.abs(form(mdp, a + redistribution(mdp)) - form(mdp, a)).max()
    assert moved < 1e-13 if name == "val" else moved > 0.5, moved


def test_val_is_the_advantage_of_the_policy_and_its_mean_under_it_is_zero():
    mdp, of, policy = small.process(3), small.reward(3), np.random.default_rng(0).dirichlet(np.ones(small.A), small.S)
    form = canonical.val(mdp, of, policy)
    np.testing.assert_allclose((policy * form).sum(-1), 0, atol=1e-13)
    step = np.eye(small.S)[0]  # one action at state 0, then the policy: its return minus V(0), by the series
    after = [small.series(type(mdp)(mdp.transition_SxAxS, row, mdp.discount), of, policy) for row in mdp.transition_SxAxS[0]]
    at = small.series(type(mdp)(mdp.transition_SxAxS, step, mdp.discount), of, policy)
    np.testing.assert_allclose(form[0], mdp.expected(of)[0] + mdp.discount * np.asarray(after) - at, atol=1e-12)


def test_epic_and_dard_are_their_formulas_term_by_term():
    mdp, r, (d_S, d_A) = small.process(5), small.reward(5), (np.asarray([0.5, 0.3, 0.2]), np.asarray([0.4, 0.6]))
    tau, gamma, states = mdp.transition_SxAxS, mdp.discount, range(small.S)
    found = {"epic": canonical.epic(r, gamma, d_S, d_A), "dard": canonical.dard(mdp, r, d_A)}
    for s, a, t in itertools.product(states, range(small.A), states):
        epic = dard = r[s, a, t]
        for u, x, y in itertools.product(range(small.A), states, states):  # A, S and S' of EPIC; A, S' and S'' of DARD
            epic += d_A[u] * d_S[x] * d_S[y] * (gamma * r[t, u, y] - r[s, u, y] - gamma * r[x, u, y])
            dard += d_A[u] * tau[s, u, x] * tau[t, u, y] * (gamma * r[t, u, y] - r[s, u, x] - gamma * r[x, u, y])
        assert abs(found["epic"][s, a, t] - epic) < 1e-13 and abs(found["dard"][s, a, t] - dard) < 1e-13
