"""The example figures of docs/probes.md, from planted data: `python docs/figures/draw_probes.py [NAME ...]`.

One function a statistic of `jaxpost.probes.catalog`, named like it; each draws on one axis.
"""

import io
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.linalg
import scipy.special
import scipy.stats
from PIL import Image

matplotlib.use("Agg")
import routing_figures  # noqa: E402
from answer_figures import answers, lifelong, strategies  # noqa: E402, F401
from circuit_figures import induction, lens, tracing  # noqa: E402, F401
from fourier_figures import fit, fourier  # noqa: E402, F401
from matplotlib import pyplot as plt  # noqa: E402
from palette import BLIND, FOUND, INK, WRONG  # noqa: E402
from trend_figures import trend  # noqa: E402, F401

from jaxpost import linalg  # noqa: E402
from jaxpost.probes import catalog, kernels  # noqa: E402
from jaxpost.probes.curvature import krylov, langevin, mixing  # noqa: E402
from jaxpost.probes.gradients import gram as gradient_gram  # noqa: E402
from jaxpost.probes.kernels import statistics as kernel_statistics  # noqa: E402
from jaxpost.probes.weights import blind_energy, visibility  # noqa: E402
from jaxpost.records.drawing import style  # noqa: E402

FOLDER = Path(__file__).parent / "probes"


def _rng(seed=0):
    return np.random.default_rng(seed)


def _base(shape=(96, 64), seed=1):
    """Gaussian weights on the bf16 grid, with outliers as trained ones have."""
    w = _rng(seed).standard_t(5, shape) * 0.05
    return np.asarray(jnp.asarray(w, jnp.bfloat16).astype(jnp.float32), np.float64)


def _seen(w):
    return np.asarray(jnp.asarray(w, jnp.float32).astype(jnp.bfloat16).astype(jnp.float32), np.float64)


def _blind(sigma, seed, shape=(96, 64)):
    return sigma * _rng(seed).standard_normal(shape)


def _gapped(gap, shape=(96, 64), k=8, seed=2):
    u, _, vt = np.linalg.svd(_rng(seed).standard_normal(shape), full_matrices=False)
    s = np.concatenate([np.full(k, 1.0 + gap), np.linspace(1.0, 0.2, min(shape) - k)])
    return u * s @ vt


def _angle(a, b, k=8):
    u, v = (np.linalg.svd(x, full_matrices=False)[0][:, :k] for x in (a, b))
    return np.degrees(np.asarray(linalg.principal_angles(jnp.asarray(u, jnp.float32), jnp.asarray(v, jnp.float32)))[0])


def size(ax):
    w0 = _base()
    sigma = np.geomspace(1e-7, 1e-2, 16)
    seen = [np.linalg.norm(_seen(w0 + _blind(s, 3)) - w0) / np.linalg.norm(w0) for s in sigma]
    true = [np.linalg.norm(_blind(s, 3)) / np.linalg.norm(w0) for s in sigma]
    ax.loglog(true, seen, "o-", color=FOUND, label="visible in bf16")
    ax.loglog(true, true, color=BLIND, label="equal")
    ax.set(xlabel="relative norm of the update", ylabel="relative norm read")


def sparsity(ax):
    w0, sigma = _base(), np.geomspace(1e-7, 1e-2, 24)
    moved = [(w0, (w0 + _blind(s, 4)).astype(np.float32)) for s in sigma]
    for label, same, style_ in (("bf16", lambda a, b: _seen(b) == a, "-"),
                                ("fp32", lambda a, b: b == a.astype(np.float32), "--"),
                                ("|dW| <= 1e-5", lambda a, b: abs(b - a) <= 1e-5, "-."),
                                ("|dW| <= 1e-3 |w|", lambda a, b: abs(b - a) <= 1e-3 * np.maximum(abs(a), abs(b)), ":")):
        ax.semilogx(sigma, [same(*m).mean() for m in moved], style_, label=label)
    ax.set(xlabel="standard deviation of a blind update", ylabel="share of entries unchanged")


