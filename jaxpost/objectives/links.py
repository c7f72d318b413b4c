"""From the scores of a pair to its loss. Shapes: K pairs.

A link of DIFFERENCES reads only u, a scaled difference of the two scores; one of SEPARATES reads both rewards, so that it also
says where each of them should be.
"""

import jax
import jax.numpy as jnp

DIFFERENCE_FORMULAS = {  # link -> loss of u, as docs/objectives.md writes it
    "logistic": "-log sigma(u)",
    "hinge": "max(0, 1 - u)",
    "squared": "((u - 1/2) / beta)^2",
    "exo": "KL( (sigma(u), sigma(-u)) || (1 - label_noise, label_noise) )",
    "discopop": "-(1 - m) log sigma(u) + m exp(-u), m = sigma(u / discopop_tau)",
}
SEPARATE_FORMULAS = {  # link -> loss of a = beta s_w and b = beta s_l
    "nca": "-log sigma(a) - (log sigma(-a) + log sigma(-b)) / 2",
    "bco": "-log sigma(a) - log sigma(-b)",
    "sppo_hard": "((a - 1/2)^2 + (b + 1/2)^2) / beta^2",
    "apo_zero": "sigma(-a) + sigma(b)",
    "apo_down": "sigma(a) + sigma(b - a)",
}
SMOOTHING_FORMULAS = {
    "none": "phi(u)",
    "conservative": "(1 - label_noise) phi(u) + label_noise phi(-u)",
    "robust": "((1 - label_noise) phi(u) - label_noise phi(-u)) / (1 - 2 label_noise)",
}
DIFFERENCES, SEPARATES, SMOOTHINGS = tuple(DIFFERENCE_FORMULAS), tuple(SEPARATE_FORMULAS), tuple(SMOOTHING_FORMULAS)
SMOOTHED = ("logistic", "hinge", "squared")  # the links that a smoothing other than exo's own is defined for


def of_difference(u_K: jax.Array, link: str, beta: float, smoothing: str = "none", noise: float = 0.0,
                  tau: float | None = None) -> jax.Array:
    """loss_K of u = beta (s_w - s_l) - margin, sigma the logistic function, eps = noise.

      logistic  -log sigma(u)                                                      DPO, arXiv:2305.18290
      hinge     max(0, 1 - u)                                                      SLiC-HF, arXiv:2305.10425
      squared   (u - 1/2)^2 / beta^2 = (s_w - s_l - 1/(2 beta))^2 without margin   IPO, arXiv:2310.12036
      exo       KL( (sigma(u), sigma(-u)) || (1 - eps, eps) )                      EXO, arXiv:2402.00856
      discopop  -(1 - m) log sigma(u) + m exp(-u), m = sigma(u / tau)              DiscoPOP, arXiv:2406.08414

    Labels that are wrong with probability eps, phi one of the first three:

      conservative  (1 - eps) phi(u) + eps phi(-u)
      robust        ((1 - eps) phi(u) - eps phi(-u)) / (1 - 2 eps)       arXiv:2403.00409; unbiased for the clean loss

    exo takes eps as the second entry of its target and "conservative" (the same target, the other direction of KL).
    """
    if link == "exo":
        return _exo(u_K, noise)
    if smoothing == "none":
        return _difference(u_K, link, beta, tau)
    right_K, wrong_K = _difference(u_K, link, beta, tau), _difference(-u_K, link, beta, tau)
    if smoothing == "conservative":
        return (1 - noise) * right_K + noise * wrong_K
    return ((1 - noise) * right_K - noise * wrong_K) / (1 - 2 * noise)


def _difference(u, link, beta, tau):
    if link == "logistic":
        return -jax.nn.log_sigmoid(u)
    if link == "hinge":
        return jax.nn.relu(1 - u)
    if link == "squared":
        return ((u - 0.5) / beta) ** 2
    mixed = jax.nn.sigmoid(u / tau)
    # m exp(-u) as one exponential: with tau <= 1 it stays finite where exp(-u) alone would not
    return -jax.nn.log_sigmoid(u) * (1 - mixed) + jnp.exp(jax.nn.log_sigmoid(u / tau) - u)


def _exo(u, noise):
    noise = jnp.asarray(noise, u.dtype)
    return (jax.nn.sigmoid(u) * (jax.nn.log_sigmoid(u) - jnp.log1p(-noise))
            + jax.nn.sigmoid(-u) * (jax.nn.log_sigmoid(-u) - jnp.log(noise)))


def of_rewards(chosen_K: jax.Array, rejected_K: jax.Array, link: str, beta: float) -> jax.Array:
    """loss_K of the rewards a = beta s_w and b = beta s_l.

      nca        -log sigma(a) - (log sigma(-a) + log sigma(-b)) / 2    arXiv:2402.05369
      bco        -log sigma(a) - log sigma(-b)                          arXiv:2404.04656, without its running shift
      sppo_hard  ((a - 1/2)^2 + (b + 1/2)^2) / beta^2                   arXiv:2405.00675, win probabilities 1 and 0
      apo_zero   sigma(-a) + sigma(b)                                   arXiv:2408.06266
      apo_down   sigma(a) + sigma(b - a)                                arXiv:2408.06266
    """
    log_sigmoid, sigmoid = jax.nn.log_sigmoid, jax.nn.sigmoid
    if link == "nca":
        return -log_sigmoid(chosen_K) - 0.5 * log_sigmoid(-chosen_K) - 0.5 * log_sigmoid(-rejected_K)
    if link == "bco":
        return -log_sigmoid(chosen_K) - log_sigmoid(-rejected_K)
    if link == "sppo_hard":
        return ((chosen_K - 0.5) / beta) ** 2 + ((rejected_K + 0.5) / beta) ** 2
    if link == "apo_zero":
        return sigmoid(-chosen_K) + sigmoid(rejected_K)
    return sigmoid(chosen_K) + sigmoid(rejected_K - chosen_K)
