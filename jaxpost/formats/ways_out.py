"""What a directory is that is no checkpoint of ours to read, and what to do with it: one sentence a kind."""

from __future__ import annotations

import re
from pathlib import Path

_STEP = re.compile(r"(?:checkpoint|global_step|step|iter|epoch)[-_]?(\d+)")
_MODELS = ("huggingface", "hf_model", "model", "merged", "actor/huggingface", "policy")  # where trainers put the model itself
_INSIDE = ("config.json", "model.safetensors", "model.safetensors.index.json")


def way_out(path: Path) -> str | None:
    """What to give instead of a directory without weights of its own, None for one that is not recognised: the newest step of a
    trainer's output directory, the model inside it, the command that converts a sharded training state."""
    names = {entry.name for entry in path.iterdir()}
    steps = sorted((int(match[1]), entry.name) for entry in path.iterdir()
                   if entry.is_dir() and (match := _STEP.fullmatch(entry.name)))
    if steps:
        below = f"{path / steps[-1][1]}"
        return (f"it is a trainer's output directory with {len(steps)} checkpoints, the newest {steps[-1][1]}: give {below}"
                + (f" ({way})" if (way := way_out(path / steps[-1][1])) else ""))
    if folder := next((name for name in _MODELS if any((path / name / file).is_file() for file in _INSIDE)), None):
        return f"the model lies in {path / folder}: give that"
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return ("it is a distributed checkpoint of PyTorch: `python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
                f"{path} OUT.pt`, then load_state_dict and save_pretrained(OUT), which writes safetensors")
    if "zero_to_fp32.py" in names or any(name.startswith("zero_pp_rank") for name in names):
        return (f"it is a DeepSpeed state: `python {path / 'zero_to_fp32.py'} {path} OUT --safe_serialization` writes "
                "safetensors")
    if any(re.match(r"model_world_size_\d+_rank_\d+\.pt", name) for name in names):
        return ("it is an FSDP state of verl: `python -m verl.model_merger merge --backend fsdp --local_dir "
                f"{path} --target_dir OUT`")
    if any(name.startswith("mp_rank_") for name in names) or "latest_checkpointed_iteration.txt" in names:
        return "it is a Megatron checkpoint: convert it to a Hugging Face directory with your trainer's exporter"
    if gguf := next((name for name in sorted(names) if name.endswith(".gguf")), None):
        return (f"{gguf} is quantised for inference: AutoModelForCausalLM.from_pretrained({str(path)!r}, gguf_file={gguf!r})"
                ".save_pretrained(OUT) writes safetensors of the dequantised weights")
    if h5 := next((name for name in sorted(names) if name.endswith((".h5", ".msgpack", ".npz"))), None):
        return f"{h5} is of TensorFlow, Flax or NumPy: load it there and save_pretrained(OUT), which writes safetensors"
    if any(name.startswith(("optimizer", "scheduler", "rng_state")) for name in names):
        return "it holds the state of a training run without the model's weights: give the directory that has model.safetensors"
    return None
