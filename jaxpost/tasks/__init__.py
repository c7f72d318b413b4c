"""Task families: generator, oracle, verifier and splits of each, on device, in one shared vocabulary.

task = tasks.get("addition", digits=3)
batch = tasks.examples(task, "train", jnp.arange(64))         # problem, prompt_NxP, answer_NxT
reward_N = jax.vmap(task.verify)(batch.problem, batch.answer_NxT)  # all ones
"""

import functools
import inspect

from jaxpost import lookup
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
    require_vocab,
    table,
    through,
    to_text,
)

_MODULES = (addition, countdown, chains, modular, general_points, rasp, arithmetic, spatial, biographies, gameable, slabs,
            machine, satisfiability, permutations, grid, facts, sudoku, arc, ranking, jigsaw, tools, urns, few_shot, tictactoe,
            connect_four, battleship, omega, variations, backdoors, teachers)
FAMILIES = {module.NAME: module.make for module in _MODULES}

__all__ = [
    "FAMILIES",
    "Examples",
    "Task",
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


def get(name, **options):
    """The task of family `name` at `options` (see the family's `make`); equal settings give the same object.

    Lists among the options are read as tuples, so that a config can be passed on as it is.

    Raises:
        ValueError: an unknown family or option (the message names the nearest valid one), or a value out of range.
    """
    make = lookup.find("task", name, FAMILIES)
    defaults = {option: p.default for option, p in inspect.signature(make).parameters.items()}
    for option in options:
        if option not in defaults:
            raise ValueError(f"task {name!r}: option {option!r} is not known{lookup.nearest(option, defaults)}")
    settings = {option: options.get(option, default) for option, default in defaults.items()}
    frozen = {option: tuple(value) if isinstance(value, list) else value for option, value in settings.items()}
    return _build(make, tuple(frozen.items()))


@functools.cache
def _build(make, options):
    return make(**dict(options))


register(mixture.NAME, mixture.family(get))
