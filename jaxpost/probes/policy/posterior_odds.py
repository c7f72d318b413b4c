"""The law of posterior odds of two in-context strategies: which of them a policy follows at which step of its training.

    log odds(N) = -ln 2 (K_M^beta - K_G^beta) - gamma N^(1 - alpha) (L_M - L_G),   weight of M = sigmoid(log odds)

N training steps, K bits that describe a predictor, L its mean loss on the training distribution (nat). alpha, beta and gamma
are fitted to the policies of all steps but the last fifth, where the law is read. Host, float64. Source: arXiv:2506.17859
(rational-icl 7fcd0a6). Differs from the paper in: one data set, so that beta stands for the prior odds of that one alone.

Legend: T steps, N prompts, C answers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

STARTS = ((0.6, 0.2, 0.85), (0.65, 0.3, 0.01), (0.8, 0.12, 1.5))  # of (alpha, beta, gamma), those of the source's three tasks
LEAST_STEPS = 6
_BOUNDS = ((-12.0, 1.0), (-12.0, 1.0), (-12.0, 8.0))  # of the logarithms of (alpha, beta, gamma)
_EQUAL = 1e-9  # nat: differences of distances below it are rounding
_KEPT, _NEAR = 0.8, 0.2  # share of the steps that are fitted; distance to the mixtures, of its range, from which on they are


class Law(NamedTuple):
    """A fit; of each number how far the three starts disagree that are as good as the best."""

    alpha: float
    beta: float
    gamma: float
    held_out: float  # mean KL(h | the law's mixture) of the last fifth of the steps, nat
    constant: float  # the same of the one weight that fits the other steps best
    spread: tuple[float, float, float, float]  # of the first four


def log_odds(theta: np.ndarray, step_T: np.ndarray, bits: tuple[float, float], losses: tuple[float, float]) -> np.ndarray:
    """Of the memorising strategy, f64[T]. Args: theta: (alpha, beta, gamma); bits, losses: (memorising, generalising)."""
    alpha, beta, gamma = theta
    return -np.log(2) * (bits[0]**beta - bits[1]**beta) - gamma * step_T**(1 - alpha) * (losses[0] - losses[1])


def settled(unexplained_T: np.ndarray) -> int:
    """The first step at which a policy is near the mixtures: its distance below the least one plus a fifth of the range."""
    least, most = unexplained_T.min(), unexplained_T.max()
    return int(np.argmax(unexplained_T <= least + max(_NEAR * (most - least), _EQUAL)))


def fit(h_TxNxC: np.ndarray, memorising_NxC: np.ndarray, generalising_NxC: np.ndarray, step_T: np.ndarray,
        bits: tuple[float, float], losses: tuple[float, float]) -> Law | None:
    """The law of one policy's training; None for fewer than LEAST_STEPS steps.

    Args:
      h_TxNxC: its distributions at steps > 0, in their order; those of the predictors, all positive.
      bits, losses: as in `log_odds`.
    """
    T = len(step_T)
    if T < LEAST_STEPS:
        return None
    step_NxC, kept = memorising_NxC - generalising_NxC, np.arange(T) < np.ceil(_KEPT * T)

    def kl_T(w_T):
        mixed = generalising_NxC + np.reshape(w_T, (-1, 1, 1)) * step_NxC
        return (h_TxNxC * np.log(h_TxNxC / mixed)).sum(-1).mean(-1)

    def of_law(log_theta):
        return kl_T(scipy.special.expit(log_odds(np.exp(log_theta), step_T, bits, losses)))

    fits = [scipy.optimize.minimize(lambda x: of_law(x)[kept].mean(), np.log(start), method="L-BFGS-B",
                                    bounds=_BOUNDS, options={"ftol": 1e-12, "gtol": 1e-9})
            for start in STARTS]
    constant = scipy.optimize.minimize_scalar(lambda w: kl_T(np.full(T, w))[kept].mean(), bounds=(0, 1), method="bounded").x
    best = min(fits, key=lambda one: one.fun)
    read = np.asarray([[*np.exp(one.x), of_law(one.x)[~kept].mean()] for one in fits if one.fun <= best.fun + 1e-6])
    value = [*np.exp(best.x), of_law(best.x)[~kept].mean()]
    return Law(*map(float, value), float(kl_T(np.full(T, constant))[~kept].mean()), tuple(np.ptp(read, axis=0).tolist()))
