"""Example figures of the routing statistics, from planted routers; drawn by draw_probes.py.

One function a statistic of `jaxpost.probes.catalog`, named like it; each draws on one axis.
"""

import numpy as np
import scipy.special
from palette import BLIND, FOUND, INK, WRONG

from jaxpost.probes.routing import events as event_shares
from jaxpost.probes.routing import load as loads
from jaxpost.probes.routing import pathway_estimates


def _rng(seed=0):
    return np.random.default_rng(seed)


def pathway(ax):
    sharpness, own = np.geomspace(0.05, 20, 14), _rng(1).standard_normal((60, 2, 8))
    shared = own[:2][np.arange(60) % 2]  # two groups that are routed nearly alike
    for logits, color, label in ((own, WRONG, "unrelated samples"), (shared + 0.1 * own, FOUND, "two groups")):
        probs = scipy.special.softmax(sharpness[:, None, None, None] * logits, axis=-1)
        estimates = [pathway_estimates.distance_estimates(p, 8, threshold=0.7, cap=10**6, draws=3, params={})[0] for p in probs]
        ax.semilogx(sharpness, [estimate.value for estimate in estimates], "o-", color=color, label=label)
    ax.semilogx(sharpness, [estimate.nulls[0].value for estimate in estimates], color=BLIND,
                label="random, loads of the groups")
    ax.set(xlabel="scale of the router's logits", ylabel="edit distance", ylim=(0, None))


def consistency(ax):
    angles, probs = np.linspace(0, np.pi, 40), _rng(2).dirichlet(np.ones(4), size=(40, 3))
    vectors = np.linalg.qr(_rng(3).standard_normal((16, 8)))[0]
    raw, paper = [], []
    for angle in angles:
        layers = [np.cos(t) * vectors[:, :4] + np.sin(t) * vectors[:, 4:] for t in (0, angle, 1.5 * angle)]
        cross = np.stack([a.T @ b for a, b in zip(layers, layers[1:])])
        cosines = pathway_estimates.cosines(probs, np.stack([a.T @ a for a in layers]), cross)
        raw.append(cosines.mean())
        paper.append(pathway_estimates.consistency(cosines).mean())
    ax.plot(np.cos(angles), raw, color=FOUND, label="mean cosine")
    ax.plot(np.cos(angles), np.where(np.abs(paper) < 6, paper, np.nan), color=WRONG, label="the paper's C")
    ax.axhline(0, color=INK, lw=0.8, ls=":")
    ax.set(xlabel="cosine of the first two routers", ylabel="over three layers", ylim=(-3.2, 3.2))


def complexity(ax):
    groups = np.arange(1, 17)
    for n, color in ((64, WRONG), (256, FOUND)):
        dimensions = [pathway_estimates.effective_dimension(np.eye(16)[np.arange(n) % g][:, None], 1.0) for g in groups]
        ax.plot(groups, dimensions, "o-", color=color, label=f"{n} samples")
    ax.plot(groups, groups, color=BLIND, label="number of groups")
    ax.set(xlabel="groups with an expert of their own (lambda = 1)", ylabel="effective dimension")


def router_entropy(ax):
    sharpness, logits = np.geomspace(0.1, 20, 30), _rng(4).standard_normal((400, 8))
    full = scipy.special.softmax(sharpness[:, None, None] * logits, axis=-1)
    top = np.sort(full, axis=-1)[..., -2:]

    def entropy(p):
        return scipy.special.entr(p).sum(-1).mean(-1)

    ax.semilogx(sharpness, entropy(full), color=FOUND, label="full probabilities")
    ax.semilogx(sharpness, entropy(scipy.special.softmax(full, axis=-1)), color=WRONG, label="a second softmax")
    ax.semilogx(sharpness, entropy(top / top.sum(-1, keepdims=True)), ":", color=WRONG, label="top 2, renormalised")
    ax.axhline(np.log(8), color=BLIND, lw=0.9)
    ax.set(xlabel="scale of the router's logits", ylabel="entropy (nat)")


def _top(weight_E, n, k=2, seed=5):
    """Top-k choices of n independent tokens with expert weights: [1, n, k]."""
    return np.argsort(-_rng(seed).gumbel(np.log(weight_E), size=(1, n, len(weight_E))), axis=-1)[..., :k]


