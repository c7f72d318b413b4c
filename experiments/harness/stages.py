"""Arms as data: tables with inheritance, grids and references to other keys, resolved to one stage an arm.

An arm is one stage of training and the place it starts from: the base, another arm's end, the average of several ends, or
scratch, which are initial parameters of each seed's own. So an arm of several stages is a chain of arms, and a stage that two
chains share is trained once. In a config:

    c.arm = ConfigDict({
        "grpo": {"objective": "grpo"},                                   # what is not said is in the section train
        "grpo-lr{}": {"like": "grpo", "over": {"learning_rate": (1e-5, 1e-4)}},   # grpo-lr0 and grpo-lr1
        "sft": {"objective": "cross_entropy", "learning_rate": "train.learning_rate"},   # another key of the config
        "sft-then-ppo": {"objective": "ppo", "start": "sft", "steps": "train.steps/2"},  # a share of another key
        "soup": {"start": ("sft", "grpo-lr0")}})                         # the average, not trained further
    c.arms = ("sft", "sft-then-ppo")                                     # those that run, in this order
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Mapping

from ml_collections import ConfigDict

from experiments.harness import config as configs
from experiments.harness.defaults import TRAIN_FIELDS
from experiments.harness.errors import UserError
from jaxpost import curricula, kinds
from jaxpost.lookup import nearest

BASE = "base"
SCRATCH = "scratch"  # as a start: initial parameters, drawn by each seed and the same in every arm of one model
ROLLOUTS = ("forcing", "replay", "second_pass")  # fields of a stage that say what of an answer is not drawn once and used once
START = "start"  # as a reference: where the stage starts


@dataclasses.dataclass(frozen=True)
class Stage:
    """What an arm trains on and how: the fields of its table."""

    task: str = "task"  # or second, or a name of the section tasks
    task_settings: tuple = ()  # ((option, value), ...) of the task that differ while this arm trains
    source: str = ""  # table: every problem of the training split at every step; empty: as the objective needs, drawn
    answer_tokens: int = 0  # of a table: the first tokens of an answer are trained; 0: all, with the end token
    pool: int = 0  # distinct training problems; 0: without end
    curriculum: tuple = ()  # ((rule, settings), ...), in turn; empty: uniform draws
    objective: str = "cross_entropy"  # a row of the recipe table
    family: str = ""  # that the objective must be of, so that an override cannot make the arm's name a lie; empty: any
    settings: tuple = ()  # ((part, value), ...) that differ from the recipe's
    forcing: tuple = ()  # ((rule, settings),), prefix or interrupt: tokens that are not drawn; empty: as the objective needs
    pairs: tuple = ()  # ((setting, value), ...) of preferences.Ranked: which of several samples a pair takes; empty: one sample
    replay: tuple = ()  # ((setting, value), ...) of earlier groups that are trained on again; empty: as the objective needs
    second_pass: tuple = ()  # ((setting, value), ...) of drawing failed groups again with hints; empty: as the objective needs
    reward: tuple = ()  # ((term, weight or {weight, length, ...}), ...); empty: the verifier's score
    optimizer: str = "adamw"
    optimizer_settings: tuple = ()  # ((name, value), ...) of training.optimizers.make that differ: weight_decay, clip_norm, ...
    learning_rate: float = 1e-4
    schedule: str = "constant"  # of the learning rate along the stage: constant, linear or cosine
    warmup_steps: int = 0  # optimizer steps
    final_share: float = 0.0  # of the learning rate at the end of a schedule that decays
    kl_coef: float | None = None  # None: the objective's own
    reference: tuple[str, ...] = (BASE,)  # of a KL or a ratio: the base, start (where the stage starts), arms' ends (averaged)
    refresh_every: int = 0  # batches after which the current policy becomes the reference; 0: never
    steps: int = 0
    prompts: int = 1
    group: int = 1  # rows of a step are prompts * group for every objective
    microbatches: int = 1
    minibatches: int = 1
    epochs: int = 1  # passes over a batch
    temperature: float = 1.0  # of sampling, and of the policy that is trained
    top_k: int = 0  # answers are sampled from the k most probable tokens; 0: all
    top_p: float = 1.0  # and from the fewest most probable ones that sum to so much
    storage_dtype: str = "float32"
    permute_rewards: bool = False  # control: shuffled within each group
    independent: bool = False  # whether batches and samples differ from those of other arms with the same seed
    model: tuple = ()  # ((field, value), ...) that differ from the section model, of an arm that starts from scratch
    trainable: str = ""  # a mask, frozen_router, lora or pissa (section tune); empty: all
    start: tuple[str, ...] = (BASE,)
    edit: tuple = ()  # ((rule, settings),) of `edits`: what is made of two starts instead of their average
    probes: tuple[str, ...] = ()  # of measure.probes, beside those of the comparisons; empty: all
    keys: tuple = ()  # ((field, key of the config), ...) for messages: what was taken from another key


_RANGES = {"prompts": (1, math.inf), "epochs": (1, math.inf), "answer_tokens": (0, math.inf), "final_share": (0, 1),
           "refresh_every": (0, math.inf), "pool": (0, math.inf)}  # 0: never a new reference, problems without end
STORAGE_DTYPES = ("float32", "bfloat16", "float16")
_FIELDS = {field.name: field.default for field in dataclasses.fields(Stage) if field.name != "keys"}


def stages(config) -> dict[str, Stage]:
    """{arm: stage} of the arms named in `config.arms`, those they start from, in an order in which each start comes first.

    Raises:
      UserError: an arm, field or start that is not known, a circle, or a value of another type.
    """
    tables = _grids(config)
    for name, table in tables.items():  # also of arms that do not run, where a misspelt field would be silent
        for field in table:
            if field not in (*_FIELDS, "like"):
                raise UserError(f"arm {name!r}: field {field!r} is not known{nearest(field, (*_FIELDS, 'like', 'over'))}")
    out: dict[str, Stage] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise UserError(f"arm {name!r} needs its own end: {' -> '.join((*path[path.index(name):], name))}")
        if name not in tables:
            place = f"arm {path[-1]!r} needs the end of {name!r}, which" if path else f"arm {name!r}"
            raise UserError(f"{place} is not known{nearest(name, (*tables, *((BASE, SCRATCH, START) if path else ())))}")
        if name not in out:
            stage = _stage(name, _inherited(name, tables, ()), config)
            for needed in (*stage.start, *stage.reference):
                if needed not in (BASE, SCRATCH):
                    visit(needed, (*path, name))
            out[name] = stage

    for name in config.arms:
        visit(name, ())
    return out


def names(config) -> list[str]:
    """Every arm that the config's tables name, grids expanded. Raises: UserError, as `stages`."""
    return list(_grids(config))


