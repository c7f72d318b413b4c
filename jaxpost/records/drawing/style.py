"""How figures look: one colour family per kind of arm (RL blues, SFT oranges, controls greens and greys)."""

import math
from collections.abc import Sequence

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxpost.records.tabulating.variants import arm_order

WIDTH = 7.2  # inches: a full text width; the report shows it at the same size
INK, MUTED, GRID = "#1f2933", "#6b7785", "#e4e8ec"
ABSENT = "#c3cad2"  # a cell without a value
NULL_LINE = {"linestyle": (0, (1, 1.5)), "linewidth": 0.9, "marker": "", "alpha": 0.9}
RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "figure.dpi": 272,  # two pixels for each of the 980 that the report shows at most
    "axes.formatter.limits": (-5, 5),
}
# Okabe-Ito hues, spread in lightness inside a family so that they stay apart in grey print.
_FAMILIES = (
    ("base", (INK,), "-"),
    ("rlvr-lr", ("#08306b", "#0072b2", "#74b3dd"), "-"),
    ("rlvr-sgd", ("#3f5fa8",), "--"),
    ("rlvr-bf16", ("#3aa0d8",), ":"),
    ("rlvr", ("#0072b2",), "-"),
    ("grpo", ("#0072b2", "#74b3dd", "#08306b"), "-"),
    ("raft", ("#009e73",), "-"),
    ("sft-lr", ("#7f3300", "#d55e00", "#f2a65a"), "-"),
    ("sft-sgd", ("#b8860b",), "--"),
    ("sft-bf16", ("#e69f00",), ":"),
    ("sft", ("#d55e00",), "-"),
    ("permuted", ("#8a939c",), "-"),
)
_OTHERS = ("#5b6770", "#cc79a7", "#44aa99", "#a3a500", "#882255")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MARKERS = {"-": "o", "--": "s", ":": "^"}


def _family(arm: str) -> int:
    return next((i for i, (prefix, *_) in enumerate(_FAMILIES) if arm.startswith(prefix)), len(_FAMILIES))


def arm_styles(arms: Sequence[str]) -> dict[str, dict]:
    """Colour, line and marker of every arm, the same in all figures of a bundle: arm -> keyword arguments of `plot`.

    Where a family has more arms than colours, the next line and marker follow.
    """
    members: dict[int, list[str]] = {}
    for arm in arm_order(arms):
        members.setdefault(_family(arm), []).append(arm)
    styles, lines = {}, list(_MARKERS)
    for family, names in members.items():
        _, colours, first = _FAMILIES[family] if family < len(_FAMILIES) else ("", _OTHERS, "-")
        for i, arm in enumerate(names):
            line = lines[(lines.index(first) + i // len(colours)) % len(lines)]
            styles[arm] = {"color": colours[i % len(colours)], "linestyle": line, "marker": _MARKERS[line]}
    return {arm: styles[arm] for arm in arm_order(arms)}


def panels(n: int, columns: int, height: float, **kwargs: object) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels, at most `columns` in a row, each row `height` inches; further keywords go to `subplots`.

    Four panels are two by two. The lowest panel of a column keeps its tick labels where axes are shared.
    """
    columns = 2 if n == 4 and columns == 3 else min(n, columns)
    rows = -(-n // columns)
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    flat = list(axes.ravel())
    for i, axis in enumerate(flat):
        if i >= n:
            axis.set_axis_off()
        elif i + columns >= n:
            axis.tick_params(labelbottom=True)
    return figure, flat[:n]


def label_log_axes(figure: Figure) -> None:
    """Ticks of logarithmic axes that do not run into each other: powers of ten, and 1, 2, 5 of each where an axis spans less
    than a decade and a half (fewer than two of these: round numbers).
    """
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis) if one.get_scale() in ("log", "symlog")):
        axis.set_minor_formatter(ticker.NullFormatter())
        axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: _power_of_ten(x)))
        low, high = sorted(axis.get_view_interval())
        if axis.get_scale() == "symlog" or high / low >= 10**1.5:
            continue
        fine = ticker.LogLocator(subs=(1.0, 2.0, 5.0))
        inside = [x for x in fine.tick_values(low, high) if low <= x <= high]
        axis.set_major_locator(fine if len(inside) > 1 else ticker.MaxNLocator(3))
        axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:.3g}"))


def _power_of_ten(x: float) -> str:
    """A tick of a logarithmic axis as text; as a formula, which is parsed anew for every tick, it costs a fifth of a figure."""
    if x == 0:
        return "0"
    exponent = str(round(math.log10(abs(x))))
    return ("\u2212" if x < 0 else "") + "10" + exponent.translate(_SUPERSCRIPTS)


def legend_below(figure: Figure, styles: dict[str, dict], extra: Sequence[tuple[str, dict]] = ()) -> None:
    """One legend of the arms (and of `extra` label, style pairs) under all panels."""
    entries = [*styles.items(), *extra]
    handles = [Line2D([], [], label=label, **style) for label, style in entries]
    lines = -(-len(entries) // 6)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=-(-len(entries) // lines),
        handlelength=2.2,
        columnspacing=1.4,
    )
