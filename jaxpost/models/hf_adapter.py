"""Low-rank adapters out as a directory that PEFT loads onto its base; `formats.lora` is the way back.

    W' = W + s A B   ->   lora_A.weight = A^T [r, in], lora_B.weight = B^T [out, r], lora_alpha = s r

File names and fields are PEFT's, as in `formats.lora`: PEFT 0.21.2 loaded directories of Qwen2 and Qwen3, tied and untied, and
merged them into the weights of our own merged export up to 3e-8 (float32).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import jax

from jaxpost.formats import FormatError, lora
from jaxpost.models import hf, hf_files
from jaxpost.models.declare import TransformerConfig
from jaxpost.models.hf_files import Pending


def save_adapter(path: str | Path, config: TransformerConfig, factors: Mapping[str, Mapping[str, jax.Array]], scale: float, *,
                 base: str, dtype: str = "float32") -> None:
    """Write adapter_config.json and adapter_model.safetensors. On several hosts every process calls it.

    Args:
      path: a new or empty directory.
      factors: of `training.adapters.lora`, kind -> {"a": [(L,) in, r], "b": [(L,) r, out]}, one rank in all.
      scale: s.
      base: what the adapters belong to, a directory or a name on the Hub.
      dtype: float32, bfloat16 or float16.

    Raises:
      FormatError: the directory is not empty, a dtype that is not known, or factors that are `inexpressible`.
    """
    path = Path(path)
    hf_files.require_new(path, dtype)
    if why := inexpressible(config, factors):
        raise FormatError(f"{why}; export the merged model")
    rank = int(next(iter(factors.values()))["a"].shape[-1])
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank,
             "lora_alpha": scale * rank, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "use_rslora": False,
             "inference_mode": True, "target_modules": sorted(hf.module_of(kind).split(".")[-1] for kind in factors)}
    with hf_files.whole(path) as temporary:
        hf_files.write(temporary / lora.WEIGHTS, dict(_tensors(factors, dtype)))
        if jax.process_index() == 0:
            (temporary / lora.CONFIG).write_text(json.dumps(about, indent=2))


def inexpressible(config: TransformerConfig, kinds: Collection[str]) -> str:
    """Why PEFT has no form for adapters of these kinds of matrices; empty where it has one."""
    if config.tied and "embed" in kinds:
        return "an adapter of 'embed' is of the embedding and of the head that is tied to it, and PEFT adapts one of them"
    return ""


def _tensors(factors: Mapping[str, Mapping[str, jax.Array]], dtype: str) -> Iterator[tuple[str, Pending]]:
    for kind, pair in factors.items():
        module, stacked = hf.module_of(kind), pair["a"].ndim == 3
        ends = ("lora_embedding_A", "lora_embedding_B") if kind == "embed" else ("lora_A.weight", "lora_B.weight")
        for i in range(pair["a"].shape[0]) if stacked else (None,):
            where, index = (module.format(i), (i,)) if stacked else (module, ())
            for end, side in zip(ends, "ab", strict=True):
                yield f"{lora.PREFIX}{where}.{end}", hf_files.pending(pair[side], index, True, dtype)
