"""Figures drawn from arrays (update masks, spectra) and from pairs of seeds (Jaccard)."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxpost.records.drawing.curves import Drawn, Missing, measured, replicates, variant_suffix
from jaxpost.records.drawing.style import INK, MUTED, WIDTH, arm_styles, legend_below, panels
from jaxpost.records.rows import select
from jaxpost.records.tabulating.variants import arm_order, last_steps

SHOWN_ARMS = 4
SHOWN_TENSORS = 3
_FIRST = ("rlvr-lr1", "sft-lr1", "permuted", "raft")  # what a grid with room for four shows


def _gathered(arrays: dict[str, dict], what: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of all files named after `what`, and the files read; of files with the same keys (one a base) the
    first is read, so that one figure shows one base."""
    gathered: dict[str, np.ndarray] = {}
    read = []
    for stem in sorted(stem for stem in arrays if what in stem):
        if not gathered.keys() & arrays[stem].keys():
            gathered |= arrays[stem]
            read.append(stem)
    return gathered, read


def _by_tensor(arrays: dict[str, np.ndarray], what: str) -> dict[str, dict[str, np.ndarray]]:
    """tensor -> arm -> array from keys "<arm>/<tensor>" (tensor names may hold slashes, arms may not)."""
    by_tensor: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        arm, slash, tensor = key.partition("/")
        if not slash:
            raise ValueError(f"{what}: key {key!r} is not <arm>/<tensor>")
        by_tensor.setdefault(tensor, {})[arm] = value
    return by_tensor


def _shown_arms(arms: list[str]) -> list[str]:
    ordered = arm_order(arms)
    first = [arm for arm in _FIRST if arm in ordered]
    kept = (first + [arm for arm in ordered if arm not in first])[:SHOWN_ARMS]
    return [arm for arm in ordered if arm in kept]


def masks(table: pa.Table, arrays: dict) -> Drawn:
    """Share of seeds in which an entry changed visibly, as heat maps: tensors x arms."""
    gathered, read = _gathered(arrays, "masks")
    tensors = _by_tensor(gathered, "masks")
    if not tensors:
        raise Missing("no arrays/masks.safetensors")
    arms = _shown_arms(sorted({arm for of in tensors.values() for arm in of}))
    names = [name for name in tensors if any(arm in tensors[name] for arm in arms)][:SHOWN_TENSORS]
    shapes = [next(iter(tensors[name].values())).shape for name in names]
    heights = [rows / columns for rows, columns in shapes]
    figure, axes = panels(
        len(names) * len(arms), len(arms), WIDTH / len(arms) * np.mean(heights) * 0.98 + 0.12, height_ratios=heights
    )
    image = None
    for i, axis in enumerate(axes):
        tensor, arm = names[i // len(arms)], arms[i % len(arms)]
        axis.grid(False)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if i < len(arms):
            axis.set_title(arm)
        if i % len(arms) == 0:
            axis.set_ylabel(tensor, fontsize=6.5)
        if arm not in tensors[tensor]:
            axis.set_axis_off()
            continue
        consensus = tensors[tensor][arm].astype(np.float32)
        image = axis.imshow(consensus, vmin=0, vmax=1, cmap="magma_r", interpolation="antialiased")
        axis.set_xlabel(
            f"{consensus.shape[0]} × {consensus.shape[1]}, {consensus.mean():.0%} changed", fontsize=6.5, color=MUTED
        )
    bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=25, pad=0.015)
    bar.set_label("share of seeds in which the entry changed")
    bar.outline.set_visible(False)
    total = sum(len(of) for of in tensors.values())
    return Drawn(
        figure,
        f"Update masks, agreement over seeds: {len(names)} of {len(tensors)} tensors and {len(arms)} arms "
        f"({total} maps are in the arrays). Stripes are rows or columns that many runs change.",
        [],
        read,
    )


