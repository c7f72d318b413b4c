"""Mirrors of a run in other people's tools: W&B and TensorBoard, fed through one sink. None of it can change a row.

What a sink is given: every training step of every seed, rows over whole models of every measurement, completions, and at the
end the claims with their verdicts and the files of the report. A sink that fails ends, says why, and the run goes on.
"""

from experiments.harness.telemetry.fan import Telemetry, opened
from experiments.harness.telemetry.sink import Sink

__all__ = ["Sink", "Telemetry", "opened"]
