"""Hugging Face weights in and out: a directory with config.json and safetensors <-> a sharded policy.

Neither way holds the model twice: loading makes one parameter at a time, each device reading its own part of the files;
saving writes one tensor at a time. Families: those of `hf_config`.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import formats, sharding
from jaxpost.formats import FormatError, names, safetensors
from jaxpost.models import declare, hf_files
from jaxpost.models.declare import TransformerConfig
from jaxpost.models.hf_config import config_of, describe
from jaxpost.models.hf_files import Pending, pending

_FLOATS = ("BF16", "F16", "F32", "F64")
SHARD_BYTES = 5 * 10**9
_OUTER = {ours: theirs.removesuffix(".weight") for theirs, (ours, _) in names.OUTER.items()}
_PLAIN = {ours: theirs for theirs, ours in names.NORMS.items()} | {"router": "mlp.gate"}
_PROJECTED = {ours: theirs for theirs, ours in names.PROJECTIONS.items()}


def load(path: str | Path, *, mesh: jax.sharding.Mesh | None = None, dtype: str | None = "float32"
         ) -> tuple[TransformerConfig, dict]:
    """The policy of a directory, every parameter on the devices that the sharding rules give it.

    Args:
      mesh: where parameters go; None is the default device.
      dtype: of the masters; None keeps the stored dtype of each parameter (needed for a bitwise round trip), which all members
        of a stack of layers and experts must then have.

    Returns:
      (config, params) as `models.apply` takes them.

    Raises:
      FormatError: not a whole checkpoint, an architecture or a tensor that the decoder does not have, a missing or
        misshapen tensor, one that is no bf16, fp16, fp32 or fp64, a tied head that differs from the embedding, with
        dtype=None a stack of several dtypes, or float64 where JAX has none.

    Files beside the model that are left out, and links out of the directory, are warned of.
    """
    source = formats.open_checkpoint(path)
    config = config_of(source.config, f"{path}/config.json")
    parts, table = names.resolve(source), declare.parameter_table(config)
    _check(table, parts, source)
    _check_buffers(config, source)
    for note in source.notes:
        warnings.warn(note, stacklevel=2)
    shardings = None if mesh is None else sharding.parameter_shardings(table, mesh)

    def make(keys, declared):
        at = keys[-1].key
        lead, places = _places(at, declared)
        stored = [parts[place] for place in places]
        kept = np.dtype(dtype) if dtype else _one_dtype(at, stored, source)
        if (made := jax.dtypes.canonicalize_dtype(kept)) != kept:
            raise FormatError(f'{path}: {at!r} as {kept} would become {made}; load with dtype="float32", or set jax_enable_x64')
        read = _reader(stored, source, declared.shape, lead, kept)
        if shardings is None:
            return jnp.asarray(read((slice(None),) * len(declared.shape)))
        place = shardings["layers"][at] if len(keys) > 1 else shardings[at]
        return jax.make_array_from_callback(declared.shape, place, read)

    return config, jax.tree_util.tree_map_with_path(make, table, is_leaf=lambda p: hasattr(p, "axes"))


def _places(at: str, declared: declare.Parameter) -> tuple[int, list[str]]:
    """(how many leading axes are stacked, our names of what lies along them in row-major order)."""
    lead = sum(axis in ("layers", "expert") for axis in declared.axes)
    form = (at, f"layers/{{}}/{at}", f"layers/{{}}/experts/{{}}/{at}")[lead]
    return lead, [form.format(*index) for index in np.ndindex(declared.shape[:lead])]


def _check(table: Mapping, parts: Mapping[str, names.Part], source) -> None:
    """Refuse missing, unknown and misshapen tensors before anything is loaded."""
    wanted = {}
    for name, declared in [*table["layers"].items(), *((n, p) for n, p in table.items() if n != "layers")]:
        lead, places = _places(name, declared)
        wanted |= dict.fromkeys(places, declared.shape[lead:])
    if "head" in parts and "head" not in wanted and "embed" in parts:
        raise FormatError(f"{source.path}: config.json says tie_word_embeddings, and {parts['head'].tensor!r} is stored and is "
                          f"not {parts['embed'].tensor!r}: set tie_word_embeddings to false to use it, or remove it")
    for name in [*sorted(set(wanted) - set(parts)), *sorted(set(parts) - set(wanted))]:
        verb = "has no tensor for" if name in wanted else f"holds {parts[name].tensor!r}, and the architecture has no"
        raise FormatError(f"{source.path}: {verb} {name!r}")
    for name, shape in wanted.items():
        if parts[name].shape != shape:
            raise FormatError(f"{source.path}: {parts[name].tensor!r} is {parts[name].shape} as [inputs, outputs]; config.json "
                              f"makes {name!r} {shape}")
    for name in wanted:
        if (stored := source.tensors[parts[name].tensor].dtype) not in _FLOATS:
            raise FormatError(f"{source.path}: {parts[name].tensor!r} is {stored}; weights are one of {', '.join(_FLOATS)}: "
                              "dequantise or convert the checkpoint first")


def _check_buffers(config: TransformerConfig, source) -> None:
    """Refuse stored rotary frequencies that are not those of rope_theta: nothing else of them is used."""
    half = config.head_dim // 2
    expected = config.rope_theta ** (-np.arange(half) / half)
    for tensor in names.buffers(source):
        stored = np.asarray(source.read(tensor), np.float64)
        if stored.shape != (half,) or not np.allclose(stored, expected, rtol=1e-2):
            raise FormatError(f"{source.path}: {tensor!r} holds other rotary frequencies than config.json gives (rope_theta="
                              f"{config.rope_theta:g}, head_dim={config.head_dim})")


def _one_dtype(name: str, stored: list[names.Part], source) -> np.dtype:
    """The dtype that every member of a stack has. Raises: FormatError when there are several."""
    members: dict[str, list[str]] = {}
    for part in stored:
        members.setdefault(source.tensors[part.tensor].dtype, []).append(part.tensor)
    if len(members) > 1:
        dtypes = "; ".join(f"{len(tensors)} are {dtype}, first {tensors[0]!r}" for dtype, tensors in members.items())
        raise FormatError(f"{source.path}: {name!r} is one stack of {len(stored)} tensors of several dtypes ({dtypes}), and "
                          'dtype=None keeps one: load with dtype="float32", which holds all of them exactly')
    return safetensors.DTYPES[next(iter(members))]


def _reader(stored: list[names.Part], source, shape: tuple[int, ...], lead: int, dtype: np.dtype) -> Callable:
    """index -> that block of a parameter; reads only the layers and experts that the index touches."""
    along = np.arange(len(stored)).reshape(shape[:lead])

    def read(index):
        wanted = along[tuple(index[:lead])]
        block = np.empty((*wanted.shape, *(len(range(n)[i]) for n, i in zip(shape[lead:], index[lead:]))), dtype)
        for position in np.ndindex(wanted.shape):
            block[position] = stored[wanted[position]].read(source)[tuple(index[lead:])]
        return block

    return read


def save(path: str | Path, config: TransformerConfig, params: Mapping, *, like: str | Path | None = None,
         dtype: str | None = None, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a directory that transformers loads. On several hosts every process calls it and the first one writes.

    Experts are written one by one, under the names of the Hub's checkpoints. A capacity is training's and is not written:
    what is loaded is dropless.

    Args:
      path: a new or empty directory; written beside and renamed, so that it is whole or absent.
      like: a Hugging Face directory whose config.json, tokenizer and other small files are taken over.
      dtype: float32, bfloat16 or float16; None keeps each parameter's own.
      shard_bytes: largest file.

    Raises:
      FormatError: the directory is not empty, the architecture is none of the families', `like` is another architecture,
        parameters that are not those of `config`, a dtype that is not known, or a value head, which has no place there.
    """
    path = Path(path)
    hf_files.require_new(path, dtype)
    declared = {*declare.outer_parameters(config), "layers"}
    if odd := sorted((set(params) ^ declared) - {"value"}):
        what = "not among the parameters" if odd[0] in declared else "no parameter of the architecture"
        raise FormatError(f"{odd[0]!r} is {what} (tied={config.tied}); nothing is left out and nothing is made up")
    if "value" in params:
        raise FormatError("a value head has no place in the format: save the parameters without 'value'")
    about = describe(config, like, dtype or str(jax.tree.leaves(dict(params))[0].dtype))
    wanted, found = _shapes(declare.parameter_table(config)), _shapes(params)
    for name in sorted((set(wanted) | set(found)) - {"value"}):
        if wanted.get(name) != found.get(name):
            raise FormatError(f"parameter {name!r} is {found.get(name, 'absent')}; the architecture makes it "
                              f"{wanted.get(name, 'absent')}")
    shards = _shards(dict(_stored_tensors(config, params, dtype)), shard_bytes)
    with hf_files.whole(path) as temporary:
        for file, tensors in shards.items():
            hf_files.write(temporary / file, tensors)
        if jax.process_index() == 0:
            _finish(temporary, shards, about, like)


