"""Replay: groups of earlier steps are trained on again, from a buffer of fixed capacity in the train state.

The buffer is part of the curriculum's state, so checkpoints, meshes and ensembles treat it as they treat that. A step draws
old groups from it, joins them to the fresh ones, and then takes the fresh ones in; `Batch.age_N` says how old a row is, its
behaviour log-probabilities are those it was sampled with.

Shapes: C groups of capacity, K replayed and B fresh groups a step, G rows a group, P prompt and T completion tokens.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpost import curricula
from jaxpost.objectives import Batch

KEPT = ("newest", "best")
DRAWN = ("uniform", "score", "recent")
EMPTY = -1


@dataclasses.dataclass(frozen=True)
class Replay:
    """What is kept, and what is drawn again.

      keep  newest  the C latest groups
            best    the C groups of the largest score
      draw  uniform without replacement, among groups of at most `max_age` batches
            score   the same with probability proportional to the score
            recent  the same by TTI's weights (arXiv:2506.07976): 1/2 recency + 1/2 inverse frequency of the domain, each of
                    sum 1; recency is in proportion to how many of these groups are no younger, and all are of one domain

    With `shuffled`, a control, the rewards of a group are permuted among its rows when it is drawn: what is replayed is as
    old and as rewarded, and says nothing of single rows.

    The score of a group is the largest reward in it less their mean: 0 where all are equal. Groups that are missing, or too
    old, leave their places empty: rows without a reward that count nowhere.
    """

    groups: int  # K
    capacity: int  # C
    max_age: int  # batches
    keep: str = "newest"  # KEPT
    draw: str = "uniform"  # DRAWN
    shuffled: bool = False  # control: rewards are permuted within a replayed group

    def __post_init__(self):
        for field, valid in (("keep", KEPT), ("draw", DRAWN)):
            if getattr(self, field) not in valid:
                raise ValueError(f"replay {field}={getattr(self, field)!r} is unknown; choose one of {', '.join(valid)}")
        for field in ("groups", "max_age"):
            if getattr(self, field) < 1:
                raise ValueError(f"replay {field}={getattr(self, field)} must be at least 1")

    def check(self, prompts: int) -> None:
        """Refuse a buffer that holds less than is asked of it. Raises: ValueError."""
        least = max(self.groups, prompts)
        if self.capacity < least:
            raise ValueError(f"replay capacity={self.capacity} is below the {prompts} groups that a step makes or the "
                             f"{self.groups} that it replays; nearest valid: {least}")

    def empty(self, shapes: dict[str, jax.ShapeDtypeStruct]) -> dict:
        """A buffer without a group, for rows of the given shapes (of one group)."""
        rows = {name: jnp.zeros((self.capacity, *x.shape), x.dtype) for name, x in shapes.items()}
        return {"rows": rows, "step_C": jnp.full((self.capacity,), EMPTY, jnp.int32), "score_C": jnp.zeros((self.capacity,))}

    def sample(self, buffer: dict, key: jax.Array, step: jax.Array | int) -> tuple[dict, jax.Array, jax.Array]:
        """(fields of K * G rows, age_K in batches, valid_K): what is drawn at a step."""
        age_C = step - buffer["step_C"]
        valid_C = (buffer["step_C"] != EMPTY) & (age_C <= self.max_age)
        weight_C = buffer["score_C"] if self.draw == "score" else jnp.ones_like(buffer["score_C"])
        if self.draw == "recent":
            older_C = jnp.where(valid_C[None], buffer["step_C"][None] <= buffer["step_C"][:, None], False).sum(axis=1) * valid_C
            weight_C = older_C / jnp.maximum(older_C.sum(), 1) / 2 + valid_C / jnp.maximum(valid_C.sum(), 1) / 2
        drawable_C = valid_C & (weight_C > 0)
        order_C = jnp.log(jnp.where(drawable_C, weight_C, 1.0)) + jax.random.gumbel(key, weight_C.shape)
        _, index_K = jax.lax.top_k(jnp.where(drawable_C, order_C, -jnp.inf), self.groups)
        rows = {name: x[index_K] for name, x in buffer["rows"].items()}
        if self.shuffled:
            rows["reward_N"] = _permuted(jax.random.fold_in(key, 1), rows["reward_N"])
        rows = {name: x.reshape(-1, *x.shape[2:]) for name, x in rows.items()}
        return rows, age_C[index_K], drawable_C[index_K]

    def insert(self, buffer: dict, rows: dict, step: jax.Array | int, group: int) -> dict:
        """The buffer with a step's fresh groups, those with a reward and a counted token, taken in as far as it keeps them."""
        fresh = {name: x.reshape(-1, group, *x.shape[1:]) for name, x in rows.items()}
        reward_BxG = fresh["reward_N"]
        known_BxG = ~jnp.isnan(reward_BxG)
        mean_B = jnp.where(known_BxG, reward_BxG, 0.0).sum(axis=1) / jnp.maximum(known_BxG.sum(axis=1), 1)
        most_B = jnp.where(known_BxG, reward_BxG, -jnp.inf).max(axis=1)
        counted_B = (fresh["mask_NxT"] > 0).any(axis=(1, 2))
        some_B = known_BxG.any(axis=1) & counted_B
        score_B = jnp.where(some_B, most_B - mean_B, 0.0)
        step_B = jnp.where(some_B, jnp.asarray(step, jnp.int32), EMPTY)
        both = jax.tree.map(lambda old, new: jnp.concatenate([old, new.astype(old.dtype)]), buffer,
                            {"rows": fresh, "step_C": step_B, "score_C": score_B})
        stale = (both["step_C"] == EMPTY) | (step + 1 - both["step_C"] > self.max_age)
        worth = both["score_C"] if self.keep == "best" else both["step_C"].astype(jnp.float32)
        index_C = jnp.argsort(jnp.where(stale, -jnp.inf, worth), descending=True, stable=True)[:self.capacity]
        kept = jax.tree.map(lambda x: x[index_C], both)
        return kept | {"step_C": jnp.where(stale[index_C], EMPTY, kept["step_C"])}


