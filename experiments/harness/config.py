"""Configs: `name`, `name:argument` or `path/to/mine.py`, with typed overrides `--config.a.b=value`; unknown is an error."""

import ast
import functools
import importlib.util
import math
import re
import sys
from pathlib import Path

from ml_collections import ConfigDict

from experiments.harness import defaults
from experiments.harness.errors import UserError
from jaxpost import kinds, sharding
from jaxpost.lookup import nearest

DIRECTORY = Path(__file__).resolve().parent.parent.parent / "configs"
STUDY = "study"  # the experiment whose arms, stages and claims are data
# Sections whose reader refuses unknown keys itself, and has defaults.
OPEN = ("model", "task", "second", "mesh", "arm", "tasks", "tune", "gate", "trend", "probe", "ood")
NAMED = ("ood",)  # sections of files by name, to which a command may add: --config.ood.hard=hard.jsonl
OF_STUDIES = ("model", "task", "second", "tasks", "arm")  # to whose tables a command may add: --config.task.reverse=True
# Cannot change a row: the config hash leaves them out.
EXCLUDED = ("title", "question", "papers", "pilot", "wandb", "tensorboard", "checkpoint", "seeds.count", "measure.budget",
            "measure.completions", "memory.report")
_REFERENCE = re.compile(r"[^\[*/]+(?:\[(?P<place>-?\d+)\])?(?:\*(?P<times>\d+))?(?:/(?P<parts>\d+))?")
PLACE = ("mesh",)  # says where a run is carried out: a run that goes on elsewhere is the same run


def names() -> list[str]:
    """The shipped configs."""
    return sorted(p.stem for p in DIRECTORY.glob("*.py") if not p.stem.startswith("_"))


