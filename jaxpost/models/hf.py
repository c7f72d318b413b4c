"""Hugging Face weights in and out: a directory with config.json and safetensors <-> a sharded policy.

Neither way holds the model twice: loading makes one parameter at a time, each device reading its own part of the files;
saving writes one tensor at a time. Families: Llama, Mistral without a sliding window, Qwen2 and 2.5, Qwen3.
Source: the modelling code of transformers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils

from jaxpost import formats, sharding
from jaxpost.formats import FormatError, names, safetensors
from jaxpost.models import declare
from jaxpost.models.declare import TransformerConfig

FAMILIES = {  # model_type -> (class, qkv_bias, qk_norm)
    "llama": ("LlamaForCausalLM", False, False), "mistral": ("MistralForCausalLM", False, False),
    "qwen2": ("Qwen2ForCausalLM", True, False), "qwen3": ("Qwen3ForCausalLM", False, True),
}
_REFUSED = {  # key of config.json -> values that mean the plain architecture
    "hidden_act": ("silu", None), "attention_bias": (False, None), "mlp_bias": (False, None), "rope_scaling": (None,),
    "use_sliding_window": (False, None),
}
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
SHARD_BYTES = 5 * 10**9


def config_of(found: Mapping[str, Any], where: str = "config.json") -> TransformerConfig:
    """The architecture that a config.json describes.

    Raises:
      FormatError: a family or an option that the decoder does not have; it names the key, its value and what is known.
    """
    family = found.get("model_type")
    if family not in FAMILIES:
        raise FormatError(f"{where}: model_type {family!r} is not known; known: {', '.join(FAMILIES)}")
    rope = found.get("rope_parameters") or {}
    options = {**found, "rope_scaling": found.get("rope_scaling") or _scaled(rope)}
    for key, plain in _REFUSED.items():
        if options.get(key) not in plain:
            raise FormatError(f"{where}: {key}={options[key]!r} is not supported; expected {plain[0]!r}")
    if family == "mistral" and (window := found.get("sliding_window", 4096)) is not None:  # what an absent key means
        raise FormatError(f"{where}: sliding_window={window!r} is not supported; expected null")
    _, bias, norm = FAMILIES[family]
    try:
        heads, width = int(found["num_attention_heads"]), int(found["hidden_size"])
        return TransformerConfig(
            vocab=int(found["vocab_size"]), width=width, layers=int(found["num_hidden_layers"]), heads=heads,
            kv_heads=int(found.get("num_key_value_heads") or heads), head_dim=int(found.get("head_dim") or width // heads),
            ff=int(found["intermediate_size"]), norm_eps=float(found.get("rms_norm_eps", 1e-6)), qkv_bias=bias, qk_norm=norm,
            rope_theta=float(rope.get("rope_theta") or found.get("rope_theta") or 10_000.0),
            tied=bool(found.get("tie_word_embeddings", False)))
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise FormatError(f"{where}: {error!r} while reading the architecture") from error
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error


def _scaled(rope: Mapping) -> Mapping | None:
    return None if rope.get("rope_type", "default") == "default" else rope


def load(path: str | Path, *, mesh: jax.sharding.Mesh | None = None, dtype: str | None = "float32"
         ) -> tuple[TransformerConfig, dict]:
    """The policy of a directory, every parameter on the devices that the sharding rules give it.

    Args:
      mesh: where parameters go; None is the default device.
      dtype: of the masters; None keeps each tensor's stored dtype (needed for a bitwise round trip).

    Returns:
      (config, params) as `models.apply` takes them.

    Raises:
      FormatError: not a whole checkpoint, an architecture or a tensor that the decoder does not have, or a missing or
        misshapen tensor.
    """
    source = formats.open_checkpoint(path)
    config = config_of(source.config, f"{path}/config.json")
    parts = names.resolve(source)
    _check(config, parts, source)
    table = declare.parameter_table(config)
    shardings = None if mesh is None else sharding.parameter_shardings(table, mesh)

    def make(keys, declared):
        at = keys[-1].key
        stored = [parts[f"layers/{i}/{at}"] for i in range(config.layers)] if len(keys) > 1 else [parts[at]]
        kept = np.dtype(dtype or safetensors.DTYPES[source.tensors[stored[0].tensor].dtype])
        read = _reader(stored, source, declared.shape, kept, stacked=len(keys) > 1)
        if shardings is None:
            return jnp.asarray(read((slice(None),) * len(declared.shape)))
        place = shardings["layers"][at] if len(keys) > 1 else shardings[at]
        return jax.make_array_from_callback(declared.shape, place, read)

    return config, jax.tree_util.tree_map_with_path(make, table, is_leaf=lambda p: hasattr(p, "axes"))


def _check(config: TransformerConfig, parts: Mapping[str, names.Part], source) -> None:
    """Refuse missing, unknown and misshapen tensors before anything is loaded."""
    wanted = {n: p.shape for n, p in declare.outer_parameters(config).items()}
    wanted |= {f"layers/{i}/{n}": p.shape for n, p in declare.layer_parameters(config).items() for i in range(config.layers)}
    for name in [*(set(wanted) - set(parts)), *(set(parts) - set(wanted))]:
        verb = "has no tensor for" if name in wanted else f"holds {parts[name].tensor!r}, and the architecture has no"
        raise FormatError(f"{source.path}: {verb} {name!r}")
    for name, shape in wanted.items():
        if parts[name].shape != shape:
            raise FormatError(f"{source.path}: {parts[name].tensor!r} is {parts[name].shape} as [inputs, outputs]; config.json "
                              f"makes {name!r} {shape}")


def _reader(stored: list[names.Part], source, shape: tuple[int, ...], dtype: np.dtype, *, stacked: bool) -> Callable:
    """index -> that block of a parameter; reads only the layers that the index touches."""
    def read(index):
        if not stacked:
            return stored[0].read(source)[index].astype(dtype)
        layers = range(shape[0])[index[0]]
        sizes = [len(range(n)[i]) for n, i in zip(shape[1:], index[1:])]
        block = np.empty((len(layers), *sizes), dtype)
        for position, layer in enumerate(layers):
            block[position] = stored[layer].read(source)[tuple(index[1:])]
        return block

    return read


@dataclasses.dataclass(frozen=True)
class _Pending:
    """An array that is made when it is written."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.make()


