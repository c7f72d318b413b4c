"""Do runs from one base change the same entries? Jaccard index of bf16-visible masks over pairs of seeds.

Two blind updates of one base already share entries, because small weights are easier to move visibly: the baseline is
that magnitude-conditioned expectation, not plain independence.

Legend: S seeds, T matrices, C scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg, stats
from jaxpost.probes import base, catalog
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import NAN, OK, divide, total
from jaxpost.probes.weights import blind, by_matrix, visibility


def jaccard(weights0: Mapping[str, jax.Array], weights1_S: Mapping[str, jax.Array]) -> dict[str, dict[str, np.ndarray]]:
    """Observed and expected intersections and unions of visible masks, for every pair of seeds and every matrix.

    Args: weights0 name -> f32[m, n] on the bf16 grid; weights1_S name -> f32[S, m, n] masters.
    Returns: name -> {"both", "either"} observed counts, {"expected_both", "expected_either"} of blind updates,
      observed f64[S, S], expected (and what their variance needs, `_blind_sums`) f64[L, S, S], one a law; visible "density",
      "n_nonfinite" and "bf16" (stored so) f64[S]; the number of entries "n". The diagonals mean nothing.
      Expectations use the seed's own float32 update, or, where its masters are bf16, a range of laws at its density.
    Raises: ValueError when names or shapes do not match.
    """
    if set(weights0) != set(weights1_S):
        raise ValueError(f"jaccard: tensors differ: {sorted(set(weights0) ^ set(weights1_S))}")
    out = {}
    for name, w0 in weights0.items():
        w1 = weights1_S[name]
        if w1.shape[1:] != w0.shape:
            raise ValueError(f"jaccard: {name!r} has shapes {w0.shape} and {w1.shape}; expected [S, m, n]")
        flat = jnp.reshape(w0, (1, -1)), jnp.reshape(w1, (len(w1), 1, -1))  # one program a size
        pairs = jax.device_get(_pairs(*flat))
        out[name] = {key: np.asarray(x, np.float64) for key, x in pairs.items()} | {"n": float(w0.size)}
    return out


@jax.jit
def _pairs(w0: jax.Array, w1_S: jax.Array) -> dict[str, jax.Array]:
    n = w0.size
    codes0 = visibility.bf16_codes(w0)
    counts_C = visibility.class_counts(codes0).astype(jnp.float32)

    def one(w1):
        visible = ~visibility.same_value(codes0, visibility.bf16_codes(w1))
        density = jnp.sum(visible, dtype=jnp.int32) / n
        nonfinite = jnp.sum(~jnp.isfinite(w1), dtype=jnp.int32)
        return visible.ravel(), blind.tables(w0, w1), density, nonfinite, by_matrix.bf16_master(w1)

    visible_SxN, p_SxLxC, density_S, nonfinite_S, bf16_S = jax.lax.map(one, w1_S)
    both = jax.lax.map(lambda row: jnp.sum(row[None, :] & visible_SxN, axis=1, dtype=jnp.int32), visible_SxN)
    size_S = jnp.sum(visible_SxN, axis=1, dtype=jnp.int32)
    blind_sums = blind.each_law(lambda p_SxC: _blind_sums(p_SxC, counts_C), p_SxLxC.swapaxes(0, 1), bf16_S.any())
    return blind_sums | {
        "both": both,
        "either": size_S[:, None] + size_S[None, :] - both,
        "density": density_S,
        "n_nonfinite": nonfinite_S,
        "bf16": bf16_S,
    }


def _blind_sums(p_SxC: jax.Array, counts_C: jax.Array) -> dict[str, jax.Array]:
    """Sums over entries that the law of J = |A & B| / |A | B| of two blind runs a, b needs: f32[S, S] each.

    With x_i = 1{both} - J 1{either}, J minus its expectation is sum x_i / sum E 1{either}. Var x is a polynomial in J with the
    `pair` terms; Var E[x | a], with the `single` terms, is what two pairs with run a in common share.
    """
    def product(left_SxC, right_SxC):
        return linalg.matmul(left_SxC * counts_C[None], right_SxC.T)

    p, q, square = p_SxC, p_SxC * (1 - p_SxC), p_SxC**2
    one = jnp.ones_like(p)
    both = product(p, p)
    either = product(p, one) + product(one, p) - both
    both2 = product(square, square)  # of P(both)^2
    cross = product(square, p) + product(p, square) - both2  # of P(both) P(either)
    either2 = product(square, one) + product(one, square) + both2 + 2 * (both - product(square, p) - product(p, square))
    return {"expected_both": both, "expected_either": either, "pair_0": both - both2, "pair_1": 2 * (cross - both),
            "pair_2": either - either2, "single_0": product(q, square), "single_1": product(q, p), "single_2": product(q, one)}


def jaccard_by_scope(
    infos: Sequence[TensorInfo], measured: Mapping[str, Mapping]
) -> tuple[pooling.Scopes, dict[str, np.ndarray]]:
    """Pooled pair statistics: scopes, and {"observed", "expected", "independence"} f64[C, S, S]; "laws", for every law the
    expected mean over pairs and its standard deviation, f64[L, 2, C].

    Intersections and unions are summed over the matrices of a scope before dividing. A contrast between observed and
    expected is `stats.jackknife_pairs(observed - expected)`.
    """
    scopes = pooling.scopes_of(infos)
    used = np.ones((1, len(infos)), bool)

    def pooled(read):
        return total(np.stack([read(measured[info.name]) for info in infos])[None], used, scopes)[0]

    share = divide(pooled(lambda f: f["density"] * f["n"]), pooled(lambda f: np.asarray(f["n"]))[:, None])
    p, q = share[:, :, None], share[:, None, :]
    sums = {name: pooled(lambda f, name=name: f[name]).swapaxes(0, 1) for name in
            ("expected_both", "expected_either", "pair_0", "pair_1", "pair_2", "single_0", "single_1", "single_2")}
    expected_LxCxSxS = divide(sums["expected_both"], sums["expected_either"])
    return scopes, {
        "observed": divide(pooled(lambda f: f["both"]), pooled(lambda f: f["either"])),
        "expected": expected_LxCxSxS[0],
        "independence": divide(p * q, p + q - p * q),
        "laws": np.stack(_mean_over_pairs(expected_LxCxSxS, sums), axis=1),
    }


def _mean_over_pairs(expected_LxCxSxS: np.ndarray, sums: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of J over pairs of blind runs and its standard deviation, f64[L, C]: pairs that share a run vary together.

    Var = [sum over pairs of Var J + sum over ordered pairs of pairs with one run in common of their covariance] / pairs^2; the
    covariance of (a, b) and (a, c) is taken as the mean over b of Var E[J_ab | a].
    """
    runs = expected_LxCxSxS.shape[-1]
    j, size = expected_LxCxSxS, sums["expected_either"] ** 2
    pair = divide(sums["pair_0"] + j * sums["pair_1"] + j**2 * sums["pair_2"], size)
    single = divide(sums["single_0"] * (1 + j) ** 2 - 2 * sums["single_1"] * j * (1 + j) + sums["single_2"] * j**2, size)
    upper, off = np.triu_indices(runs, 1), ~np.eye(runs, dtype=bool)
    pairs = max(len(upper[0]), 1)
    if runs < 2:
        nothing = np.full(j.shape[:2], np.nan)
        return nothing, nothing
    shared = (runs - 1) * (runs - 2) * single[..., off].reshape(*j.shape[:2], runs, runs - 1).mean(-1).sum(-1)
    variance = (pair[(..., *upper)].sum(-1) + shared) / pairs**2
    return j[(..., *upper)].mean(-1), np.sqrt(np.maximum(variance, 0.0))


