"""The table of rules: a name, the rule, and the settings that make it that row; `get` refuses what is not known."""

import dataclasses
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxpost import kinds, lookup
from jaxpost.curricula.alp_gmm import AlpGmm, CovarGmm
from jaxpost.curricula.arms import Dump, Sec, Tscl
from jaxpost.curricula.base import Curriculum, Pooled, chain
from jaxpost.curricula.budgets import Cures, Gvm, Knapsack
from jaxpost.curricula.clpo import Clpo
from jaxpost.curricula.designer import Designer
from jaxpost.curricula.dots import Dots
from jaxpost.curricula.filters import D3s, D3sTokens, DifficultyFilter, Pods, VlCogito
from jaxpost.curricula.goal_gan import GoalGan
from jaxpost.curricula.hints import NextVisit, Scaffold
from jaxpost.curricula.length import LengthBudget
from jaxpost.curricula.levels import Saturn, Staged
from jaxpost.curricula.limits import Horizon, StagedLength
from jaxpost.curricula.orders import Curry, Cyclical, CyclicalLosses, Ordered
from jaxpost.curricula.progressive import ProgressiveContext, Sari
from jaxpost.curricula.quota import Quota
from jaxpost.curricula.randomised import Adr
from jaxpost.curricula.refusals import AutoCei
from jaxpost.curricula.replay import Replay
from jaxpost.curricula.rescored import Adcl
from jaxpost.curricula.riac import Riac
from jaxpost.curricula.self_paced import ActiveSelfPaced, SelfPaced
from jaxpost.curricula.spdl import Spdl
from jaxpost.curricula.uniform import Uniform
from jaxpost.curricula.utility import Uds
from jaxpost.curricula.value import Pcl
from jaxpost.lookup import nearest


class Row(NamedTuple):
    """A rule and the settings in which the row differs from its defaults."""

    rule: type[Curriculum]
    settings: Mapping = {}


RULES = {
    "uniform": Row(Uniform),
    "sec": Row(Sec),
    "dump": Row(Dump),
    "tscl_online": Row(Tscl),
    "tscl_naive": Row(Tscl, {"variant": "naive"}),
    "tscl_window": Row(Tscl, {"variant": "window"}),
    "tscl_sampling": Row(Tscl, {"variant": "sampling"}),
    "plr": Row(Replay),
    "robust_plr": Row(Replay, {"robust": True}),
    "alp_gmm": Row(AlpGmm),
    "covar_gmm": Row(CovarGmm),
    "riac": Row(Riac),
    "adr": Row(Adr),
    "spdl": Row(Spdl),
    "goal_gan": Row(GoalGan),
    "easy_to_hard": Row(Ordered),
    "hard_to_easy": Row(Ordered, {"order": "hard_to_easy"}),
    "random_order": Row(Ordered, {"order": "random"}),
    "sari": Row(Sari),
    "curry": Row(Curry),
    "progressive_context": Row(ProgressiveContext),
    "designer": Row(Designer),
    "cyclical": Row(Cyclical),
    "cyclical_losses": Row(CyclicalLosses),
    "cyclical_self_paced": Row(CyclicalLosses, {"self_paced": True}),
    "masked_spans": Row(Staged),
    "saturn": Row(Saturn),
    "adcl": Row(Adcl),
    "cures": Row(Cures),
    "dots": Row(Dots),
    "pcl": Row(Pcl),
    "knapsack": Row(Knapsack),
    "gvm": Row(Gvm),
    "difficulty_filter": Row(DifficultyFilter),
    "pods": Row(Pods),
    "d3s": Row(D3s),
    "d3s_tokens": Row(D3sTokens),
    "clpo": Row(Clpo),
    "vl_cogito": Row(VlCogito),
    "self_paced": Row(SelfPaced),
    "active_self_paced": Row(ActiveSelfPaced),
    "uds": Row(Uds),
    "ghpo_next_visit": Row(NextVisit),
    "scaffold": Row(Scaffold),
    "length_budget": Row(LengthBudget),
    "auto_cei": Row(AutoCei),
    "reasoning_quota": Row(Quota),
    "staged_length": Row(StagedLength),
    "interaction_horizon": Row(Horizon),
}
FROM_THE_RUN = ("pool", "difficulty", "steps", "width")  # settings that a run knows


def register(name: str, rule: type[Curriculum], settings: Mapping = MappingProxyType({})) -> None:
    """Add a rule of one's own, a frozen dataclass, with the settings in which it differs. Raises: ValueError: taken."""
    lookup.register("curriculum", name, Row(rule, settings), RULES)


def get(name: str, **settings) -> Curriculum:
    """A row of the table with settings replaced.

    Raises:
      ValueError: a name or setting that is not known (the message has the nearest), or a value of another kind than it is
        declared, or that the rule refuses.
    """
    row = lookup.find("curriculum", name, RULES)
    valid, declared = takes(name), typing.get_type_hints(row.rule)
    for setting in settings:
        if setting not in valid:
            raise ValueError(f"curriculum {name!r}: setting {setting!r} is not known{nearest(setting, valid)}")
        if refusal := kinds.refusal(settings[setting], declared[setting]):
            raise ValueError(f"curriculum {name!r}: {setting}={settings[setting]!r}, {refusal}")
    try:
        return row.rule(**{**row.settings, **settings})
    except (TypeError, ValueError) as error:
        raise ValueError(f"curriculum {name!r}: {error}") from error


def takes(name: str) -> tuple[str, ...]:
    """The settings of a row that may differ."""
    row = RULES[name]
    return tuple(field.name for field in dataclasses.fields(row.rule) if field.name not in row.settings)


def for_run(wanted: Mapping[str, Mapping], known: Mapping) -> Curriculum:
    """The chain of the named rules, after uniform draws from the run's pool.

    Args:
      wanted: name -> settings, in order.
      known: values of FROM_THE_RUN (a function is called where a rule takes it); a setting of the same name goes before it.

    Raises:
      ValueError: as `get`; or a pool that a rule needs and the run does not have.
    """
    links = [Uniform(pool=known["pool"])]
    for name, settings in wanted.items():
        if name in RULES and issubclass(RULES[name].rule, Pooled) and not known["pool"]:
            raise ValueError(f"curriculum {name!r} chooses among the problems of a pool, and pool=0 has no end; set pool")
        missing = [key for key in known if name in RULES and key in takes(name) and key not in settings]
        links.append(get(name, **{key: known[key]() if callable(known[key]) else known[key] for key in missing}, **settings))
    return chain(*links)