def spectrum(ax):
    w0, (u, s, vt) = _base(), np.linalg.svd(_base(), full_matrices=False)
    sizes = np.geomspace(1e-3, 0.3, 10) * np.linalg.norm(w0)

    def rho(direction, c):
        dw = c * direction / np.linalg.norm(direction)
        return np.linalg.norm(np.linalg.svd(w0 + dw, compute_uv=False) - s) / np.linalg.norm(dw)

    ax.semilogx(sizes, [rho(u * s @ vt, c) for c in sizes], color=FOUND, label="along the singular directions")
    draws = np.asarray([[rho(_blind(1, i), c) for c in sizes] for i in range(4)])
    ax.fill_between(sizes, draws.min(0), draws.max(0), color=BLIND, alpha=0.4, label="isotropic")
    ax.axhline(96**-0.5, color=INK, lw=0.8, ls=":", label="1 / sqrt(max(m, n))")
    ax.set(xlabel="||dW||", ylabel="rho")


def rotation(ax):
    sizes = np.geomspace(1e-3, 0.3, 10)
    for gap, color in ((0.5, FOUND), (0.02, WRONG)):
        w0 = _gapped(gap)
        ax.loglog(sizes, [_angle(w0, w0 + c * np.linalg.norm(w0) * _blind(1, 5) / np.linalg.norm(_blind(1, 5)))
                          for c in sizes], "o-", color=color, label=f"gap {gap}")
        ax.axhline(_angle(w0, _seen(w0)), color=color, ls=":", label=f"bf16 rounding alone, gap {gap}")
    ax.set(xlabel="relative norm of a blind update", ylabel="largest angle, degrees")


def overlap(ax):
    w0, sigma = _base((256, 128)), np.geomspace(1e-5, 1e-3, 10)
    u, s, vt = np.linalg.svd(w0, full_matrices=False)
    score = abs(u[:, :16] * s[:16] @ vt[:16])
    mask = score >= np.quantile(score, 0.5)
    read, expected = [], []
    for x in sigma:
        visible = _seen(w0 + _blind(x, 6, w0.shape)) != w0
        read.append((visible & mask).sum() / visible.sum())
        codes = visibility.bf16_codes(jnp.asarray(w0, jnp.float32))
        p = np.asarray(visibility.visibility_law("gaussian", jnp.float32(x)))[np.asarray(visibility.class_of(codes))]
        expected.append((p * mask).sum() / p.sum())
    ax.semilogx(sigma, read, "o", color=FOUND, label="blind updates")
    ax.semilogx(sigma, expected, color=BLIND, label="magnitude-conditioned null")
    ax.axhline(mask.mean(), color=WRONG, ls=":", label="mask density")
    ax.set(xlabel="standard deviation of the update", ylabel="overlap with the principal mask")


def energy(ax):
    shape, ks = (96, 64), np.asarray([2, 4, 8, 16, 32])
    u, _, vt = np.linalg.svd(_base(), full_matrices=False)
    draws = []
    for i in range(40):
        dw = _blind(1, i)
        draws.append([1 - (((u[:, :k].T @ dw @ vt[:k].T) ** 2).sum() / (dw**2).sum()) for k in ks])
    ax.plot(ks, np.mean(draws, 0), "o", color=FOUND, label="random updates, mean of 40")
    law = [scipy.stats.beta(k * k / 2, (96 * 64 - k * k) / 2) for k in ks]
    low, high = ([1 - x.ppf(q) for x in law] for q in (0.975, 0.025))
    ax.fill_between(ks, low, high, color=BLIND, alpha=0.4, label="Beta law")
    one = np.ones(shape)
    mean, _ = blind_energy.shares([(slice(None), one, 3 * one)], u[:, :8], vt[:8].T, (8,), np, np.matmul)
    assert abs(mean[0, 0] - 64 / 6144) < 1e-9
    ax.set(xlabel="k", ylabel="off-principal energy, two-sided")


