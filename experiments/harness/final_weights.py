"""What a bundle keeps of the final weights of a study: masks and spectra for its figures, the inventory of their tensors."""

import hashlib
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from experiments.harness.base_model import Base
from jaxpost import linalg
from jaxpost.probes.weights import by_matrix

SHOWN = ("o", "up")  # module kinds of the first layer whose masks and spectra are drawn


def _shown(measure) -> list[str]:
    return [info.name for info in measure.infos if info.kind in SHOWN and info.layer == 0]


def arrays(measure, finals: Mapping[str, Mapping]) -> dict[str, dict]:
    """masks: fraction of seeds whose update is visible in bf16, an entry; spectra: singular values of dW, seed mean, and
    under "edge/<arm>/<tensor>" the edge below which they are those of rounding noise in the masters' dtype.

    Args:
      finals: arm -> name -> float32 [S, m, n].
    """
    masks, spectra = {}, {}
    for name in _shown(measure):
        w0 = measure.base_weights[name]
        spectra[f"base/{name}"] = np.asarray(linalg.singular_values(w0))
        for arm, matrices in finals.items():
            w1_S = matrices[name]
            changed = w1_S.astype(jnp.bfloat16) != w0.astype(jnp.bfloat16)[None]
            masks[f"{arm}/{name}"] = np.asarray(changed.astype(jnp.float32).mean(0))
            spectra[f"{arm}/{name}"] = np.mean([np.asarray(linalg.singular_values(w1 - w0)) for w1 in w1_S], axis=0)
            edges = [linalg.rounding_edge(by_matrix.rounding_rms(w0, w1), *w0.shape) for w1 in w1_S]
            spectra[f"edge/{arm}/{name}"] = np.mean(edges, keepdims=True)
    return {"masks": masks, "spectra": spectra}


def inventory(infos: Sequence, base: Base, finals: Mapping[str, Mapping], seeds: Sequence[int]) -> dict[str, list]:
    """Columns of `tensors.parquet`: the last checkpoint of every run, every matrix."""
    rows = []
    for arm, matrices in finals.items():
        for info in infos:
            for seed, w in zip(seeds, np.asarray(matrices[info.name]), strict=True):
                rows.append({
                    "checkpoint": f"{base.digest}/{arm}/seed{seed}", "tensor": info.name, "module_kind": info.kind,
                    "layer": info.layer, "shape": "x".join(map(str, info.shape)), "dtype": "float32", "n_elements": w.size,
                    "sha256": hashlib.sha256(w.tobytes()).hexdigest(), "n_nonfinite": int((~np.isfinite(w)).sum()),
                    "max_abs": float(np.abs(w).max()), "rms": float(np.sqrt(np.mean(w.astype(np.float64) ** 2))),
                    "compared": True, "reason": None})
    return {name: [row[name] for row in rows] for name in rows[0]}
