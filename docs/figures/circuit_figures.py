"""Example figures of circuits on planted streams; `draw_probes.py` draws them."""

import jax
import jax.numpy as jnp
import numpy as np
from palette import BLIND, FOUND, WRONG

from jaxpost.probes import base
from jaxpost.probes.circuits import Heads, Induction, swaps
from jaxpost.probes.circuits import lens as logit_lens

N, V, D = 256, 64, 32


def _head():
    return jnp.asarray(np.random.default_rng(50).normal(size=(V, D)) / np.sqrt(D), jnp.float32)


def lens(ax):
    rng, strength = np.random.default_rng(51), np.linspace(0, 4, 13)
    token_N, noise_NxD = jnp.asarray(rng.integers(0, V, N)), jnp.asarray(rng.normal(size=(N, D)) / np.sqrt(D), jnp.float32)
    state_JxNxD = strength[:, None, None] * _head()[token_N] + noise_NxD
    ranks = logit_lens.ranks(state_JxNxD @ _head().T, token_N, D, 8)
    ax.plot(strength, ranks.reciprocal.mean(axis=1), "o-", color=FOUND, label="token that is written")
    ax.plot(strength, ranks.others.mean(axis=0), color=BLIND, label="tokens of other prompts")
    ax.axhline(logit_lens.random_rank(V), color=BLIND, ls=":", label="shuffled unembedding")
    ax.set(xlabel="strength of the token in the state", ylabel="mean reciprocal rank", ylim=(0, 1.05))


def tracing(ax):
    rng, share = np.random.default_rng(52), np.linspace(0, 1, 11)
    own_N, other_N = jnp.asarray(rng.integers(0, V, (2, N)))
    carried, noise = [], []
    for part in share:  # what of the token goes through the swapped state, the rest past it
        def run(head_VxD, tokens_NxT, edit, part=part):
            x_NxTxD = jnp.stack([part * head_VxD[tokens_NxT[:, 0]], (1 - part) * head_VxD[tokens_NxT[:, 0]]], axis=1)
            x_NxTxD = x_NxTxD if edit is None else edit(x_NxTxD, 0)
            return x_NxTxD[None], x_NxTxD.sum(axis=1) @ head_VxD.T

        own, other = (jnp.stack([token, token], axis=1) for token in (own_N, other_N))
        swapped = swaps.swaps(run, _head(), own, run(_head(), own, None), other, 8, jax.random.key(0))
        differ = swapped.differ > 0
        carried.append(swapped.transferred[0, 0][differ].mean())
        noise.append(swapped.noise_transferred[:, 0, 0].mean())
    ax.plot(share, carried, "o-", color=FOUND, label="other prompt's state")
    ax.plot(share, noise, color=BLIND, label="noise of the same size")
    ax.set(xlabel="share of the token that the state carries", ylabel="answers transferred", ylim=(-0.05, 1.05))


def induction(ax):
    share, T = np.linspace(0.05, 0.95, 10), 16
    seen_TxT, back_TxT = np.tril(np.ones((T, T))), np.eye(T, k=-(T // 2 - 1))

    def score(part, tokens_NxT):  # a head looks its token up, or goes back by position, in a share of its attention
        followed_NxTxT = jnp.pad(tokens_NxT[:, :, None] == tokens_NxT[:, None, :-1], ((0, 0), (0, 0), (1, 0)))
        wanted = jnp.stack(jnp.broadcast_arrays(followed_NxTxT, jnp.asarray(back_TxT)), axis=1) * seen_TxT
        others = seen_TxT.sum(1)[:, None] - wanted.sum(-1, keepdims=True)
        even = jnp.where(wanted > 0, jnp.log(part / wanted.sum(-1, keepdims=True)), jnp.log((1 - part) / others))
        return jnp.where(seen_TxT > 0, even, -1e30)[None]

    probe = Induction(Heads(score, tuple(range(32)), 1))
    state = probe.init(None, jax.random.key(0))
    read = [probe.measure({base.PARAMS: part}, state, None)[1] for part in share]
    for h, (name, color, line) in enumerate((("looks its token up", FOUND, "o-"), ("goes back by position", WRONG, "x--"))):
        ax.plot(share, [values["score"][0, h].mean() for values in read], line, color=color, label=name)
        ax.plot(share, [values["drawn"][:, 0, h].mean() for values in read], ":", color=color, label="its null")
    ax.set(xlabel="share of a head's attention", ylabel="induction score", ylim=(-0.05, 1.05))
