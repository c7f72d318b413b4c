"""Inline probes: one fixed set of reductions over quantities that a step has anyway, always compiled in.

Each returns float32 values of one optimizer step; none changes the parameters (tested bitwise).

Legend: M accumulation chunks, T tensors in the order of `gradients.sums.inventory`.
"""

import jax
import jax.numpy as jnp

from jaxpost.probes import base, catalog
from jaxpost.probes.gradients import sums as gradient_sums


def _dot(a: dict, b: dict) -> jax.Array:
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def measure(grads: dict, updates: dict, changed: jax.Array) -> dict[str, jax.Array]:
    """Norms, alignment and bf16 visibility of one step.

      grad_norm       ||g||_2
      update_norm     ||u||_2 of the float32 update, before it is rounded to the storage dtype
      descent_cosine  -<g, u> / (||g|| ||u||), 0 when either vanishes
      step_sparsity   fraction of entries whose bf16 cast the step left unchanged

    Args:
      grads, updates: float32 pytrees shaped like the parameters.
      changed: how many entries of the parameters have another bf16 cast after the step.
    """
    norms = jnp.sqrt(_dot(grads, grads)), jnp.sqrt(_dot(updates, updates))
    product = norms[0] * norms[1]
    total = float(sum(x.size for x in jax.tree.leaves(grads)))  # a float: of more than 2^31 entries too
    return {"grad_norm": norms[0], "update_norm": norms[1],
            "descent_cosine": jnp.where(product > 0, -_dot(grads, updates) / jnp.where(product > 0, product, 1.0), 0.0),
            "step_sparsity": (total - changed) / total}


def chunk_sums(total: dict, square_MxT: jax.Array, examples: int) -> dict[str, jax.Array]:
    """Sums of the gradients that accumulation makes anyway, for coherence and noise scale (`gradient_chunks`).

      chunk_s1_T    |sum_j g_j|^2 of every tensor, g_j the gradient of chunk j's sum of losses
      chunk_s2_T    sum_j |g_j|^2
      chunks        M
      chunk_rows    examples in a chunk: its rows, or its pairs of rows where a loss is one of pairs

    Args:
      total: sum_j g_j, float32, before it is divided by anything.
      square_MxT: |g_j|^2; examples: of the update.
    """
    chunks = len(square_MxT)
    return {"chunk_s1_T": gradient_sums.dots(total, total), "chunk_s2_T": square_MxT.sum(axis=0),
            "chunks": jnp.float32(chunks), "chunk_rows": jnp.float32(examples // chunks)}


catalog.add(
    __name__,
    catalog.Entry("inline", "norms, descent cosine and bf16 visibility of single steps", lane="inline",
                  where="part of every train step; its values are in events.jsonl", needs=frozenset({base.HISTORY})),
)
