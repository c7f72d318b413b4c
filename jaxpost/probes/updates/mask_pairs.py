"""Do two runs change the same entries, also when one of them started from a transformed base?

Unlike `cross_seed`, the two runs of a pair belong to different arms and each has its own base: magnitudes, and with them
what a blind update would change visibly, may differ between the two.

Legend: S seeds (pairs), T matrices, C scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes import base, catalog
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import DEGENERATE, NAN, OK, divide, total
from jaxpost.probes.weights import blind, by_matrix, visibility

METRICS = {metric.id: metric for metric in (
    base.Metric("weight.pair.overlap", "|M1 & M2| / |M1|, M the entries whose bf16 values changed, of two runs", "1",
                "The Path Not Taken, arXiv:2511.08567, section 4.3",
                "magnitude-conditioned: sum p1 p2 / sum p1 of two blind updates, each of its own base "
                "(law_range where masters are bf16)", "ratio of sums",
                "exact counts; null in closed form"),
    base.Metric("weight.pair.jaccard", "|M1 & M2| / |M1 | M2| of two runs", "1",
                "The Path Not Taken, arXiv:2511.08567, section 2.2",
                "as weight.pair.overlap: sum p1 p2 / sum (p1 + p2 - p1 p2)", "ratio of sums",
                "exact counts; null in closed form"),
)}
base.register(*METRICS.values())


def compare(base1: Mapping, weights1_S: Mapping, base2: Mapping, weights2_S: Mapping) -> dict[str, dict[str, np.ndarray]]:
    """Observed and expected sizes of the visible masks of paired runs and of their intersection, for every matrix.

      p_i = P(a blind update makes entry i read differently in bf16), from the run's own update entries and its own base
            (`blind.tables`: of bf16 masters, a range of laws at the run's visible density)
      expected both = sum_i p1_i p2_i over entries in the same place; expected size = sum_i p_i

    Args:
      base1, base2: name -> f32[m, n] on the bf16 grid. weights1_S, weights2_S: name -> f32[S, m, n], float32 masters.
    Returns: name -> {"both", "size1", "size2", "expected_both", "expected1", "expected2", "variance_both", "n_nonfinite",
      "bf16"} f64[S] (what is expected f64[S, L], one a law), and "n". `variance_both` is that of independent entries.
    Raises: ValueError when names or shapes do not match.
    """
    by_tensor = {}
    for name, w0 in base1.items():
        given = [np.shape(x[name]) if name in x else None for x in (base1, weights1_S, base2, weights2_S)]
        seeds = given[1][:1] if given[1] else ()
        if given != [w0.shape, (*seeds, *w0.shape), w0.shape, (*seeds, *w0.shape)]:
            raise ValueError(f"compare: {name!r} has shapes {given}; expected [m, n], [S, m, n], [m, n], [S, m, n]")
        flat = (jnp.reshape(jnp.asarray(x[name]), (*lead, -1)) for x, lead in
                ((base1, ()), (weights1_S, seeds), (base2, ()), (weights2_S, seeds)))  # one program a size
        by_tensor[name] = {key: np.asarray(x, np.float64) for key, x in jax.device_get(_pairs(*flat)).items()}
        by_tensor[name]["n"] = float(w0.size)
    return by_tensor


@jax.jit
def _pairs(w0_a: jax.Array, w1_a_S: jax.Array, w0_b: jax.Array, w1_b_S: jax.Array) -> dict[str, jax.Array]:
    def read(w0, w1):
        codes = visibility.bf16_codes(w0)
        seen = ~visibility.same_value(codes, visibility.bf16_codes(w1))
        return seen, blind.tables(w0, w1), visibility.class_of(codes)

    def one(pair):
        (seen1, table1, class1), (seen2, table2, class2) = read(w0_a, pair[0]), read(w0_b, pair[1])
        nonfinite = ~jnp.isfinite(pair[0]) | ~jnp.isfinite(pair[1])
        bf16 = by_matrix.bf16_master(pair[0]) | by_matrix.bf16_master(pair[1])
        counts = {"both": seen1 & seen2, "size1": seen1, "size2": seen2, "n_nonfinite": nonfinite, "bf16": bf16}

        def expected(tables):
            p1, p2 = tables[0][class1], tables[1][class2]
            both = p1 * p2
            return {"expected_both": jnp.sum(both), "expected1": jnp.sum(p1), "expected2": jnp.sum(p2),
                    "variance_both": jnp.sum(both * (1 - both))}

        reals = blind.each_law(expected, jnp.stack([table1, table2], 1), bf16)
        return {name: jnp.sum(x, dtype=jnp.int32) for name, x in counts.items()} | reals

    return jax.lax.map(one, (w1_a_S, w1_b_S))


def scopes_of(infos: Sequence[TensorInfo], groups: Mapping[str, Sequence[str]]) -> tuple[pooling.Scopes, np.ndarray]:
    """Every matrix, and every named group of matrices (granularity "body"); and the name of each scope's group, or None."""
    names = [info.name for info in infos]
    rows = [("tensor", info.name, info.kind, info.layer) for info in infos] + [("body", None, None, None)] * len(groups)
    members = [np.isin(names, [name]) for name in names] + [np.isin(names, list(group)) for group in groups.values()]
    columns = dict(zip(("granularity", "tensor", "module_kind", "layer"), zip(*rows)))
    return (pooling.Scopes(np.stack(members), {name: np.asarray(x, object) for name, x in columns.items()}),
            np.asarray([None] * len(infos) + list(groups), object))


def finalize(by_tensor: Mapping[str, Mapping], infos: Sequence[TensorInfo], groups: Mapping[str, Sequence[str]], *, arm: str,
             against: str, mapping: str, step: int, seeds: Sequence[int], conditional_on: str,
             row_ids: Callable[[dict], Sequence[str]]) -> dict:
    """Rows of both metrics, one a seed and scope: run 2 belongs to `arm`, run 1 to the arm `against`.

    Args:
      by_tensor: from `compare`.
      groups: name -> tensor names pooled under it; params say group=<name>.
      mapping: "raw" (each run in its own coordinates) or "back" (run 2 mapped to the coordinates of run 1's base).
    """
    scopes, group_C = scopes_of(infos, groups)
    def of(key):
        return [np.broadcast_to(x, (len(seeds), *np.shape(x)[1:])) for x in (by_tensor[info.name][key] for info in infos)]

    stacked = {key: np.stack(of(key), axis=1) for key in next(iter(by_tensor.values()))}
    state = np.where(stacked["n_nonfinite"] > 0, NAN, np.where(stacked["size1"] == 0, DEGENERATE, OK))
    status, reason = pooling.statuses(state, scopes, "")
    everything = np.ones(state.shape, bool)
    x = {key: total(value, everything, scopes) for key, value in stacked.items()}
    p, q = divide(x["size1"], x["n"]), divide(x["size2"], x["n"])
    either, blind_either = x["size1"] + x["size2"] - x["both"], x["expected1"] + x["expected2"] - x["expected_both"]
    statistics = {
        "weight.pair.overlap": (x["size1"], x["expected1"], q),
        "weight.pair.jaccard": (either, blind_either, divide(p * q, p + q - p * q)),
    }
    params = np.asarray([f"against={against};" + (f"group={g};" if g else "") + f"map={mapping}" for g in group_C], object)
    kind = by_matrix.kinds("magnitude_conditioned", "law_range", stacked["bf16"], scopes)
    table = pooling.RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
    for metric, (size, blind_size, independent) in statistics.items():
        null = pooling.over_laws(pooling.around(divide(x["expected_both"], blind_size),
                                                divide(np.sqrt(x["variance_both"]), blind_size)))
        value = np.where(status == "nan", np.nan, divide(x["both"], size))
        number = table.add(metric, value, status, reason, null=(kind, *null),
                           floor=np.zeros(status.shape), dtype="bf16", params=params)
        table.add_null(number, "independence", independent, np.nan, np.nan)
    return table.columns(row_ids)


catalog.add(
    __name__,
    catalog.Entry("mask_pairs", "whether a run from a transformed base changes the same entries", lane="sidecar",
                  where="measured between paired arms by the experiment that transforms the base (mask_pairs)",
                  needs=frozenset({base.WEIGHTS0, base.WEIGHTS}), metrics=tuple(METRICS)),
    catalog.Statistic(
        "pairs", "Agreement with a run from a transformed base", ("weight.pair",),
        "Whether a run changes the entries that another run changes: with the base rotated or permuted in between (raw), and "
        "mapped back to the first run's coordinates. Agreement that follows the transform belongs to the entries' roles, not "
        "to their places.",
        "Two blind runs agree wherever both bases have small weights in the same place: the magnitude-conditioned null of both "
        "bases says how much. Independence is right only where the two bases' magnitudes are unrelated.",
        "Jaccard of two blind runs, from one base and from two, with both baselines",
        extremes={
            "weight.pair": ("the two runs change the same entries; blind runs agree too", "they change different ones"),
        }),
)
