"""Canonical forms: what is left of a reward when parts that change no preference between policies are taken out.

Two rewards order all policies alike if they differ by potential shaping, gamma phi(s') - phi(s); by redistribution over next
states, whose mean over S' ~ tau(s, a) is 0; and by a positive factor, which `distances` takes out. All forms are linear in R.

    form              shaping   redistribution
    val               removed   removed          the form of STARC here
    value_potential   removed   kept             so it is no form of STARC
    epic, dard        removed   kept

Legend: S states, A actions.
"""

from __future__ import annotations

import numpy as np

from jaxpost.probes.rewards import finite
from jaxpost.probes.rewards.finite import FiniteMDP


def value_potential(mdp: FiniteMDP, reward_SxAxS: np.ndarray, policy_SxA: np.ndarray | None = None) -> np.ndarray:
    """R(s, a, s') + gamma V(s') - V(s), [S, A, S], V the value of a policy (uniform where none is given).

    It keeps s': two rewards of one expectation over S' have two forms, so a distance of these is no STARC distance.
    """
    v_S = finite.value(mdp, reward_SxAxS, mdp.uniform() if policy_SxA is None else policy_SxA)
    return reward_SxAxS + mdp.discount * v_S - v_S[:, None, None]


def val(mdp: FiniteMDP, reward_SxAxS: np.ndarray, policy_SxA: np.ndarray | None = None) -> np.ndarray:
    """E_{S' ~ tau(s, a)} [R(s, a, S') + gamma V(S') - V(s)], [S, A]: the advantage of a policy (uniform where none is given).

    Source: VAL of arXiv:2309.15257. Differs: V solves its linear equations where the paper iterates to 1e-8.
    """
    return mdp.expected(value_potential(mdp, reward_SxAxS, policy_SxA))


def epic(reward_SxAxS: np.ndarray, discount: float, state_S: np.ndarray | None = None, action_A: np.ndarray | None = None
         ) -> np.ndarray:
    """R(s, a, s') + gamma E R(s', A, S') - E R(s, A, S') - gamma E R(S, A, S'), [S, A, S].

    Args: state_S, action_A: distributions of S and S', and of A, all independent; uniform where none is given.
    Source: arXiv:2006.13900; expectations are exact where the paper samples.
    """
    state_S, action_A = _or_uniform(reward_SxAxS, state_S, action_A)
    mean_S = np.einsum("sat,a,t->s", reward_SxAxS, action_A, state_S)
    return reward_SxAxS + discount * mean_S - mean_S[:, None, None] - discount * (state_S @ mean_S)


def dard(mdp: FiniteMDP, reward_SxAxS: np.ndarray, action_A: np.ndarray | None = None) -> np.ndarray:
    """R(s, a, s') + E[gamma R(s', A, S'') - R(s, A, S') - gamma R(S', A, S'')], S' ~ tau(s, A), S'' ~ tau(s', A); [S, A, S].

    Args: action_A: distribution of A, uniform where none is given; one draw of A serves the whole expectation, as printed.
    Source: arXiv:2201.10081.
    """
    _, action_A = _or_uniform(reward_SxAxS, None, action_A)
    tau = mdp.transition_SxAxS
    mean_S = mdp.expected(reward_SxAxS) @ action_A
    ahead_SxS = sum(p * tau[:, a] @ reward_SxAxS[:, a] @ tau[:, a].T for a, p in enumerate(action_A))
    return reward_SxAxS + (mdp.discount * (mean_S[None] - ahead_SxS) - mean_S[:, None])[:, None]


def _or_uniform(reward_SxAxS: np.ndarray, state_S, action_A) -> tuple[np.ndarray, np.ndarray]:
    states, actions, _ = np.shape(reward_SxAxS)
    return (np.full(states, 1 / states) if state_S is None else np.asarray(state_S),
            np.full(actions, 1 / actions) if action_A is None else np.asarray(action_A))
