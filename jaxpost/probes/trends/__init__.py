"""Correlations of trajectories given training time, and their rows."""

from jaxpost.probes.trends.correlations import (
    FEWEST,
    METHODS,
    READINGS,
    Trend,
    across_runs,
    block_orders,
    correlation,
    fisher,
    others,
    over_runs,
    rising_from,
)

__all__ = [
    "FEWEST", "METHODS", "READINGS", "Trend", "across_runs", "block_orders", "correlation", "fisher", "others",
    "over_runs", "rising_from",
]