def spectra(table: pa.Table, arrays: dict) -> Drawn:
    """Singular values of the update of every arm, with those of the base and the rounding edge where they are given."""
    curves, read = _gathered(arrays, "spectra")
    edges = {
        key.removeprefix("edge/"): float(np.ravel(value)[0]) for key, value in curves.items() if key.startswith("edge/")
    }
    tensors = _by_tensor({key: value for key, value in curves.items() if not key.startswith("edge/")}, "spectra")
    names = [name for name, of in tensors.items() if set(of) - {"base"}][:SHOWN_TENSORS]
    if not names:
        raise Missing("no arrays/spectra.safetensors with spectra of an arm")
    arms = arm_order([arm for name in names for arm in tensors[name] if arm != "base"])
    styles = {arm: style | {"marker": "", "linewidth": 1.2} for arm, style in arm_styles(arms).items()}
    figure, axes = panels(len(names), 3, 2.7)
    for axis, name in zip(axes, names, strict=True):
        for arm in arms:
            if arm in tensors[name]:
                sigma = np.sort(tensors[name][arm].ravel())[::-1]
                axis.plot(np.arange(1, len(sigma) + 1), np.where(sigma > 0, sigma, np.nan), **styles[arm])
            if f"{arm}/{name}" in edges:
                axis.axhline(edges[f"{arm}/{name}"], color=styles[arm]["color"], linewidth=0.8, linestyle=(0, (1, 2)))
        if "base" in tensors[name]:
            sigma = np.sort(tensors[name]["base"].ravel())[::-1]
            axis.plot(np.arange(1, len(sigma) + 1), np.where(sigma > 0, sigma, np.nan), color=INK, linewidth=0.9)
        axis.set(xscale="log", yscale="log", xlabel="index", title=name)
    axes[0].set_ylabel("singular value")
    extra = (
        [("base weights", {"color": INK, "linewidth": 0.9})] if any("base" in tensors[name] for name in names) else []
    )
    extra += [("rounding edge", {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (1, 2))})] if edges else []
    legend_below(figure, styles, extra)
    edge = (
        " Dotted: the edge below which singular values are those of rounding noise, in the colour of its arm where arms differ."
        if edges
        else ""
    )
    return Drawn(
        figure,
        f"Singular values of the update of every arm, {len(names)} of {len(tensors)} tensors.{edge}",
        [],
        read,
    )


_FURTHER_MARKERS = ("x", "|", "+")


def jaccard(table: pa.Table, arrays: dict) -> Drawn:
    """Observed agreement of the update masks of two seeds (or runs) beside what blind updates of the same size would show."""
    rows = last_steps(measured(table, "weight.jaccard"))
    nulls = select(table, metric="weight.jaccard", role="null")
    nulls = nulls.filter(pc.and_(pc.is_in(nulls["of"], rows["row_id"].combine_chunks()), pc.is_valid(nulls["value"])))
    further: dict[str, list[dict]] = {}
    for row in nulls.to_pylist():
        further.setdefault(row["null_kind"], []).append(row)
    observed = {row["arm"]: row for row in rows.to_pylist()}
    replicate = "runs" if {row["unit"] for row in observed.values()} == {"run"} else "seeds"
    arms = arm_order(list(observed))[::-1]
    height = {arm: i for i, arm in enumerate(arms)}
    styles = arm_styles(arms)
    figure, (axis,) = panels(1, 1, 0.9 + 0.24 * len(arms))
    arm_of = {row["row_id"]: row["arm"] for row in observed.values()}
    for arm, row in observed.items():
        ends = (row["ci_lo"], row["ci_hi"])
        if None not in ends:
            axis.plot(
                ends, [height[arm]] * 2, color=styles[arm]["color"], linewidth=2.2, alpha=0.6, solid_capstyle="butt"
            )
        if row["null_value"] is not None:
            axis.plot([row["null_value"], row["value"]], [height[arm]] * 2, color=MUTED, linewidth=0.7, zorder=1)
            axis.plot(row["null_value"], height[arm], "D", mfc="white", mec=INK, markersize=4.5)
        axis.plot(row["value"], height[arm], "o", color=styles[arm]["color"], markersize=5.5, zorder=4)
    for (_, group), marker in zip(sorted(further.items()), itertools.cycle(_FURTHER_MARKERS), strict=False):
        axis.plot(
            [row["value"] for row in group],
            [height[arm_of[row["of"]]] for row in group],
            marker,
            color=MUTED,
            markersize=5,
            linestyle="none",
        )
    axis.set(yticks=range(len(arms)), yticklabels=arms, xlabel=f"Jaccard index of the update masks of two {replicate}")
    axis.set_xlim(0, None)
    axis.grid(axis="y", visible=False)
    primary = next((row["null_kind"] for row in observed.values() if row["null_kind"]), None)
    extra = [(f"null: {primary}", {"marker": "D", "mfc": "white", "mec": INK, "linestyle": "none"})] if primary else []
    extra += [
        (f"null: {kind}", {"marker": marker, "color": MUTED, "linestyle": "none"})
        for kind, marker in zip(sorted(further), itertools.cycle(_FURTHER_MARKERS), strict=False)
    ]
    legend_below(figure, {"observed": {"marker": "o", "color": INK, "linestyle": "none"}}, extra)
    return Drawn(
        figure,
        f"Agreement of update masks across {replicate} at the last step{variant_suffix(rows)}, {replicates(rows)}. Open "
        "diamonds: the primary null, what two blind updates of these sizes would share.",
        [rows, nulls],
    )
