"""Figures of a comparison of checkpoints: matrices by layer and module, one pair and no interval.

Legend: L layers, K angles.
"""

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxpost.records.drawing.curves import Drawn, Missing, band
from jaxpost.records.drawing.style import ABSENT, INK, MUTED, arm_styles, legend_below, panels
from jaxpost.records.rows import parse_params, select
from jaxpost.records.tabulating.bands import excess, pooled, unresolved
from jaxpost.records.tabulating.variants import parts, tuned, variant, variant_label

MODULES = ("q", "k", "v", "o", "gate", "up", "down", "router")
SHOWN_RUNS = 2  # whose maps one figure has room for
MAPS = (  # title, metric, variant, whether colour is the distance from the null in its band (else the value, in percent)
    ("update sparsity", "weight.sparsity.bf16", {"dtype": "bf16"}, True),
    ("relative update norm", "weight.relative_norm", {"dtype": "bf16"}, False),
    ("low-magnitude overlap", "weight.overlap.low_magnitude", {"dtype": "bf16"}, True),
    ("principal overlap", "weight.overlap.principal", {"dtype": "bf16"}, True),
    ("rotation, left", "weight.rotation.mean_sin2", {"dtype": "bf16", "side": "left"}, True),
    ("excess row stripes", "weight.stripes.excess", {"dtype": "bf16", "side": "left"}, True),
)
_FARTHEST = 6  # doublings of the half width at which colour ends


def _tensors(table: pa.Table, metric: str, **wanted: object) -> pa.Table:
    """`variants.parts` of single matrices; Missing where there are none."""
    rows = parts(table, metric, **wanted)
    if not len(rows):
        raise Missing(f"no rows of {metric} of single matrices")
    return rows


def layer_maps(table: pa.Table, arrays: dict) -> Drawn:
    """Layer x module heat maps. What has a null is coloured by how far outside its band it lies: noise is white."""
    del arrays
    drawn = [(title, rows, banded) for title, metric, wanted, banded in MAPS if len(rows := parts(table, metric, **wanted))]
    arms = tuned(table)[:SHOWN_RUNS]
    grids = [(title if len(arms) == 1 else f"{title}\n{arm}", *_grid(select(rows, arm=arm), banded), banded)
             for title, rows, banded in drawn for arm in arms]
    grids = [grid for grid in grids if grid[1] is not None]
    if not grids:
        raise Missing("no matrix belongs to a layer")
    layers = max(len(grid[2]) for grid in grids)
    figure, axes = panels(len(grids), 3, min(1.5 + 0.09 * layers, 4.2))
    for axis, (title, values, rows_of, columns, banded) in zip(axes, grids, strict=True):
        _map(axis, figure, title, values, rows_of, columns, banded)
    axes[0].set_ylabel("layer")
    more = f" Shown: {', '.join(arms)}; the others are in the rows." if len(tuned(table)) > len(arms) else ""
    variants = "; ".join(f"{title} ({variant_label(rows.slice(0, 1).to_pylist()[0])})" for title, rows, _ in drawn)
    return Drawn(figure, "Every matrix by layer and module (mean over the experts of a layer), one pair, no interval. Colour "
                 "is the distance from the null in half widths of its 95 % band, a step for every doubling: white lies inside "
                 "the band, red above, blue below. The relative update norm is shown as it is. Grey is absent, or below the "
                 f"rounding floor. Variants shown: {variants}.{more}", [rows for _, rows, _ in drawn])


def _grid(rows: pa.Table, banded: bool) -> tuple:
    """(values [L, modules], layers, modules), None where no row has a layer."""
    points: dict[tuple, list[dict]] = {}
    for row in rows.to_pylist():
        if row["layer"] is not None and row["module_kind"] in MODULES:
            points.setdefault((row["layer"], row["module_kind"]), []).append(row)
    if not points:
        return None, [], []
    layers = sorted({layer for layer, _ in points})
    modules = [module for module in MODULES if any(kind == module for _, kind in points)]
    values = np.full((len(layers), len(modules)), np.nan)
    for (layer, module), several in points.items():
        if not all(map(unresolved, several)):
            values[layers.index(layer), modules.index(module)] = (
                doublings(excess(pooled(several))) if banded else 100 * pooled(several)["value"])
    return (None, [], []) if np.isnan(values).all() else (values, layers, modules)


def doublings(half_widths: float) -> float:
    """How often the half width of a band doubles before it reaches a value; 0 inside the band, the sign of the side.

    >>> doublings(0.7), doublings(-4.0)
    (0.0, -2.0)
    """
    return float(np.sign(half_widths) * np.clip(np.log2(max(abs(half_widths), 1)), 0, _FARTHEST)) + 0.0


