"""Rows of single seeds become estimates: the mean over seeds with a t interval, null and floor carried along.

G groups (keys without the seed), N replicates in a group. The replicate is what was randomised: tensors and layers are
never averaged here, so nothing but seeds (or bases) can enter an interval.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxpost import stats
from jaxpost.records.rows import measurement_table, row_ids, select
from jaxpost.records.schema import KEY_COLUMNS, MEASUREMENTS, STATUSES

GROUP_COLUMNS = tuple(name for name in KEY_COLUMNS if name not in ("role", "seed", "of"))
AVERAGED = ("null_value", "null_lo", "null_hi", "noise_floor", "num_err")
USABLE = ("ok", "unresolved")  # a value below its floor still counts: leaving out small ones would be a selection


def _codes(table: pa.Table, columns: tuple[str, ...]) -> np.ndarray:
    """One integer per row, equal where all `columns` are equal (null equals null). [N rows] -> int64 [N rows]."""
    codes = np.zeros(len(table), np.int64)
    for name in columns:
        column = table[name].combine_chunks().dictionary_encode(null_encoding="encode")
        codes = codes * len(column.dictionary) + column.indices.to_numpy()
        codes = np.unique(codes, return_inverse=True)[1]
    return codes


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)  # null -> NaN


def _group_means(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Mean of the finite values of each group; NaN where there is none."""
    finite = np.isfinite(values)
    counts = np.bincount(group[finite], minlength=n_groups)
    sums = np.bincount(group[finite], weights=values[finite], minlength=n_groups)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _intervals(values: np.ndarray, group: np.ndarray, n_groups: int, level: float) -> dict[str, np.ndarray]:
    """Mean, t interval and count of each group; the interval is NaN where a group has fewer than two values."""
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group, minlength=n_groups)
    starts = np.cumsum(counts) - counts
    columns = {name: np.full(n_groups, np.nan) for name in ("value", "ci_lo", "ci_hi")}
    for n in np.unique(counts[counts > 0]):
        which = np.flatnonzero(counts == n)
        values_GxN = values[order][starts[which][:, None] + np.arange(n)[None, :]]
        columns["value"][which], columns["ci_lo"][which], columns["ci_hi"][which] = stats.t_interval(values_GxN, level)
    return columns | {"n_units": counts}


def _reason(statuses: Counter, unit: str) -> str:
    total, used = sum(statuses.values()), sum(statuses[name] for name in USABLE)
    odd = ", ".join(f"{statuses[name]} {name}" for name in STATUSES[1:] if statuses[name])
    return f"mean over {used} of {total} {unit}s: {odd}" if used else f"no {unit} has a value: {odd}"


def _joined(table: pa.Table, name: str, group: np.ndarray, n_groups: int) -> np.ndarray:
    """The distinct texts of a column in each group, joined by "; " in alphabetical order; None where there is none."""
    coded = table[name].combine_chunks().dictionary_encode()
    known = sorted(coded.dictionary.to_pylist())
    rank = np.array([known.index(text) for text in coded.dictionary.to_pylist()] + [-1])
    code = rank[coded.indices.fill_null(-1).to_numpy()]  # index -1 is the last entry: no text
    pairs = np.unique(group[code >= 0] * max(len(known), 1) + code[code >= 0])
    texts = np.full(n_groups, None, object)
    for pair in pairs.tolist():
        g, text = pair // len(known), known[pair % len(known)]
        texts[g] = text if texts[g] is None else f"{texts[g]}; {text}"
    return texts


