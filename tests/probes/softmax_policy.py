"""A softmax regression as a policy of T positions: everything about it has a closed form in numpy.

Legend: m rows, T positions, D features, V classes.
"""

import jax.numpy as jnp
import numpy as np

from jaxpost.probes.policy.fisher import Predictions


def predict(params, row):
    """Logits x w + c at every position."""
    return Predictions(row["x"] @ params["w"] + params["c"][None, :], row["target"], row["mask"])


def loss(params, row):
    """Negative log-likelihood of the targets, summed."""
    said = predict(params, row)
    logp = said.logits_TxV - jnp.log(jnp.exp(said.logits_TxV).sum(-1, keepdims=True))
    return -(jnp.take_along_axis(logp, said.target_T[:, None], axis=1)[:, 0] * said.mask_T).sum()


def case(m=8, T=3, D=4, V=5, seed=0, dtype=np.float64):
    """(params, rows) as numpy arrays."""
    rng = np.random.default_rng(seed)
    params = {"c": 0.3 * rng.normal(size=V), "w": 0.7 * rng.normal(size=(D, V))}
    rows = {"x": rng.normal(size=(m, T, D)), "target": rng.integers(0, V, size=(m, T)).astype(np.int32),
            "mask": (np.arange(T)[None] < rng.integers(1, T + 1, size=m)[:, None]).astype(np.float64)}
    return ({name: x.astype(dtype) for name, x in params.items()},
            {name: x if name == "target" else x.astype(dtype) for name, x in rows.items()})


def probabilities(params, rows):
    """softmax(x w + c): [m, T, V]."""
    logits = rows["x"] @ params["w"] + params["c"]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def exact_diagonal(params, rows):
    """Closed form of a row: F_w[d, v] = sum_t x_td^2 p_tv (1 - p_tv), F_c[v] = sum_t p_tv (1 - p_tv); [m, ...]."""
    p = probabilities(params, rows)
    variance = p * (1 - p) * rows["mask"][..., None]
    return {"c": variance.sum(1), "w": np.einsum("mtd,mtv->mdv", rows["x"] ** 2, variance)}


def empirical_diagonal(params, rows):
    """(sum_t x_td (1[target] - p_tv))^2; [m, ...]."""
    score = (np.eye(params["c"].size)[rows["target"]] - probabilities(params, rows)) * rows["mask"][..., None]
    return {"c": score.sum(1) ** 2, "w": np.einsum("mtd,mtv->mdv", rows["x"], score) ** 2}


def dense_fisher(params, rows):
    """The whole Fisher of each row over (c, w) flattened: [m, P, P]."""
    p, (m, T, D) = probabilities(params, rows), rows["x"].shape
    V = params["c"].size
    out = np.zeros((m, V + D * V, V + D * V))
    for i in range(m):
        for t in range(T):
            jacobian = np.concatenate([np.eye(V), np.kron(rows["x"][i, t][None, :], np.eye(V))], axis=1)
            covariance = np.diag(p[i, t]) - np.outer(p[i, t], p[i, t])
            out[i] += rows["mask"][i, t] * jacobian.T @ covariance @ jacobian
    return out


def flat(tree):
    """(c, w) as one vector."""
    return np.concatenate([np.ravel(tree["c"]), np.ravel(tree["w"])])
