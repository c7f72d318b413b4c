"""The recipe table: an algorithm is a row that picks parts. A new algorithm is a new row, or a new part plus a row.

Each family's rows stand next to the class whose parts they pick.
"""

import dataclasses
import typing

from jaxpost import kinds, lookup
from jaxpost.lookup import nearest
from jaxpost.objectives import (
    actor_critic,
    distillation,
    entropy_control,
    flow,
    gradient_mixing,
    group_credit,
    hybrid,
    implicit_reward,
    intuitive,
    one_token,
    policy_gradient,
    preference,
    prefix,
    replayed,
    reward_weighted,
    reward_weighting,
    selection,
    soft_clipping,
    supervised,
    trust_region,
    turn_credit,
    unpaired,
)
from jaxpost.objectives.base import Objective

_FAMILIES = (supervised, one_token, implicit_reward, intuitive, preference, unpaired, policy_gradient, group_credit,
             reward_weighting, turn_credit, reward_weighted, actor_critic, soft_clipping, trust_region, selection,
             entropy_control, replayed, hybrid, prefix, gradient_mixing, distillation, flow)
RECIPES = {o.name: o for module in _FAMILIES for o in module.ROWS}

_IDENTITY = ("name", "family", "paper", "batch")


def overrides(objective: Objective) -> tuple[str, ...]:
    """The parts of an objective that `get` can replace."""
    return tuple(f.name for f in dataclasses.fields(objective) if f.name not in _IDENTITY)


def get(name: str, **parts) -> Objective:
    """The named recipe with some of its parts replaced, e.g. `get("grpo", clip_high=0.28)`.

    Raises:
      ValueError: unknown name or override (the message has the nearest valid one and all of them), or a value of another
        kind than the part is declared.
    """
    row = lookup.find("objective", name, RECIPES)
    valid, declared = overrides(row), typing.get_type_hints(type(row))
    for key in parts:
        if key not in valid:
            raise ValueError(f"objective {name!r} has no part {key!r}{nearest(key, valid)}")
        if refusal := kinds.refusal(parts[key], declared[key]):
            raise ValueError(f"objective {name!r}: {key}={parts[key]!r}, {refusal}")
    return dataclasses.replace(row, **parts)


def register(row: Objective) -> None:
    """Add a row of one's own to the table, under its name. Raises: ValueError: the name is taken."""
    lookup.register("objective", row.name, row, RECIPES)


def table() -> list[dict]:
    """One dict a row: name, family, paper, batch, needs, and the values of its parts.

    `parts` are those that differ from the default of the part, `defaults` all that `get` can replace, as the row has them.
    """
    rows = []
    for o in RECIPES.values():
        values = {f.name: getattr(o, f.name) for f in dataclasses.fields(o) if f.name not in _IDENTITY}
        usual = {f.name: f.default for f in dataclasses.fields(o)}
        parts = {name: value for name, value in values.items() if value != usual[name]}
        rows.append({"name": o.name, "family": o.family, "paper": o.paper, "batch": o.batch, "needs": sorted(o.needs),
                     "parts": parts, "defaults": values})
    return rows