def finalize_jaccard(
    infos: Sequence[TensorInfo],
    measured: Mapping[str, Mapping],
    *,
    arm: str,
    step: int,
    conditional_on: str,
    row_ids: Callable[[dict], Sequence[str]],
) -> dict[str, np.ndarray]:
    """Rows of `weight.jaccard`: role "estimate" (mean over pairs, jackknife over seeds), and the independence null.

    One seed has no pair and two have no jackknife: the row says so (status absent; interval absent). Args as in
    `weights.rows.finalize`; `measured` from `jaccard`.
    """
    scopes, pairs = jaccard_by_scope(infos, measured)
    n_seeds = pairs["observed"].shape[-1]
    nonfinite = np.asarray([measured[info.name]["n_nonfinite"].sum() for info in infos])
    state = np.where(nonfinite > 0, NAN, OK)[None, :]
    status, reason = (x[0] for x in pooling.statuses(state, scopes, ""))
    laws = pairs.pop("laws")
    null = pooling.union([pooling.around(*law) for law in laws])
    if n_seeds < 2:
        missing = stats.Interval(*(np.full(len(status), np.nan) for _ in range(3)))
        interval = {name: missing for name in pairs}
        status[:], reason[:] = "absent", "one seed has no pair"
    else:
        interval = {name: stats.jackknife_pairs(x) for name, x in pairs.items()}
        empty = (status == "ok") & np.isnan(interval["observed"].value)
        status[empty], reason[empty] = "degenerate", "a pair of seeds changed no entry visibly"
    bf16 = np.asarray([[np.asarray(measured[info.name]["bf16"]).all() for info in infos]])
    kind = by_matrix.kinds("magnitude_conditioned", "law_range", bf16, scopes)[0]
    return estimate_columns(
        scopes, {"metric": "weight.jaccard", "arm": arm, "step": step, "conditional_on": conditional_on}, n_seeds,
        interval["observed"], status, reason, (kind, *null),
        ("independence", interval["independence"].value), row_ids)


