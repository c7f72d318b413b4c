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
from jaxpost.probes import by_matrix, pooling, visibility
from jaxpost.probes.panel import TensorInfo
from jaxpost.probes.pooling import NAN, OK, divide, total


def jaccard(weights0: Mapping[str, jax.Array], weights1_S: Mapping[str, jax.Array]) -> dict[str, dict[str, np.ndarray]]:
    """Observed and expected intersections and unions of visible masks, for every pair of seeds and every matrix.

    Args: weights0 name -> f32[m, n] on the bf16 grid; weights1_S name -> f32[S, m, n] masters.
    Returns: name -> {"both", "either"} observed counts, {"expected_both", "expected_either"} of blind updates,
      each f64[S, S]; visible "density", "n_nonfinite" and "bf16" (stored so) f64[S]; the number of entries "n". The
      diagonals mean nothing.
      Expectations use the seed's own float32 update, or, where its masters are bf16, a Gaussian at its density.
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
        found = jax.device_get(_pairs(*flat))
        out[name] = {key: np.asarray(x, np.float64) for key, x in found.items()} | {"n": float(w0.size)}
    return out


@jax.jit
def _pairs(w0: jax.Array, w1_S: jax.Array) -> dict[str, jax.Array]:
    n = w0.size
    codes0 = visibility.bf16_codes(w0)
    counts_C = visibility.class_counts(codes0)

    def one(w1):
        visible = ~visibility.same_value(codes0, visibility.bf16_codes(w1))
        density = jnp.sum(visible, dtype=jnp.int32) / n
        own = visibility.visibility_empirical(visibility.update_histogram(w1 - w0), n)
        sigma = visibility.calibrate(counts_C, density)[visibility.LAWS.index("gaussian")]
        bf16 = by_matrix.bf16_master(w1)
        p_C = jnp.where(bf16, visibility.visibility_law("gaussian", sigma), own)
        return visible.ravel(), p_C, density, jnp.sum(~jnp.isfinite(w1), dtype=jnp.int32), bf16

    visible_SxN, p_SxC, density_S, nonfinite_S, bf16_S = jax.lax.map(one, w1_S)
    both = jax.lax.map(lambda row: jnp.sum(row[None, :] & visible_SxN, axis=1, dtype=jnp.int32), visible_SxN)
    size_S = jnp.sum(visible_SxN, axis=1, dtype=jnp.int32)
    weighted = p_SxC * counts_C.astype(jnp.float32)[None, :]
    expected_both, expected_S = linalg.matmul(weighted, p_SxC.T), weighted.sum(1)
    return {
        "both": both,
        "either": size_S[:, None] + size_S[None, :] - both,
        "expected_both": expected_both,
        "expected_either": expected_S[:, None] + expected_S[None, :] - expected_both,
        "density": density_S,
        "n_nonfinite": nonfinite_S,
        "bf16": bf16_S,
    }


def jaccard_by_scope(
    infos: Sequence[TensorInfo], found: Mapping[str, Mapping]
) -> tuple[pooling.Scopes, dict[str, np.ndarray]]:
    """Pooled pair statistics: scopes, and {"observed", "expected", "independence"} f64[C, S, S].

    Intersections and unions are summed over the matrices of a scope before dividing. A contrast between observed and
    expected is `stats.jackknife_pairs(observed - expected)`.
    """
    scopes = pooling.scopes_of(infos)
    used = np.ones((1, len(infos)), bool)

    def pooled(read):
        return total(np.stack([read(found[info.name]) for info in infos])[None], used, scopes)[0]

    share = divide(pooled(lambda f: f["density"] * f["n"]), pooled(lambda f: np.asarray(f["n"]))[:, None])
    p, q = share[:, :, None], share[:, None, :]
    return scopes, {
        "observed": divide(pooled(lambda f: f["both"]), pooled(lambda f: f["either"])),
        "expected": divide(pooled(lambda f: f["expected_both"]), pooled(lambda f: f["expected_either"])),
        "independence": divide(p * q, p + q - p * q),
    }


def finalize_jaccard(
    infos: Sequence[TensorInfo],
    found: Mapping[str, Mapping],
    *,
    arm: str,
    step: int,
    conditional_on: str,
    row_ids: Callable[[dict], Sequence[str]],
) -> dict[str, np.ndarray]:
    """Rows of `weight.jaccard`: role "estimate" (mean over pairs, jackknife over seeds), and the independence null.

    One seed has no pair and two have no jackknife: the row says so (status absent; interval absent). Args as in
    `weight_rows.finalize`; `found` from `jaccard`.
    """
    scopes, pairs = jaccard_by_scope(infos, found)
    n_seeds = pairs["observed"].shape[-1]
    nonfinite = np.asarray([found[info.name]["n_nonfinite"].sum() for info in infos])
    state = np.where(nonfinite > 0, NAN, OK)[None, :]
    status, reason = (x[0] for x in pooling.statuses(state, scopes, ""))
    if n_seeds < 2:
        missing = stats.Interval(*(np.full(len(status), np.nan) for _ in range(3)))
        interval = {name: missing for name in pairs}
        status[:], reason[:] = "absent", "one seed has no pair"
    else:
        interval = {name: stats.jackknife_pairs(x) for name, x in pairs.items()}
        empty = (status == "ok") & np.isnan(interval["observed"].value)
        status[empty], reason[empty] = "degenerate", "a pair of seeds changed no entry visibly"
    bf16 = np.asarray([[np.asarray(found[info.name]["bf16"]).all() for info in infos]])
    kind = by_matrix.kinds("magnitude_conditioned", "calibrated_gaussian", bf16, scopes)[0]
    return estimate_columns(
        scopes, {"metric": "weight.jaccard", "arm": arm, "step": step, "conditional_on": conditional_on}, n_seeds,
        interval["observed"], status, reason, (kind, *interval["expected"]),
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