def chain(name: str, table: Mapping[str, Stage]) -> list[str]:
    """The arms that an arm's parameters have passed through, itself last; every branch of an average."""
    parts = [part for start in table[name].start if start in table for part in chain(start, table)]
    return [*dict.fromkeys(parts), name]


def from_scratch(table: Mapping[str, Stage]) -> bool:
    """Whether the arms of a study begin at initial parameters instead of a base.

    Raises:
      UserError: some do and some do not, so that nothing would compare them.
    """
    roots = {name: {start for stage in chain(name, table) for start in table[stage].start} - set(table) for name in table}
    scratch = [name for name, starts in roots.items() if SCRATCH in starts]
    if not scratch:
        return False
    if based := [name for name, starts in roots.items() if BASE in starts]:
        raise UserError(f"arm {scratch[0]!r} starts from {SCRATCH!r} and arm {based[0]!r} from {BASE!r}: a study has a base or "
                        "has none; give both one start, or make two studies")
    return True


def one_rule(arm: str, field: str, given: tuple, known: Mapping) -> tuple[str, Mapping]:
    """(rule, settings) of a field `{rule: settings}`. Raises: UserError for several rules, an unknown one, or no settings."""
    rule, settings = given[0]
    if len(given) > 1 or rule not in known or not isinstance(settings, Mapping):
        raise UserError(f"arm {arm!r}: {field}={dict(given)} is not {{rule: settings}} of one rule{nearest(rule, known)}")
    return rule, settings


