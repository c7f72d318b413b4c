"""Probes: one statistic, its null, its floor. `base` holds the contract, `METRICS` what each number means."""

from jaxpost.probes import gradient_rows, policy, weight_metrics  # they register their metrics
from jaxpost.probes.base import METRICS, Context, Metric, Need, Probe, merge_needs, metric, register

__all__ = [
    "METRICS", "Context", "Metric", "Need", "Probe", "gradient_rows", "merge_needs", "metric", "policy", "register",
    "weight_metrics",
]
