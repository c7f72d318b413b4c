"""Probes: one statistic, its null, its floor. `base` holds the contract, `METRICS` what each number means."""

from jaxpost.probes import gradient_rows, policy, weight_metrics  # they register their metrics
from jaxpost.probes.base import (
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
    "METRICS", "PARAMS", "PARAMS0", "PROBE_BATCH", "WEIGHTS", "WEIGHTS0", "Context", "Cost", "Metric", "Need", "Probe",
    "gradient_rows", "merge_needs", "metric", "policy", "register", "weight_metrics",
]
