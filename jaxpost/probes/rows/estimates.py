"""What a statistic over examples gives: value, interval, rounding bound and status."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """Value, 95 % interval over examples, rounding bound, and status: arrays of one shape."""

    value: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    error: np.ndarray
    status: np.ndarray  # of records' statuses
    reason: np.ndarray
