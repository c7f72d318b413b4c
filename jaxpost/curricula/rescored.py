"""ADCL: an easy-to-hard order in batches, of which the next is scored again by the current policy before it is trained on."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula import selection, statistics
from jaxpost.curricula.base import Context, Feedback, Plan, Pooled, Weights


@dataclasses.dataclass(frozen=True)
class Adcl(Pooled):
    """Adaptive difficulty curriculum: the pool is scored by success, sorted from easy to hard and cut into `chunks`.

    Then chunk by chunk: it is scored again (not the first, whose score is new), sorted within, and trained on once in that
    order. Scoring takes steps whose plans do not train. After the last chunk it begins with the first again, scored anew.

    Raises:
      ValueError: chunks that do not divide the pool.
    """

    paper: ClassVar[str] = "arXiv:2505.08364"
    differs: ClassVar[str] = "the order of the chunks alone: no expert-guided rewriting (EGSR)"
    reconstructed: ClassVar[str] = "the number of chunks; going round again after the last one"

    chunks: int = 4

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.chunks <= self.pool or self.pool % self.chunks:
            near = min((k for k in range(1, self.pool + 1) if self.pool % k == 0), key=lambda k: abs(k - self.chunks))
            raise ValueError(f"chunks={self.chunks} does not divide the pool of {self.pool}; nearest valid: {near}")

    @property
    def needs(self) -> frozenset[str]:
        """Success."""
        return frozenset({"reward"})

    @property
    def probes(self) -> bool:
        """Scoring does not train."""
        return True

    def init(self, key: jax.Array) -> dict:
        """The pool's own order, before the first scoring."""
        del key
        return {"order_M": jnp.arange(self.pool), "score_M": jnp.zeros(self.pool), "tick": jnp.int32(0)}

    def phase(self, tick: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """(probing, chunk or -1 for the whole pool, first position, whether this step is the phase's last) of a step."""
        size = self.pool // self.chunks
        whole, turn = -(-self.pool // count), -(-size // count)
        after = tick - whole + turn  # as if the first chunk were scored a second time, in no time
        chunk, within = after // (2 * turn) % self.chunks, after % (2 * turn)
        first = tick < whole
        probing = first | (within < turn)
        offset = jnp.where(first, tick, within % turn)
        last = jnp.where(first, tick == whole - 1, within % turn == turn - 1)
        chunk = jnp.where(first, -1, chunk)
        return probing, chunk, jnp.maximum(chunk, 0) * size + offset * count, last

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """The next items of the phase; its last step goes on into the next chunk where the batch does not divide it."""
        del key, context
        probing, _, first, _ = self.phase(state["tick"], plan.index_B.shape[0])
        item_B = selection.cursor(state["order_M"], first, plan.index_B.shape[0])
        return state, plan._replace(index_B=item_B.astype(jnp.uint32), train=plan.train & ~probing)

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Note scores, of all rows of an item that count; at the end of a scoring phase, sort what it scored."""
        item_B = feedback.plan.index_B
        probing, chunk, _, last = self.phase(state["tick"], item_B.shape[0])
        mean_M, rows_M = statistics.means_by(jnp.repeat(item_B.astype(jnp.int32), feedback.used_BxG.shape[1]),
                                             feedback.reward_BxG.reshape(-1), feedback.used_BxG.reshape(-1), self.pool)
        score_M = jnp.where(rows_M > 0, mean_M, state["score_M"])
        chunk_M = jnp.arange(self.pool) // (self.pool // self.chunks)
        sorts_M = probing & last & ((chunk < 0) | (chunk_M == chunk))
        within_M = jnp.where(sorts_M, -score_M[state["order_M"]], 0.0)
        place_M = jnp.lexsort((jnp.arange(self.pool), within_M, jnp.where(chunk < 0, 0, chunk_M)))
        order_M = jnp.where(probing & last, state["order_M"][place_M], state["order_M"])
        score_M = jnp.where(probing, score_M, state["score_M"])
        return {"order_M": order_M, "score_M": score_M, "tick": state["tick"] + 1}, weights
