"""A finite Markov decision process: exact values, optimal policies, and the regret of optimising another reward.

Host side, float64 numpy and scipy. A reward is R(s, a, s'), an array [S, A, S].

Legend: S states, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.optimize

_ROUNDING = 1e-12  # of values relative to the largest: below it two actions, or all policies, are equally good


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """tau(s' | s, a), the distribution of the first state, and the discount gamma.

    Raises: ValueError for shapes that do not fit, rows that are no distributions, or a discount outside [0, 1).
    """

    transition_SxAxS: np.ndarray
    start_S: np.ndarray
    discount: float

    def __post_init__(self):
        transition, start = (np.asarray(x, np.float64) for x in (self.transition_SxAxS, self.start_S))
        if transition.ndim != 3 or transition.shape[0] != transition.shape[2] or start.shape != transition.shape[:1]:
            raise ValueError(f"FiniteMDP: expected transition [S, A, S] and start [S]; found {transition.shape}, {start.shape}")
        for name, rows in (("transition", transition), ("start", start)):
            if not ((rows >= 0).all() and (np.abs(rows.sum(-1) - 1) <= 1e-9).all()):
                raise ValueError(f"FiniteMDP: {name} has a row that is no distribution; expected entries >= 0 with sum 1")
        if not 0 <= self.discount < 1:
            raise ValueError(f"FiniteMDP: discount={self.discount} must lie in [0, 1)")
        object.__setattr__(self, "transition_SxAxS", transition)
        object.__setattr__(self, "start_S", start)

    def uniform(self) -> np.ndarray:
        """The uniform policy, [S, A]."""
        states, actions, _ = self.transition_SxAxS.shape
        return np.full((states, actions), 1 / actions)

    def expected(self, reward_SxAxS: np.ndarray) -> np.ndarray:
        """E_{S' ~ tau(s, a)} R(s, a, S'), [S, A]. Raises: ValueError for a reward of another shape."""
        if np.shape(reward_SxAxS) != self.transition_SxAxS.shape:
            raise ValueError(f"a reward of this process is [S, A, S] = {self.transition_SxAxS.shape}; found "
                             f"{np.shape(reward_SxAxS)}")
        return (self.transition_SxAxS * reward_SxAxS).sum(-1)


def _under(mdp: FiniteMDP, policy_SxA: np.ndarray) -> np.ndarray:
    """I - gamma P_pi, [S, S]."""
    return np.eye(len(policy_SxA)) - mdp.discount * np.einsum("sa,sat->st", policy_SxA, mdp.transition_SxAxS)


def value(mdp: FiniteMDP, reward_SxAxS: np.ndarray, policy_SxA: np.ndarray) -> np.ndarray:
    """V of a policy, [S]: the solution of V = r_pi + gamma P_pi V."""
    return np.linalg.solve(_under(mdp, policy_SxA), (policy_SxA * mdp.expected(reward_SxAxS)).sum(-1))


def occupancy(mdp: FiniteMDP, policy_SxA: np.ndarray) -> np.ndarray:
    """eta(s, a) = sum_t gamma^t P(S_t = s, A_t = a), [S, A], of sum 1 / (1 - gamma); J(pi) = sum eta(s, a) E R(s, a, S')."""
    return np.linalg.solve(_under(mdp, policy_SxA).T, mdp.start_S)[:, None] * policy_SxA


def optimal(mdp: FiniteMDP, reward_SxAxS: np.ndarray) -> np.ndarray:
    """A deterministic optimal policy by policy iteration, [S, A] of 0 and 1; among equally good actions the first."""
    r_SxA = mdp.expected(reward_SxAxS)
    action_S = r_SxA.argmax(-1)
    while True:
        policy_SxA = np.eye(r_SxA.shape[1])[action_S]
        q_SxA = r_SxA + mdp.discount * mdp.transition_SxAxS @ value(mdp, reward_SxAxS, policy_SxA)
        kept_S = np.take_along_axis(q_SxA, action_S[:, None], 1)[:, 0]
        better_S = q_SxA.max(-1) > kept_S + _ROUNDING * np.abs(q_SxA).max()
        if not better_S.any():
            return policy_SxA
        action_S = np.where(better_S, q_SxA.argmax(-1), action_S)


def expected_return(mdp: FiniteMDP, reward_SxAxS: np.ndarray, policy_SxA: np.ndarray) -> float:
    """J(pi) = E_{S_0} V(S_0)."""
    return float(mdp.start_S @ value(mdp, reward_SxAxS, policy_SxA))


def spread(mdp: FiniteMDP, reward_SxAxS: np.ndarray) -> float:
    """max J - min J over all policies; exactly 0 where it is rounding of the largest value that the reward can add up to."""
    low, high = (expected_return(mdp, reward_SxAxS, optimal(mdp, sign * reward_SxAxS)) for sign in (-1, 1))
    return high - low if high - low > _ROUNDING * np.abs(reward_SxAxS).max() / (1 - mdp.discount) else 0.0


def regret(mdp: FiniteMDP, true_SxAxS: np.ndarray, learned_SxAxS: np.ndarray) -> float:
    """What optimising the learned reward costs under the true one, as a share of what there is to lose.

      (max J_true - J_true(pi*_learned)) / (max J_true - min J_true),  in [0, 1]; 0 where all policies are equally good

    Source: the experiments of STARC, arXiv:2309.15257. Differs: where several policies are optimal, that of `optimal`.
    """
    best, reached = (expected_return(mdp, true_SxAxS, optimal(mdp, reward)) for reward in (true_SxAxS, learned_SxAxS))
    return _share(best - reached, spread(mdp, true_SxAxS))


def worst_regret(mdp: FiniteMDP, true_SxAxS: np.ndarray, learned_SxAxS: np.ndarray) -> float:
    """The most that can be lost by moving from a policy to one that the learned reward does not like less.

      max { J_true(pi) - J_true(pi') : J_learned(pi') >= J_learned(pi) } / (max J_true - min J_true),  in [0, 1]

    A linear programme over two occupancy measures: eta >= 0 with sum_a eta(s, a) - gamma sum eta(s', a') tau(s | s', a') =
    P(S_0 = s). It is the quantity that STARC distances bound from both sides (arXiv:2309.15257).

    Raises: RuntimeError when the solver fails.
    """
    true, learned = (mdp.expected(reward).ravel() for reward in (true_SxAxS, learned_SxAxS))
    size, size_learned = (max(np.abs(x).max(), np.finfo(float).tiny) for x in (true, learned))
    states, actions, _ = mdp.transition_SxAxS.shape
    flow = np.repeat(np.eye(states), actions, 1) - mdp.discount * mdp.transition_SxAxS.reshape(-1, states).T
    solution = scipy.optimize.linprog(np.concatenate([-true, true]) / size, b_ub=[0.0],
                                      A_ub=np.concatenate([learned, -learned])[None] / size_learned,
                                      A_eq=np.kron(np.eye(2), flow), b_eq=np.tile(mdp.start_S, 2))
    if not solution.success:
        raise RuntimeError(f"worst_regret: the linear programme was not solved: {solution.message}")
    return _share(-solution.fun * size, spread(mdp, true_SxAxS))


def _share(lost: float, of: float) -> float:
    return float(lost / of) if of else 0.0