def _shapes(tree: Mapping) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array, or declaration, of the tree of parameters."""
    flat = {name: x for name, x in tree.items() if name != "layers"} | {f"layers/{n}": x for n, x in tree["layers"].items()}
    return {name: tuple(x.shape) for name, x in flat.items()}


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


def _stored_tensors(config: TransformerConfig, params: Mapping, dtype: str | None) -> Iterator[tuple[str, Pending]]:
    """Tensors by their Hugging Face names, in layer order, made when they are written."""
    for theirs, (ours, transpose) in names.OUTER.items():
        if ours in params:
            yield theirs, pending(params[ours], (), transpose, dtype)
    for layer in range(config.layers):
        for ours, x in sorted(params["layers"].items()):
            module = module_of(ours.removesuffix("_bias")).format(layer)
            leaf = "bias" if ours.endswith("_bias") else "weight"
            if ours in ("gate", "up", "down") and config.experts:
                for e in range(config.experts):
                    yield f"{module.replace('.mlp.', f'.mlp.experts.{e}.')}.{leaf}", pending(x, (layer, e), True, dtype)
            else:
                yield f"{module}.{leaf}", pending(x, (layer,), x.ndim == 3, dtype)


def module_of(kind: str) -> str:
    """The module whose weight a parameter is; `{}` stands for the layer.

    >>> module_of("q"), module_of("router"), module_of("head")
    ('model.layers.{}.self_attn.q_proj', 'model.layers.{}.mlp.gate', 'lm_head')
    """
    if kind in _OUTER:
        return _OUTER[kind]
    owner = "" if kind in _PLAIN else "mlp." if kind in ("gate", "up", "down") else "self_attn."
    return f"model.layers.{{}}.{owner}{(_PLAIN | _PROJECTED)[kind]}"


def _shards(tensors: Mapping[str, Pending], limit: int) -> dict[str, dict[str, Pending]]:
    """Tensors in order, cut into files of at most `limit` bytes (one tensor may be larger)."""
    groups: list[dict[str, Pending]] = [{}]
    for name, tensor in tensors.items():
        if groups[-1] and sum(x.nbytes for x in groups[-1].values()) + tensor.nbytes > limit:
            groups.append({})
        groups[-1][name] = tensor
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}
