"""Task families: generator, oracle, verifier and splits of each, on device, in one shared vocabulary.

task = tasks.get("addition", digits=3)
batch = tasks.examples(task, "train", jnp.arange(64))         # problem, prompt_NxP, answer_NxT
reward_N = jax.vmap(task.verify)(batch.problem, batch.answer_NxT)  # all ones
"""

import functools
import inspect
import numbers
from collections.abc import Hashable

from jaxpost import kinds, lookup
from jaxpost.tasks import (
    addition,
    arc,
    arithmetic,
    backdoors,
    battleship,
    biographies,
    chains,
    connect_four,
    countdown,
    episodes,
    facts,
    few_shot,
    gameable,
    general_points,
    grid,
    jigsaw,
    machine,
    mixture,
    modular,
    omega,
    permutations,
    ranking,
    rasp,
    refusals,
    satisfiability,
    slabs,
    spatial,
    sudoku,
    teachers,
    tictactoe,
    tools,
    urns,
    variations,
    vocab,
)
from jaxpost.tasks.base import (
    Examples,
    Task,
    difficulties,
    digest,
    digest_of,
    distinct,
    ends,
    evaluated,
    examples,
    knobs,
    mixed_knobs,
    problem_keys,
    problems,
    require,
    require_vocab,
    table,
    through,
    to_text,
)

_MODULES = (addition, countdown, chains, modular, general_points, rasp, arithmetic, spatial, biographies, gameable, slabs,
            machine, satisfiability, permutations, grid, facts, sudoku, arc, ranking, jigsaw, tools, urns, few_shot, tictactoe,
            connect_four, battleship, omega, variations, backdoors, teachers)
FAMILIES = {module.NAME: module.make for module in _MODULES}
LOOPS = {module.NAME: module.loop for module in _MODULES if hasattr(module, "loop")}  # with an environment of their problems

__all__ = [
    "FAMILIES",
    "LOOPS",
    "Examples",
    "Task",
    "closed",
    "difficulties",
    "digest",
    "digest_of",
    "distinct",
    "ends",
    "evaluated",
    "examples",
    "get",
    "knobs",
    "mixed_knobs",
    "problem_keys",
    "problems",
    "register",
    "require_vocab",
    "table",
    "through",
    "to_text",
    "vocab",
]


def register(name, make):
    """Add a family of one's own: `make(**options)` gives its Task, as those of the package do. Raises: ValueError: taken."""
    lookup.register("task", name, make, FAMILIES)


def get(name, /, **options):
    """The task of family `name` at `options` (see the family's `make`); equal settings give the same object.

    Lists among the options are read as tuples, so that a config can be passed on as it is. Where the default of an option is a
    list, a number or a whole number, so is the option.

    Raises:
        ValueError: an unknown family or option (the message names the nearest valid one), or a value out of range.
    """
    make = lookup.find("task", name, FAMILIES)
    return _build(make, _settings(name, make, options))


def closed(name, /, turns, **options):
    """The closed loop of family `name` at `options`: a task whose answers are episodes of at most `turns` actions.

    Its prompt is the first observation, its reward the sum of the episode's; it has no demonstrations.

    Raises:
        ValueError: a family without an environment, unknown options, or actions that the environment does not take.
    """
    loop = lookup.find("closed loop of task", name, LOOPS)
    if not isinstance(turns, int) or turns < 1:
        raise ValueError(f"closed loop of task {name!r}: turns={turns!r} must be a whole number of at least 1")
    return episodes.closed(get(name, **options), _loop(loop, turns, _settings(name, FAMILIES[name], options)))


def _settings(name, make, options):
    """((option, value), ...) of all options of a family. Raises: ValueError: an unknown one, or a value of no such kind."""
    defaults = {option: p.default for option, p in inspect.signature(make).parameters.items()}
    for option, value in options.items():
        if option not in defaults:
            raise ValueError(f"task {name!r}: option {option!r} is not known{lookup.nearest(option, defaults)}")
        _require_kind(name, option, value, defaults[option])
    return tuple((option, _tuples(options.get(option, default))) for option, default in defaults.items())


def _require_kind(name, option, value, default):
    """Refuses what no option can be; no list for a default that is one, and no number for one; and 2.0 or True for 2 or 1."""
    leaves, usual = _leaves(value), _leaves(default)
    require(all(isinstance(x, Hashable) for x in leaves), name, option, value, "a number, a text, or a list of them")
    kind = type(default) if isinstance(default, (tuple, float)) else object
    refusal = kinds.refusal(value, kind)
    require(not refusal, name, option, value, f"{refusal.removeprefix('expected ')}, as in {default!r}")
    if usual and all(type(x) is int for x in usual):
        disguised = any(isinstance(x, numbers.Real) and kinds.refusal(x, int) for x in leaves)
        require(not disguised, name, option, value, f"whole numbers, as in {default!r}")


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _leaves(value):
    """What is not a list, within lists of any depth."""
    return [leaf for part in value for leaf in _leaves(part)] if isinstance(value, (list, tuple)) else [value]


@functools.cache
def _build(make, options):
    return make(**dict(options))


@functools.cache
def _loop(loop, turns, options):
    return loop(dict(options), turns)


for _combined in (mixture, refusals):
    register(_combined.NAME, _combined.family(get))