def rank(ax):
    w0, scales = _base((192, 128)), np.geomspace(3e-5, 3e-2, 12)
    rng = _rng(7)
    planted = rng.standard_normal((192, 8)) @ rng.standard_normal((8, 128)) / 8**0.5
    rows = {"default tolerance": [], "entropy rank": [], "above the rounding edge": []}
    for c in scales:
        w1 = _seen(w0 + c * planted)
        s = jnp.asarray(np.linalg.svd(w1 - w0, compute_uv=False), jnp.float32)
        ulps = [np.asarray(visibility.ulp(visibility.bf16_codes(jnp.asarray(w, jnp.float32)))) for w in (w0, w1)]
        q = np.sqrt(np.mean((ulps[0] ** 2 + ulps[1] ** 2) / 2) / 12)
        rows["default tolerance"].append(np.linalg.matrix_rank((w1 - w0).astype(np.float32)))
        rows["entropy rank"].append(float(linalg.entropy_rank(s)))
        rows["above the rounding edge"].append(float(linalg.count_above(s, linalg.rounding_edge(q, 192, 128))))
    for (label, y), color in zip(rows.items(), (WRONG, BLIND, FOUND), strict=True):
        ax.semilogx(scales, y, "o-", color=color, label=label)
    ax.axhline(8, color=INK, lw=0.8, ls=":")
    ax.set(xlabel="size of a planted rank-8 update, read in bf16", ylabel="rank")


def jaccard(ax):
    w0, sigma = _base((256, 128)), np.geomspace(1e-5, 1e-3, 10)
    codes = visibility.bf16_codes(jnp.asarray(w0, jnp.float32))
    shares, blind, plain = [], [], []
    for x in sigma:
        a, b = (_seen(w0 + _blind(x, i, w0.shape)) != w0 for i in (8, 9))
        shares.append((a & b).sum() / (a | b).sum())
        p = visibility.visibility_law("gaussian", jnp.float32(x))
        blind.append(float(visibility.expected_jaccard(visibility.class_counts(codes), p, p)))
        plain.append(a.mean() * b.mean() / (a.mean() + b.mean() - a.mean() * b.mean()))
    for y, style_, color, label in ((shares, "o", FOUND, "two blind runs"), (blind, "-", BLIND, "magnitude-conditioned"),
                                    (plain, ":", WRONG, "independence")):
        ax.semilogx(sigma, y, style_, color=color, label=label)
    ax.set(xlabel="standard deviation of the updates", ylabel="Jaccard index")


def pairs(ax):
    bases, sigma = [_base((256, 128), seed) for seed in (1, 17)], np.geomspace(1e-5, 1e-3, 10)
    codes = [visibility.bf16_codes(jnp.asarray(w, jnp.float32)) for w in bases]
    for other, color, label in ((0, FOUND, "one base"), (1, WRONG, "two bases")):
        shares, blind, plain = [], [], []
        for x in sigma:
            a, b = (_seen(bases[i] + _blind(x, draw, (256, 128))) != bases[i] for i, draw in ((0, 18), (other, 19)))
            law = np.asarray(visibility.visibility_law("gaussian", jnp.float32(x)))
            p, q = (law[np.asarray(visibility.class_of(codes[i]))] for i in (0, other))
            shares.append((a & b).sum() / (a | b).sum())
            blind.append((p * q).sum() / (p + q - p * q).sum())
            plain.append(p.mean() * q.mean() / (p.mean() + q.mean() - p.mean() * q.mean()))
        ax.semilogx(sigma, shares, "o", color=color, label=f"blind runs, {label}")
        ax.semilogx(sigma, blind, color=color, lw=0.9)
    ax.semilogx(sigma, plain, ":", color=BLIND, label="independence")
    ax.set(xlabel="standard deviation of the updates (lines: right nulls)", ylabel="Jaccard index")


