"""Probes: one statistic, its null, its floor. `base` holds the contract, `METRICS` what each number means."""

from jaxpost.probes import catalog, presets, weight_metrics  # with them every metric is registered
from jaxpost.probes.base import (
    HISTORY,
    METRICS,
    PARAMS,
    PARAMS0,
    PROBE_BATCH,
    WEIGHTS,
    WEIGHTS0,
    Context,
    Cost,
    Metric,
    Need,
    Probe,
    merge_needs,
    metric,
    register,
)

__all__ = [
    "HISTORY", "METRICS", "PARAMS", "PARAMS0", "PROBE_BATCH", "WEIGHTS", "WEIGHTS0", "Context", "Cost", "Metric", "Need",
    "Probe", "catalog", "merge_needs", "metric", "presets", "register", "weight_metrics",
]
