"""Configs: `name`, `name:argument` or `path/to/mine.py`, with typed overrides `--config.a.b=value`; unknown is an error."""

import ast
import difflib
import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from experiments.errors import UserError

DIRECTORY = Path(__file__).resolve().parent.parent / "configs"
EXCLUDED = ("wandb", "checkpoint", "seeds.count")  # cannot change a row: the config hash leaves them out


def nearest(word: str, valid) -> str:
    """`; did you mean 'x'?` when something is close, and the list of what is valid."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, 1, 0.4)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (valid: {', '.join(valid)})"


def names() -> list[str]:
    """The shipped configs."""
    return sorted(p.stem for p in DIRECTORY.glob("*.py") if not p.stem.startswith("_"))


def module(reference: str):
    """The module of a shipped config or of the user's file.

    Raises:
      UserError: no such config, or a file that does not load.
    """
    path = Path(reference) if reference.endswith(".py") else DIRECTORY / f"{reference}.py"
    if not path.is_file():
        raise UserError(f"config {reference!r} is not known{nearest(reference, names())}")
    spec = importlib.util.spec_from_file_location(f"jaxpost_config_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(loaded)
    except Exception as error:
        raise UserError(f"config {path} does not load: {type(error).__name__}: {error}") from error
    if not hasattr(loaded, "get_config"):
        raise UserError(f"config {path} has no get_config(argument) function")
    return loaded


def load(reference: str, overrides: dict[str, str]) -> ConfigDict:
    """The locked config of `name[:argument]` with `overrides` ({"a.b": text}) applied.

    Raises:
      UserError: unknown name, argument or key, or a value of another type.
    """
    name, _, argument = reference.partition(":")
    loaded = module(name)
    try:
        config = loaded.get_config(argument or "default")
    except ValueError as error:
        raise UserError(f"config {name!r}: {error}") from error
    config.lock()
    for key, text in overrides.items():
        _override(config, key, text)
    return config


def leaves(config, prefix: str = "") -> dict:
    """{dotted key: value} of every leaf."""
    out = {}
    for key, value in config.items():
        out |= leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else {f"{prefix}{key}": value}
    return out


def _override(config: ConfigDict, key: str, text: str) -> None:
    known = leaves(config)
    if key not in known:
        raise UserError(f"config key {key!r} is not known{nearest(key, known)}")
    *path, last = key.split(".")
    section = config
    for part in path:
        section = section[part]
    old = known[key]
    try:
        new = text if isinstance(old, str) else ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        new = text
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        new = float(new)
    if isinstance(old, tuple) and isinstance(new, list):
        new = tuple(new)
    if type(new) is not type(old):
        raise UserError(f"config key {key!r} takes {type(old).__name__} (now {old!r}), found {text!r}")
    section[last] = new
