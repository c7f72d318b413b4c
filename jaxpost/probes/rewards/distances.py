"""Distances between two rewards: bring both into a canonical form, take their scale out, and compare.

    starc    |s(R1) - s(R2)|,  s(R) = c(R) / |c(R)|, c = VAL; in [0, 2]. Bounds the worst regret from above and below.
    epic     sqrt((1 - rho) / 2), rho the Pearson correlation of canonical rewards over transitions; in [0, 1]
    dard     the same of a form that looks at transitions that the process can make
    direct   the same of the rewards themselves: the control without any canonical form

A reward that no policy can influence has no scale: its s is 0, and a correlation with it counts as 0.

Legend: S states, A actions, P prompts, G responses of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxpost import lookup
from jaxpost.probes.rewards import canonical, finite
from jaxpost.probes.rewards.finite import FiniteMDP

_ROUNDING = 1e-12  # of a canonical form, relative to the largest value that the reward can add up to


def _size(order: float) -> Callable[[np.ndarray], float]:
    return lambda x: float(np.linalg.norm(x.ravel(), order))


NORMS = {"l1": _size(1), "l2": _size(2), "linf": _size(np.inf)}


def starc(mdp: FiniteMDP, first_SxAxS: np.ndarray, second_SxAxS: np.ndarray, *, norm: str = "l2", scaled: bool = True,
          form: Callable[[FiniteMDP, np.ndarray], np.ndarray] = canonical.val) -> float:
    """|s(R1) - s(R2)| in [0, 2], s(R) = c(R) / |c(R)|; 0 exactly where two rewards order all policies alike.

    Args:
      norm: of both steps, l1, l2 or linf; weighted by transitions: absent. scaled: False leaves the scale in, a control that
        is no distance of STARC. form: the canonical form; with `canonical.value_potential` it is no STARC distance either.

    Raises: ValueError for a norm that is not known.
    Source: arXiv:2309.15257.
    """
    size = lookup.find("norm", norm, NORMS)
    first, second = (_scaled(form(mdp, reward), reward, mdp.discount, size if scaled else None)
                     for reward in (first_SxAxS, second_SxAxS))
    return size(first - second)


def epic(first_SxAxS: np.ndarray, second_SxAxS: np.ndarray, discount: float, *, state_S: np.ndarray | None = None,
         action_A: np.ndarray | None = None, coverage_SxAxS: np.ndarray | None = None) -> float:
    """sqrt((1 - rho) / 2) of `canonical.epic`, in [0, 1]; coverage_SxAxS: weights of transitions, by default all alike.

    Source: arXiv:2006.13900. Differs: every expectation is exact.
    """
    forms = (canonical.epic(reward, discount, state_S, action_A) for reward in (first_SxAxS, second_SxAxS))
    return _pearson(*forms, np.ones(np.shape(first_SxAxS)) if coverage_SxAxS is None else coverage_SxAxS,
                    (first_SxAxS, second_SxAxS), discount)


def dard(mdp: FiniteMDP, first_SxAxS: np.ndarray, second_SxAxS: np.ndarray, *, action_A: np.ndarray | None = None,
         coverage_SxAxS: np.ndarray | None = None) -> float:
    """sqrt((1 - rho) / 2) of `canonical.dard`, in [0, 1]; coverage_SxAxS: weights, by default tau (all (s, a) alike).

    Source: arXiv:2201.10081. Differs: every expectation is exact.
    """
    forms = (canonical.dard(mdp, reward, action_A) for reward in (first_SxAxS, second_SxAxS))
    return _pearson(*forms, mdp.transition_SxAxS if coverage_SxAxS is None else coverage_SxAxS, (first_SxAxS, second_SxAxS),
                    mdp.discount)


def direct(mdp: FiniteMDP, first_SxAxS: np.ndarray, second_SxAxS: np.ndarray) -> float:
    """sqrt((1 - rho) / 2) of the rewards as they are over the transitions of the process: what `dard` is without its form."""
    rewards = (first_SxAxS, second_SxAxS)
    return _pearson(*rewards, mdp.transition_SxAxS, rewards, mdp.discount)


def responses(first_PxG: np.ndarray, second_PxG: np.ndarray, policy_PxG: np.ndarray | None = None, *, norm: str = "l2"
              ) -> float:
    """`starc` of rewards of single responses, one step without a discount: every reward minus its mean at the prompt.

    Args: policy_PxG: probabilities for the mean at a prompt (of a reference policy); uniform where none is given.
    Raises: ValueError for a norm that is not known.
    """
    size = lookup.find("norm", norm, NORMS)
    weight = np.full(np.shape(first_PxG), 1 / np.shape(first_PxG)[1]) if policy_PxG is None else policy_PxG
    first, second = (_scaled(reward - (weight * reward).sum(-1, keepdims=True), reward, 0.0, size)
                     for reward in (first_PxG, second_PxG))
    return size(first - second)


def regret_bound(mdp: FiniteMDP, true_SxAxS: np.ndarray, distance: float) -> float:
    """An upper bound of `worst_regret` by `starc` of norm l2; infinite for a reward that no policy can influence.

      sqrt(2) / (1 - gamma) * d * |VAL(R_true)|_2 / (max J_true - min J_true)

    With eta, eta' the occupancies of two policies of which the learned reward likes the second no less, <eta - eta', s_learned>
    <= 0, so <eta - eta', s_true> is at most |eta - eta'|_2 d; and |eta - eta'|_2^2 <= 2 / (1 - gamma)^2, as both are
    non-negative with sum 1 / (1 - gamma). Derived here: the paper's constants were not available.
    """
    spread = finite.spread(mdp, true_SxAxS)
    size = np.linalg.norm(canonical.val(mdp, true_SxAxS))
    return float(2**0.5 / (1 - mdp.discount) * distance * size / spread) if spread else np.inf


def _scaled(form: np.ndarray, reward: np.ndarray, discount: float, size: Callable[[np.ndarray], float] | None) -> np.ndarray:
    """The form over its size, 0 where it is rounding."""
    if np.abs(form).max() <= _ROUNDING * np.abs(reward).max() / (1 - discount):
        return np.zeros_like(form)
    return form / size(form) if size else form


def _pearson(first: np.ndarray, second: np.ndarray, weight: np.ndarray, rewards: tuple, discount: float) -> float:
    """sqrt((1 - rho) / 2) as half the distance of the two forms, each of mean 0 and norm 1 (or 0) over the weighted entries."""
    root = np.sqrt(weight / np.sum(weight))
    standard = [_scaled(root * (form - (root**2 * form).sum()), reward, discount, NORMS["l2"])
                for form, reward in zip((first, second), rewards, strict=True)]
    return NORMS["l2"](standard[0] - standard[1]) / 2