def stripes(ax):
    rng, shape = _rng(10), (96, 64)
    p = np.full(shape, 0.2)
    blind = (rng.random(shape) < p).mean(1)
    planted = (rng.random(shape) < np.where(np.arange(96)[:, None] % 8 == 0, 0.6, p)).mean(1)
    bins = np.linspace(0, 0.8, 33)
    ax.hist(planted, bins, color=FOUND, alpha=0.8, label="every eighth row planted")
    ax.hist(blind, bins, color=BLIND, alpha=0.7, label="blind")
    ax.set(xlabel="row ratio", ylabel="rows")


def consensus(ax):
    rng, runs = _rng(11), 8
    p = np.clip(rng.beta(0.6, 1.4, 20_000), 1e-3, 1)  # visibility by magnitude
    agreed = rng.random(p.size) < 0.1
    masks = np.stack([np.where(agreed, rng.random(p.size) < 0.95, rng.random(p.size) < p) for _ in range(runs)])
    j = np.arange(runs + 1)
    ax.plot(j, np.bincount(masks.sum(0), minlength=runs + 1) / p.size, "o-", color=FOUND, label="10 % of entries agreed on")
    ax.plot(j, scipy.stats.binom.pmf(j[:, None], runs, p[None]).mean(1), color=BLIND, label="magnitude-conditioned")
    ax.plot(j, scipy.stats.binom.pmf(j, runs, masks.mean()), ":", color=WRONG, label="independence")
    ax.set(xlabel="runs that change an entry", ylabel="share of entries")


def rank_one(ax):
    steps = np.arange(1, 17)
    walk = np.cumsum([_blind(1, 100 + t) for t in steps], axis=0)
    last = np.linalg.svd(walk[-1])[0][:, 0]
    ax.plot(steps, [abs(np.linalg.svd(w)[0][:, 0] @ last) for w in walk], "o-", color=BLIND, label="blind walk")
    rng, u, v = _rng(12), *(_rng(i).standard_normal(n) for i, n in ((13, 96), (14, 64)))
    path = walk + steps[:, None, None] * np.outer(u, v) * 0.3
    final = np.linalg.svd(path[-1])[0][:, 0]
    ax.plot(steps, [abs(np.linalg.svd(w)[0][:, 0] @ final) for w in path], "o-", color=FOUND, label="planted direction")
    random = abs(rng.standard_normal((200, 96)) @ final) / np.sqrt(96)
    ax.axhline(np.quantile(random, 0.975), color=WRONG, ls=":", label="random directions, 97.5 %")
    ax.set(xlabel="step", ylabel="|cos| to the last step's u1")


def ever_changed(ax):
    w0, steps = _base(), np.unique(np.geomspace(1, 300, 20).astype(int))
    w, ever, net, touched = w0.copy(), [], [], np.zeros(w0.shape, bool)
    rng = _rng(27)
    for t in range(1, 301):
        before = _seen(w)
        w = w + 2e-5 * rng.standard_normal(w0.shape)
        touched |= _seen(w) != before
        if t in steps:
            ever.append(touched.mean())
            net.append((_seen(w) != w0).mean())
    ax.semilogx(steps, ever, "o-", color=FOUND, label="ever changed")
    ax.semilogx(steps, net, "o-", color=WRONG, label="net change")
    ax.set(xlabel="step of a blind walk", ylabel="share of entries")


def gate_leash(ax):
    rng = _rng(28)
    logits, direction = rng.standard_normal((8, 16)), rng.standard_normal((8, 16))
    p, sizes = scipy.special.softmax(logits, 1), np.geomspace(1e-2, 10, 16)
    fisher_ = sum(d @ (np.diag(q) - np.outer(q, q)) @ d for q, d in zip(p, direction, strict=True))
    kl = [scipy.stats.entropy(scipy.special.softmax(logits + c * direction, 1), p, axis=1).sum() for c in sizes]
    ax.semilogx(sizes, sizes * fisher_**0.5 / np.sqrt(2 * np.asarray(kl)), "o-", color=FOUND)
    ax.axhline(1, color=BLIND, ls=":")
    ax.set(xlabel="size of the step", ylabel="Fisher length / sqrt(2 KL)")


