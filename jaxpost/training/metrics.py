"""Metrics of a step as typed values that the host reads once: a (sum, count) pair is a mean, a scalar is itself."""

import numpy as np


def compute(metrics: dict) -> dict[str, np.ndarray]:
    """Host values of a step's metrics (leading axes kept): sum / count for pairs; a mean over nothing is absent (NaN).

    Args:
      metrics: arrays, or (sum, count) tuples of arrays, as returned by the train step.
    """
    out = {}
    for name, value in metrics.items():
        if isinstance(value, tuple):
            total, count = (np.asarray(v, np.float64) for v in value)
            out[name] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        else:
            out[name] = np.asarray(value, np.float64)
    return out
