"""A consistent random batch and view for any row of the table: ragged rows, ratios off 1, both signs of everything."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import objectives

GROUP, T, V, Q = 4, 6, 7, 6


def recipe(name, **parts):
    """The row, with the constants that are lengths shrunk to the batch's."""
    row = objectives.RECIPES[name]
    if row.aggregation_length:
        parts = {"aggregation_length": T} | parts
    if getattr(row, "overlong_limit", None):
        parts = {"overlong_limit": T, "overlong_cache": 2} | parts
    return objectives.get(name, **parts)


def logps(logits, tokens):
    """Log-probabilities of tokens under logits, at the arrays' own precision."""
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(logp, tokens[..., None], -1)[..., 0]


def rows(seed=0, N=8, dtype=np.float64, lengths=None):
    """(view, batch) as numpy arrays of everything that an objective may need."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, T + 1, N) if lengths is None else np.asarray(lengths)
    mask = (np.arange(T)[None] < lengths[:, None]).astype(dtype)
    tokens = rng.integers(0, V, (N, T)).astype(np.int32)
    logits, far = rng.normal(size=(2, N, T, V))
    logp = logps(logits, tokens)
    near = lambda scale: np.minimum(logp + scale * rng.normal(size=(N, T)), -1e-3)  # noqa: E731
    row_in_group = np.arange(N) % GROUP
    demonstrated = (row_in_group == GROUP - 1)[:, None] * mask
    reward = np.where(row_in_group == 0, 1.0, np.where(row_in_group == 1, 0.0, rng.integers(0, 2, N)))
    batch = objectives.Batch(
        prompt_NxP=None, completion_NxT=tokens, mask_NxT=mask, reward_N=reward,
        behaviour_NxT=near(0.4) * (1 - demonstrated), reference_NxT=logps(far, tokens), proximal_NxT=near(0.3),
        value_NxT=rng.normal(size=(N, T)), entropy_NxT=rng.uniform(0.1, 1.5, (N, T)), demonstration_NxT=demonstrated,
        collision_NxT=np.square(np.exp(logits)).sum(-1) / np.exp(logits).sum(-1) ** 2,
        term_NxK=np.stack([reward, np.arange(N) * 7 % 3 / 2], axis=1), term_weight_NxK=np.tile([1.0, 0.5], (N, 1)),
        tie_N=(np.arange(N) // 2 % 3 == 1) * 1.0, truncated_N=(lengths == T) * 1.0,
        label_N=(row_in_group % 2 == 0) * 1.0, outside_N=rng.normal(size=N),
        token_weight_NxT=rng.integers(0, 2, (N, T)) * 1.0, seed_N=rng.integers(0, 2**32, N, dtype=np.uint32))
    view = objectives.View(logp, logits, far, rng.normal(size=(N, T)), rng.uniform(0.1, 1.5, (N, T)),
                           -rng.gamma(1.0, 1.0, (N, Q)), near(0.5))
    batch = batch._replace(role_NxT=np.zeros((N, T), np.int32))
    batch = batch._replace(age_N=(np.arange(N) >= N // 2) * 2.0)
    turn_NxT = np.minimum(np.arange(T)[None] // (1 + np.arange(N)[:, None] % 2), 3)
    batch = batch._replace(turn_NxT=np.where(np.arange(T) == 1, -1, turn_NxT), turn_reward_NxU=rng.normal(size=(N, 4)))
    batch = batch._replace(prompt_mask_NxQ=(np.arange(Q)[None] >= np.arange(N)[:, None] // 2 % Q) * 1.0)
    cast = lambda x: jnp.asarray(x, dtype if np.issubdtype(x.dtype, np.floating) else x.dtype)  # noqa: E731
    return jax.tree.map(cast, view), jax.tree.map(cast, batch)


def needed(objective, view, batch):
    """The view and batch with only what the objective says it needs, so that a hidden need fails loudly."""
    keep = {"prompt_NxP", "completion_NxT", "mask_NxT", "logp_NxT"}
    if objective.batch == "groups":
        keep |= {"reward_N", "behaviour_NxT"}
    for need in objective.needs:
        keep |= {word.partition(":")[0].partition(".")[2] for word in objectives.NEEDS[need].split(" and ")}
    return (type(view)(**{k: v if k in keep else None for k, v in view._asdict().items()}),
            type(batch)(**{k: v if k in keep else None for k, v in batch._asdict().items()}))


def prepared(objective, batch):
    """The batch as an update would get it."""
    return objective.balance(objective.prepare(batch, GROUP, state=objective.init()))


def ready(name, seed=0, N=8, dtype=np.float64, lengths=None, **parts):
    """(objective, view, balanced batch) of a row."""
    objective = recipe(name, **parts)
    view, batch = needed(objective, *rows(seed, N, dtype, lengths))
    return objective, view, prepared(objective, batch)


def differentiated(objective, view, batch):
    """(sum, count, gradient of the sum in every array of the view)."""
    def total(v):
        s, count, _ = objective.loss(v, batch, objective.init())
        return s.sum(), count.sum()  # several terms are told apart by their rows

    (s, count), grads = jax.value_and_grad(total, has_aux=True)(view)
    return float(s), float(count), grads


def value_and_norm(objective, view, batch):
    """(loss, norm of its gradient in the log-probabilities)."""
    s, count, grads = differentiated(objective, view, batch)
    return s / count, math.sqrt(float(jnp.sum((grads.logp_NxT / count) ** 2)))
