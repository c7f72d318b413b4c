"""When does a curve turn? Events of a trajectory, in optimizer steps. Legend: P points of a trajectory.

An event is read on the measured steps; `half_change` interpolates between them on a logarithmic axis, so it needs steps
from 1 on. A run in which the event does not happen has none (NaN): dropping such runs would select on the outcome.
"""

from collections.abc import Sequence

import numpy as np


def half_change(step_P: Sequence[float], value_P: Sequence[float]) -> float:
    """The step after which a curve has made half of its total change for good; NaN for a curve that does not change.

    The total change goes from the value farthest from the last one to the last one, so that a loss that rises before it
    falls is timed by its fall, without a choice of direction. Crossings are interpolated in (log step, value).

    >>> round(half_change([1, 10, 100, 1000], [4.0, 4.0, 0.0, 0.0]), 6)  # halfway between 10 and 100
    31.622777
    """
    step, value = np.log(np.asarray(step_P, float)), np.asarray(value_P, float)
    if not len(value) or not np.isfinite(value).all():
        return np.nan
    farthest = value[np.argmax(np.abs(value - value[-1]))]
    if farthest == value[-1]:
        return np.nan
    done = (value - farthest) / (value[-1] - farthest)  # 0 at the farthest, 1 at the end
    t = int(np.flatnonzero(done <= 0.5)[-1])
    return float(np.exp(step[t] + (0.5 - done[t]) / (done[t + 1] - done[t]) * (step[t + 1] - step[t])))


def first_reaching(step_P: Sequence[float], value_P: Sequence[float], level: float) -> float:
    """The first measured step at which a curve is at least `level`; NaN where it never is.

    >>> first_reaching([1, 2, 4], [0.5, 0.99, 0.7], 0.9)
    2.0
    """
    reached = np.flatnonzero(np.asarray(value_P, float) >= level)
    return float(step_P[reached[0]]) if len(reached) else np.nan