def _map(axis: Axes, figure, title, values, layers, modules, banded) -> None:
    largest = max(np.nanmax(np.abs(values)), 2 if banded else 1e-12)
    style = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest} if banded else {"cmap": "viridis", "vmin": 0, "vmax": largest}
    image = axis.imshow(values, aspect="auto", interpolation="nearest", **style)
    axis.set_facecolor(ABSENT)
    axis.grid(False)
    step = max(1, len(layers) // 8)
    axis.set(xticks=range(len(modules)), xticklabels=modules, yticks=range(0, len(layers), step),
             yticklabels=layers[::step], title=title)
    axis.title.set_fontsize(7.5)
    axis.tick_params(axis="x", rotation=45)
    bar = figure.colorbar(image, ax=axis, shrink=0.85, aspect=22, pad=0.02)
    if banded:
        ticks = [n for n in range(-_FARTHEST, _FARTHEST + 1) if abs(n) <= largest and (largest <= 3 or n % 2 == 0)]
        bar.set_ticks(ticks, labels=["band" if n == 0 else f"{'−' if n < 0 else ''}{2 ** abs(n)}" for n in ticks])
    bar.set_label("half widths of the band" if banded else "%", fontsize=7)
    bar.outline.set_visible(False)


def tolerance(table: pa.Table, arrays: dict) -> Drawn:
    """Sparsity against tolerance with the band of blind updates, and bf16 equality beside it."""
    rows = select(table, metric="weight.sparsity.abs", role="estimate", granularity="global", unit="pair")
    points = [(row, parse_params(row["params"])) for row in rows.to_pylist() if row["value"] is not None]
    points = [(row, float(params["tol"])) for row, params in points if "weighting" not in params]
    if not points:
        raise Missing("no rows of weight.sparsity.abs")
    arms = tuned(table)
    styles = arm_styles(arms)
    equal = variant(table, "weight.sparsity.bf16", granularity="global")
    figure, axes = panels(len(arms), 3, 2.6, sharey=True)
    for axis, arm in zip(axes, arms, strict=True):
        mine = sorted(((tol, row) for row, tol in points if row["arm"] == arm), key=lambda point: point[0])
        x = np.asarray([tol for tol, _ in mine])
        value, lo, hi = (np.asarray([row[key] for _, row in mine], float) for key in ("value", "null_lo", "null_hi"))
        band(axis, x, lo, hi, MUTED, 0.25)
        axis.plot(x, value, **styles[arm])
        for row in select(equal, arm=arm).to_pylist():
            axis.axhline(row["value"], color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        axis.set(xscale="log", ylim=(-0.02, 1.02), xlabel="absolute tolerance", title=arm)
    axes[0].set_ylabel("share of entries unchanged")
    legend_below(figure, styles, [("blind updates of equal norm", {"color": MUTED, "alpha": 0.35, "linewidth": 6}),
                                  ("equal in bf16", {"color": INK, "linewidth": 0.9, "linestyle": (0, (4, 2))})])
    return Drawn(figure, "Share of all compared entries that changed by at most a tolerance, one pair, no interval. Grey: "
                 "range of Gaussian, Laplace and t3 updates of equal norm. Dashed: entries equal as bf16 values.",
                 [rows, equal])


def _middle(names: list[str], module: str) -> str | None:
    """The matrix of a module in the middle layer among names layers/<i>/<module>."""
    layers = sorted((int(name.split("/")[1]), name) for name in names
                    if name.startswith("layers/") and name.count("/") == 2 and name.endswith(f"/{module}"))
    return layers[len(layers) // 2][1] if layers else None


def _files(arrays: dict, what: str, arms: list[str]) -> dict[str, dict]:
    return {arm: arrays[f"{what}-{arm}"] for arm in arms if f"{what}-{arm}" in arrays}


def angles(table: pa.Table, arrays: dict) -> Drawn:
    """Largest angle by layer with floor and null, and the whole curve of angles of one matrix."""
    arms = tuned(table)
    rows = _tensors(table, "weight.rotation.max_angle", dtype="bf16", side="left")
    files = _files(arrays, "spectra", arms)
    styles = arm_styles(arms)
    figure, (by_layer, curve) = panels(2, 2, 2.9)
    for arm in arms:
        points = sorted(((row["layer"], row) for row in select(rows, arm=arm, module_kind="o").to_pylist()
                         if row["layer"] is not None), key=lambda point: point[0])
        x = [layer for layer, _ in points]
        for key, style in (("value", styles[arm]), ("null_value", {"color": styles[arm]["color"], "linestyle": ":"})):
            by_layer.plot(x, np.degrees(np.asarray([row[key] for _, row in points], float)), **style)
        floor = np.degrees(np.asarray([row["noise_floor"] for _, row in points], float))
        by_layer.fill_between(x, 0, floor, color=MUTED, alpha=0.15, linewidth=0)
    read = []
    for arm, own in files.items():
        name = _middle([key.removeprefix("angles/") for key in own if key.startswith("angles/")], "o")
        if name is not None:
            left_K = np.degrees(np.sort(own[f"angles/{name}"][0]))
            curve.plot(np.arange(1, len(left_K) + 1), left_K, **styles[arm] | {"marker": ""})
            curve.set_title(name)
            read.append(f"spectra-{arm}")
    by_layer.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_layer.set(xlabel="layer", ylabel="largest angle (degrees)", title="output projection", yscale="log")
    curve.set(xlabel="index", ylabel="principal angle (degrees)", yscale="log")
    legend_below(figure, styles, [("a blind update", {"color": MUTED, "linestyle": ":"}),
                                  ("rounding floor", {"color": MUTED, "alpha": 0.3, "linewidth": 6})])
    return Drawn(figure, "Rotation of the leading left singular subspaces "
                 f"({variant_label(rows.slice(0, 1).to_pylist()[0])}), one pair, no interval: the largest angle of every "
                 "output projection, and all angles of the one in the middle layer. An angle below the floor is what storing "
                 "the base in bf16 could make.", [rows], read)


def stripes(table: pa.Table, arrays: dict) -> Drawn:
    """Row and column ratios of the visible mask in the middle layer, with the band of a blind update."""
    arms = tuned(table)
    files = _files(arrays, "stripes", arms)
    if not files:
        raise Missing("no arrays/stripes-*.safetensors (level element reads no stripes)")
    arm, own = next(iter(files.items()))
    tensors = sorted({key.partition("/")[2] for key in own})
    drawn = [(name, axis) for module, axis in (("q", "col"), ("o", "row"), ("down", "row"))
             if (name := _middle(tensors, module)) is not None]
    if not drawn:
        raise Missing("no matrix of a layer has stripes")
    figure, axes = panels(len(drawn), 3, 2.5)
    for axis, (name, side) in zip(axes, drawn, strict=True):
        ratio, (mean, variance) = own[f"{side}_ratio/{name}"], own[f"blind_{side}/{name}"][0]  # of the primary law
        order = np.argsort(mean)
        half = 1.959964 * np.sqrt(variance)
        x = np.arange(len(ratio))
        axis.fill_between(x, (mean - half)[order], (mean + half)[order], color=MUTED, alpha=0.35, linewidth=0)
        axis.plot(x, ratio[order], ".", color=arm_styles(arms)[arm]["color"], markersize=1.6)
        axis.set(title=name, xlabel="outputs (sorted by the null)" if side == "col" else "inputs (sorted by the null)",
                 ylim=(0, None))
    axes[0].set_ylabel("share of entries changed")
    return Drawn(figure, f"Mask stripes of {arm}, middle layer: the share of visibly changed entries of every output of q and "
                 "every input of o and down. Grey: 95 % band of a blind update of these magnitudes; points outside it are "
                 "stripes beyond what small weights explain.", [], [f"stripes-{arm}"])


def spectra(table: pa.Table, arrays: dict) -> Drawn:
    """Singular values of base and update in the middle layer with the rounding edge."""
    arms = tuned(table)
    files = _files(arrays, "spectra", arms)
    if not files:
        raise Missing("no arrays/spectra-*.safetensors (level element reads no spectra)")
    styles = {arm: style | {"marker": "", "linewidth": 1.2} for arm, style in arm_styles(arms).items()}
    names = [key.removeprefix("base/") for key in next(iter(files.values())) if key.startswith("base/")]
    drawn = [name for module in ("q", "o", "down") if (name := _middle(names, module)) is not None]
    if not drawn:
        raise Missing("no matrix of a layer has spectra")
    figure, axes = panels(len(drawn), 3, 2.7)
    for axis, name in zip(axes, drawn, strict=True):
        for arm, own in files.items():
            s = own[f"spectrum/{name}"]
            axis.plot(np.arange(1, len(s) + 1), np.where(s > 0, s, np.nan), **styles[arm])
            axis.axhline(own[f"edge/{name}"][1], color=styles[arm]["color"], linewidth=0.8, linestyle=(0, (1, 2)))
        s = next(iter(files.values()))[f"base/{name}"]
        axis.plot(np.arange(1, len(s) + 1), np.where(s > 0, s, np.nan), color=INK, linewidth=0.9)
        axis.set(xscale="log", yscale="log", xlabel="index", title=name)
    axes[0].set_ylabel("singular value")
    legend_below(figure, styles, [("base weights", {"color": INK, "linewidth": 0.9}),
                                  ("rounding edge", {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (1, 2))})])
    return Drawn(figure, "Singular values of base and update, middle layer. Dotted: below this, singular values of the update "
                 "are those of rounding both ends to bf16.", [], [f"spectra-{arm}" for arm in files])
