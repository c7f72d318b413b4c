"""One call of the run, every sink that is on; a sink that fails is left out from then on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.harness.telemetry.sink import Sink, probe_scalars
from experiments.harness.telemetry.tensorboard_sink import TensorBoardSink
from experiments.harness.telemetry.wandb_sink import WandbSink


class Telemetry:
    """The sinks of a run.

    Args:
      sinks: those that are on. say: what a sink that ends has to say.
    """

    def __init__(self, sinks: Sequence[Sink] = (), say: Callable[[str], None] = print):
        self._sinks, self._say = list(sinks), say

    def steps(self, arm: str, seeds: Sequence[int], before: int, history: Mapping[str, np.ndarray]) -> None:
        """Every step of a segment.

        Args:
          before: the step after which the segment began.
          history: name -> [S, steps]; others, a value a tensor, are left out.
        """
        curves = {name: np.asarray(x, np.float64) for name, x in history.items() if np.ndim(x) == 2} if self._sinks else {}
        if not curves:
            return
        for i, seed in enumerate(seeds):
            for t in range(next(iter(curves.values())).shape[1]):
                values = {f"train/{name}": float(x[i, t]) for name, x in curves.items() if np.isfinite(x[i, t])}
                self._each("scalars", arm, seed, before + t + 1, values)

    def measured(self, arm: str, step: int, columns: Mapping[str, Sequence]) -> None:
        """The rows of a measurement: those over a whole model, by seed, as curves."""
        if not self._sinks or not columns:
            return
        by_seed: dict[int, dict[str, float]] = {}
        for seed, name, value in probe_scalars(columns):
            by_seed.setdefault(seed, {})[name] = value
        for seed, values in by_seed.items():
            self._each("scalars", arm, seed, step, values)

    def table(self, arm: str, seed: int, step: int, name: str, header: Sequence[str], lines: Sequence[Sequence]) -> None:
        """A table at a step, such as completions."""
        self._each("table", arm, seed, step, name, header, lines)

    def ended(self, arm: str, seeds: Sequence[int]) -> None:
        """An arm's seeds have reached their last step."""
        for seed in seeds:
            self._each("ended", arm, seed)

    def published(self, bundle: Path, manifest: Mapping) -> None:
        """The bundle is sealed."""
        self._each("published", Path(bundle), manifest)

    def close(self, failed: bool) -> None:
        """The process ends."""
        self._each("close", failed)

    def _each(self, call: str, *given: object) -> None:
        for sink in list(self._sinks):
            try:
                getattr(sink, call)(*given)
            except Exception as error:  # whatever a tracking service does
                self._say(f"{sink.name} mirror ended: {type(error).__name__}: {one_line(error)}")
                self._sinks.remove(sink)


def one_line(error: Exception) -> str:
    """The first line of an error, at most 200 letters."""
    return (str(error).splitlines() or [""])[0][:200]


def opened(config: Mapping, name: str, folder: Path, say: Callable[[str], None]) -> Telemetry:
    """The sinks that a config asks for: `wandb.mode` and `tensorboard`; one that cannot be opened says so and is left out.

    Args:
      config: of the study. folder: of the bundle: their files lie in its `telemetry`.
    """
    wanted: list[tuple[str, str, Callable[[], Sink]]] = []
    place = Path(folder) / "telemetry"
    if "wandb" in config and (mode := config["wandb"]["mode"]) != "disabled":
        whole = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        wanted.append(("W&B", "wandb", lambda: WandbSink(mode, config["wandb"]["project"], whole, name, place / "wandb")))
    if "tensorboard" in config and config["tensorboard"]:
        wanted.append(("TensorBoard", "tensorboardX", lambda: TensorBoardSink(place / "tensorboard")))
    sinks = []
    for label, package, make in wanted:
        try:
            sinks.append(make())
        except ImportError:
            say(f"{label} mirror is off: {package} is not installed (pip install {package})")
        except Exception as error:  # no network, no login: never a reason to stop
            say(f"{label} mirror is off: {type(error).__name__}: {one_line(error)}")
    return Telemetry(sinks, say)
