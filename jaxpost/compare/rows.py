"""From what was measured of every pair to measurement rows: the probes' own rows, of one pair instead of one seed.

Role "estimate", unit "pair", n_units 1, no interval: nothing was replicated. Rows over several tuned checkpoints have the
unit "run".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxpost import probes, records
from jaxpost.compare import spectra
from jaxpost.compare.pairing import Pair
from jaxpost.probes.rows.inventory import TensorInfo, shape_groups
from jaxpost.probes.updates import consensus, tails
from jaxpost.probes.weights import cross_seed
from jaxpost.probes.weights.metrics import metrics_of
from jaxpost.probes.weights.panel import Panel
from jaxpost.probes.weights.rows import finalize


def infos_of(pairs: Sequence[Pair]) -> list[TensorInfo]:
    """The inventory as probes take it."""
    return [TensorInfo(pair.name, pair.kind, pair.layer, pair.shape) for pair in pairs]


def ids(columns: Mapping) -> list[str]:
    """Row identities of the rows as `of_a_pair` will have made them."""
    return records.row_ids(of_a_pair(columns))


def of_a_pair(columns: Mapping) -> dict[str, np.ndarray]:
    """Rows of one seed as rows of one pair."""
    role = np.asarray(columns["role"], object)
    out = dict(columns) | {"role": np.where(role == "seed", "estimate", role), "seed": np.full(len(role), None, object)}
    if "n_units" in out:
        out |= {"unit": np.full(len(role), "pair", object), "n_units": np.ones(len(role), np.int64)}
    return out


def _tree(record: Mapping, prefix: str) -> dict:
    """Nested arrays under a prefix of a record."""
    out: dict = {}
    for key, x in record["arrays"].items():
        if key.startswith(prefix + "/"):
            *path, last = key[len(prefix) + 1:].split("/")
            place = out
            for word in path:
                place = place.setdefault(word, {})
            place[last] = x
    return out


def _stack(trees: Sequence[Mapping]) -> dict:
    return {key: _stack([tree[key] for tree in trees]) if isinstance(trees[0][key], Mapping)
            else np.stack([tree[key] for tree in trees]) for key in trees[0]}


def panel_rows(panel: Panel, pairs: Sequence[Pair], measured: Mapping[str, Mapping], where: str, constant: Mapping) -> dict:
    """Rows of the weight panel from the records of pairs (`where` is their key: "<label>/element" or "<label>/panel")."""
    infos = infos_of(pairs)
    by_name = sorted(pair.name for pair in pairs)
    vals = {key: x[None] for key, x in _stack([_tree(measured[name], f"{where}/vals") for name in by_name]).items()}
    refs = {}
    for group, names in shape_groups({info.name: info.shape for info in infos}).items():
        refs[group] = _stack([_tree(measured[name], f"{where}/refs") for name in names]) | {"w0": np.zeros(len(names))}
    return of_a_pair(finalize(panel, infos, refs, vals, seeds=[0], row_ids=ids, **constant))


def probe_rows(probe: probes.Probe, pairs: Sequence[Pair], measured: Mapping[str, Mapping], label: str,
               constant: Mapping) -> dict:
    """Rows of another probe of whole matrices."""
    where = f"{label}/probe/{probe.id}"
    values = {pair.name: _tree(measured[pair.name], f"{where}/values") for pair in pairs}
    state = {pair.name: _tree(measured[pair.name], f"{where}/state") for pair in pairs}
    return of_a_pair(probe.finalize(values, state, infos=infos_of(pairs), seeds=[0], row_ids=ids, **constant))


def tail_rows(pairs: Sequence[Pair], measured: Mapping[str, Mapping], label: str, constant: Mapping) -> dict:
    """Rows of `tails.SpectrumTails` from the spectra that were read; its null is drawn by `spectra.gaussian`.

    Without the bootstrap, which of large matrices would take longer than all else.
    """
    probe, values, state = tails.SpectrumTails(bootstrap=0), {}, {}
    for pair in pairs:
        kept = _tree(measured[pair.name], f"{label}/kept")
        values[pair.name] = {"spectrum": np.stack([kept["tuned"], kept["spectrum"]])[None], "n_nonfinite": np.zeros(1)}
        shape = max(pair.shape), min(pair.shape)
        if (group := f"{shape[0]}x{shape[1]}") not in state:
            drawn = spectra.gaussian(shape, probe.draws)
            state[group] = {"gaussian": np.stack([tails.fits(s_Q, shape)[0] for s_Q in drawn])}
    return of_a_pair(probe.finalize(values, state, infos=infos_of(pairs), seeds=[0], row_ids=ids, **constant))


def probe_arrays(probe: probes.Probe, pairs: Sequence[Pair], measured: Mapping[str, Mapping], label: str) -> dict:
    """What a probe keeps, without the axis over runs."""
    values = {pair.name: _tree(measured[pair.name], f"{label}/probe/{probe.id}/values") for pair in pairs}
    return {key: np.asarray(x)[0] for key, x in probe.arrays(values).items()} if hasattr(probe, "arrays") else {}


def run_rows(pairs: Sequence[Pair], measured: Mapping[str, Mapping], labels: Sequence[str], base: str) -> list[dict]:
    """Jaccard and consensus over several tuned checkpoints, each against its magnitude-conditioned null."""
    infos, arm = infos_of(pairs), " + ".join(labels)
    overlaps = {pair.name: {key: x if x.ndim else float(x) for key, x in _tree(measured[pair.name], "jaccard").items()}
                for pair in pairs}
    parts = [cross_seed.finalize_jaccard(infos, overlaps, arm=arm, step=None, conditional_on=base, row_ids=_run_ids)]
    where = f"probe/{consensus.Consensus().id}"
    if all(f"{label}/{where}/values/mask" in measured[pairs[0].name]["arrays"] for label in labels):
        series = {}
        for pair in pairs:
            trees = [_tree(measured[pair.name], f"{label}/{where}/values") for label in labels]
            series |= {f"{key}/{pair.name}": np.concatenate([tree[key] for tree in trees]) for key in trees[0]}
        parts.append(consensus.Consensus().across({0: series}, infos=infos, arm=arm, seeds=list(range(len(labels))),
                                                  conditional_on=base, row_ids=_run_ids) | {})
        parts[-1]["step"] = np.full(len(parts[-1]["step"]), None, object)
    return [part | {"unit": np.full(len(part["metric"]), "run", object)} for part in parts]


def _run_ids(columns: Mapping) -> list[str]:
    return records.row_ids(dict(columns) | {"step": np.full(len(columns["metric"]), None, object)})


def keep(columns: Mapping, wanted: Callable[[str], bool]) -> dict:
    """The rows whose metric is wanted."""
    mask = np.asarray([wanted(metric) for metric in columns["metric"]], bool)
    return {name: np.asarray(x)[mask] for name, x in columns.items()}


def annotate(columns: Mapping, reason: str, where: Callable[[Mapping], np.ndarray]) -> dict:
    """Add a reason to some rows, beside what is there."""
    reasons, hit = np.asarray(columns["status_reason"], object).copy(), where(columns)
    reasons[hit] = [f"{old}; {reason}" if old else reason for old in reasons[hit]]
    return dict(columns) | {"status_reason": reasons}


def absent_rows(names: Sequence[str], skipped: Mapping[str, str], pairs: Sequence[Pair], constant: Mapping) -> dict:
    """One row a metric of every matrix that was too large, too small or broken for it, with the reason."""
    rows = [(pair, name) for pair in pairs if pair.name in skipped for name in names]
    fixed = {"role": "estimate", "granularity": "tensor", "status": "absent", "unit": "pair", "n_units": 1} | dict(constant)
    return {"metric": [name for _, name in rows], "tensor": [pair.name for pair, _ in rows],
            "module_kind": [pair.kind for pair, _ in rows], "layer": [pair.layer for pair, _ in rows],
            "status_reason": [skipped[pair.name] for pair, _ in rows]} | {key: [x] * len(rows) for key, x in fixed.items()}


def _without(parts: list[dict], names: Sequence[str], skipped: Mapping[str, str], pairs: Sequence[Pair], of: int,
             constant: Mapping) -> list[dict]:
    """Row sets that say which matrices they lack, and one row a metric of each of those."""
    parts = [part for part in parts if len(part["metric"])]
    if not skipped:
        return parts
    note = f"{of - len(skipped)} of {of} matrices: {', '.join(list(skipped)[:3])} left out"
    parts = [annotate(part, note, lambda c: np.isin(np.asarray(c["granularity"], str), ("body", "global"))) for part in parts]
    return [*parts, absent_rows(names, skipped, pairs, constant)]


def _elementwise(panel: Panel) -> Panel:
    return Panel(ks=panel.ks, alphas=panel.alphas, null_draws=panel.null_draws, spectra="none")


def rows_of(panel: Panel, others: Sequence[probes.Probe], pairs: Sequence[Pair], measured: Mapping[str, Mapping], label: str,
            base: str, notes: Sequence[str]) -> list[dict]:
    """All rows of one tuned checkpoint: element-wise rows of every pair, spectral rows of those that were read whole."""
    constant = {"arm": label, "step": None, "conditional_on": base}
    compared = [pair for pair in pairs if measured[pair.name]["reason"] is None]
    element = _elementwise(panel)
    parts = [panel_rows(element, compared, measured, f"{label}/element", constant)] if compared else []
    cheap = set(metrics_of(element))
    skipped = {pair.name: why for pair in compared if (why := measured[pair.name]["skipped"])}
    beside = skipped | {pair.name: why for pair in compared if (why := measured[pair.name]["beside"])}
    read, whole = ([pair for pair in compared if pair.name not in left] for left in (skipped, beside))
    if panel.subspaces and read:
        spectral = [keep(panel_rows(panel, read, measured, f"{label}/panel", constant), lambda name: name not in cheap)]
        spectral += [tail_rows(read, measured, label, constant)] if panel.reads("exact") else []
        names = [name for name in metrics_of(panel) if name not in cheap]
        parts += _without(spectral, names, skipped, pairs, len(compared), constant)
        more = [probe_rows(probe, whole, measured, label, constant) for probe in others] if whole else []
        parts += _without(more, [name for probe in others for name in probe.metrics], beside, pairs, len(compared), constant)
    for name in notes:
        parts = [annotate(part, "the base was rounded to bf16 first", lambda c, name=name: np.asarray(c["tensor"]) == name)
                 for part in parts]
    return parts


def tensor_columns(pairs: Sequence[Pair], measured: Mapping[str, Mapping], labels: Sequence[str], unpaired: Mapping[str, str]):
    """Columns of tensors.parquet: every parameter of every side, with its digest and why it was not compared."""
    rows = []
    for pair in pairs:
        record = measured[pair.name]
        for side in ("base", *labels):
            facts = record[side]
            rows.append((side, pair.name, pair.kind, pair.layer, "x".join(map(str, pair.shape)), facts["dtype"],
                         int(np.prod(pair.shape)), f"{record['digest']}:{facts['digest']}", facts["nonfinite"],
                         facts["max_abs"], facts["rms"], record["reason"] is None, record["reason"]))
    for name, why in unpaired.items():
        rows.append(("unpaired", name, None, None, None, None, None, None, None, None, None, False, why))
    names = ("checkpoint", "tensor", "module_kind", "layer", "shape", "dtype", "n_elements", "sha256", "n_nonfinite", "max_abs",
             "rms", "compared", "reason")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}
