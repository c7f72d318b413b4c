"""What a policy does, measured on fixed problems: success, exact KL to the base, entropy.

Shapes: N problems, P prompt and T completion tokens, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import models, tasks
from jaxpost.objectives import kl
from jaxpost.probes.circuits import lens
from jaxpost.probes.policy import given_reasoning, in_context, interrupted, several_samples
from jaxpost.tasks import Task
from jaxpost.training import closed_loop, interrupting, reasoning_given


@dataclasses.dataclass(frozen=True)
class Suite:
    """A fixed set of evaluation problems: the first `problems` indices of every named split."""

    model: models.TransformerConfig
    splits: tuple[tuple[str, Task, str], ...]  # (label, task, split)
    problems: int  # a split
    kl_split: str  # label of the split whose prompts carry the KL and entropy

    def success(self, params: dict, key: jax.Array, only: str | None = None) -> tuple[dict, dict]:
        """Mean reward at temperature 1, one sample a problem: ({label: reward}, {label: (prompts, completions)}).

        Args:
          only: a single label to sample, or all. Splits of one task are sampled as one batch.
        """
        drawn = self._drawn(params, key, only)
        return ({label: score_N.mean() for label, (score_N, _, _) in drawn.items()},
                {label: (prompt_NxP, made) for label, (_, prompt_NxP, made) in drawn.items()})

    def samples(self, params: dict, key: jax.Array, count: int, temperatures: Sequence[float] = ()
                ) -> dict[str, several_samples.Sampled]:
        """`count` samples a problem at temperature 1: {label: rewards, tokens and which of them are words, log-probabilities}.

        Sample g of every problem uses `fold_in(key, g)`. Words are the tokens of an answer but its end and padding. One pass
        over the samples reads the entropies of softmax(logits / temperature), where temperatures are asked for.
        """
        def one(g):
            out = {}
            for label, (score_N, prompt_NxP, made) in self._drawn(params, jax.random.fold_in(key, g)).items():
                task = next(task for name, task, _ in self.splits if name == label)
                word_NxT = (made.mask_NxT > 0) & (made.tokens_NxT != task.eos) & (made.tokens_NxT != task.pad)
                out[label] = several_samples.Sampled(
                    score_N, made.tokens_NxT, word_NxT, made.logp_NxT.sum(1), made.mask_NxT.sum(1),
                    self._entropies(params, prompt_NxP, made, task.pad, temperatures))
            return out

        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), jax.lax.map(one, jnp.arange(count)))

    def _entropies(self, params, prompt_NxP, made, pad, temperatures) -> jax.Array:
        """Sums over each answer's tokens of their entropies at every temperature, [N, K]."""
        if not temperatures:
            return jnp.zeros((len(prompt_NxP), 0))

        def read(logits_NxCxV):
            return tuple(kl.entropy(logits_NxCxV / temperature) for temperature in temperatures)

        entropies = _read(self.model, read, (params,), prompt_NxP, made.tokens_NxT, pad)
        return jnp.stack([(entropy_NxT * made.mask_NxT).sum(1) for entropy_NxT in entropies], axis=-1)

    def first_answers(self, params: dict) -> dict[str, tuple[jax.Array, jax.Array]]:
        """{label: (logits_NxV before the first answer token, that token of the oracle's answer i32[N])}."""
        out = {}
        for label, task, split in self.splits:
            examples = tasks.examples(task, split, jnp.arange(self.problems))
            logits_Nx1xV = models.token_logits(self.model, params, examples.prompt_NxP, examples.answer_NxT[:, :1], task.pad)
            out[label] = logits_Nx1xV[:, 0], examples.answer_NxT[:, 0]
        return out

    @property
    def strategic(self) -> tuple[str, ...]:
        """Labels of the splits whose problems two Bayes predictors could answer."""
        return tuple(label for label, task, _ in self.splits if task.strategies is not None)

    def strategy_bits(self) -> tuple[float, float]:
        """What it takes to describe the memorising and the generalising predictor of the first of these splits."""
        return next(task.strategy_bits() for _, task, _ in self.splits if task.strategies is not None)

    def strategies(self, params: dict) -> dict[str, in_context.Answers]:
        """Of these splits, what a policy and both predictors say of the first answer token, its other tokens left out."""
        by_label = {}
        for label, task, split in (part for part in self.splits if part[0] in self.strategic):
            examples = tasks.examples(task, split, jnp.arange(self.problems))
            known = jax.vmap(task.strategies)(examples.problem)
            first_Nx1 = examples.answer_NxT[:, :1]
            logits_NxV = models.token_logits(self.model, params, examples.prompt_NxP, first_Nx1, task.pad)[:, 0]
            logits_NxC = jnp.take_along_axis(logits_NxV, known.token_C, axis=1)
            by_label[label] = in_context.Answers(jax.nn.log_softmax(logits_NxC), known.memorising_C, known.generalising_C,
                                                 lens.tolerance(logits_NxC, self.model.width))
        return by_label

    def vocabularies(self) -> dict[str, int]:
        """{label: number of words of the split's task}."""
        return {label: task.vocab_size for label, task, _ in self.splits}

    def interrupted(self, params: dict, key: jax.Array, budgets: Sequence[int], control: str) -> dict[str, interrupted.Cut]:
        """Every split whose answers begin with reasoning, {label: answers whose reasoning is cut at each budget}.

        The free answers are those of `success` with this key. Raises: ValueError as `interrupting.check`.
        """
        interrupting.check(self._reasoned, budgets, control)
        by_label = {}
        for task, rows, problems_N, prompt_NxP in self._asked([label for label, _ in self._reasoned]):
            cut = interrupting.answers(self.model, params, task, problems_N, prompt_NxP, key, budgets, control)
            by_label |= _by_label(cut, rows)
        return by_label

    def given_reasoning(self, params: dict, key: jax.Array, shares: Sequence[float]) -> dict[str, given_reasoning.Given]:
        """Every split whose answers begin with reasoning, {label: answers behind each share of the oracle's}.

        The free answers are those of `success` with this key. Raises: ValueError as `reasoning_given.check`.
        """
        reasoning_given.check(self._reasoned, self.problems)
        by_label = {}
        for task, rows, problems_N, prompt_NxP in self._asked([label for label, _ in self._reasoned]):
            next_N = np.concatenate([np.roll(np.arange(part.start, part.stop), -1) for part in rows.values()])
            given = reasoning_given.answers(self.model, params, task, problems_N, prompt_NxP, next_N, key, shares)
            by_label |= _by_label(given, rows)
        return by_label

    @property
    def _reasoned(self) -> list[tuple[str, Task]]:
        """(label, task) of the splits whose answers begin with reasoning."""
        return [(label, task) for label, task, _ in self.splits if "think" in task.roles]

    def _asked(self, labels: Sequence[str]) -> list[tuple]:
        """(task, {label: its rows}, problems_N, prompt_NxP) of every task of these splits: they are sampled as one batch."""
        asked_of = []
        for task in dict.fromkeys(task for label, task, _ in self.splits if label in labels):
            asked = [(label, split) for label, t, split in self.splits if t is task and label in labels]
            parts = [tasks.problems(task, split, jnp.arange(self.problems)) for _, split in asked]
            problems_N = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
            rows = {label: slice(i * self.problems, (i + 1) * self.problems) for i, (label, _) in enumerate(asked)}
            asked_of.append((task, rows, problems_N, jax.vmap(task.prompt)(problems_N)))
        return asked_of

    def _drawn(self, params: dict, key: jax.Array, only: str | None = None) -> dict[str, tuple]:
        """{label: (score_N, prompt_NxP, completions)} of one sample a problem."""
        by_label = {}
        for task, rows, problems_N, prompt_NxP in self._asked([s[0] for s in self.splits if only in (None, s[0])]):
            made = closed_loop.answers(self.model, params, task, problems_N, prompt_NxP, key)
            score_N = jax.vmap(task.verify)(problems_N, made.tokens_NxT)
            if made.forced_NxT is not None:  # statistics are of what the policy has drawn
                made = made._replace(mask_NxT=made.mask_NxT * (1 - made.forced_NxT))
            by_label |= _by_label((score_N, prompt_NxP, made), rows)
        return by_label

    def measure(self, params: dict, base: dict, key: jax.Array) -> dict[str, jax.Array]:
        """Success of every split, and on the KL split's prompts, with pi the policy and pi0 the base:

          kl_forward  E_{y ~ pi0} sum_t KL(pi0(.|y_<t) || pi(.|y_<t))   full vocabulary, nats, summed per sequence
          kl_reverse  E_{y ~ pi} sum_t KL(pi(.|y_<t) || pi0(.|y_<t))
          entropy     E_{y ~ pi} of the token entropies of pi, per token

        `_token` names are the same sums divided by the number of tokens. Policies measured with one key share prompts,
        Gumbel noise and the samples of pi0.
        """
        reward, drawn = self.success(params, key)
        prompt_NxP, made = drawn[self.kl_split]
        divergence = self._divergence(params, base, prompt_NxP, made, key)
        return {f"success/{label}": value for label, value in reward.items()} | divergence

    def _divergence(self, params, base, prompt_NxP, made, key):
        drawn = self.success(base, key, only=self.kl_split)[1][self.kl_split][1]
        pad = next(task.pad for label, task, _ in self.splits if label == self.kl_split)
        return means(divergence_sums(self.model, params, base, prompt_NxP, made, drawn, pad))


