"""A made-up run for the tests of records: metrics, arms and shapes of a real one, numbers that are only plausible."""

import sys

import numpy as np
import pytest

from jaxpost import records
from jaxpost.records.rows import row_ids
from jaxpost.records.schema import METRICS

ARMS = (
    "rlvr-lr0",
    "rlvr-lr1",
    "rlvr-lr2",
    "sft-lr0",
    "sft-lr1",
    "sft-lr2",
    "raft",
    "permuted",
    "rlvr-sgd",
    "sft-sgd",
    "rlvr-bf16",
    "sft-bf16",
)
BASE = "sha256:" + "ab" * 32
CONFIG = {"seeds": 5, "train": {"lr": 1e-3, "steps": 400}, "workdir": "somewhere"}
CLAIMS = [
    {
        "id": "sparser",
        "statement": "At equal update norm RLVR changes fewer bf16-visible weights than SFT.",
        "metric": "weight.sparsity.bf16",
        "contrast": "rlvr-lr1 − sft-lr1, paired by seed",
        "arms": ["rlvr-lr1", "sft-lr1"],
        "direction": "greater",
        "threshold": 0.05,
        "equivalence_margin": 0.02,
    },
    {
        "id": "off-principal",
        "statement": "The visible update avoids the principal weights more than a blind one.",
        "metric": "weight.overlap.principal",
        "contrast": "rlvr-lr1 − its null",
        "arms": ["rlvr-lr1"],
        "direction": "less",
        "threshold": -0.02,
        "equivalence_margin": 0.01,
    },
]
RESULTS = [
    CLAIMS[0]
    | {
        "estimate": 0.21,
        "ci_lo": 0.17,
        "ci_hi": 0.25,
        "p": 0.0004,
        "p_holm": 0.0008,
        "n_units": 5,
        "verdict": "supported",
        "note": "",
    },
    CLAIMS[1]
    | {
        "estimate": 0.003,
        "ci_lo": -0.004,
        "ci_hi": 0.0095,
        "p": 0.99,
        "p_holm": 0.99,
        "n_units": 5,
        "verdict": "contradicted",
        "note": "The published overlap is what any update of this density shows.",
    },
]
PAPERS = [
    {
        "key": "pathnottaken",
        "title": "The Path Not Taken: RLVR Provably Learns Off the Principals",
        "author": "Zhu, H. and others",
        "year": "2025",
        "eprint": "2511.08567",
    }
]


def metrics(names) -> dict[str, dict]:
    """A definition for every metric id."""
    full = {name: "as in the paper" for name in METRICS.names if name not in ("metric", "higher_is_better", "domain")}
    return {
        name: full | {"version": "1", "unit": "1", "paper": "arXiv:2511.08567", "higher_is_better": None}
        for name in names
    }


def _point(arm: str, step: int, seed: int) -> dict[str, float]:
    """The latent state of a run: how far it went, how well it does."""
    rng = np.random.default_rng([ARMS.index(arm), step, seed])
    size = {"lr0": 0.4, "lr2": 2.4}.get(arm[-3:], 1.0)
    family = {"rlvr": 0.25, "sft-": 0.9, "raft": 0.45, "perm": 0.22}[arm[:4]]
    progress = 1 - np.exp(-step / 120 * size)
    noise = 1 + 0.06 * rng.standard_normal()
    learns = 0.02 if arm == "permuted" else (0.72 if arm.startswith("rlvr") else 0.62)
    return {
        "distance": family * size * (step / 100) ** 0.6 * noise,
        "progress": progress * noise,
        "success": np.clip(0.15 + learns * progress * noise, 0, 1),
        "forget": family * progress * noise * 0.5,
    }


