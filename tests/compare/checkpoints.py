"""Small checkpoints on disk with what is planted in them: Qwen2 names, bf16 or fp32, one file or shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxpost.formats import safetensors

BF16 = np.dtype(ml_dtypes.bfloat16)
CONFIG = {"model_type": "qwen2", "tie_word_embeddings": True, "num_attention_heads": 4, "num_key_value_heads": 4,
          "hidden_size": 32}
MATRICES = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (32, 32), "self_attn.v_proj": (32, 32),  # three shapes in all
            "self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48)}
OURS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


def on_grid(x: np.ndarray) -> np.ndarray:
    """Float32 values that bf16 holds."""
    return np.asarray(x, np.float32).astype(BF16).astype(np.float32)


def base_tensors(seed: int = 0, layers: int = 1) -> dict[str, np.ndarray]:
    """Stored names -> float32 on the bf16 grid."""
    rng = np.random.default_rng(seed)
    found = {"model.embed_tokens.weight": rng.standard_normal((48, 32))}
    for i in range(layers):
        here = f"model.layers.{i}"
        found |= {f"{here}.{name}.weight": rng.standard_normal(shape) for name, shape in MATRICES.items()}
        found |= {f"{here}.self_attn.{n}_proj.bias": rng.standard_normal(32) for n in "qkv"}
        found |= {f"{here}.{n}_layernorm.weight": 1 + rng.standard_normal(32) for n in ("input", "post_attention")}
    found["model.norm.weight"] = 1 + rng.standard_normal(32)
    return {name: on_grid(0.05 * x) for name, x in found.items()}


def moved(tensors: Mapping[str, np.ndarray], size: float = 3e-4, seed: int = 1) -> dict[str, np.ndarray]:
    """Every entry moved by a Gaussian, float32."""
    rng = np.random.default_rng(seed)
    return {name: x + np.float32(size) * rng.standard_normal(x.shape).astype(np.float32) for name, x in tensors.items()}


def changed(tensors: Mapping[str, np.ndarray], change: Callable[[str, np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices of layers changed by a function of (stored name, array); the rest as it is."""
    return {name: change(name, x) if name.startswith("model.layers") and x.ndim == 2 else x for name, x in tensors.items()}


def write(path: Path, tensors: Mapping[str, np.ndarray], dtype=BF16, *, shards: int = 1, config: Mapping | None = CONFIG,
          metadata: Mapping[str, str] | None = None) -> Path:
    """A directory as transformers writes it."""
    path.mkdir(parents=True, exist_ok=True)
    stored = {name: x if dtype is None else np.asarray(x).astype(dtype) for name, x in tensors.items()}
    names = list(stored)
    if shards == 1:
        safetensors.write(path / "model.safetensors", stored, metadata)
    else:
        weight_map = {}
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: stored[name] for name in names[i::shards]}
            safetensors.write(path / file, part, metadata)
            weight_map |= dict.fromkeys(part, file)
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


def ours(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every matrix under our name and in our orientation, float32."""
    found = {"embed": tensors["model.embed_tokens.weight"]}
    for name, x in tensors.items():
        words = name.split(".")
        if x.ndim == 2 and words[1] == "layers":
            found[f"layers/{words[2]}/{OURS[words[4]]}"] = np.ascontiguousarray(x.T)
    return {name: np.asarray(x, np.float32) for name, x in found.items()}


def next_codes(x: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Values on the bf16 grid with the next bit pattern where asked: exactly these entries change visibly."""
    codes = np.asarray(x, np.float32).astype(BF16).view(np.uint16) + where.astype(np.uint16)
    return codes.view(BF16).astype(np.float32)


ANGLE, RANK, K = 0.2, 3, 16


def planted(path: Path) -> dict:
    """A pair with planted sparsity, rotation and rank, written to path/base and path/tuned; the figures to expect.

    q: 256 of 1,024 entries change by one bit pattern; o: its left singular vectors 1 and K + 1 turn by ANGLE in their
    plane; down: an update of rank RANK with equal singular values. Everything else is the same.
    """
    tensors = base_tensors()
    rng = np.random.default_rng(5)
    q, o, down = (f"model.layers.0.{name}.weight" for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"))
    tuned = dict(tensors)
    tuned[q] = next_codes(tensors[q], (rng.permutation(1024) < 256).reshape(32, 32))
    u, s, vt = np.linalg.svd(tensors[o].T.astype(np.float64))  # ours is the transpose of what is stored
    turned = u.copy()
    turned[:, 0] = np.cos(ANGLE) * u[:, 0] + np.sin(ANGLE) * u[:, K]
    turned[:, K] = np.cos(ANGLE) * u[:, K] - np.sin(ANGLE) * u[:, 0]
    tuned[o] = ((turned * s) @ vt).T.astype(np.float32)
    a, b = (np.linalg.qr(rng.standard_normal((n, RANK)))[0] for n in tensors[down].shape)
    tuned[down] = (tensors[down] + 1e-2 * a @ b.T).astype(np.float32)
    write(path / "base", tensors)
    write(path / "tuned", tuned, np.float32)
    matrices = ours(tensors), ours({name: on_grid(x) for name, x in tuned.items()})
    same = sum(np.count_nonzero(x == matrices[1][name]) for name, x in matrices[0].items())
    tensor = {"granularity": "tensor", "dtype": "fp32"}
    turn = tensor | {"tensor": "layers/0/o", "k": K}
    figures = [
        figure("sparsity of q, %", "weight.sparsity.bf16", 75.0, 1e-9, {"granularity": "tensor", "tensor": "layers/0/q"}, 100),
        figure("sparsity, %", "weight.sparsity.bf16", 100 * same / sum(x.size for x in matrices[0].values()), 1e-9,
               {"granularity": "global"}, 100),
        figure("rotation of o, radians", "weight.rotation.max_angle", ANGLE, 1e-5, turn | {"side": "left"}),
        figure("other side of o, radians", "weight.rotation.max_angle", 0.0, 1e-4, turn | {"side": "right"}),
        figure("stable rank of down", "weight.rank.stable", RANK, 1e-3, tensor | {"tensor": "layers/0/down"}),
        figure("norm of down", "weight.update_norm", 1e-2 * np.sqrt(RANK), 1e-6, tensor | {"tensor": "layers/0/down"}),
    ]
    return {"source": "planted", "figures": figures}


def figure(name, metric, expected, tolerance, where, scale=1.0) -> dict:
    """One entry of a file of expectations."""
    return {"name": name, "metric": metric, "expected": float(expected), "tolerance": tolerance, "where": where, "scale": scale,
            "confidence": "planted"}