def _by_label(made, rows: dict[str, slice]) -> dict:
    """{label: its rows of what was made of all splits of a task}."""
    return {label: jax.tree.map(lambda x, part=part: x[part], made) for label, part in rows.items()}


def divergence_sums(model: models.TransformerConfig, params: dict, base: dict, prompt_NxP: jax.Array,
                    made: models.Completions, drawn: models.Completions, pad: int) -> dict[str, jax.Array]:
    """Sums over rows of what `means` divides; sums of parts of the rows add up.

    Args:
      made: completions of `params`; drawn: of `base`, to the same prompts.
    """
    def compared(first, second, completions):
        """(KL(first || second), entropy of first) at every token."""
        def read(logits_NxCxV, other_NxCxV):
            return kl.full_vocabulary(logits_NxCxV, other_NxCxV), kl.entropy(logits_NxCxV)

        return _read(model, read, (first, second), prompt_NxP, completions.tokens_NxT, pad)

    forward_NxT, _ = compared(base, params, drawn)
    reverse_NxT, entropy_NxT = compared(params, base, made)
    return {"forward": (forward_NxT * drawn.mask_NxT).sum(), "reverse": (reverse_NxT * made.mask_NxT).sum(),
            "entropy": (entropy_NxT * made.mask_NxT).sum(), "tokens": made.mask_NxT.sum(),
            "base_tokens": drawn.mask_NxT.sum(), "rows": made.mask_NxT.shape[0]}


