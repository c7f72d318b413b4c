"""Example figures of statistics of answers and of sequences of tasks, from planted data; see draw_probes.py."""

import numpy as np
from palette import BLIND, FOUND, INK, WRONG

from jaxpost.probes.policy import calibration
from jaxpost.probes.policy import lifelong as metrics
from jaxpost.probes.policy import strategies as two_strategies


def answers(ax):
    """Calibration error of policies right in a share p^a of the answers of probability p."""
    rng, over = np.random.default_rng(0), np.linspace(1, 4, 13)
    confidence = rng.beta(2, 2, 400)
    intervals = [calibration.interval(confidence, rng.random(400) < confidence**a, rng) for a in over]
    _, lo, hi = calibration.null(confidence, rng)
    value, low, high = (np.asarray([getattr(x, end) for x in intervals]) for end in ("value", "lo", "hi"))
    ax.fill_between(over, lo, hi, color=BLIND, alpha=0.3, label="null: calibrated")
    ax.errorbar(over, value, (value - low, high - value), fmt="o-", color=FOUND, label="400 prompts, 95 %")
    ax.plot(over, [np.mean(confidence - confidence**a) for a in over], color=INK, ls=":", label="planted")
    ax.set(xlabel="overconfidence a: right in a share $p^a$", ylabel="calibration error")


def lifelong(ax):
    """PM and BT of three tasks, learned to 0.8, of which every later stage takes a share."""
    share = np.linspace(0, 1, 11)
    scores = np.asarray([[[0.1, 0.1, 0.1], [0.8, 0.1, 0.1], [0.8 * (1 - s), 0.8, 0.1], [0.8 * (1 - s) ** 2, 0.8 * (1 - s), 0.8]]
                         for s in share])
    ax.axhline(0, color=BLIND, label="null: unchanged")
    ax.plot(share, metrics.performance_maintenance(scores), "o-", color=FOUND, label="PM")
    ax.plot(share, metrics.backward_transfer(scores), "s--", color=WRONG, label="BT")
    ax.set(xlabel="share of an earlier task that a stage takes", ylabel="PM, BT")


def strategies(ax):
    """Both statistics of mixtures of two predictors, and of a policy that takes a growing share of a fixed answer."""
    rng, share = np.random.default_rng(1), np.linspace(0, 1, 11)
    memorising, generalising = (rng.dirichlet(np.full(6, a), (1, 200)) for a in (1.0, 4.0))
    fixed, nothing = np.full(6, 1 / 6), np.zeros((1, 200))
    mixed = [w * memorising + (1 - w) * generalising for w in share]
    distance = [two_strategies.relative_distance(h, memorising, generalising, nothing).interval.value for h in mixed]
    weight = [two_strategies.weight(h, memorising, generalising, nothing)[0].interval.value for h in mixed]
    left = [two_strategies.weight(w * fixed + (1 - w) * memorising, memorising, generalising, nothing)[1].interval.value
            for w in share]
    ax.plot(share, weight, "o-", color=FOUND, label="weight of mixtures")
    ax.plot(share, distance, "s-", color=INK, label="relative distance of mixtures")
    ax.plot(share, left, "--", color=WRONG, label="unexplained, of memorising and chance (nat)")
    ax.set(xlabel="share of the memorising predictor, or of chance", ylabel="weight, distance, nat")
