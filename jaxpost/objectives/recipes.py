"""The recipe table: an algorithm is a row that picks parts. A new algorithm is a new row, or a new part plus a row."""

import dataclasses
import difflib

from jaxpost.objectives.base import Objective

RECIPES = {o.name: o for o in (
    Objective("cross_entropy", "sft", "maximum likelihood; token mean as in TRL's SFTTrainer", "rows"),
    Objective("raft", "rl", "arXiv:2304.06767", "groups", baseline="accepted"),
    Objective("reinforce", "rl", "doi:10.1007/BF00992696", "groups", baseline="mean", aggregation="sequence_sum"),
    Objective("rloo", "rl", "arXiv:2402.14740", "groups", baseline="leave_one_out", ratio="sequence_product",
              clip_low=0.2, clip_high=0.2, aggregation="sequence", kl_estimator="k1"),
    Objective("grpo", "rl", "arXiv:2402.03300", "groups", baseline="mean", scale="group", ratio="token", clip_low=0.2,
              clip_high=0.2, aggregation="sequence"),
    Objective("dr_grpo", "rl", "arXiv:2503.20783", "groups", baseline="mean", ratio="token", clip_low=0.2,
              clip_high=0.2, aggregation="constant", aggregation_length=1024),
)}

_IDENTITY = ("name", "family", "paper", "batch")
OVERRIDES = tuple(f.name for f in dataclasses.fields(Objective) if f.name not in _IDENTITY)


def _nearest(word: str, valid) -> str:
    return (difflib.get_close_matches(word, valid, 1, 0.0) or sorted(valid))[0]


def get(name: str, **overrides) -> Objective:
    """The named recipe with some of its parts replaced, e.g. `get("grpo", clip_high=0.28)`.

    Raises:
      ValueError: unknown name or override; the message has the nearest valid one and all of them.
    """
    if name not in RECIPES:
        raise ValueError(f"objective {name!r} is unknown; did you mean {_nearest(name, RECIPES)!r}? "
                         f"Known: {', '.join(RECIPES)}")
    for key in overrides:
        if key not in OVERRIDES:
            raise ValueError(f"objective {name!r} has no part {key!r}; did you mean {_nearest(key, OVERRIDES)!r}? "
                             f"Parts: {', '.join(OVERRIDES)}")
    return dataclasses.replace(RECIPES[name], **overrides)


def table() -> list[dict]:
    """One dict a recipe: name, family, paper, batch and every part that differs from the field's default."""
    rows = []
    for o in RECIPES.values():
        parts = {f.name: getattr(o, f.name) for f in dataclasses.fields(o)
                 if f.name in OVERRIDES and getattr(o, f.name) != f.default}
        rows.append({"name": o.name, "family": o.family, "paper": o.paper, "batch": o.batch, "parts": parts})
    return rows
