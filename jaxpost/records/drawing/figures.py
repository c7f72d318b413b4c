"""Every figure of a bundle: drawn where its ingredients exist, absent with a reason where they do not."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pyarrow as pa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from safetensors.numpy import load_file

from jaxpost.records import storage
from jaxpost.records.drawing import (
    changes,
    curves,
    layers,
    maps,
    pairs,
    policy,
    progress,
    reasoning,
    responses,
    trajectories,
)
from jaxpost.records.drawing.alt import seen
from jaxpost.records.drawing.curves import Drawn, Missing
from jaxpost.records.drawing.style import RC, label_log_axes
from jaxpost.records.tabulating.variants import of_pairs, summarised

# name -> (title, draw): the order of the report.
FIGURES: dict[str, tuple[str, Callable[[pa.Table, dict], Drawn]]] = {
    "learning_curves": ("Learning", policy.learning_curves),
    "reasoning": ("Success by how much reasoning there is", reasoning.reasoning),
    "forgetting": ("Forgetting against learning", policy.forgetting),
    "sparsity_tolerance": ("Update sparsity against tolerance", curves.sparsity_tolerance),
    "against_update_norm": ("At equal distance from the base", curves.against_update_norm),
    "angles": ("Rotation of the principal subspace", curves.angles),
    "jaccard": ("Do seeds change the same weights?", maps.jaccard),
    "masks": ("Where the weights change", maps.masks),
    "spectra": ("Spectra of the update", maps.spectra),
    "coherence_layers": ("Do examples help each other, layer by layer?", layers.coherence_layers),
    "pathway_trajectories": ("Routing and generalisation on one time axis", trajectories.pathway_trajectories),
    "fourier_progress": ("Progress before the test loss", progress.fourier_progress),
    "kernel_progress": ("Lazy or rich?", progress.kernel_progress),
    "changes": ("Every arm against the start", changes.changes_figure),
    "responses": ("Response to a setting", responses.responses),
}
PAIR_FIGURES: dict[str, tuple[str, Callable[[pa.Table, dict], Drawn]]] = {  # of a comparison of checkpoints
    "layer_maps": ("Layer by module", pairs.layer_maps),
    "tolerance": ("Update sparsity against tolerance", pairs.tolerance),
    "angles": ("Rotation of the principal subspace", pairs.angles),
    "stripes": ("Mask stripes", pairs.stripes),
    "spectra": ("Spectra of base and update", pairs.spectra),
    "jaccard": ("Do the runs change the same weights?", maps.jaccard),
}
MOST_ARMS = 20  # that one set of axes can tell apart
MANY_ARMS = ("changes", "responses")  # figures that need not tell every arm apart


@dataclass(frozen=True)
class Rendered:
    """One figure of the report: `reason` says why it is absent, else caption, alternative text and the files exist."""

    name: str
    title: str
    caption: str | None = None
    alt: str | None = None
    reason: str | None = None


def read_arrays(path: Path) -> dict[str, dict]:
    """File stem -> key -> array, of the files that figures draw from, by their names."""
    files = sorted(file for what in ("masks", "spectra", "stripes") for file in (path / "arrays").glob(f"*{what}*.safetensors"))
    return {file.stem: load_file(file) for file in files}


def _save(folder: Path, name: str, drawn: Drawn) -> None:
    """Each canvas draws once; `Figure.savefig` would draw twice. The pdf is last: its canvas leaves its resolution behind."""
    png = functools.partial(FigureCanvasAgg(drawn.figure).print_png, metadata={"Software": None})
    storage.write_atomic(folder / f"{name}.png", png)
    drawn.figure.set_layout_engine("none")  # laid out once, and the same in both files
    pdf = functools.partial(FigureCanvasPdf(drawn.figure).print_pdf, metadata={"CreationDate": None})
    storage.write_atomic(folder / f"{name}.pdf", pdf)


def _source(name: str, drawn: Drawn, bundle_id: str) -> dict:
    """What a figure was drawn from: exact row ids, the filter that finds them, and array files."""
    tables = [rows for rows in drawn.rows if len(rows)]
    filters = [
        {
            "metric": rows["metric"].unique().to_pylist(),
            "role": rows["role"].unique().to_pylist(),
            **{key: rows[key].unique().to_pylist() for key in ("granularity", "side", "k", "params", "split", "dtype")},
        }
        for rows in tables
    ]
    ids = sorted({row_id for rows in tables for row_id in rows["row_id"].to_pylist()})
    return {
        "bundle_id": bundle_id,
        "figure": name,
        "caption": drawn.caption,
        "filter": filters,
        "arrays": [f"arrays/{stem}.safetensors" for stem in drawn.arrays],
        "row_ids": ids,
    }


def write_figures(path: Path, table: pa.Table, bundle_id: str) -> list[Rendered]:
    """Draw what can be drawn into `path/figures` as pdf, png and src.json; a figure that cannot be leaves no file.

    Args:
        path: the bundle; its arrays are read.
        table: measurement rows with estimates.
        bundle_id: goes into every sidecar.
    """
    arrays, folder, rendered = read_arrays(path), path / "figures", []
    table = summarised(table)
    arms = len(table["arm"].unique())
    with matplotlib.rc_context(RC):
        for name, (title, draw) in (PAIR_FIGURES if of_pairs(table) else FIGURES).items():
            try:
                if arms > MOST_ARMS and name not in MANY_ARMS:
                    raise Missing(f"{arms} arms are too many for one set of axes (at most {MOST_ARMS})")
                drawn = draw(table, arrays)
            except Missing as reason:
                for old in folder.glob(f"{name}.*"):
                    old.unlink()
                rendered.append(Rendered(name, title, reason=str(reason)))
                continue
            label_log_axes(drawn.figure)
            _save(folder, name, drawn)
            storage.write_json(folder / f"{name}.src.json", _source(name, drawn, bundle_id))
            rendered.append(Rendered(name, title, caption=drawn.caption, alt=seen(drawn.figure)))
    return rendered