def gate_curvature(ax):
    m, n, k = 24, 16, 2
    u, _, vt = np.linalg.svd(_rng(31).standard_normal((m, n)), full_matrices=False)
    strengths = np.linspace(0, 3, 9)
    rng = _rng(32)
    frames = [np.kron(*(np.linalg.qr(rng.standard_normal((size, k)))[0] for size in (m, n))) for _ in range(20)]
    plant, seen = np.kron(u[:, :k], vt[:k].T), []
    for strength in strengths:
        g = rng.standard_normal((400, m * n)) + strength * rng.standard_normal((400, k * k)) @ plant.T
        mean = (g**2).sum() / g.size
        seen.append([((g @ q) ** 2).mean() / mean for q in (plant, *frames)])
    seen = np.asarray(seen)
    ax.plot(strengths, seen[:, 0], "o-", color=FOUND, label="principal subspace")
    ax.fill_between(strengths, seen[:, 1:].min(1), seen[:, 1:].max(1), color=BLIND, alpha=0.5, label="random frames")
    ax.set(xlabel="strength of the plant", ylabel="relative curvature")


def curvature(ax):
    values = 1 / np.arange(1, 201) ** 1.2
    q = np.linalg.qr(_rng(33).standard_normal((200, 200)))[0]
    h, start = jnp.asarray((q * values) @ q.T, jnp.float32), jnp.asarray(_rng(34).standard_normal((1, 200)), jnp.float32)
    depths = range(1, 13)
    pairs = [krylov.top_eigenpairs(lambda v: {"w": v["w"] @ h}, {"w": start}, 1, depth) for depth in depths]
    ax.errorbar(depths, [float(f.values_K[0]) for f in pairs], [float(f.residual_K[0]) for f in pairs], color=FOUND, fmt="o-",
                label="Ritz value and residual")
    ax.axhline(1, color=BLIND, ls=":", label="largest eigenvalue")
    ax.set(xlabel="products", ylabel="sharpness")


def kernel(ax):
    rng, key = _rng(35), jax.random.key(0)
    params, step = ({"v": rng.standard_normal((1, 64)) / 8, "w": rng.standard_normal((64, 8))} for _ in range(2))
    rows, sizes = jnp.asarray(rng.standard_normal((32, 8)), jnp.float32), np.geomspace(1e-3, 3, 15)

    def read(w, row):
        return kernels.Answer(w["v"] @ jnp.tanh(w["w"] @ row), row)

    def at(size):
        w = {name: params[name] + size * step[name] for name in params}
        start, line = kernels.linearised(read, params, w, rows, 32)
        moved = jax.vmap(lambda row: read(w, row).output_O)(rows) - start
        k = kernels.kernel(read, w, rows, kernels.Jacobian(microbatch=32), key)[0]
        return np.asarray(k, np.float64), kernel_statistics.departure(np.asarray(moved), np.asarray(line - start))

    k0, reads = at(0.0)[0], [at(size) for size in sizes]
    ax.loglog(sizes, [kernel_statistics.drift(k, k0) for k, _ in reads], "o-", color=FOUND, label="drift of the kernel")
    ax.loglog(sizes, [distance for _, distance in reads], "o-", color=WRONG, label="distance to the linearised model")
    ax.set(xlabel="length of the step, in initial standard deviations", ylabel="relative distance")


def learning_coefficient(ax):
    rows, powers, estimates = {"x": jnp.zeros((4, 1))}, np.asarray([1, 2, 3, 4]), []
    walk = langevin.Walk(chains=4, burn_in=500, draws=200, thin=10, step=2e-3, localisation=0.0, batch=4, microbatch=4)
    for k in powers:
        chains = langevin.draws(lambda p, row, k=k: (p["w"] ** (2 * k)).sum(), {"w": jnp.zeros(3)}, rows, 50.0, walk,
                                jax.random.key(k))
        x = 50 * np.asarray(chains.excess_CxN)
        estimates.append((x.mean(), 2 * x.std() / mixing.effective_draws(x) ** 0.5))
    ax.errorbar(powers, *np.asarray(estimates).T, color=FOUND, fmt="o", label="Langevin chains")
    ax.plot(powers, 3 / (2 * powers), color=BLIND, label="3 / (2k)")
    ax.axhline(1.5, color=WRONG, ls=":", label="regular: P/2")
    ax.set(xlabel="k", ylabel="learning coefficient", xticks=powers)