def measurement(arm: str, step: int, n_seeds: int = 5, n_tensors: int = 0) -> dict[str, list]:
    """Seed rows (and further nulls) of one arm at one step: columns for `Bundle.write_rows`."""
    rows, nulls = [], []
    policy_rows = [("id", 1.0), ("ood/digits", 0.6), ("ood/carry", 0.45), ("second", None)]
    for seed in range(n_seeds):
        at = _point(arm, step, seed)
        distance = at["distance"]
        common = {"arm": arm, "step": step, "seed": seed, "role": "seed", "conditional_on": BASE}

        def weight(metric, value, null=None, width=0.01, common=common, **more):
            row = common | {"metric": metric, "granularity": "global", "dtype": "fp32", "value": value} | more
            if null is not None:
                row |= {
                    "null_kind": "halfulp_permuted",
                    "null_value": null,
                    "null_lo": null - width,
                    "null_hi": null + width,
                }
            rows.append(row)
            return row

        sparsity = 1 / (1 + 2 * distance)
        weight("weight.update_norm", distance)
        weight("weight.sparsity.bf16", sparsity, sparsity + 0.02, dtype="bf16")
        weight("weight.sparsity.bf16", sparsity - 0.01, sparsity + 0.01, dtype="bf16", params="weighting=by_tensor")
        for tol in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
            share = 1 / (1 + (distance * 3e-5 / tol) ** 0.8)
            weight("weight.sparsity.abs", share, share * 0.93, params=f"tol={tol}")
        weight("weight.spectral_shift", 1e-3 * distance**1.3, 2e-4 * distance)
        for k in (4, 16):
            weight(
                "weight.rotation.mean_sin2",
                0.02 * distance**2 / (1 + distance**2) * k / 16,
                0.004 * distance**2,
                granularity="body",
                side="left",
                k=k,
            )
            for dtype, floor in (("fp32", np.radians(0.05)), ("bf16", np.radians(2.5))):
                weight(
                    "weight.rotation.max_angle",
                    np.hypot(np.arctan(0.3 * distance), floor * 0.8),
                    granularity="body",
                    side="left",
                    k=k,
                    dtype=dtype,
                    noise_floor=floor,
                )
        weight(
            "weight.overlap.principal",
            0.3 - 0.1 * sparsity,
            0.29 - 0.1 * sparsity,
            dtype="bf16",
            k=16,
            params="alpha=0.3",
        )
        weight("weight.rank.stable", 12 + 30 * sparsity, 50.0)
        jaccard = weight("weight.jaccard", 0.9 - 0.5 * sparsity, 0.86 - 0.5 * sparsity, dtype="bf16")
        blind = (1 - sparsity) / (1 + sparsity)
        nulls.append(
            common
            | {
                "metric": "weight.jaccard",
                "role": "null",
                "of": row_ids({k: [v] for k, v in jaccard.items()})[0],
                "granularity": "global",
                "dtype": "bf16",
                "null_kind": "independence",
                "value": blind,
            }
        )
        for split, share in policy_rows:
            value = at["success"] * share if share else 0.8 - at["forget"]
            rows.append(
                common
                | {
                    "metric": "policy.success",
                    "granularity": "policy",
                    "split": split,
                    "value": value,
                    "null_kind": "guess",
                    "null_value": 0.1,
                }
            )
        rows.append(
            common
            | {
                "metric": "policy.kl_forward",
                "granularity": "policy",
                "value": 0.4 * distance**1.5,
                "params": "reduce=token_mean",
            }
        )
        for i in range(n_tensors):
            weight(
                "weight.sparsity.bf16",
                sparsity,
                dtype="bf16",
                granularity="tensor",
                tensor=f"layers/{i}/q",
                layer=i,
                module_kind="q",
            )
    rows += nulls
    names = sorted({name for row in rows for name in row})
    return {name: [row.get(name) for row in rows] for name in names}


def masks(arms=ARMS, tensors=("layers/0/q", "layers/1/down")) -> dict[str, np.ndarray]:
    """Consensus maps with row stripes: keys "<arm>/<tensor>"."""
    rng = np.random.default_rng(0)
    found = {}
    for arm in arms:
        density = {"rlvr": 0.25, "sft-": 0.8, "raft": 0.4, "perm": 0.3}[arm[:4]]
        for tensor in tensors:
            m, n = (96, 96) if tensor.endswith("q") else (96, 192)
            stripes = rng.random((m, 1)) ** 2 * 2 * np.ones((1, n))
            found[f"{arm}/{tensor}"] = rng.binomial(5, np.clip(density * stripes, 0, 1)).astype(np.float32) / 5
    return found


def spectra(arms=ARMS, tensors=("layers/0/q", "layers/1/down")) -> dict[str, np.ndarray]:
    """Singular values: keys "base/<tensor>", "<arm>/<tensor>", "edge/<arm>/<tensor>"."""
    index = np.arange(1, 97)
    found = {}
    for tensor in tensors:
        found[f"base/{tensor}"] = (6 * index**-0.4).astype(np.float32)
        for i, arm in enumerate(arms):
            found[f"{arm}/{tensor}"] = ((0.1 + 0.03 * i) * index ** (-0.5 - 0.03 * i)).astype(np.float32)
            found[f"edge/{arm}/{tensor}"] = np.float32([8e-3])
    return found


def open_bundle(path, config=CONFIG, claims=CLAIMS, **more):
    """`Bundle.open` with what the tests do not vary."""
    digest = records.config_hash(config, ["workdir"])
    return records.Bundle.open(
        path,
        config,
        digest,
        claims,
        config_exclude=["workdir"],
        title="A made-up run",
        question="Does it render?",
        **more,
    )


def fill(bundle, arms=ARMS[1:5:3] + ("permuted",), steps=(10, 100), n_seeds=3, shuffle=False):
    """Write every shard and array of a small run, in either order."""
    names = [(arm, step) for arm in arms for step in steps]
    for arm, step in names[::-1] if shuffle else names:
        bundle.write_rows(f"{arm}-{step}", measurement(arm, step, n_seeds, n_tensors=2))
        bundle.cost("train", arm=arm, step=step, wall_s=1.5 + shuffle)
    bundle.write_arrays("masks", masks(arms))
    bundle.write_arrays("spectra", spectra(arms))


def finish(bundle, **more):
    """`records.finish` with the claims and papers of the made-up run."""
    names = set(bundle.read_rows()["metric"].to_pylist()) | {claim["metric"] for claim in RESULTS}
    return records.finish(bundle, **({"metrics": metrics(names), "claims": RESULTS, "papers": PAPERS} | more))


@pytest.fixture(scope="session")
def run():
    """This module: the made-up run."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished bundle; copy it before changing it."""
    path = tmp_path_factory.mktemp("bundles") / "finished"
    bundle = open_bundle(path, devices={"platform": "cpu", "kind": "cpu", "count": 1})
    fill(bundle)
    finish(bundle)
    return path