def _grids(config) -> dict[str, dict]:
    """Tables with every `over` expanded; the braces of the name are filled with the positions in the grid."""
    tables = {}
    if not isinstance(config.get("arm"), ConfigDict):
        raise UserError(f"arm={config.get('arm')!r}: expected a table of arms, {{name: {{field: value}}}}")
    for name, table in config.arm.to_dict().items():
        if not isinstance(table, dict):
            raise UserError(f"arm.{name}={table!r} is {type(table).__name__}; expected {{field: value}}")
        over = table.pop("over", {})
        if not isinstance(over, Mapping):
            raise UserError(f"arm {name!r}: over={over!r} is {type(over).__name__}; expected {{field: (value, ...)}}")
        if not over:
            if "{}" in name:
                raise UserError(f"arm {name!r} has braces in its name and no 'over' that fills them")
            _add(tables, name, table)
            continue
        if name.count("{}") != len(over):
            raise UserError(f"arm {name!r} is a grid over {', '.join(over)}; its name needs {len(over)} pairs of braces, "
                            f"found {name.count('{}')}")
        axes_of = {field: configs.value_of(f"arm.{name}.over.{field}", value, config) for field, value in over.items()}
        if single := [field for field, values in axes_of.items() if not isinstance(values, tuple | list) or not values]:
            raise UserError(f"arm {name!r}: over.{single[0]}={axes_of[single[0]]!r} is not several values; expected a tuple of "
                            "them, or the key of one such as 'train.learning_rates'")
        axes = [[(f"{over[field]}[{i}]" if isinstance(over[field], str) else x) for i, x in enumerate(values)]
                for field, values in axes_of.items()]
        for place in itertools.product(*(range(len(axis)) for axis in axes)):
            filled = functools.reduce(lambda text, position: text.replace("{}", str(position), 1), place, name)
            _add(tables, filled, table | {field: axis[i] for field, axis, i in zip(over, axes, place)})
    if taken := [name for name in tables if name in (BASE, SCRATCH, START) or "/" in name]:
        raise UserError(f"arm {taken[0]!r}: {BASE}, {SCRATCH} and {START} are places where an arm starts, and a name holds no "
                        "slash; choose another")
    return tables


def _add(tables: dict[str, dict], name: str, table: dict) -> None:
    if name in tables:
        raise UserError(f"arm {name!r} is named twice, by a grid and by another table; choose another name")
    tables[name] = table


def _inherited(name: str, tables: Mapping[str, dict], path: tuple[str, ...]) -> dict:
    table = dict(tables[name])
    like = table.pop("like", None)
    if like is None:
        return table
    if like in (*path, name):
        raise UserError(f"arm {(*path, name)[0]!r} is like itself: {' -> '.join((*path, name, like))}")
    if like not in tables:
        raise UserError(f"arm {name!r} is like {like!r}, which is not known{nearest(like, tables)}")
    return _inherited(like, tables, (*path, name)) | table


def _resolved(where: str, table, config) -> dict:
    """A table, and the tables in it, with the values of the keys that it names."""
    return {key: _resolved(f"{where}.{key}", value, config) if hasattr(value, "items") else
            configs.value_of(f"{where}.{key}", value, config) for key, value in table.items()}


def _rules(name: str, given) -> tuple:
    """((rule, settings), ...) of a name, of names in turn, or of {name: settings} in the order of the table of rules.

    Raises:
      UserError: another type, a rule that is not known, or one that appears twice.
    """
    if hasattr(given, "items"):
        order = list(curricula.RULES)
        rules = sorted(given.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else -1)
    elif not isinstance(given, str | tuple | list):
        raise UserError(f"arm {name!r}: curriculum={given!r} is {type(given).__name__}; expected a rule's name, a tuple of "
                        "names, or {rule: settings}")
    else:
        rules = [(rule, {}) for rule in ((given,) if isinstance(given, str) else given)]
    for i, (rule, settings) in enumerate(rules):
        if rule not in curricula.RULES:
            raise UserError(f"arm {name!r}: curriculum {rule!r} is not known{nearest(rule, curricula.RULES)}")
        if not hasattr(settings, "items"):
            raise UserError(f"arm {name!r}: curriculum {rule!r} takes {{setting: value}}, found {settings!r}")
        if rule in [other for other, _ in rules[:i]]:
            raise UserError(f"arm {name!r}: curriculum {rule!r} appears twice")
    return tuple((rule, dict(settings.items())) for rule, settings in rules)