def _permuted(key: jax.Array, reward_KxG: jax.Array) -> jax.Array:
    """The rewards of each group in a random order among the rows that have one; a missing reward (NaN) stays where it is."""
    known_KxG = ~jnp.isnan(reward_KxG)
    drawn_KxG = jnp.argsort(jnp.where(known_KxG, jax.random.uniform(key, reward_KxG.shape), jnp.inf), axis=1)
    place_KxG = jnp.argsort(~known_KxG, axis=1, stable=True)
    return jnp.put_along_axis(reward_KxG, place_KxG, jnp.take_along_axis(reward_KxG, drawn_KxG, axis=1), axis=1, inplace=False)


def stored(batch: Batch, names: Iterable[str]) -> dict:
    """The fields of a batch that the buffer keeps; what a curriculum said of rows is there whether it said something or not.

    What the policies say of a row is not kept: it is found again when the row is replayed.
    """
    one = jnp.ones(batch.mask_NxT.shape[:1], jnp.float32)
    full = batch._replace(weight_N=one if batch.weight_N is None else batch.weight_N,
                          absent_N=0 * one if batch.absent_N is None else batch.absent_N)
    return {name: getattr(full, name) for name in names}


def joined(batch: Batch, rows: dict, age_K: jax.Array, valid_K: jax.Array, group: int) -> Batch:
    """The batch with replayed rows behind its own; the empty ones have no reward and count nowhere."""
    valid_M, age_M = jnp.repeat(valid_K, group), jnp.repeat(age_K, group)
    gone = {"reward_N": jnp.where(valid_M, rows["reward_N"], jnp.nan), "mask_NxT": rows["mask_NxT"] * valid_M[:, None],
            "absent_N": jnp.where(valid_M, rows["absent_N"], 1.0)}
    old = rows | gone
    fields = {name: jnp.concatenate([x, old[name].astype(x.dtype)]) for name, x in stored(batch, rows).items()}
    age_N = jnp.concatenate([jnp.zeros(batch.mask_NxT.shape[:1]), jnp.where(valid_M, age_M, 0).astype(jnp.float32)])
    return batch._replace(**fields, age_N=age_N)


@dataclasses.dataclass(frozen=True)
class Buffered(curricula.Curriculum):
    """A curriculum whose state holds a replay buffer beside the rule's own."""

    rule: curricula.Curriculum = curricula.Uniform()
    replay: Replay | None = None
    shapes: tuple = ()  # (name, shape, dtype) of the fields of one group

    @property
    def needs(self) -> frozenset[str]:
        """The rule's."""
        return self.rule.needs

    @property
    def probes(self) -> bool:
        """The rule's."""
        return self.rule.probes

    @property
    def knobs(self) -> tuple[tuple[str, int, int], ...]:
        """The rule's."""
        return self.rule.knobs

    def init(self, key: jax.Array) -> dict:
        """The rule's state and an empty buffer."""
        shapes = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in self.shapes}
        return {"rule": self.rule.init(key), "buffer": self.replay.empty(shapes)}

    def sample(self, state: Any, key: jax.Array, plan: curricula.Plan,
               context: curricula.Context) -> tuple[Any, curricula.Plan]:
        """As the rule; the buffer stays."""
        rule, plan = self.rule.sample(state["rule"], key, plan, context)
        return state | {"rule": rule}, plan

    def observe(self, state: Any, feedback: curricula.Feedback, weights: curricula.Weights) -> tuple[Any, curricula.Weights]:
        """As the rule; the buffer stays."""
        rule, weights = self.rule.observe(state["rule"], feedback, weights)
        return state | {"rule": rule}, weights