def estimate_columns(
    scopes: pooling.Scopes, constant: Mapping[str, object], n_seeds: int, interval: stats.Interval, status, reason, null,
    further, row_ids: Callable[[dict], Sequence[str]], only: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Rows of role "estimate" of exact counts of visible entries over several seeds, with a further null of each.

    Args:
      constant: columns that are the same everywhere (metric, arm, step, conditional_on; side, params, dtype if not
        "none", null, "bf16").
      interval: value and ends f64[C]; status, reason object[C]; null (kind, value, lo, hi); further (kind, value).
      only: bool[C], the scopes to report (default all).
    """
    kept = np.ones(len(status), bool) if only is None else only
    n = int(kept.sum())

    def column(x, dtype=np.float64):
        filled = np.empty(len(status), dtype)
        filled[:] = x
        return filled[kept]

    fixed = {"side": "none", "params": None, "dtype": "bf16", "unit": "seed", "n_units": n_seeds} | dict(constant)
    common = {name: column(x, object) for name, x in (scopes.columns | fixed).items()}
    nothing = np.full(n, np.nan)
    estimate = common | {"role": np.full(n, "estimate", object), "of": np.full(n, None, object)}
    estimate |= {name: column(x) for name, x in zip(("value", "ci_lo", "ci_hi"), interval, strict=True)}
    estimate |= {"status": column(status, object), "status_reason": column(reason, object)}
    estimate |= {"null_kind": column(null[0], object)}
    estimate |= {name: column(x) for name, x in zip(("null_value", "null_lo", "null_hi"), null[1:], strict=True)}
    estimate |= {"noise_floor": np.zeros(n), "num_err": np.zeros(n)}
    value = column(further[1])
    null_rows = common | {
        "role": np.full(n, "null", object),
        "of": np.asarray(row_ids(estimate), object),
        "value": value,
        "ci_lo": nothing,
        "ci_hi": nothing,
        "status": np.where(np.isfinite(value), "ok", "absent").astype(object),
        "status_reason": np.full(n, None, object),
        "null_kind": np.full(n, further[0], object),
        "null_value": value,
        "null_lo": nothing,
        "null_hi": nothing,
        "noise_floor": nothing,
        "num_err": nothing,
    }
    return {name: np.concatenate([estimate[name], null_rows[name]]) for name in estimate}


catalog.add(
    __name__,
    catalog.Entry("jaccard", "whether runs from one base change the same entries", lane="sidecar",
                  where="measured from the final weights of all seeds when the arms are finished",
                  needs=frozenset({base.WEIGHTS0, base.WEIGHTS}), metrics=("weight.jaccard",)),
    catalog.Statistic(
        "jaccard", "Agreement between runs", ("weight.jaccard",),
        "Whether runs from one base change the same entries. The excess over the magnitude-conditioned null is the finding.",
        "Plain independence is the wrong baseline: two blind updates of one base already agree, because small weights are "
        "easier to move visibly.",
        "Jaccard of two blind updates with both baselines",
        extremes={
            "weight.jaccard": ("runs change the same entries; blind runs agree too", "they change different ones"),
        }),
)
