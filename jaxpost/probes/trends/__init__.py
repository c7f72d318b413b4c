"""Correlations of trajectories given training time, their rows, and the events of a trajectory."""

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
from jaxpost.probes.trends.events import first_reaching, half_change

__all__ = [
    "FEWEST", "METHODS", "READINGS", "Trend", "across_runs", "block_orders", "correlation", "first_reaching", "fisher",
    "half_change", "others", "over_runs", "rising_from",
]
