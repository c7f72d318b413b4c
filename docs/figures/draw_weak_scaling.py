"""The figure of weak scaling: `python docs/figures/draw_weak_scaling.py DIR`, DIR a run of bench_weak_scaling."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from experiments.bench_weak_scaling import UNITS, WHAT  # noqa: E402
from jaxpost.records import storage  # noqa: E402
from jaxpost.records.drawing.style import RC, arm_styles, legend_below, panels  # noqa: E402


def draw(programs: list[dict]) -> plt.Figure:
    """A panel a quantity: what a chip takes against the number of chips; the dotted line is where sharing is complete."""
    names = list(dict.fromkeys(row["program"] for row in programs))
    styles = arm_styles(names)
    figure, axes = panels(len(UNITS), 3, 2.4)
    for axis, (quantity, (scale, unit)) in zip(axes, UNITS.items(), strict=True):
        for name in names:
            rows = [row for row in programs if row["program"] == name]
            axis.plot([row["chips"] for row in rows], [row[quantity] / scale for row in rows], **styles[name])
        chips = sorted({row["chips"] for row in programs})
        axis.axvline(max(row["fsdp"] for row in programs), color="0.6", linestyle=":", linewidth=0.8)
        axis.set(title=f"{WHAT[quantity]} of a chip", xlabel="chips", ylabel=unit, xscale="log", ylim=(0, None), xticks=chips,
                 xticklabels=map(str, chips))
        axis.minorticks_off()
    legend_below(figure, styles)
    return figure


if __name__ == "__main__":
    with matplotlib.rc_context(RC):
        drawn = draw(storage.read_json(Path(sys.argv[1]) / "manifest.json")["programs"])
        drawn.savefig(Path(__file__).with_name("weak_scaling.png"), dpi=160, metadata={"Software": None})
