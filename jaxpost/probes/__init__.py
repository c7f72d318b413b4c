"""Probes: one statistic, its null, its floor. `base` holds the contract, `METRICS` what each number means.

Every file of a room registers its metrics, its row of the catalogue and how to read it: a probe of the package is one file.
"""

import importlib
import pkgutil

from jaxpost.probes import catalog, presets
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

for _room in (f"{__name__}.{_name}" for _name in catalog.ROOMS):
    for _file in pkgutil.iter_modules(importlib.import_module(_room).__path__):
        importlib.import_module(f"{_room}.{_file.name}")

__all__ = ["HISTORY", "METRICS", "PARAMS", "PARAMS0", "PROBE_BATCH", "WEIGHTS", "WEIGHTS0", "Context", "Cost", "Metric", "Need",
           "Probe", "catalog", "merge_needs", "metric", "presets", "register"]