def _read(model: models.TransformerConfig, read: Callable, policies: Sequence[dict], prompt_NxP: jax.Array,
          tokens_NxT: jax.Array, pad: int):
    """`read` of every policy's logits [N, C, V]; a vocabulary read in parts (`model.logprob_chunk`) is read whole here, of as
    many fewer positions C at once."""
    if not model.in_parts:
        return read(*(models.token_logits(model, weights, prompt_NxP, tokens_NxT, pad) for weights in policies))
    N, T = tokens_NxT.shape
    C = max(1, T * model.logprob_chunk // model.vocab)
    parts = -(-T // C)

    def states(weights):
        out = models.teacher_forced(model, weights, prompt_NxP, tokens_NxT, pad, logits=False)
        hidden_NxTxD = jnp.pad(out.taps["hidden"], ((0, 0), (0, parts * C - T), (0, 0)))
        return jnp.moveaxis(hidden_NxTxD.reshape(N, parts, C, -1), 1, 0)

    def one(hidden_NxCxD):
        return read(*(models.head_logits(model, weights, x) for weights, x in zip(policies, hidden_NxCxD)))

    by_part = jax.lax.map(one, tuple(map(states, policies)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(N, parts * C)[:, :T], by_part)


def means(sums: dict) -> dict:
    """KL and entropy of `Suite.measure` from `divergence_sums`."""
    return {"kl_forward": sums["forward"] / sums["rows"], "kl_forward_token": sums["forward"] / sums["base_tokens"],
            "kl_reverse": sums["reverse"] / sums["rows"], "kl_reverse_token": sums["reverse"] / sums["tokens"],
            "entropy": sums["entropy"] / sums["tokens"]}