def save(path: str | Path, config: TransformerConfig, params: Mapping, *, like: str | Path | None = None,
         dtype: str | None = None, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a directory that transformers loads. On several hosts every process calls it and the first one writes.

    Args:
      path: a new or empty directory; written beside and renamed, so that it is whole or absent.
      like: a Hugging Face directory whose config.json, tokenizer and other small files are taken over.
      dtype: float32, bfloat16 or float16; None keeps each parameter's own.
      shard_bytes: largest file.

    Raises:
      FormatError: the directory is not empty, the architecture is none of the families', `like` is another architecture,
        a dtype that is not known, or a value head, which the format has no place for.
    """
    path = Path(path)
    if path.exists() and any(path.iterdir()):
        raise FormatError(f"{path}: is not empty; nothing is overwritten")
    if dtype is not None and dtype not in _DTYPES:
        raise FormatError(f"dtype {dtype!r} is not known; choose one of {', '.join(_DTYPES)}")
    if "value" in params:
        raise FormatError("a value head has no place in the format: save the parameters without 'value'")
    about = _description(config, like, dtype or str(jax.tree.leaves(dict(params))[0].dtype))
    shards = _shards(dict(_stored_tensors(config, params, dtype)), shard_bytes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    first = jax.process_index() == 0
    if first:
        temporary.mkdir(parents=True)
    try:
        for file, tensors in shards.items():
            _write(temporary / file, tensors, first)
        if first:
            _finish(temporary, shards, about, like)
            if path.exists():
                path.rmdir()
            temporary.rename(path)
    finally:
        if first:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(file: Path, tensors: Mapping[str, _Pending], first: bool) -> None:
    if first:
        safetensors.write(file, tensors, {"format": "pt"})
    else:
        for tensor in tensors.values():  # gathering is collective: every process takes part
            np.asarray(tensor)


def _finish(place: Path, shards: Mapping[str, Mapping], about: dict, like: str | Path | None) -> None:
    if len(shards) > 1:
        weight_map = {name: file for file, tensors in shards.items() for name in tensors}
        total = sum(x.nbytes for tensors in shards.values() for x in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (place / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (place / "config.json").write_text(json.dumps(about, indent=2))
    for file in sorted(Path(like).iterdir()) if like else ():
        if file.is_file() and file.suffix in (".json", ".txt", ".jinja", ".model") and not (place / file.name).exists() \
                and not file.name.endswith(".index.json"):
            shutil.copyfile(file, place / file.name)


def _description(config: TransformerConfig, like: str | Path | None, dtype: str) -> dict:
    """config.json: that of `like`, or one made from the architecture."""
    if like is not None:
        found = json.loads((Path(like) / "config.json").read_text())
        theirs = config_of(found, f"{like}/config.json")
        same = dataclasses.replace(config, compute_dtype=theirs.compute_dtype, value_head=False)
        if theirs != same:
            differing = next(f.name for f in dataclasses.fields(theirs) if getattr(theirs, f.name) != getattr(same, f.name))
            raise FormatError(f"{like}: its {differing} is {getattr(theirs, differing)!r}, the policy's "
                              f"{getattr(same, differing)!r}")
        return {**found, "dtype": dtype} if "dtype" in found else {**found, "torch_dtype": dtype}
    family = next((n for n, (_, bias, norm) in FAMILIES.items() if (bias, norm) == (config.qkv_bias, config.qk_norm)), None)
    if family is None:
        raise FormatError("no family has both qkv_bias and qk_norm; qwen2 has the first, qwen3 the second")
    return {"architectures": [FAMILIES[family][0]], "model_type": family, "vocab_size": config.vocab,
            "hidden_size": config.width, "intermediate_size": config.ff, "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
            "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "tie_word_embeddings": config.tied, "hidden_act": "silu", "dtype": dtype}


def _stored_tensors(config: TransformerConfig, params: Mapping, dtype: str | None) -> Iterator[tuple[str, _Pending]]:
    """Tensors by their Hugging Face names, in layer order, made when they are written."""
    for theirs, (ours, transpose) in names.OUTER.items():
        if ours in params:
            yield theirs, _pending(params[ours], None, transpose, dtype)
    norms = {ours: f"{theirs}.weight" for theirs, ours in names.NORMS.items()}
    projections = {ours: ("mlp" if ours in ("gate", "up", "down") else "self_attn", theirs)
                   for theirs, ours in names.PROJECTIONS.items()}
    for layer in range(config.layers):
        for ours, x in sorted(params["layers"].items()):
            if ours in norms:
                name = norms[ours]
            else:
                owner, module = projections[ours.removesuffix("_bias")]
                name = f"{owner}.{module}.{'bias' if ours.endswith('_bias') else 'weight'}"
            yield f"model.layers.{layer}.{name}", _pending(x, layer, ours in projections, dtype)


def _pending(x: jax.Array, layer: int | None, transpose: bool, dtype: str | None) -> _Pending:
    shape = x.shape if layer is None else x.shape[1:]
    kept = np.dtype(x.dtype) if dtype is None else _DTYPES[dtype]

    def make():
        part = x if layer is None else x[layer]
        if isinstance(part, jax.Array) and not part.is_fully_addressable:
            part = multihost_utils.process_allgather(part, tiled=True)
        found = np.asarray(part).astype(kept)
        return found.T if transpose else found

    return _Pending(shape[::-1] if transpose else shape, kept, make)


def _shards(tensors: Mapping[str, _Pending], limit: int) -> dict[str, dict[str, _Pending]]:
    """Tensors in order, cut into files of at most `limit` bytes (one tensor may be larger)."""
    groups: list[dict[str, _Pending]] = [{}]
    for name, tensor in tensors.items():
        if groups[-1] and sum(x.nbytes for x in groups[-1].values()) + tensor.nbytes > limit:
            groups.append({})
        groups[-1][name] = tensor
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}
