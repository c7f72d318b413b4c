"""Values, optimal policies and regret of a small process against enumeration, a power series and linear programmes."""

import itertools

import numpy as np
import pytest
import scipy.optimize

from jaxpost.probes import rewards
from jaxpost.probes.rewards import finite

S, A, GAMMA = 3, 2, 0.8


def process(seed=0, states=S, actions=A):
    rng = np.random.default_rng(seed)
    return rewards.FiniteMDP(rng.dirichlet(np.ones(states), (states, actions)), rng.dirichlet(np.ones(states)), GAMMA)


def reward(seed, states=S, actions=A):
    return np.random.default_rng(100 + seed).normal(size=(states, actions, states))


def deterministic(states=S, actions=A):
    return [np.eye(actions)[list(choice)] for choice in itertools.product(range(actions), repeat=states)]


def series(mdp, of, policy, terms=400):
    """J by summing the discounted rewards of 400 steps."""
    at, total = mdp.start_S, 0.0
    for t in range(terms):
        total += GAMMA**t * np.einsum("s,sa,sat,sat->", at, policy, mdp.transition_SxAxS, of)
        at = np.einsum("s,sa,sat->t", at, policy, mdp.transition_SxAxS)
    return total


def test_returns_are_the_series_and_the_occupancy_carries_them():
    mdp, of, policy = process(), reward(0), np.random.default_rng(1).dirichlet(np.ones(A), S)
    wanted, eta = series(mdp, of, policy), finite.occupancy(mdp, policy)
    assert abs(finite.expected_return(mdp, of, policy) - wanted) < 1e-12
    assert abs((eta * mdp.expected(of)).sum() - wanted) < 1e-12 and abs(eta.sum() - 1 / (1 - GAMMA)) < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_the_optimal_policy_is_that_of_enumeration_and_of_the_linear_programme(seed):
    mdp, of = process(seed), reward(seed)
    returns = [series(mdp, of, policy) for policy in deterministic()]
    assert abs(finite.expected_return(mdp, of, finite.optimal(mdp, of)) - max(returns)) < 1e-12
    assert abs(finite.spread(mdp, of) - (max(returns) - min(returns))) < 1e-12
    constraint = (np.repeat(np.eye(S), A, 0) - GAMMA * mdp.transition_SxAxS.reshape(-1, S))  # V(s) >= r + gamma E V
    least = scipy.optimize.linprog(mdp.start_S, A_ub=-constraint, b_ub=-mdp.expected(of).ravel(), bounds=(None, None))
    assert abs(least.fun - max(returns)) < 1e-8


@pytest.mark.parametrize("seed", range(3))
def test_regret_and_worst_regret_are_those_of_enumeration(seed):
    """One linear constraint cuts the polytope of pairs of occupancies: the optimum is a vertex or a point of an edge."""
    mdp, true, learned = process(seed), reward(seed), reward(10 + seed)
    j_true, j_learned = ([series(mdp, of, policy) for policy in deterministic()] for of in (true, learned))
    spread = max(j_true) - min(j_true)
    chosen = j_true[int(np.argmax(j_learned))]
    assert abs(rewards.regret(mdp, true, learned) - (max(j_true) - chosen) / spread) < 1e-12
    lost, liked = (np.subtract.outer(j, j).ravel() for j in (j_true, j_learned))  # of pairs (before, after): liked <= 0
    best = lost[liked <= 1e-12].max()
    for i, k in itertools.product(np.flatnonzero(liked > 0), np.flatnonzero(liked < 0)):
        share = liked[i] / (liked[i] - liked[k])
        best = max(best, (1 - share) * lost[i] + share * lost[k])
    assert abs(rewards.worst_regret(mdp, true, learned) - best / spread) < 1e-7
    assert best / spread >= rewards.regret(mdp, true, learned) - 1e-9


def test_a_reward_costs_nothing_under_itself_and_everything_reversed():
    mdp, of = process(4), reward(4)
    assert rewards.regret(mdp, of, of) == 0 and rewards.worst_regret(mdp, of, of) < 1e-8
    assert abs(rewards.regret(mdp, of, -of) - 1) < 1e-12 and abs(rewards.worst_regret(mdp, of, -of) - 1) < 1e-8
    assert rewards.regret(mdp, np.ones_like(of), of) == 0 == finite.spread(mdp, np.ones_like(of))


@pytest.mark.parametrize("seed", range(4))
def test_shaping_makes_all_policies_equally_good_also_where_their_returns_are_zero(seed):
    mdp = rewards.FiniteMDP(process(seed).transition_SxAxS, np.eye(S)[0], GAMMA)
    phi_S = 1e3 * np.random.default_rng(seed).normal(size=S) * (np.arange(S) > 0)  # 0 at the only first state, as J then is
    shaping = np.broadcast_to(GAMMA * phi_S - phi_S[:, None, None], (S, A, S))
    assert finite.spread(mdp, shaping) == rewards.regret(mdp, shaping, reward(seed)) == 0
    assert rewards.worst_regret(mdp, shaping, reward(seed)) == 0 and rewards.regret_bound(mdp, shaping, 1.0) == np.inf
    assert finite.spread(mdp, 1e-20 * reward(seed)) == pytest.approx(1e-20 * finite.spread(mdp, reward(seed)), rel=1e-12)


def test_what_is_no_process_is_refused():
    mdp = process()
    for scale in (2, -1, np.nan):
        with pytest.raises(ValueError, match="transition has a row that is no distribution"):
            rewards.FiniteMDP(scale * mdp.transition_SxAxS, mdp.start_S, GAMMA)
    with pytest.raises(ValueError, match=r"discount=1.0 must lie in \[0, 1\)"):
        rewards.FiniteMDP(mdp.transition_SxAxS, mdp.start_S, 1.0)
    with pytest.raises(ValueError, match=r"found \(3, 2\)"):
        mdp.expected(np.ones((S, A)))
