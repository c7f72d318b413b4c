"""Example figures of whole tables and of modular addition; `draw_probes.py` draws them."""

import numpy as np
from palette import BLIND, FOUND, WRONG

from jaxpost.probes.fourier import basis as fourier_basis
from jaxpost.probes.policy.table_fit import fit as fitted

P, KEYS = 29, (2, 5, 6, 9, 13)


def fit(ax):
    rng, steps = np.random.default_rng(40), np.geomspace(1, 1000, 30)
    margin_N, noise_NxV = rng.normal(0, 0.6, 400), rng.standard_normal((400, 10))
    answer_N = np.zeros(400, int)
    read = []
    for step in steps:
        logits = noise_NxV.copy()
        logits[:, 0] += 1.6 * np.log(step) - 4 + margin_N
        read.append(fitted(logits, answer_N))
    ax.semilogx(steps, [accuracy for _, (accuracy, _) in read], color=FOUND, label="accuracy")
    ax.semilogx(steps, [loss for (loss, _), _ in read], color=WRONG, label="loss (nats)")
    ax.set(xlabel="step", ylim=(0, 6))


def fourier(ax):
    total = np.add.outer(np.arange(P), np.arange(P)) % P
    count = np.eye(P) * P
    share = np.linspace(0, 1, 21)

    def restricted(logits):
        part = fourier_basis.components(fourier_basis.sum_coefficients(logits), KEYS, P)
        return fourier_basis.restricted_loss(logits.mean((0, 1)), part, count)

    drawn, right = np.random.default_rng(41).random((P, P)), 12 * np.eye(P)[total]
    ax.plot(share, [restricted(right * (drawn < f)[..., None]) for f in share], "o-", color=WRONG, label="memorised only")
    circuit = sum(np.cos(2 * np.pi * w * np.subtract.outer(total, np.arange(P)) / P) for w in KEYS)
    ax.axhline(restricted(2 * circuit), color=FOUND, label="circuit")
    ax.axhline(np.log(P), color=BLIND, ls=":", label="knows nothing")
    ax.set(xlabel="share of problems in training", ylabel="restricted loss (nats)", ylim=(0, None))
