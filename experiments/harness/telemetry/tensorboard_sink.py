"""TensorBoard: event files `telemetry/tensorboard/<arm>/seed-<n>` of the bundle, written by tensorboardX (no TensorFlow).

    tensorboard --logdir results/NAME/<config hash>/telemetry/tensorboard

A run that is resumed purges, in what is shown, the steps that it computes again. What was told is on disk within a second, so
that a kill loses no step before the checkpoint that the run goes on from.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path


class TensorBoardSink:
    """Writers of event files.

    Args:
      folder: where they lie.

    Raises:
      ImportError: tensorboardX is not installed.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path):
        import tensorboardX  # optional extra

        self._package, self._folder = tensorboardX, Path(folder)
        self._writers: dict[tuple[str, int], object] = {}

    def scalars(self, arm: str, seed: int, step: int, values: Mapping[str, float]) -> None:
        """As `sink.Sink`."""
        writer = self._writer(arm, seed, step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def table(self, arm: str, seed: int, step: int, name: str, header: Sequence[str], lines: Sequence[Sequence]) -> None:
        """As `sink.Sink`."""
        self._writer(arm, seed, step).add_text(name, markdown(header, lines), step)

    def ended(self, arm: str, seed: int) -> None:
        """As `sink.Sink`."""
        if (writer := self._writers.pop((arm, seed), None)) is not None:
            writer.close()

    def published(self, bundle: Path, manifest: Mapping) -> None:
        """As `sink.Sink`."""
        header = ("verdict", "statement", "estimate", "ci_lo", "ci_hi", "n_units")
        lines = [[claim.get(name) for name in header] for claim in manifest.get("claim_results", ())]
        with self._package.SummaryWriter(str(self._folder / "study")) as writer:
            writer.add_text("claims", markdown(header, lines) if lines else "no claim was stated", 0)
            writer.add_text("report", f"{bundle / 'report.html'} (bundle {manifest['bundle_id'][:12]})", 0)

    def close(self, failed: bool) -> None:
        """As `sink.Sink`."""
        del failed
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _writer(self, arm: str, seed: int, step: int):
        if (arm, seed) not in self._writers:
            place = self._folder / arm / f"seed-{seed}"
            begun = place.is_dir() and any(place.iterdir())
            self._writers[arm, seed] = self._package.SummaryWriter(str(place), purge_step=step if begun else None, flush_secs=1)
        return self._writers[arm, seed]


def markdown(header: Sequence[str], lines: Sequence[Sequence]) -> str:
    """A table in Markdown; bars and line ends in cells are escaped."""
    def cell(value: object) -> str:
        text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        return text.replace("|", "\\|").replace("\n", " ")

    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in (header, ["---"] * len(header), *lines))