def gate_ulp(ax):
    w0, j = _base(), np.arange(-6, 7)
    half = np.asarray(visibility.ulp(visibility.bf16_codes(jnp.asarray(w0, jnp.float32)))) / 2
    for sigma, color in ((3e-5, FOUND), (3e-4, WRONG)):
        share = [(abs(_blind(sigma, 29)) > 2.0**i * half).mean() for i in j]
        ax.plot(j, share, "o-", color=color, label=f"blind, standard deviation {sigma:g}")
    ax.axvline(0, color=BLIND, ls=":")
    ax.set(xlabel="j: beyond 2^j half ULPs", ylabel="share of entries")


def tails(ax):
    m, n = 256, 128
    rng = _rng(30)
    w = rng.standard_normal((m, n)) / m**0.5
    u, _, vt = np.linalg.svd(rng.standard_normal((m, n)), full_matrices=False)
    eigenvalues = np.linalg.svd(w + (u[:, :3] * [3.0, 2.6, 2.2]) @ vt[:3], compute_uv=False) ** 2
    ax.hist(eigenvalues, 40, color=FOUND, label="eigenvalues")
    ax.axvline((1 + (n / m) ** 0.5) ** 2, color=WRONG, ls=":", label="Marchenko-Pastur edge")
    ax.set(xlabel="eigenvalue", ylabel="count")


def forgetting(ax):
    rng = _rng(31)
    rate = np.repeat([1, 2, 4], 6)
    good = rate * (1 + 0.3 * rng.standard_normal(18))
    drop = 0.05 * good + 0.01 * rng.standard_normal(18)
    follows = rate * (1 + 0.3 * rng.standard_normal(18))
    ax.plot(good, drop, "o", color=FOUND, label="predicts within an arm too")
    ax.plot(follows, drop, "o", mfc="none", color=WRONG, label="follows the arm only")
    ax.set(xlabel="distance", ylabel="success lost on the old task")


def fixed_spectrum(ax):
    w0 = _base()
    u, s, vt = np.linalg.svd(w0, full_matrices=False)
    skew = _rng(24).standard_normal((96, 96))
    sizes = np.geomspace(1e-2, 1, 10)

    def iso(w):
        return np.linalg.norm(np.linalg.svd(w, compute_uv=False) - s) / np.linalg.norm(w - w0)

    turned = [scipy.linalg.expm(c * (skew - skew.T) / 96) @ w0 for c in sizes]
    lengths = [np.linalg.norm(w - w0) / np.linalg.norm(w0) for w in turned]
    ax.semilogx(lengths, [iso(w) for w in turned], "o-", color=FOUND, label="rotation of the frames")
    blind = _blind(1, 25) / np.linalg.norm(_blind(1, 25)) * np.linalg.norm(w0)
    ax.semilogx(lengths, [iso(w0 + c * blind) for c in lengths], color=BLIND, label="isotropic")
    ax.semilogx(lengths, [iso(w0 + c * u * s @ vt) for c in lengths], color=WRONG, label="rescaling")
    ax.set(xlabel="relative norm of the update", ylabel="unexplained share, iso")


def drift(ax):
    t = np.unique(np.geomspace(1, 1000, 24).astype(int))
    path = np.linalg.norm(np.cumsum(_rng(26).standard_normal((1000, 50)), axis=0), axis=1)[t - 1] / 7
    slow = 5 + 4 * np.log(t)
    for y, color, label in ((slow, FOUND, "logarithmic drift"), (path, WRONG, "random walk")):
        ax.semilogx(t, y, "o", color=color, label=label)
        ax.semilogx(t, np.polyval(np.polyfit(np.log(t[:16]), y[:16], 1), np.log(t)), color=color, lw=0.9)
    ax.axvline(t[15], color=INK, lw=0.8, ls=":")
    ax.set(xlabel="step (fits see what is left of the line)", ylabel="distance", ylim=(0, None))