def router_load(ax):
    tokens = np.geomspace(8, 2048, 12).astype(int)
    for weight, color, label in ((np.ones(8), WRONG, "balanced router"), (np.arange(1, 9), FOUND, "uneven router")):
        loads_of = [loads.load_cv(loads.chosen(_top(weight, n), 8).sum(0)) for n in tokens]
        ax.loglog(tokens, loads_of, "o-", color=color, label=label)
    ax.loglog(tokens, [loads.load_cv_null(8, 2, n) for n in tokens], color=BLIND, label="equal load, in closed form")
    ax.set(xlabel="tokens", ylabel="CV of the load, top 2 of 8")


def coactivation(ax):
    share, n = np.linspace(0, 1, 11), 300
    partner = np.arange(8) ^ 1  # 0 with 1, 2 with 3, ...
    shares, null = [], []
    for planted in share:
        top = _top(np.ones(8), n, seed=7)
        bound = _rng(8).random(n) < planted
        top[0, bound, 1] = partner[top[0, bound, 0]]
        both = loads.together(top, 8).sum(0)
        shares.append(loads.coactivation(both))
        null.append(loads.coactivation_null(both, 20))
    ax.plot(share, shares, "o-", color=FOUND, label="pairs of 300 tokens")
    ax.fill_between(share, np.min(null, axis=1), np.max(null, axis=1), color=BLIND, alpha=0.5, label="independence")
    ax.set(xlabel="share of tokens with a planted partner", ylabel="co-activation")


def specialisation(ax):
    sizes = np.geomspace(8, 512, 10).astype(int)
    for planted, color, label in ((1.5, FOUND, "labels move the logits"), (0.0, WRONG, "unrelated labels")):
        shares, null = [], []
        for n in sizes:
            rng = _rng(9)
            label_N = np.arange(n) % 4
            logits = rng.standard_normal((n, 8)) + planted * np.eye(8)[label_N]
            weight = scipy.special.softmax(2 * logits, axis=-1)
            shares.append(loads.mutual_information(loads.joint(label_N, weight)))
            null.append(loads.label_permutations(label_N, weight).mean())
        ax.loglog(sizes, shares, "o-", color=color, label=label)
    ax.loglog(sizes, null, color=BLIND, label="permuted labels")
    ax.set(xlabel="samples", ylabel="nat")


def saturation(ax):
    steps, rng = np.arange(1, 25), _rng(10)
    busy = np.log([8, 6, 1, 1, 1, 1, 1, 1])
    last = busy + rng.gumbel(size=(300, 8))
    first = busy + rng.gumbel(size=(300, 8))
    drift = [np.argsort(-(last * w + first * (1 - w)), axis=1)[None, :, :2] for w in np.linspace(0, 1, len(steps))]
    overlaps = [loads.overlap(top, drift[-1])[0] / 600 for top in drift]
    null = [loads.overlap_null(loads.chosen(top, 8)[0], loads.chosen(drift[-1], 8)[0], 300, 2) for top in drift]
    ax.plot(steps, overlaps, "o-", color=FOUND, label="a router that drifts")
    ax.plot(steps, null, color=BLIND, label="independent, same loads")
    ax.axhline(2 / 8, color=WRONG, ls=":", label="random: k / E")
    ax.set(xlabel="measured step", ylabel="overlap with the last", ylim=(0, 1.05))


def events(ax):
    steps, rng = np.arange(20), _rng(11)
    falls = np.where(steps[:, None] >= rng.integers(2, 19, 300), 0.1, 2.0)
    flickers = np.where(rng.random((20, 300)) < 0.8, 0.1, 2.0)
    flickers[-1] = 0.1
    for loss, color, label in ((falls, FOUND, "falls for good"), (flickers, WRONG, "flickers")):
        ax.plot(steps, event_shares.memorised(loss, 0.5, 0.05).mean(1), "o-", color=color, label=label)
        ax.plot(steps, event_shares.memorised_null(loss, 0.5, 0.05).mean(1), color=color, lw=0.9, ls="--")
    ax.plot([], [], color=INK, lw=0.9, ls="--", label="shuffled steps")
    ax.set(xlabel="measured step", ylabel="share memorised")
