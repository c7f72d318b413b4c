"""Probes: one statistic, its null, its floor. `base` holds the contract, `METRICS` what each number means."""

from jaxpost.probes import (  # with them every metric is registered
    catalog,
    fourier,
    gradients,
    policy,
    presets,
    routing,
    rows,
    trends,
    updates,
    weights,
)
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
from jaxpost.probes.fourier import basis as fourier_basis
from jaxpost.probes.fourier import rows as fourier_rows
from jaxpost.probes.gradients import coherence
from jaxpost.probes.gradients import ghost as gradient_ghost
from jaxpost.probes.gradients import gram as gradient_gram
from jaxpost.probes.gradients import rows as gradient_rows
from jaxpost.probes.gradients import statistics as gradient_statistics
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.policy import example_rows, fisher, forgetting_fit, interpolation
from jaxpost.probes.policy import table_fit as fit
from jaxpost.probes.routing import events, pathways
from jaxpost.probes.routing import load as router_load
from jaxpost.probes.routing import metrics as routing_metrics
from jaxpost.probes.routing import pathway_estimates as pathway_readings
from jaxpost.probes.routing import router_estimates as router_readings
from jaxpost.probes.routing import taps as router_taps
from jaxpost.probes.rows import pooling
from jaxpost.probes.trends import rows as trend_rows
from jaxpost.probes.updates import (
    consensus,
    drift,
    ever_changed,
    fixed_spectrum,
    mask_pairs,
    predictability,
    rank_one,
    stripes,
    tail_fits,
    tails,
)
from jaxpost.probes.updates import distances as forgetting
from jaxpost.probes.weights import (
    blind,
    blind_energy,
    blind_moments,
    by_matrix,
    cross_seed,
    gaussian_spectra,
    nulls,
    panel,
    spectra,
    spectral_errors,
    visibility,
)
from jaxpost.probes.weights import measurement as weight_measurement
from jaxpost.probes.weights import metrics as weight_metrics
from jaxpost.probes.weights import references as weight_references

__all__ = [
    "HISTORY", "METRICS", "PARAMS", "PARAMS0", "PROBE_BATCH", "WEIGHTS", "WEIGHTS0", "Context", "Cost", "Metric", "Need",
    "Probe", "blind", "blind_energy", "blind_moments", "by_matrix", "catalog", "coherence", "consensus", "cross_seed",
    "drift", "events", "ever_changed", "example_rows", "fisher", "fit", "fixed_spectrum", "forgetting", "forgetting_fit",
    "fourier", "fourier_basis", "fourier_rows", "gaussian_spectra", "gradient_ghost", "gradient_gram", "gradient_rows",
    "gradient_statistics", "gradient_sums", "gradients", "interpolation", "mask_pairs", "merge_needs", "metric", "nulls",
    "panel", "pathway_readings", "pathways", "policy", "pooling", "predictability", "presets", "rank_one", "register",
    "router_load", "router_readings", "router_taps", "routing", "routing_metrics", "rows", "spectra", "spectral_errors",
    "stripes", "tail_fits", "tails", "trend_rows", "trends", "updates", "visibility", "weight_measurement",
    "weight_metrics", "weight_references", "weights",
]
