"""What a policy does, measured on fixed problems: success, exact KL to the base, entropy.

Shapes: N problems, P prompt and T completion tokens, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost import models, tasks
from jaxpost.objectives import kl
from jaxpost.tasks import Task


@dataclasses.dataclass(frozen=True)
class Suite:
    """A fixed set of evaluation problems: the first `problems` indices of every named split."""

    model: models.TransformerConfig
    splits: tuple[tuple[str, Task, str], ...]  # (label, task, split)
    problems: int  # a split
    kl_split: str  # label of the split whose prompts carry the KL and entropy

    def success(self, params: dict, label: str, key: jax.Array) -> tuple[jax.Array, models.Completions, jax.Array]:
        """(mean reward, completions, prompts) at temperature 1, one sample a problem."""
        task, split = next((t, s) for name, t, s in self.splits if name == label)
        problems_N = tasks.problems(task, split, jnp.arange(self.problems))
        prompt_NxP = jax.vmap(task.prompt)(problems_N)
        made = models.sample(self.model, params, prompt_NxP, key, length=task.completion_len, eos=tasks.vocab.EOS,
                             pad=tasks.vocab.PAD)
        return jax.vmap(task.verify)(problems_N, made.tokens_NxT).mean(), made, prompt_NxP

    def measure(self, params: dict, base: dict, key: jax.Array) -> dict[str, jax.Array]:
        """Success of every split, and on the KL split's prompts, with pi the policy and pi0 the base:

          kl_forward  E_{y ~ pi0} sum_t KL(pi0(.|y_<t) || pi(.|y_<t))   full vocabulary, nats, summed per sequence
          kl_reverse  E_{y ~ pi} sum_t KL(pi(.|y_<t) || pi0(.|y_<t))
          entropy     E_{y ~ pi} of the token entropies of pi, per token

        `_token` names are the same sums divided by the number of tokens. Sampling noise is common to all policies
        measured with the same key (one sample of pi0 is shared by construction).
        """
        out = {}
        for label, _, _ in self.splits:
            out[f"success/{label}"], made, prompt_NxP = self.success(params, label, key)
            if label == self.kl_split:
                out |= self._divergence(params, base, prompt_NxP, made, key)
        return out

    def _divergence(self, params, base, prompt_NxP, made, key):
        _, drawn, _ = self.success(base, self.kl_split, key)

        def logits(weights, completions):
            return models.token_logits(self.model, weights, prompt_NxP, completions.tokens_NxT)

        forward = kl.full_vocabulary(logits(base, drawn), logits(params, drawn)) * drawn.mask_NxT
        own = logits(params, made)
        reverse = kl.full_vocabulary(own, logits(base, made)) * made.mask_NxT
        tokens, rows = made.mask_NxT.sum(), made.mask_NxT.shape[0]
        return {"kl_forward": forward.sum() / rows, "kl_forward_token": forward.sum() / drawn.mask_NxT.sum(),
                "kl_reverse": reverse.sum() / rows, "kl_reverse_token": reverse.sum() / tokens,
                "entropy": (kl.entropy(own) * made.mask_NxT).sum() / tokens}
