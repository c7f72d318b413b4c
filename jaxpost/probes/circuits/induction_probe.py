"""The probe of induction heads (`induction`): the score of every head, and of the strongest one.

Price: 1 + draws forward passes over `sequences` rows of twice `half` tokens, with L H T^2 attention scores a row (at the
defaults 6 and 12 times one pass instead of 5, of 4 layers of width 128 and 2 of 64 on a busy CPU).

Legend: S seeds, N sequences, M null draws, L layers, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import stats
from jaxpost.probes import base, catalog, price, schedules
from jaxpost.probes.base import Metric
from jaxpost.probes.circuits import induction
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.pooling import RowTable

_PAPER = "usual definition of induction heads (prefix matching), recalled"
_NULL = "shuffled: the same tokens with the first half in another order, 95 % of one more draw"
_ALGORITHM = ("float32 attention scores; num_err: first-order bound on rounding of the scores and the softmax; noise floor: "
              "attention to all visible positions alike")
SCORE = Metric(
    "circuit.induction.score", "on random sequences said twice, mean attention of head params head of `layer` from the second "
    "occurrence of a token to the position after its first one", "1", _PAPER, _NULL, "mean over examples", _ALGORITHM,
    ci_method="t over sequences")
STRONGEST = Metric(
    "circuit.induction.strongest", "circuit.induction.score, on the second half of the sequences, of the head that has the "
    "largest one on the first half", "1", f"{_PAPER}; jaxpost: chosen and read on different sequences",
    f"{_NULL}; the strongest head is chosen in every draw", "mean over examples", _ALGORITHM, ci_method="t over sequences")
base.register(SCORE, STRONGEST)
_NAN = ("nan", "the policy's attention scores are not finite")


@dataclass(frozen=True)
class Induction:
    """Induction scores of every head on fixed random sequences, the same at every step and of every arm.

    Raises: ValueError for settings out of range, or fewer tokens than a half takes.
    """

    heads: induction.Heads
    sequences: int = 64
    half: int = 8  # tokens, all different, that are said twice
    draws: int = 4  # of the null
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "induction"
    version: str = "1"
    definition: str = "mean attention to what followed a token's first occurrence, on random sequences said twice (recalled)"
    metrics: tuple[str, ...] = (SCORE.id, STRONGEST.id)
    needs: frozenset[base.Need] = frozenset({base.PARAMS})
    at_base: bool = True

    def __post_init__(self):
        known = len(self.heads.tokens)
        if not 3 <= self.half <= known:
            raise ValueError(f"Induction.half={self.half}; expected 3 to {known}, the number of tokens to draw from")
        if self.sequences < 4 or self.draws < 2:
            raise ValueError(f"Induction: sequences={self.sequences}, draws={self.draws}; expected at least 4 and 2")

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the program itself."""
        state = jax.eval_shape(lambda: self.init(ctx, jax.random.key(0)))
        return price.traced(self._measured, ctx[base.PARAMS], state)

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """{"tokens_DxNxT": i32[1 + M, N, T]}: the sequences, and after them those of each null draw."""
        return {"tokens_DxNxT": self.heads.sequences(key, self.sequences, self.half, self.draws)}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): `score` f32[L, H, N], `error` f32[L, H], `drawn` f32[M, L, H, 2], means over either half of the
        sequences."""
        return state, self._measured(ctx[base.PARAMS], state)

    def _measured(self, params: Any, state: dict) -> dict[str, jax.Array]:
        places, parts = self.heads.places(self.half), jnp.arange(self.sequences) < self.sequences // 2

        def one(tokens_NxT):
            return induction.attended(self.heads.score(params, tokens_NxT), places, self.heads.terms)

        def of_draw(tokens_NxT):
            score_LxHxN = one(tokens_NxT).score
            return jnp.stack([score_LxHxN.mean(axis=-1, where=part) for part in (parts, ~parts)], axis=-1)

        own = one(state["tokens_DxNxT"][0])
        return {**own._asdict(), "drawn": jax.lax.map(of_draw, state["tokens_DxNxT"][1:])}

    def finalize(self, values: Mapping[str, np.ndarray], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable, **meta: Any) -> dict[str, np.ndarray]:
        """Rows of granularity "layer", one a head, and of granularity "global" of the strongest head."""
        constant = {"arm": arm, "step": step, "conditional_on": conditional_on}
        score_SxLxHxN, error_SxLxH, drawn_SxMxLxHx2 = (np.asarray(values[name], np.float64)
                                                       for name in ("score", "error", "drawn"))
        S, L, H, N = score_SxLxHxN.shape
        by_layer, whole = _table(["layer"] * L, [*range(L)], seeds, constant), _table(["global"], [None], seeds, constant)
        null = pooling.prediction_band(np.moveaxis(drawn_SxMxLxHx2.mean(-1), 1, -1), 0.0, 1.0)
        for h in range(H):
            self._add(by_layer, SCORE.id, stats.t_interval(score_SxLxHxN[:, :, h]), N, [x[:, :, h] for x in null],
                      error_SxLxH[:, :, h], f"head={h}")
        flat_SxPxN, each = score_SxLxHxN.reshape(S, L * H, N), np.arange(S)
        best_S = flat_SxPxN[..., :N // 2].mean(-1).argmax(1)
        drawn_SxMxPx2 = drawn_SxMxLxHx2.reshape(S, -1, L * H, 2)
        best_SxM = drawn_SxMxPx2[..., 0].argmax(-1)
        null = np.take_along_axis(drawn_SxMxPx2[..., 1], best_SxM[..., None], axis=-1)[..., 0]
        self._add(whole, STRONGEST.id, stats.t_interval(flat_SxPxN[each, best_S][:, None, N // 2:]), N - N // 2,
                  [x[:, None] for x in pooling.prediction_band(null, 0.0, 1.0)],
                  error_SxLxH.reshape(S, -1)[each, best_S][:, None], None)
        return pooling.joined(by_layer.columns(row_ids), whole.columns(row_ids))

    def _add(self, table: RowTable, metric: str, interval: stats.Interval, count: int, null, error, params: str | None) -> None:
        ok = np.isfinite(interval.value)
        status, reason = (np.where(ok, good, bad).astype(object) for good, bad in zip(("ok", None), _NAN, strict=True))
        table.add(metric, interval.value, status, reason, null=("shuffled", *null), num_err=error, ci_lo=interval.lo,
                  ci_hi=interval.hi, floor=np.full(interval.value.shape, self.heads.uniform(self.half)), unit="example",
                  n_units=count, dtype="fp32", params=params)


def _table(granularity: list[str], layer: list, seeds: Sequence[int], constant: Mapping[str, object]) -> RowTable:
    rows = len(layer)
    columns = {"granularity": granularity, "tensor": [None] * rows, "module_kind": [None] * rows, "layer": layer}
    return RowTable(pooling.Scopes(np.eye(rows, dtype=bool), {name: np.asarray(x, object) for name, x in columns.items()}),
                    seeds, constant)


catalog.add(
    __name__,
    catalog.Entry("induction", "which attention heads look up what followed a token before", Induction, ("heads",),
                  by_name=True),
    catalog.Statistic(
        "induction", "Induction heads", ("circuit.induction",),
        "Random tokens are said twice; how much of its attention a head gives, where a token comes again, to what followed it "
        "the first time. 1 is all. Read it above the null: a head that copies by position scores on sequences without a "
        "repetition as well.",
        "Attention is where a head reads, not what it writes: a high score does not say that the answer uses it. Below the "
        "null's upper end a high score is a matter of position. Sequences of another form than those of training may not "
        "wake a head. The strongest of many heads is chosen on other sequences than those it is read on.",
        "score of a head that looks up its token in a growing share of its attention, and of one that counts positions",
        extremes={"circuit.induction": ("attention goes to what followed before", "it does not")}),
)
