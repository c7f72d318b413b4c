"""What a bundle of this experiment shows beside its rows: arrays for figures, the tensor inventory, papers, the claims."""

import hashlib
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.harness.base_model import Base
from jaxpost import linalg
from jaxpost.probes.weights import by_matrix
from jaxpost.records.headlines.studies import claim_lines

SHOWN = ("o", "up")  # module kinds of the first layer whose masks and spectra are drawn

PAPERS = (
    {"key": "zhu2025path", "title": "The Path Not Taken: RLVR Provably Learns Off the Principals",
     "author": "Zhu, Hanqing and others", "year": "2025", "eprint": "2511.08567"},
    {"key": "mukherjee2025subnetworks", "title": "Reinforcement Learning Finetunes Small Subnetworks in Large Language Models",
     "author": "Mukherjee, Sagnik and others", "year": "2025", "eprint": "2505.11711"},
    {"key": "shenfeld2025razor", "title": "RL's Razor: Why Online Reinforcement Learning Forgets Less",
     "author": "Shenfeld, Idan and others", "year": "2025", "eprint": "2509.04259"},
    {"key": "luong2024reft", "title": "ReFT: Reasoning with Reinforced Fine-Tuning", "author": "Luong, Trung Quoc and others",
     "year": "2024", "eprint": "2401.08967"},
    {"key": "lai2025reinforcement", "title": "Reinforcement Fine-Tuning Naturally Mitigates Forgetting in Continual "
     "Post-Training", "author": "Lai, Song and others", "year": "2025", "eprint": "2507.05386"},
    {"key": "lin2023spurious", "title": "Spurious Feature Diversification Improves Out-of-distribution Generalization",
     "author": "Lin, Yong and others", "year": "2023", "eprint": "2309.17230"},
    {"key": "nanda2023progress", "title": "Progress measures for grokking via mechanistic interpretability",
     "author": "Nanda, Neel and others", "year": "2023", "eprint": "2301.05217"},
    {"key": "power2022grokking", "title": "Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets",
     "author": "Power, Alethea and others", "year": "2022", "eprint": "2201.02177"},
    {"key": "li2025grokking", "title": "Where to find Grokking in LLM Pretraining? Monitor Memorization-to-Generalization "
     "without Test", "author": "Li, Ziyue and others", "year": "2025", "eprint": "2506.21551"},
)


def papers(wanted: Sequence[str]) -> list[Mapping]:
    """The entries of `CITATION.bib` for arXiv numbers; one that is not in PAPERS is cited by its number alone."""
    known = {paper["eprint"]: paper for paper in PAPERS}
    return [known.get(number, {"key": f"arxiv{number}", "title": f"arXiv:{number}", "author": "see arXiv", "year": "n.d.",
                               "eprint": number}) for number in wanted]


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


def print_claims(console: Console, results: Sequence[Mapping]) -> None:
    """The claims with their verdicts, two lines each."""
    for line in claim_lines(results):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
