"""Which rows of the recipe table a tour trains, with the parts that its task and its config give them."""

import ast
import dataclasses
import re
from collections.abc import Sequence

from experiments.harness.arms import ADAMW, Arm, lengths
from experiments.harness.errors import UserError
from jaxpost import models, objectives, training
from jaxpost.lookup import nearest
from jaxpost.tasks import Task

ALL = "all"
RATE = "learning_rate"  # in an override: of the row, instead of its family's


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table as the tour trains it; `arm` is None where no source has what it needs, and `reason` says what."""

    objective: objectives.Objective
    arm: Arm | None
    reason: str = ""

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.objective.name


def build(config, model: models.TransformerConfig, task: Task) -> list[Row]:
    """The rows named in `config.rows`, in that order; ("all",) is the whole table.

    Raises:
      UserError: an unknown row, an override of a part that the row has not, or a value that the part refuses.
    """
    names = tuple(objectives.RECIPES) if config.rows == (ALL,) else config.rows
    for name in names:
        if name not in objectives.RECIPES:
            raise UserError(f"rows: objective {name!r} is not known{nearest(name, (*objectives.RECIPES, ALL))}")
    changed = parse_overrides(config.overrides, names)
    rates = config.train.learning_rates.to_dict()
    return [_row(name, changed.get(name, {}), rates, config.train, model, task) for name in names]


def parse_overrides(texts: Sequence[str], names: Sequence[str]) -> dict[str, dict]:
    """{row: {part: value}} of texts "row.part=value".

    Raises:
      UserError: another form, or a row that is not trained.
    """
    by_row = {}
    for text in texts:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.+)", text) if isinstance(text, str) else None
        if match is None:
            raise UserError(f"overrides: {text!r} is not of the form 'row.part=value', for example 'grpo.clip_high=0.28'")
        row, part, value = match.groups()
        if row not in names:
            raise UserError(f"overrides: row {row!r} of {text!r} is not trained in this run{nearest(row, names)}")
        try:
            by_row.setdefault(row, {})[part] = ast.literal_eval(value)
        except (ValueError, SyntaxError):  # a word, such as the name of a mode
            by_row.setdefault(row, {})[part] = value
    return by_row


def _row(name: str, changed: dict, rates: dict, train, model, task) -> Row:
    objective = _objective(name, _role_weights(name, task) | {k: v for k, v in changed.items() if k != RATE},
                           task.completion_len)
    if objective.family not in rates:
        raise UserError(f"train.learning_rates has none for the family {objective.family!r} of row {name!r}; it has "
                        f"{', '.join(rates)}")
    rate = changed.get(RATE, rates[objective.family])
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
        raise UserError(f"overrides: {name}.{RATE}={rate!r}: a learning rate must be a number greater than 0")
    if "value" in objective.needs:
        model = dataclasses.replace(model, value_head=True)
    spec = training.StepSpec(model, objective, ADAMW, group=train.group, minibatches=train.minibatches)
    try:
        source = training.source(task, spec, train.prompts)
    except ValueError as error:  # what the objective needs is not something that a task and a policy can give
        return Row(objective, None, str(error).removeprefix(f"objective {name!r} "))
    # kl_coef None: the objective's own coefficient.
    return Row(objective, Arm(name, source, spec, training.Scalars(float(rate), None)))


def _role_weights(name: str, task: Task) -> dict:
    """The weight 1 on all of an answer, for a row that weighs tokens of roles that the task's answers do not have."""
    wanted = {role for role, _ in getattr(objectives.RECIPES[name], "role_weights", ())}
    return {"role_weights": (("answer", 1.0),)} if wanted and not wanted & set(task.roles) else {}


def _objective(name: str, changed: dict, length: int) -> objectives.Objective:
    try:
        return objectives.get(name, **lengths(name, length) | changed)
    except (ValueError, TypeError) as error:  # TypeError: a word where a part compares numbers
        raise UserError(f"overrides of row {name!r}: {error}") from error
