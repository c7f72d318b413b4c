"""A user's own probe at its smallest: the mean of |dW| of every matrix, and the largest step of it along a run."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxpost import probes
from jaxpost.probes import schedules
from jaxpost.probes.rows.pooling import RowTable, scopes_of

MEAN = probes.Metric("mine.mean_abs", "mean of |dW|", "1", "a user's", "none: a test", "none", "float32 mean")
CLIMB = probes.Metric("mine.climb", "largest step of mine.mean_abs between measurements, over all matrices", "1", "a user's",
                      "none: a test", "none", "float32")


def register() -> None:
    """Once a process, however often this file is loaded."""
    if MEAN.id not in probes.METRICS:
        probes.register(MEAN, CLIMB)


@dataclasses.dataclass(frozen=True)
class MeanAbs:
    """The probe."""

    scale: float = 1.0
    schedule: schedules.Schedule = schedules.Every(2)
    lane: str = "sidecar"
    id: str = "mine"
    version: str = "1"
    definition: str = "a test"
    metrics: tuple[str, ...] = (MEAN.id, CLIMB.id)
    needs: frozenset = frozenset({probes.WEIGHTS0, probes.WEIGHTS})

    def cost(self, ctx):
        return probes.Cost(streamed=sum(8.0 * np.prod(w.shape) for w in ctx[probes.WEIGHTS].values()))

    def init(self, ctx, key):
        return {"scale": jnp.float32(self.scale)}

    def measure(self, ctx, state, key):
        w0, w1 = ctx[probes.WEIGHTS0], ctx[probes.WEIGHTS]
        return state, {name: state["scale"] * jnp.abs(w1[name] - w0[name]).mean() for name in w1}

    def arrays(self, values):
        return {"mean_abs": np.stack([values[name] for name in sorted(values)], axis=1)}

    def finalize(self, values, state, *, infos, arm, step, seeds, conditional_on, row_ids):
        scopes = scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        value_SxT = np.stack([np.asarray(values[info.name], np.float64) for info in infos], axis=1)
        value_SxC = np.stack([value_SxT[:, member].mean(axis=1) for member in scopes.member_CxT], axis=1)
        table.add(MEAN.id, value_SxC, np.full(value_SxC.shape, "ok", object), np.full(value_SxC.shape, None, object),
                  dtype="fp32")
        return table.columns(row_ids)

    def across(self, series, *, infos, arm, seeds, conditional_on, row_ids):
        path = np.stack([series[step]["mean_abs"] for step in sorted(series)])
        climb_S = np.diff(path, axis=0).max(axis=(0, 2)) if len(path) > 1 else np.full(len(seeds), np.nan)
        n = len(seeds)
        return {"metric": [CLIMB.id] * n, "arm": [arm] * n, "role": ["seed"] * n, "step": [max(series)] * n,
                "seed": list(seeds), "granularity": ["global"] * n, "value": climb_S.tolist(),
                "conditional_on": [conditional_on] * n}
