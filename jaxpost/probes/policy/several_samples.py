"""The probe of several samples a prompt: pass@k and diversity of text (`samples`), with intervals over prompts.

Legend: S seeds, N prompts, G samples a prompt, O orders of n-grams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import stats
from jaxpost.probes import base, catalog, price, samples, schedules
from jaxpost.probes.base import Metric, register
from jaxpost.probes.policy import example_rows

PASS = Metric(
    "policy.pass_at_k", "1 - C(n - c, k) / C(n, k), c of n samples of a prompt with reward >= solved, averaged over prompts; "
    "column k; params samples (n), solved", "1", "arXiv:2107.03374",
    "guess: k independent guesses of the task's baseline g, 1 - (1 - g)^k; band from one guess said k times to k guesses "
    "that exclude each other, with the binomial noise of the prompts; no null where the task states no baseline",
    "mean over prompts", "n KV-cached samples a prompt at temperature 1, exact fractions", "t over prompts",
    higher_is_better=True)
EAD = Metric(
    "policy.ead", "distinct n-grams / (V (1 - ((V - 1) / V)^C)) of each text, C its n-grams over word tokens (no padding, no "
    "end token), V the task's vocabulary; averaged over n = 1 .. 5 (those the text is long enough for), texts of a prompt, "
    "prompts", "1", "arXiv:2202.13587, arXiv:2310.06452",
    "uniform_words: the same lengths of independent, equally likely words, closed form; its 95 % band from a bound of the "
    "variance", "mean over prompts", "exact counts on device, float64 on the host", "t over prompts")
register(PASS, EAD)
_NO_WORD = "no sampled text has a word"


class Sampled(NamedTuple):
    """What `suite.samples` gives for one split."""

    reward_NxG: jax.Array  # float32 in [0, 1]
    tokens_NxGxT: jax.Array  # int32
    word_NxGxT: jax.Array  # > 0 where a token is a word of the answer


@dataclass(frozen=True)
class PolicySamples:
    """pass@k and EAD on fixed problems.

    `suite.samples(params, key, n)` gives {label: (reward_NxG, tokens_NxGxT, word_NxGxT)} and `suite.vocabularies()` {label: V}
    (`training.Suite`); `guesses` are (label, baseline) pairs of its splits. All steps and arms of a seed share one key.

    Raises:
      ValueError: k > samples, a threshold outside (0, 1], or a suite without samples.
    """

    suite: Any
    guesses: tuple[tuple[str, float], ...]
    samples: int = 8  # n, of each prompt
    ks: tuple[int, ...] = (1, 4, 8)
    solved: float = 1.0  # a sample is solved if its reward is at least this
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "samples"
    version: str = "1"
    definition: str = "arXiv:2107.03374 (pass@k), arXiv:2202.13587 (EAD)"
    metrics: tuple[str, ...] = (PASS.id, EAD.id)
    needs: frozenset[base.Need] = frozenset({base.PARAMS})
    stream: str = "samples"
    at_base: bool = True

    def __post_init__(self):
        for k in self.ks:
            samples.check_k(k, self.samples)
        if not self.ks or len(set(self.ks)) < len(self.ks) or not 0 < self.solved <= 1:
            raise ValueError(f"PolicySamples needs distinct ks, at least one, and 0 < solved <= 1; found ks={self.ks}, "
                             f"solved={self.solved}")
        if not hasattr(self.suite, "samples") or not hasattr(self.suite, "vocabularies"):
            raise ValueError(f"probe 'samples' needs a suite with samples(params, key, n) and vocabularies(); "
                             f"{type(self.suite).__name__} has none (use probe 'policy', one sample a prompt)")

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the program itself: sampling depends on the tasks."""
        return price.traced(self._measured, ctx[base.PARAMS], jax.random.key(0))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state."""
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): of every label `<label>/solved_N` (samples), `<label>/distinct_NxGxO` and `<label>/words_NxG`."""
        return state, self._measured(ctx[base.PARAMS], key)

    def _measured(self, params: Any, key: jax.Array) -> dict[str, jax.Array]:
        out = {}
        for label, found in self.suite.samples(params, key, self.samples).items():
            reward_NxG, tokens_NxGxT, word_NxGxT = found
            count = jax.lax.map(lambda rows: jax.vmap(samples.distinct)(*rows), (tokens_NxGxT, word_NxGxT))
            out |= {f"{label}/solved_N": (reward_NxG >= self.solved).sum(1, dtype=jnp.int32),
                    f"{label}/distinct_NxGxO": count[0], f"{label}/words_NxG": count[1]}
        return out

    def finalize(self, values: Mapping[str, Any], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]], **meta: Any) -> dict[str, np.ndarray]:
        """Rows of every split: pass@k of every k, and EAD; values have a leading axis over seeds."""
        del state, meta
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        guesses, vocabularies = dict(self.guesses), self.suite.vocabularies()
        for label in dict.fromkeys(name.rsplit("/", 1)[0] for name in values):
            solved_SxN = np.asarray(values[f"{label}/solved_N"])
            self._add_passes(table, label, solved_SxN, guesses.get(label))
            self._add_ead(table, label, np.asarray(values[f"{label}/distinct_NxGxO"]), np.asarray(values[f"{label}/words_NxG"]),
                          vocabularies[label])
        return table.columns(row_ids)

    def _add_passes(self, table, label: str, solved_SxN: np.ndarray, guess: float | None) -> None:
        m = solved_SxN.shape[1]
        for k in self.ks:
            x_SxN = samples.pass_at_k(solved_SxN, self.samples, k)
            null = None if guess is None else ("guess", *samples.guess_at_k(guess, k, m))
            example_rows.add(table, PASS.id, stats.t_interval(x_SxN), m, null=null, floor=example_rows.standard_error(x_SxN),
                             k=k, unit="prompt", split=label, params=f"samples={self.samples};solved={self.solved:g}",
                             num_err=m * 2.0**-53)

    def _add_ead(self, table, label: str, distinct_SxNxGxO: np.ndarray, words_SxNxG: np.ndarray, vocabulary: int) -> None:
        x_SxNxG = samples.ead(distinct_SxNxGxO, words_SxNxG, vocabulary)
        expected, deviation = samples.ead_null(words_SxNxG, vocabulary)
        found, floor, nulls, prompts = [], [], [], []
        for x_NxG, null_NxG, spread_NxG in zip(x_SxNxG, expected, deviation, strict=True):
            texts_N = np.isfinite(x_NxG).sum(1)
            kept, weight_N = texts_N > 0, 1 / np.maximum(texts_N, 1)
            x_N, null_N, variance_N = (np.nansum(y, axis=1)[kept] * w[kept] for y, w in (
                (x_NxG, weight_N), (null_NxG, weight_N), (spread_NxG**2, weight_N**2)))
            prompts.append(max(int(kept.sum()), 0))
            found.append(stats.t_interval(x_N) if kept.any() else stats.Interval(*(np.asarray(np.nan),) * 3))
            floor.append(example_rows.standard_error(x_N)[0] if kept.sum() > 1 else np.nan)
            mean, half = (null_N.mean(), 1.96 * np.sqrt(variance_N.sum()) / len(x_N)) if kept.any() else (np.nan, np.nan)
            nulls.append((mean, mean - half, mean + half))
        interval = stats.Interval(*(np.asarray([getattr(one, end) for one in found]) for end in ("value", "lo", "hi")))
        left_out = [words_SxNxG.shape[1] - n for n in prompts]
        reason = np.asarray([[_NO_WORD if not n else f"{out} of {n + out} prompts have no text with a word" if out else None]
                             for n, out in zip(prompts, left_out, strict=True)], object)
        example_rows.add(table, EAD.id, interval, np.asarray(prompts)[:, None], unit="prompt", split=label,
                         null=("uniform_words", *np.asarray(nulls).T), floor=np.asarray(floor),
                         status=np.where(np.isfinite(interval.value), "ok", "absent").astype(object)[:, None], reason=reason,
                         params=f"samples={self.samples};vocabulary={vocabulary}", num_err=64 * 2.0**-53)


catalog.add(
    __name__,
    catalog.Entry("samples", "how many prompts one of k samples solves (pass@k), and how varied the words of a text are (EAD)",
                  PolicySamples, ("suite", "guesses")),
)
