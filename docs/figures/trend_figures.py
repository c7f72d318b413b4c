"""The example figure of trend correlations, from planted drifts; drawn by draw_probes.py."""

import numpy as np
from palette import BLIND, FOUND, WRONG

from jaxpost.probes import trends


def trend(ax):
    rng = np.random.default_rng(0)
    step = np.unique(np.r_[0, np.geomspace(1, 2000, 14).round(), np.linspace(100, 2000, 20).round()]).astype(int)

    def rise():
        place, width = rng.uniform(3, 7), rng.uniform(0.3, 1)
        return 1 / (1 + np.exp((place - np.log1p(step)) / width)) + 0.05 * rng.standard_normal(len(step))

    pairs = [(rise(), rise()) for _ in range(300)]
    for reading, color in (("plain", WRONG), ("given_time", FOUND), ("change", BLIND)):
        correlations = [trends.correlation(step, x, y, method="spearman", reading=reading, draws=1).value for x, y in pairs]
        ax.hist(correlations, np.linspace(-1, 1, 41), histtype="step", color=color, label=reading)
    ax.set(xlabel="Spearman correlation of independent rises", ylabel="pairs of 300", xlim=(-1, 1))