def _require_several(name: str, start: tuple, edit) -> None:
    """Refuse a tuple of one start, which would silently train where an average or an edit was meant. Raises: UserError."""
    if len(start) < 2:
        what = f"the edit {', '.join(map(str, edit))}" if edit else "an average"
        one = start[0] if start else BASE
        raise UserError(f"arm {name!r}: start={start} names {len(start) or 'no'} place, and {what} is made of at least two and "
                        f"takes no steps; an arm that trains from one place has start={one!r}")


def _stage(name: str, table: dict, config) -> Stage:
    keys = {field: re.sub(r"\[.*?\]", "", value) for field, value in table.items() if configs.key_of(value)}
    values = {field: configs.value_of(f"arm.{name}.{field}", value, config) for field, value in table.items()}
    for field in ("start", "reference", "probes"):
        named = values.get(field, _FIELDS[field])
        if not isinstance(named, str | tuple | list):
            raise UserError(f"arm {name!r}: {field}={named!r} is {type(named).__name__}; expected a name or a tuple of names")
        values[field] = (named,) if isinstance(named, str) else tuple(named)
    if not isinstance(table.get("start", BASE), str):
        _require_several(name, values["start"], table.get("edit"))
    if values["reference"] == (START,):
        values["reference"] = values["start"]
    for field in TRAIN_FIELDS:
        if field not in values and field in config.train:
            values[field], keys[field] = config.train[field], f"train.{field}"
    if len(values["start"]) > 1:
        values["steps"] = values["steps"] if "steps" in table else 0
    for field in ("settings", "reward", "pairs", *ROLLOUTS, "optimizer_settings", "task_settings", "model", "edit"):
        given = values.get(field, {})
        if field in ROLLOUTS and field in values and not (hasattr(given, "items") and given):
            raise UserError(f"arm {name!r}: {field}={given!r}: expected {{setting: value}} with what differs; leave it out "
                            "where nothing does")
        if field in ("optimizer_settings", "model", *ROLLOUTS) and hasattr(given, "items"):
            given = _resolved(f"arm.{name}.{field}", given, config)
        values[field] = tuple(sorted(given.items())) if hasattr(given, "items") else given
    given = values.get("curriculum", ())
    given = _resolved(f"arm.{name}.curriculum", given, config) if hasattr(given, "items") else given
    values["curriculum"] = _rules(name, given)
    for field, value in values.items():
        kind = float if field == "kl_coef" else type(_FIELDS[field])
        if value is not _FIELDS[field] and (refusal := kinds.refusal(value, kind)):
            raise UserError(f"arm {name!r}: {field}={value!r}: {refusal}")
    for field, (least, most) in _RANGES.items():
        if not least <= values.get(field, least) <= most:
            raise UserError(f"arm {name!r}: {field}={values[field]!r}: must be " + (
                f"between {least} and {most}" if most < math.inf else f"at least {least}"))
    if (dtype := values.get("storage_dtype", "float32")) not in STORAGE_DTYPES:
        raise UserError(f"arm {name!r}: storage_dtype={dtype!r} is not known{nearest(dtype, STORAGE_DTYPES)}")
    if values.get("steps", 0) < (least := 0 if len(values["start"]) > 1 else 1):
        raise UserError(f"arm {name!r}: steps={values.get('steps', 0)}: must be at least {least} in an arm that starts from "
                        f"{'several places' if least == 0 else 'one place'}")
    return Stage(**values, keys=tuple(keys.items()))