def interpolation(ax):
    a = np.linspace(0, 1, 11)
    ax.plot(a, 0.2 + 1.5 * (a - 0.8) ** 2, "o-", color=FOUND, label="one bowl")
    ax.plot(a, 0.2 + 0.96 * (1 - a) + 1.2 * np.exp(-((a - 0.5) / 0.18) ** 2), "o-", color=WRONG, label="two bowls")
    ax.plot(a, 0.2 + 0.96 * (1 - a) + 0.06 * a, ":", color=BLIND, label="chord")
    ax.set(xlabel="a: from the base to the policy", ylabel="loss")


def distance(ax):
    density = np.geomspace(0.01, 1, 12)
    n, ratio = 20_000, []
    for d in density:
        x = _rng(15).standard_normal(n) * (_rng(16).random(n) < d)
        ratio.append(abs(x).mean() / np.sqrt((x**2).mean()))
    ax.semilogx(density, ratio, "o-", color=FOUND, label="update of this density")
    ax.axhline(np.sqrt(2 / np.pi), color=BLIND, ls=":", label="Gaussian of the same norm")
    ax.set(xlabel="density of the update", ylabel="mean |dW| / rms dW")


def fisher(ax):
    rng = _rng(17)
    logits = rng.standard_normal(16)
    p = scipy.special.softmax(logits)
    direction = rng.standard_normal(16)
    sizes = np.geomspace(1e-2, 3, 14)
    kl = [scipy.stats.entropy(p, scipy.special.softmax(logits + c * direction)) for c in sizes]
    full = direction @ (np.diag(p) - np.outer(p, p)) @ direction
    diagonal = (direction**2 * p * (1 - p)).sum()
    ax.loglog(sizes, kl, "o", color=FOUND, label="KL to the base")
    ax.loglog(sizes, sizes**2 * full / 2, color=BLIND, label="half the Fisher length")
    ax.loglog(sizes, sizes**2 * diagonal / 2, ":", color=WRONG, label="half its diagonal part")
    ax.set(xlabel="size of the step", ylabel="nat")


def coherence(ax):
    rng, m, d = _rng(18), 8, 400
    shared = np.linspace(0, 1, 12)
    plug, unbiased = [], []
    for c in shared:
        g = np.sqrt(c) * np.ones((m, 1)) * rng.standard_normal(d) + np.sqrt(1 - c) * rng.standard_normal((m, d))
        s1, s2 = (g.sum(0) ** 2).sum(), (g**2).sum()
        plug.append(s1 / (m * s2))
        unbiased.append((s1 - s2) / ((m - 1) * s2))
    ax.plot(shared, plug, "o", color=WRONG, label="plug-in")
    ax.plot(shared, unbiased, "o", color=FOUND, label="unbiased")
    ax.plot(shared, shared, color=BLIND, label="planted")
    ax.set(xlabel="planted coherence", ylabel="alpha, 8 examples")


def noise(ax):
    rng, d, scale = _rng(19), 400, 20.0
    sizes = np.asarray([4, 8, 16, 32, 64, 128, 256])
    bands = []
    for m in sizes:
        draws = []
        for _ in range(40):
            g = np.ones(d) / d**0.5 + np.sqrt(scale / d) * rng.standard_normal((m, d))
            s1, s2 = (g.sum(0) ** 2).sum(), (g**2).sum()
            draws.append(((s2 - s1 / m) / (m - 1)) / ((s1 - s2) / (m * (m - 1))))
        bands.append(np.quantile(draws, (0.1, 0.5, 0.9)))
    low, middle, high = np.transpose(bands)
    ax.fill_between(sizes, low, high, color=FOUND, alpha=0.3, label="80 % of draws")
    ax.plot(sizes, middle, "o-", color=FOUND, label="median")
    ax.axhline(scale, color=BLIND, ls=":", label="planted")
    ax.set(xlabel="examples", ylabel="noise scale, examples", xscale="log", ylim=(-20, 80))


