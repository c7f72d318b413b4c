"""What is seen in a figure, in words: for readers who do not see it. Read from what was drawn, not from the caption."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxpost.records.tabulating.cells import format_number

LONGEST = 900  # letters
_CURVES = 6  # of a panel, by their legend


def seen(figure: Figure) -> str:
    """Panels with their axes; of each curve that the legend names its first and last value; of each map its range and peak."""
    names = _legend(figure)
    texts = [text for axis in figure.axes if axis.get_visible() and (text := _panel(axis, names))]
    text = f"{len(texts)} panel{'' if len(texts) == 1 else 's'}. " + " ".join(texts)
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " …"


def _legend(figure: Figure) -> dict[tuple, str]:
    """(colour, line, marker) -> name, of the figure's legends and those of its axes."""
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    return {_look(handle): handle.get_label() for legend in legends for handle in legend.legend_handles
            if isinstance(handle, Line2D)}


def _look(line: Line2D) -> tuple:
    return to_hex(line.get_color()), line.get_linestyle()


def _panel(axis: Axes, names: dict[tuple, str]) -> str:
    title = " ".join(filter(None, (axis.get_title(loc) for loc in ("left", "center")))).replace("\n", ", ")
    images = [image for image in axis.images if np.ndim(image.get_array()) == 2]
    if images:
        return _map(axis, title, np.ma.filled(np.ma.asarray(images[0].get_array(), float), np.nan))
    curves = [line for line in axis.lines if np.isfinite(np.asarray(line.get_ydata(), float)).any()]
    points = [part for part in axis.collections if isinstance(part, PathCollection)]
    if not (curves or points) or axis.get_label() == "<colorbar>":
        return ""
    against = " against ".join(filter(None, (axis.get_ylabel(), axis.get_xlabel())))
    named: dict[str, str] = {}
    for line in curves:
        y = np.asarray(line.get_ydata(), float)
        y = y[np.isfinite(y)]
        if (name := names.get(_look(line))) is not None and len(y) and name not in named:
            named[name] = f"{name} {format_number(y[0])}" + (f" to {format_number(y[-1])}" if len(y) > 1 else "")
    more = f" and {len(named) - _CURVES} more" if len(named) > _CURVES else ""
    head = ", ".join(filter(None, (title, against)))
    return f"{head}: {'; '.join(list(named.values())[:_CURVES])}{more}." if named else f"{head}."


def _map(axis: Axes, title: str, values: np.ndarray) -> str:
    if not np.isfinite(values).any():
        return f"{title}: a map without values."
    row, column = np.unravel_index(np.nanargmax(np.abs(values)), values.shape)
    places = [_tick(ticks, labels, at) for ticks, labels, at in (
        (axis.get_yticks(), axis.get_yticklabels(), row), (axis.get_xticks(), axis.get_xticklabels(), column))]
    at = f" at {axis.get_ylabel() or 'row'} {places[0]}, {places[1]}"
    return (f"{title}: map from {format_number(np.nanmin(values))} to {format_number(np.nanmax(values))}, "
            f"farthest from zero{at}.")


def _tick(ticks, labels, at: int) -> str:
    """The label of a tick that stands there, else the position."""
    return next((label.get_text() for tick, label in zip(ticks, labels) if round(tick) == at and label.get_text()), str(at))