@functools.cache
def module(reference: str):
    """The module of a shipped config or of the user's file, executed once.

    Raises:
      UserError: no such config, or a file that does not load.
    """
    path = Path(reference) if reference.endswith(".py") else DIRECTORY / f"{reference}.py"
    if not path.is_file():
        raise UserError(f"config {reference!r} is not known: there is no such file" if reference.endswith(".py") else
                        f"config {reference!r} is not known{nearest(reference, names())}; a file of your own ends in .py")
    spec = importlib.util.spec_from_file_location(f"jaxpost_config_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses of a user's task look their module up
    try:
        spec.loader.exec_module(loaded)
    except Exception as error:
        raise UserError(f"config {path} does not load: {type(error).__name__}: {_one_line(error)}"
                        f"{_where(error, path)}") from error
    if not callable(getattr(loaded, "get_config", None)):
        raise UserError(f"config {path} has no get_config(argument) function")
    return loaded


def load(reference: str, overrides: dict[str, str]) -> ConfigDict:
    """The locked config of `name[:argument]` with `overrides` ({"a.b": text}) applied.

    A user's config has the keys and types of the shipped config that it names as its `experiment`.

    Raises:
      UserError: unknown name, argument or key, or a value of another type.
    """
    name, _, argument = reference.partition(":")
    loaded = module(name)
    try:
        config = loaded.get_config(argument or "default")
    except Exception as error:
        raise UserError(f"config {name!r}: {_one_line(error)}{_where(error, loaded.__file__)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"config {name!r}: get_config returned {type(config).__name__}, expected an ml_collections.ConfigDict")
    config = _unshared(config)
    _like_the_shipped(config, name)
    config.lock()
    for key, text in overrides.items():
        _override(config, key, text)
    return config


def _unshared(config: ConfigDict) -> ConfigDict:
    """A copy in which no two places hold one section: a dict that a config names several times is one object there, so that an
    override of one arm would change others.
    """
    out = ConfigDict(type_safe=config.is_type_safe, convert_dict=config.convert_dict,
                     allow_dotted_keys=config.allow_dotted_keys)
    for key, value in config.items(preserve_field_references=True):
        out[key] = _unshared(value) if isinstance(value, ConfigDict) else value
    return out


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _where(error: Exception, path) -> str:
    """` (mine.py line 12)`, the last line of the user's file that the error went through."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == Path(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f" ({Path(path).name} line {lines[-1]})" if lines else ""


def _like_the_shipped(config: ConfigDict, name: str) -> None:
    by_key = leaves(config)
    shipped = by_key.get("experiment")
    if shipped not in (STUDY, *names()):
        raise UserError(f"config {name!r}: experiment={shipped!r} is not known{nearest(str(shipped), (STUDY, *names()))}")
    wanted = leaves(defaults.study() if shipped == STUDY else module(shipped).get_config("default"))
    if shipped == STUDY and "pretrain" not in config:  # nothing starts from a base
        wanted = leaves(defaults.from_scratch())
    named = {key_of(value) for key, value in by_key.items() if key.startswith("arm.")}
    if "arm" in config:  # what a study's arms may take from the section train
        named |= {f"train.{field}" for field in defaults.TRAIN_FIELDS}
    for key, value in by_key.items():
        if key in wanted:
            _set(config, key, _typed(key, value, wanted[key], f"config {name!r}: "))
        elif key.partition(".")[0] not in OPEN and key not in named:
            raise UserError(f"config {name!r}: key {key!r} is not known{nearest(key, wanted)}")
    for key in wanted:
        section = key.partition(".")[0]
        needed = section not in OPEN or key.endswith(".name") or (section == "model" and section not in config)
        if key not in by_key and needed:
            start = ("defaults.study() or defaults.from_scratch()" if shipped == STUDY else
                     f"configs.module({shipped!r}).get_config()")
            raise UserError(f"config {name!r}: key {key!r} is missing; start from c = {start} (experiments.harness) and change "
                            "what differs")


def leaves(config, prefix: str = "") -> dict:
    """{dotted key: value} of every leaf."""
    out = {}
    for key, value in config.items():
        out |= leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else {f"{prefix}{key}": value}
    return out


def key_of(value: object) -> str | None:
    """The key of the config that a value names, as "train.steps", "train.steps/3" or "train.rates[1]"; None: it is a value.

    >>> key_of("train.steps*3/4")
    'train.steps'
    """
    return re.split(r"[\[*/]", value, maxsplit=1)[0] if isinstance(value, str) and "." in value else None


def value_of(where: str, value, config: ConfigDict):
    """A value, or that of the key of the config that it names: the key's own, an element or a share of it.

    Raises:
      UserError: a key that is not there, or an element or share that it does not have.
    """
    if (key := key_of(value)) is None:
        return value
    known = leaves(config)
    if key not in known:
        raise UserError(f"{where}={value!r} names no key of the config{nearest(key, known)}")
    named = functools.reduce(lambda section, part: section[part], key.split("."), config)
    parts = _REFERENCE.fullmatch(value)
    if parts is None:
        raise UserError(f"{where}={value!r}: expected {key}, an element ({key}[0]) or a share ({key}/2, {key}*2/3)")
    try:
        named = named if parts["place"] is None else named[int(parts["place"])]
    except (IndexError, TypeError) as error:
        raise UserError(f"{where}={value!r}: {key}={named!r} has no such element") from error
    return named if parts["times"] is parts["parts"] is None else _share(
        f"{where}={value!r}", re.split(r"[*/]", value)[0], named, int(parts["times"] or 1), int(parts["parts"] or 1))


def _share(where: str, name: str, number, times: int, parts: int):
    """found * times / parts, a whole number of a whole one. Raises: UserError: there is none."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not parts:
        raise UserError(f"{where}: {name}={number!r} has no such share; a number has, of at least one part")
    if isinstance(number, float):
        return number * times / parts
    if number * times % parts:
        unit = parts // math.gcd(times, parts)
        low = number // unit * unit
        near = f"{low} or {low + unit}" if low > 0 else unit
        raise UserError(f"{where}: {name}={number} gives no whole number; nearest valid: {name}={near}")
    return number * times // parts


def _override(config: ConfigDict, key: str, text: str) -> None:
    known = leaves(config)
    if key == "mesh" and "mesh" in config:
        with config.unlocked():
            config.mesh.update(mesh_axes(text))
        return
    section, _, name = key.partition(".")
    if section in NAMED and section in config and name.isidentifier():
        with config.unlocked():
            config[section][name] = text
        return
    if key not in known:
        table = key.rpartition(".")[0]
        if config.experiment != STUDY or section not in OF_STUDIES or table in ("tasks", "arm") or not any(
                other.startswith(f"{table}.") for other in known):
            raise UserError(f"config key {key!r} is not known{nearest(key, known)}")
        with config.unlocked():
            _set(config, key, _literal(text))
        return
    old = known[key]
    if key.startswith("arm.") and key_of(old) in known and key_of(text) not in known:  # takes what the key that it names takes
        old = value_of(key, re.split(r"[*/]", old)[0], config)
    _set(config, key, _typed(key, text if isinstance(old, str) else _literal(text), old, ""))


def _literal(text: str):
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def mesh_axes(text: str) -> dict[str, int]:
    """{axis: size} of `ensemble:2,data:2,fsdp:-1`; -1 is what is left of the devices. Raises: UserError."""
    axes = {}
    for part in text.split(","):
        axis, colon, size = part.strip().partition(":")
        if not colon or not size.lstrip("-").isdigit():
            raise UserError(f"mesh={text!r}: expected AXIS:SIZE,..., for example data:2,fsdp:-1")
        if axis not in sharding.MESH_AXES:
            raise UserError(f"mesh axis {axis!r} is not known{nearest(axis, sharding.MESH_AXES)}")
        axes[axis] = int(size)
    return axes


def _set(config: ConfigDict, key: str, value) -> None:
    *path, last = key.split(".")
    for part in path:
        config = config[part]
    with config.ignore_type():  # checked by _typed
        config[last] = value


def _typed(key: str, new, old, where: str):
    """`new` as the type of `old` (an int where a float is wanted, a list where a tuple is). Raises: UserError."""
    if refusal := kinds.refusal(new, type(old)):
        raise UserError(f"{where}config key {key!r} is {new!r}: {refusal}, as in {old!r}")
    if isinstance(old, tuple):
        return tuple(_typed(f"{key}[{i}]", x, old[0], where) if old else x for i, x in enumerate(new))
    return float(new) if isinstance(old, float) else new