def example_norm(ax):
    rng = _rng(20)
    length = rng.integers(4, 65, 300)
    summed = np.asarray([np.linalg.norm(rng.standard_normal((n, 50)).sum(0) + 0.5 * n) for n in length])
    ax.plot(length, summed / 50**0.5, ".", color=WRONG, label="sum over tokens")
    ax.plot(length, summed / length / 50**0.5, ".", color=FOUND, label="mean over tokens")
    ax.set(xlabel="target tokens of the example", ylabel="|g_i|, scaled")


def gram(ax):
    m, share = 16, np.linspace(0, 1, 11)
    rng = _rng(32)
    own, one = rng.standard_normal((m, 400)), rng.standard_normal(400)
    norms = rng.lognormal(0, 1, (m, 1))

    def rank(gradients):
        return float(gradient_gram.readings(gradients @ gradients.T)["effective_rank"])

    for lengths, color, label in ((np.ones((m, 1)), FOUND, "equal norms"), (norms, WRONG, "unequal norms")):
        ax.plot(share, [rank(lengths * (a**0.5 * one + (1 - a) ** 0.5 * own)) for a in share], "o-", color=color, label=label)
        p = (lengths**2 / (lengths**2).sum()).ravel()
        ax.axhline(gradient_gram.effective_rank(p), color=color, ls=":", lw=0.9)
    ax.set(xlabel="share of one common direction (dotted: orthogonal)", ylabel="effective rank of 16")


def conflict(ax):
    rng, d = _rng(21), 400
    sizes = np.geomspace(4, 1024, 10).astype(int)
    signal = np.ones(d) / d**0.5
    read, ceiling = [], []
    for m in sizes:
        means = signal + np.sqrt(20 / d / m) * rng.standard_normal((40, 2, d))
        halves = signal + np.sqrt(40 / d / m) * rng.standard_normal((40, 2, d))
        cosine, split = (np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in pairs])
                         for pairs in (means, halves))
        read.append(cosine)
        ceiling.append(2 * split / (1 + split))
    ax.semilogx(sizes, read, "o-", color=FOUND, label="cosine of parallel gradients")
    ax.semilogx(sizes, ceiling, color=BLIND, label="ceiling from split halves")
    ax.axhline(1, color=INK, lw=0.8, ls=":")
    ax.set(xlabel="examples a loss", ylabel="cosine")


def policy(ax):
    start = scipy.special.softmax([3.0, 2.0, 0.0, 0.0])
    mix = np.linspace(0, 0.999, 40)
    other = np.asarray([0.0, 1.0, 0.0, 0.0])
    forward, reverse = [], []
    for a in mix:
        p = (1 - a) * start + a * other
        forward.append(scipy.stats.entropy(start, p))
        reverse.append(scipy.stats.entropy(p, start))
    ax.plot(mix, forward, color=WRONG, label="KL(base || policy)")
    ax.plot(mix, reverse, color=FOUND, label="KL(policy || base)")
    ax.set(xlabel="weight moved to one answer", ylabel="nat")


def _save(figure, path):
    """A small file: 48 colours are enough for lines and text."""
    drawn = io.BytesIO()
    figure.savefig(drawn)
    Image.open(drawn).convert("RGB").quantize(48).save(path, optimize=True)


def draw(names) -> None:
    """Draw the named figures, or all of them."""
    for statistic in catalog.statistics():
        if names and statistic.name not in names:
            continue
        with plt.rc_context(style.RC | {"savefig.dpi": 110}):
            figure, ax = plt.subplots(figsize=(4.2, 2.5), layout="constrained")
            (globals().get(statistic.name) or getattr(routing_figures, statistic.name))(ax)
            if ax.get_legend_handles_labels()[0]:
                ax.legend()
            ax.set_title(statistic.title)
            _save(figure, FOLDER / f"{statistic.name}.png")
            plt.close(figure)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    draw(sys.argv[1:])
