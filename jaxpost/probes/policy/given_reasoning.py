"""What a policy makes of reasoning that it is given: the first part of the oracle's, or that of another problem.

Legend: S seeds, N prompts, K shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from jaxpost import stats
from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.policy import example_rows, of_suite

_SOURCE = "jaxpost (after arXiv:2506.04723, which tests plan following, subproblems and knowledge apart; *reconstructed*)"
_SAMPLED = "one KV-cached sample a prompt at temperature 1, the random numbers of the free answer"
SUCCESS = base.Metric(
    "policy.success_given_reasoning", "mean reward of answers whose first tokens are forced to be those of the oracle's "
    "reasoning: its mark `[`, the first floor(share * n) of its n tokens and, at share 1, its mark `]`; params share", "1",
    _SOURCE, "another: the same share of another problem's reasoning; t over prompts", "mean over prompts", _SAMPLED,
    "t over prompts", higher_is_better=True)
FOLLOWS = base.Metric(
    "policy.follows_reasoning", "behind the whole reasoning of another problem: the mean reward that the answer has for that "
    "other problem, over prompts whose own answer is wrong there", "1", _SOURCE,
    "free: the same reward of the free answers; t over prompts", "mean over prompts", _SAMPLED, "t over prompts")
base.register(SUCCESS, FOLLOWS)


class Given(NamedTuple):
    """What `suite.given_reasoning` gives for one split; rewards are float32 in [0, 1]."""

    reward_NxK: jax.Array  # behind a share of the problem's own reasoning
    another_NxK: jax.Array  # behind a share of another problem's
    followed_N: jax.Array  # for the other problem, behind the whole of its reasoning
    free_N: jax.Array  # for the other problem, of free answers
    conflict_N: jax.Array  # bool, the oracle's answer is worth nothing for the other problem


@dataclass(frozen=True)
class GivenReasoning(of_suite.OfRecords):
    """Success by how much of the oracle's reasoning is given, and whether answers follow reasoning that is not theirs.

    `suite.given_reasoning(params, key, shares)` gives {label: Given} (`training.Suite`), of splits with reasoning.

    Raises:
      ValueError: shares that do not grow inside (0, 1], or a suite that gives no reasoning.
    """

    suite: Any
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)  # of the tokens of the oracle's reasoning
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "given_reasoning"
    version: str = "1"
    definition: str = "success behind a share of the oracle's reasoning, on tasks whose reasoning stands between marks"
    metrics: tuple[str, ...] = (SUCCESS.id, FOLLOWS.id)
    needs: frozenset[base.Need] = frozenset({base.PARAMS})
    stream: str = "given_reasoning"
    at_base: bool = True
    record: ClassVar[type] = Given

    def __post_init__(self):
        shares = list(self.shares)
        if not shares or shares != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] <= 1:
            raise ValueError(f"probe 'given_reasoning': shares={self.shares}; expected shares that grow inside (0, 1], such as "
                             "(0.5, 1.0)")
        if not hasattr(self.suite, "given_reasoning"):
            raise ValueError("probe 'given_reasoning' needs a suite that gives reasoning, given_reasoning(params, key, "
                             f"shares); {type(self.suite).__name__} has none")

    def _measured(self, params: Any, key: jax.Array) -> dict[str, jax.Array]:
        return of_suite.flat(self.suite.given_reasoning(params, key, self.shares))

    def _add(self, table, label: str, given: Given) -> None:
        def row(metric, own_SxN, null_kind, null_SxN, **more):
            null, N = stats.t_interval(null_SxN), own_SxN.shape[-1]
            example_rows.add(table, metric.id, stats.t_interval(own_SxN), N, unit="prompt", split=label, num_err=N * 2.0**-24,
                             null=(null_kind, null.value, null.lo, null.hi), floor=example_rows.standard_error(own_SxN), **more)

        for k, share in enumerate(self.shares):
            row(SUCCESS, given.reward_NxK[..., k], "another", given.another_NxK[..., k], params=f"share={share:g}")
        kept_N = given.conflict_N[0] > 0  # the problems and their oracle's answers are the same for every seed
        enough = kept_N.sum() > 1
        chosen_N = kept_N if enough else np.ones_like(kept_N)
        S, why = len(given.conflict_N), "fewer than two prompts have answers that are wrong for the other problem"
        absent = {} if enough else {"status": np.full(S, "absent", object), "reason": np.full(S, why, object)}
        row(FOLLOWS, given.followed_N[:, chosen_N], "free", given.free_N[:, chosen_N], **absent)


catalog.add(
    __name__,
    catalog.Entry("given_reasoning", "what answers are worth behind a part of the oracle's reasoning, or of another problem's",
                  GivenReasoning, ("suite",), by_name=True),
)
