"""The points of a sweep: one run each, with its overrides, its directory and its command."""

import ast
import dataclasses
import hashlib
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.harness import config as configs
from experiments.harness.command import make_directory
from experiments.harness.errors import UserError
from jaxpost.records import storage

PLAN = "sweep.json"
_LONGEST = 80  # of a directory's name


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str  # of its directory
    config: str  # as for experiments.run
    overrides: tuple[tuple[str, str], ...]  # (key, text)
    varied: tuple[tuple[str, str], ...]  # those that the sweep varies

    def arguments(self, directory: Path) -> list[str]:
        """Of experiments.run, with its own directory below `directory`."""
        return [f"--config={self.config}", f"--workdir={directory / self.name}",
                *(f"--config.{key}={text}" for key, text in self.overrides)]

    def command(self, directory: Path, python: str = "python") -> str:
        """As one line of a shell."""
        return shlex.join([python, "-m", "experiments.run", *self.arguments(directory)])


def grid(over: Sequence[str]) -> list[dict[str, str]]:
    """[{key: text}] of every combination of `KEY=VALUE,VALUE,...`; a value with commas of its own is written in brackets.

    >>> grid(["seeds.first=0,100", "train.learning_rates=(1e-5,1e-4),(3e-5,3e-4)"])[1]
    {'seeds.first': '0', 'train.learning_rates': '(3e-5,3e-4)'}

    Raises:
      UserError: another form, a key twice, or no value.
    """
    axes: dict[str, list[str]] = {}
    for text in over:
        key, equals, values = text.partition("=")
        parts = _split(values)
        if not equals or not re.fullmatch(r"[\w.{}-]+", key) or not parts or not all(parts):
            raise UserError(f"--over={text!r}: expected KEY=VALUE,VALUE,..., for example --over train.learning_rate=1e-5,1e-4")
        if key in axes:
            raise UserError(f"--over {key!r} is given twice; list all its values once")
        axes[key] = parts
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _split(text: str) -> list[str]:
    """The values between commas that are not inside brackets or quotes."""
    try:
        listed = f"[{text}]"
        return [ast.unparse(item) if isinstance(item, ast.Tuple) else ast.get_source_segment(listed, item)
                for item in ast.parse(listed, mode="eval").body.elts]
    except SyntaxError:  # words that are no Python, such as a name with a dash
        return [part.strip() for part in text.split(",")]


def points(config: str, over: Sequence[Mapping[str, str]], fixed: Mapping[str, str]) -> list[Point]:
    """A point for every mapping of overrides, each checked by loading its config before anything runs.

    Args:
      fixed: overrides of every point.

    Raises:
      UserError: a config, key or value that cannot be loaded, or two points that are the same run.
    """
    made: dict[str, Point] = {}
    loaded: dict[str, Mapping] = {}
    differing = {key for one in over for key in one if len({other.get(key) for other in over}) > 1}
    for varied in over:
        settings = configs.load(config, {**fixed, **varied}).to_dict()
        name = _name({key: value for key, value in varied.items() if key in differing})
        if same := [dict(made[other].varied) for other, before in loaded.items() if before == settings]:
            raise UserError(f"two points of the sweep are the same run: {same[0]} and {dict(varied)}; leave one out")
        if name in made:
            raise UserError(f"two points of the sweep have one name for a directory, {name!r}: {dict(made[name].varied)} and "
                            f"{dict(varied)}; make two sweeps of them")
        loaded[name] = settings
        made[name] = Point(name, config, tuple({**fixed, **varied}.items()), tuple(varied.items()))
    return list(made.values())


def _name(varied: Mapping[str, str]) -> str:
    """`learning_rate=1e-05,first=0`, as a directory's name; a long one is cut and has a hash."""
    last = [key.rpartition(".")[2] for key in varied]
    keys = last if len(set(last)) == len(last) else list(varied)
    text = ",".join(f"{key}={value}" for key, value in zip(keys, varied.values(), strict=True)) or "only"
    clean = re.sub(r"[^\w.=,+-]+", "_", text).strip("_.,")
    if len(clean) <= _LONGEST:
        return clean
    return f"{clean[:_LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_plan(directory: Path, made: Sequence[Point]) -> None:
    """Record the sweep in its directory; further points of the same config are added. Raises: UserError: another sweep's."""
    stated = {point.name: dict(point.overrides) for point in made}
    path, known = directory / PLAN, {}
    if path.exists():
        plan = storage.read_json(path)
        known = plan["points"]
        other = sorted(name for name, overrides in stated.items() if known.get(name, overrides) != overrides)
        if plan["config"] != made[0].config or other:
            point = f" with another point {other[0]}" if other else ""
            raise UserError(f"{directory} holds a sweep of {plan['config']!r}{point}; choose another --directory")
    make_directory(directory)
    storage.write_json(path, {"config": made[0].config, "points": known | stated})