def _statuses(table: pa.Table, group: np.ndarray, n_units: np.ndarray, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Status and reason of each group: ok where every replicate is; else unresolved, or the commonest when none counts.

    What the replicates say themselves follows in the reason.
    """
    n_groups = len(n_units)
    code = pc.index_in(table["status"], pa.array(STATUSES)).to_numpy()
    tally_GxS = np.bincount(group * len(STATUSES) + code, minlength=n_groups * len(STATUSES)).reshape(n_groups, -1)
    status = np.full(n_groups, "ok", object)
    reason = np.where(n_units == 1, f"one {unit}: no interval", None).astype(object)
    for g in np.flatnonzero(tally_GxS[:, 1:].sum(axis=1)):
        tally = Counter(dict(zip(STATUSES, tally_GxS[g].tolist(), strict=True)))
        status[g] = "unresolved" if n_units[g] else max(STATUSES[1:], key=lambda name: tally[name])
        reason[g] = _reason(tally, unit)
    reasons = _joined(table, "status_reason", group, n_groups)
    for g in np.flatnonzero([text is not None for text in reasons]):
        reason[g] = f"{reason[g]}; {reasons[g]}" if reason[g] else reasons[g]
    return status, reason


def _aggregate(table: pa.Table, group: np.ndarray, keys: tuple[str, ...], unit: str, level: float) -> dict:
    """Columns of one row per group: keys, mean, interval, averaged nulls and floors, status."""
    n_groups = int(group.max()) + 1
    first = np.full(n_groups, len(table))
    np.minimum.at(first, group, np.arange(len(table)))
    value = _floats(table, "value")
    usable = pc.is_in(table["status"], pa.array(USABLE)).to_numpy() & np.isfinite(value)
    columns = {name: table[name].take(pa.array(first)) for name in keys}
    columns |= _intervals(value[usable], group[usable], n_groups, level)
    for name in AVERAGED:
        columns[name] = _group_means(np.where(usable, _floats(table, name), np.nan), group, n_groups)
    columns["status"], columns["status_reason"] = _statuses(table, group, columns["n_units"], unit)
    columns["null_kind"] = _joined(table, "null_kind", group, n_groups)
    return columns | {"unit": np.full(n_groups, unit, object)}


def _estimates(parents: pa.Table, nulls: pa.Table, keys: tuple[str, ...], unit: str, level: float) -> list[pa.Table]:
    """Estimates over everything but `keys`; nulls that belong to a parent become nulls of its estimate, by kind."""
    if not len(parents):
        return []
    group = _codes(parents, keys)
    columns = _aggregate(parents, group, keys, unit, level) | {"role": "estimate"}
    tables = [measurement_table(columns)]
    parent = pc.index_in(nulls["of"], parents["row_id"].combine_chunks())
    nulls, parent = nulls.filter(pc.is_valid(parent)), parent.drop_null()
    if len(nulls):
        of = pa.array(row_ids(columns)).take(pa.array(group[parent.to_numpy()]))
        nulls = nulls.set_column(nulls.schema.get_field_index("of"), "of", of)
        keys = (*keys, "of", "null_kind")
        tables.append(measurement_table(_aggregate(nulls, _codes(nulls, keys), keys, unit, level) | {"role": "null"}))
    return tables


def summarise(table: pa.Table, *, level: float = 0.95, hierarchical: bool = False) -> pa.Table:
    """Estimates over seeds from every row of role "seed".

    One row of role "estimate" per key without the seed: value and interval are the mean and `stats.t_interval` over the
    replicates whose status is ok or unresolved; `n_units` counts them; null_value, null_lo, null_hi, noise_floor and
    num_err are means over the same replicates (the band stays that of one run).

    The status is ok where every replicate is ok, unresolved where some are not (the reason counts them and repeats
    theirs), and the commonest of theirs, without a value, where none has one. One replicate gives its value without
    interval, and says so. Kinds of null that differ between replicates are all named. Rows of role "null" that belong
    to seed rows are averaged the same way and belong to the estimate.

    Args:
        table: measurement rows [N] without earlier results of this function. 600,000 rows take seconds.
        level: coverage of the interval.
        hierarchical: add, where several bases (`conditional_on`) have an estimate (made here or by a probe), a row over
            bases: t over base means, `unit="base"`, `conditional_on` null.

    Returns:
        The new rows in canonical order.
    """
    parts = _estimates(select(table, role="seed"), select(table, role="null"), GROUP_COLUMNS, "seed", level)
    if hierarchical:
        parts += _over_bases(pa.concat_tables([select(table, role=["estimate", "null"]), *parts]), level)
    return measurement_table(pa.concat_tables(parts or [MEASUREMENTS.empty_table()]))


def _over_bases(table: pa.Table, level: float) -> list[pa.Table]:
    """Estimates over the bases of every statistic that more than one base has."""
    keys = tuple(name for name in GROUP_COLUMNS if name != "conditional_on")
    estimates = select(table, role="estimate")
    estimates = estimates.filter(pc.is_valid(estimates["conditional_on"]))
    group = _codes(estimates, keys)
    several = pa.array(np.bincount(group)[group] > 1, pa.bool_()) if len(group) else pa.array([], pa.bool_())
    return _estimates(estimates.filter(several), select(table, role="null"), keys, "base", level)
