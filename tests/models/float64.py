"""The decoder once more in numpy and float64, one prompt at a time and without padding; no code of the model is called."""

import numpy as np


def norm(x, gain, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gain


def rotated(x_TxHxE, theta):
    half = x_TxHxE.shape[-1] // 2
    z = x_TxHxE[..., :half] + 1j * x_TxHxE[..., half:]
    turn = np.exp(1j * np.outer(np.arange(len(z)), theta ** (-np.arange(half) / half)))
    z = z * turn[:, None]
    return np.concatenate([z.real, z.imag], axis=-1)


def attention(config, w, x_TxD):
    """(pattern H x T x T, values T x K x E)."""
    T, E = len(x_TxD), config.head_dim
    h = norm(x_TxD, w["attention_norm"], config.norm_eps)
    q, k, v = ((h @ w[name]).reshape(T, -1, E) for name in "qkv")
    q, k = rotated(q, config.rope_theta), rotated(k, config.rope_theta)
    out = []
    for head in range(config.heads):
        score = q[:, head] @ k[:, head // (config.heads // config.kv_heads)].T / np.sqrt(E)
        score[np.triu_indices(T, 1)] = -np.inf
        weight = np.exp(score - score.max(-1, keepdims=True))
        out.append(weight / weight.sum(-1, keepdims=True))
    return np.stack(out), v


def block(config, w, x_TxD):
    pattern_HxTxT, v = attention(config, w, x_TxD)
    out = [pattern @ v[:, head // (config.heads // config.kv_heads)] for head, pattern in enumerate(pattern_HxTxT)]
    x_TxD = x_TxD + np.concatenate(out, axis=-1) @ w["o"]
    h = norm(x_TxD, w["mlp_norm"], config.norm_eps)
    gate = h @ w["gate"]
    return x_TxD + gate / (1 + np.exp(-gate)) * (h @ w["up"]) @ w["down"]


def lens(config, params, state):
    head = params["embed"].T if config.tied else params["head"]
    return norm(state, params["final_norm"], config.norm_eps) @ head


def run(config, params, tokens_T, swap=None):
    """(states J x T x D, logits T x V); `swap` is (j, position, state D) put in before it is read."""
    states, x = [], params["embed"][tokens_T]
    for j in range(config.layers + 1):
        if j:
            x = block(config, layer(params, j - 1), x)
        if swap is not None and swap[0] == j:
            x = x.copy()
            x[swap[1]] = swap[2]
        states.append(x)
    return np.stack(states), lens(config, params, x)


def layer(params, i):
    return {name: w[i] for name, w in params["layers"].items()}


def patterns(config, params, tokens_T):
    """Attention patterns L x H x T x T."""
    states = run(config, params, tokens_T)[0]
    return np.stack([attention(config, layer(params, i), states[i])[0] for i in range(config.layers)])


def wide(params):
    return {name: wide(x) if isinstance(x, dict) else np.asarray(x, np.float64) for name, x in params.items()}
