"""What a stage says of its samples beside the objective: forced tokens, replay, a second pass, a composed reward, pairs."""

import dataclasses
from collections.abc import Mapping

from experiments.harness.errors import UserError
from experiments.harness.stages import ROLLOUTS, Stage, one_rule
from jaxpost import kinds, training
from jaxpost.lookup import nearest
from jaxpost.objectives import rewards
from jaxpost.training.forcing import Interrupt, Prefix
from jaxpost.training.preferences import Ranked
from jaxpost.training.reformulating import Reformulation
from jaxpost.training.replay import Buffered
from jaxpost.training.rewriting import Rewriting
from jaxpost.training.second import SecondPass
from jaxpost.training.sources import replay

FORCING = {"prefix": Prefix, "interrupt": Interrupt}
SECOND = {"reformulate": Reformulation, "rewrite": Rewriting}  # settings without a name: of the objective's own rule, or hints
FIELDS = (*ROLLOUTS, "reward")  # of a stage


def changed(name: str, stage: Stage, source):
    """The source of an arm with what its stage says of rollouts; what it does not say stays as the objective needs it.

    Raises:
      UserError: nothing is sampled, a rule, setting or term that is not known, or one that the rollouts refuse.
    """
    if stage.pairs:
        source = _ranked(name, stage, source)
    given = [field for field in FIELDS if getattr(stage, field)]
    if not given:
        return source
    if not isinstance(source, training.Rollouts):
        raise UserError(f"arm {name!r}: {given[0]}={dict(getattr(stage, given[0]))} with objective {stage.objective!r}, which "
                        f"samples no answers; leave {given[0]} out")
    curriculum = source.curriculum.rule if isinstance(source.curriculum, Buffered) else source.curriculum
    try:
        parts = {"forcing": _forcing(name, stage, source), "reward": _reward(stage, source),
                 "replay": _with(name, "replay", source.replay or replay(stage.prompts), stage.replay, source.replay),
                 "second": _second(name, stage, source)}
        return dataclasses.replace(source, curriculum=curriculum, **parts)
    except (ValueError, TypeError) as error:
        raise UserError(f"arm {name!r}: {error}") from error


def _ranked(name: str, stage: Stage, source) -> training.Preferences:
    if not isinstance(source, training.Preferences):
        raise UserError(f"arm {name!r}: pairs={dict(stage.pairs)} with objective {stage.objective!r}, which trains on no "
                        "preferences; leave pairs out")
    try:
        return dataclasses.replace(source, ranked=_with(name, "pairs", Ranked(), stage.pairs, None))
    except ValueError as error:
        raise UserError(f"arm {name!r}: {error}") from error


def _forcing(name: str, stage: Stage, source):
    if not stage.forcing:
        return source.forcing
    rule, settings = one_rule(name, "forcing", stage.forcing, FORCING)
    kind = FORCING[rule]
    if type(source.forcing) is kind:
        return _with(name, f"forcing {rule}", source.forcing, tuple(settings.items()), source.forcing)
    _require_settings(name, f"forcing {rule}", kind, settings)
    if absent := [x.name for x in dataclasses.fields(kind) if x.default is dataclasses.MISSING and x.name not in settings]:
        raise UserError(f"arm {name!r}: forcing {rule} needs the setting {absent[0]!r}, found {', '.join(settings) or 'none'}")
    return kind(**_tuples(settings))


def _second(name: str, stage: Stage, source):
    if not any(isinstance(settings, Mapping) for _, settings in stage.second_pass):
        return _with(name, "second_pass", source.second or SecondPass(), stage.second_pass, source.second)
    rule, settings = one_rule(name, "second_pass", stage.second_pass, SECOND)
    pairs = {key: tuple(x.items()) if isinstance(x, Mapping) else x for key, x in settings.items()}
    _require_settings(name, f"second_pass {rule}", SECOND[rule], pairs)
    return SECOND[rule](**_tuples(pairs))


def _with(name: str, where: str, rule, settings: tuple, unchanged):
    """`rule` with the settings that differ; without any `unchanged`, which may be None."""
    if not settings:
        return unchanged
    _require_settings(name, where, type(rule), dict(settings))
    return dataclasses.replace(rule, **_tuples(dict(settings)))


def _require_settings(name: str, where: str, kind: type, settings: Mapping) -> None:
    known = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"arm {name!r}: {where} has no setting {key!r}{nearest(key, known)}")
        if refusal := kinds.refusal(value, known[key]):
            raise UserError(f"arm {name!r}: {where} setting {key}={value!r}: {refusal}")


def _tuples(settings: Mapping) -> dict:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


def _reward(stage: Stage, source: training.Rollouts) -> tuple[rewards.Reward, ...]:
    if not stage.reward:
        return source.reward
    return tuple(rewards.Reward(kind, **(term if hasattr(term, "items") else {"weight": term})) for kind, term in stage.reward)
