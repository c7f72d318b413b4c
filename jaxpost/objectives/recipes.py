"""The recipe table: an algorithm is a row that picks parts. A new algorithm is a new row, or a new part plus a row.

Each family's rows stand next to the class whose parts they pick.
"""

import dataclasses
import difflib

from jaxpost.objectives import actor_critic, hybrid, policy_gradient, soft_clipping, supervised
from jaxpost.objectives.base import Objective

RECIPES = {o.name: o for o in (*supervised.ROWS, *policy_gradient.ROWS, *actor_critic.ROWS, *soft_clipping.ROWS, *hybrid.ROWS)}

_IDENTITY = ("name", "family", "paper", "batch")


def overrides(objective: Objective) -> tuple[str, ...]:
    """The parts of an objective that `get` can replace."""
    return tuple(f.name for f in dataclasses.fields(objective) if f.name not in _IDENTITY)


def _nearest(word: str, valid) -> str:
    return (difflib.get_close_matches(word, valid, 1, 0.0) or sorted(valid))[0]


def get(name: str, **parts) -> Objective:
    """The named recipe with some of its parts replaced, e.g. `get("grpo", clip_high=0.28)`.

    Raises:
      ValueError: unknown name or override; the message has the nearest valid one and all of them.
    """
    if name not in RECIPES:
        raise ValueError(f"objective {name!r} is unknown; did you mean {_nearest(name, RECIPES)!r}? "
                         f"Known: {', '.join(RECIPES)}")
    valid = overrides(RECIPES[name])
    for key in parts:
        if key not in valid:
            raise ValueError(f"objective {name!r} has no part {key!r}; did you mean {_nearest(key, valid)!r}? "
                             f"Parts: {', '.join(valid)}")
    return dataclasses.replace(RECIPES[name], **parts)


def table() -> list[dict]:
    """One dict a recipe: name, family, paper, batch and every part that differs from the field's default."""
    rows = []
    for o in RECIPES.values():
        parts = {f.name: getattr(o, f.name) for f in dataclasses.fields(o)
                 if f.name not in _IDENTITY and getattr(o, f.name) != f.default}
        rows.append({"name": o.name, "family": o.family, "paper": o.paper, "batch": o.batch, "parts": parts})
    return rows
