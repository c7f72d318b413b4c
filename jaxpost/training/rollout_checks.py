"""What rollouts may be asked for, and what of it goes together. `source` is a `rl.Rollouts` before anything is traced."""

from jaxpost.objectives import rewards
from jaxpost.objectives.group_credit import PassAtK
from jaxpost.objectives.policy_gradient import PolicyGradient
from jaxpost.objectives.prefix import PrefixTuned
from jaxpost.training import needs
from jaxpost.training.forcing import Prefix
from jaxpost.training.reformulating import Reformulation
from jaxpost.training.rewriting import Rewriting
from jaxpost.training.second import SecondPass


def require(source) -> None:
    """Refuse an objective that the source cannot feed, or fields that contradict each other.

    Raises:
      ValueError: names what was found, and the nearest valid choice.
    """
    spec = source.spec
    needs.require("Rollouts", spec, source.task)
    _demonstrations(source)
    if spec.pad != source.task.pad:
        raise ValueError(f"pad={spec.pad} of the step is not that of task {source.task.name!r}; set it to {source.task.pad}")
    _reward(source)
    _forcing(source)
    _episodes(source)
    _truncation(source)
    _replay(source)
    _second(source)
    if source.oversample < 1:
        raise ValueError(f"oversample={source.oversample} must be at least 1 (1: every prompt drawn is trained on)")
    needs.require_curriculum("Rollouts", source.curriculum, spec.objective, (source.task,), oversample=source.oversample,
                             options=_options(source))


def _options(source) -> frozenset[str]:
    """What a curriculum may need that rollouts give as they are set."""
    hinted = isinstance(source.forcing, Prefix) and source.forcing.role == "hint"
    given = {"length_reward": any(term.kind in rewards.BUDGETED for term in source.reward), "hints": hinted,
             "length_limit": not source.demonstrations and source.second is None}
    return frozenset(name for name, there in given.items() if there)


def _demonstrations(source):
    group, wanted = source.spec.group, source.needs_demonstrations
    if (source.demonstrations > 0) != wanted or not 0 <= source.demonstrations < group:
        valid = f"1 to group - 1 = {group - 1}" if wanted else "0"
        raise ValueError(f"demonstrations={source.demonstrations} in groups of {group} with objective "
                         f"{source.spec.objective.name!r}, which {'needs' if wanted else 'does not need'} them; valid: {valid}"
                         + ("; set group to at least 2" if wanted and group < 2 else ""))


    if isinstance(objective := source.spec.objective, PassAtK) and group < objective.pass_k:
        raise ValueError(f"pass_k={objective.pass_k} of objective {objective.name!r} in groups of {group}; nearest valid: "
                         f"pass_k={group}")


def _reward(source):
    name = source.spec.objective.name
    rewards.require_once(source.reward)
    if "terms" in source.spec.objective.needs and not source.reward:
        raise ValueError(f"objective {name!r} normalises the terms of a reward, and reward is empty; give it two or more, "
                         "e.g. (Reward('correct'), Reward('finished', 0.5))")
    if (wanted := source.spec.objective.reward_terms) not in (None, terms := len(source.reward)):
        raise ValueError(f"objective {name!r} weighs {wanted} terms of a reward, and reward has {terms}: "
                         f"{', '.join(term.kind for term in source.reward)}; give it {wanted}, or change the objective's "
                         "settings")
    if source.reward and source.needs_greedy:
        raise ValueError(f"objective {name!r} compares with the greedy answer's score, which composed rewards do not have; "
                         "leave reward empty")


def _forcing(source):
    objective, rule = source.spec.objective, source.forcing
    wanted = "prefixes" in objective.needs
    if wanted != (rule is not None and rule.demonstrates):
        raise ValueError(f"objective {objective.name!r} {'learns' if wanted else 'does not learn'} from forced prefixes, and "
                         f"forcing={rule}; {_PREFIXES[wanted]}")
    if rule is not None:
        rule.check(source.task, source.spec.group - source.demonstrations)
    _another("forcing", rule, source)
    group = source.spec.group
    if isinstance(objective, PrefixTuned) and (rule.rows or group) >= group:
        raise ValueError(f"objective {objective.name!r} compares with rows without a prefix, and all of a group of {group} "
                         "begin with one; set rows of the Prefix, e.g. to 1, in groups of at least 2")


def _episodes(source):
    objective = source.spec.objective
    if source.task.episodes is None:
        return
    if source.demonstrations or source.needs_greedy or "truncated" in objective.needs:
        raise ValueError(f"episodes with objective {objective.name!r}, which needs demonstrations, a greedy answer or which "
                         "rows were cut; a closed loop has none of them")
    if (source.forcing, source.second) != (None, None):
        raise ValueError(f"task {source.task.name!r} is a closed loop, whose observations are all that is forced, and which is "
                         "played once; set forcing and second to None")


def _truncation(source):
    spec = source.spec
    others = {"forced tokens": source.forcing, "episodes": source.task.episodes, "a second pass": source.second,
              "replay": source.replay, "demonstrated rows": source.demonstrations or None}
    if spec.truncates and (rules := [what for what, rule in others.items() if rule is not None]):
        raise ValueError(f"top_k={spec.top_k}, top_p={spec.top_p} with {rules[0]}: ratios are then taken to the policy before "
                         "the update, which did not make those tokens; set top_k=0 and top_p=1")


_PREFIXES = {True: "give a Prefix of role 'prefix'", False: "take a Prefix of role 'hint', or None"}


def _replay(source):
    objective, rule = source.spec.objective, source.replay
    if rule is None:
        if "replay" in objective.needs:
            raise ValueError(f"objective {objective.name!r} learns from rows of earlier steps, and replay is None; give a "
                             "Replay")
        return
    rule.check(source.prompts)
    if unlike := sorted(objective.needs & {"outside", "terms", "demonstrations", "prefixes", "turns"}):
        raise ValueError(f"replay with objective {objective.name!r}, which needs {unlike[0]}: the buffer does not keep it; set "
                         "replay to None")
    if why := objective.refuses_replay:
        raise ValueError(f"replay with objective {objective.name!r}, {why}; set replay to None, or take an objective that "
                         "weighs rows of earlier steps, e.g. 'grpo'")
    if "advantage" in source.curriculum.needs:
        raise ValueError("replay with a curriculum that sees advantages, which replayed rows have too; set replay to None")
    if "kl_scale" in source.curriculum.needs:
        raise ValueError("replay with a curriculum that scales the KL term, which the buffer does not keep; set replay to None")


def _second(source):
    name, rule, given = source.spec.objective.name, source.second, source.spec.objective.needs
    for need, kind in _SECOND.items():
        if need in given and not isinstance(rule, kind):
            raise ValueError(f"objective {name!r} learns from {_DRAWN_AGAIN[need]}, and second is {rule}; give a "
                             f"{kind.__name__}")
    if rule is None:
        return
    rule.check(source.oversample * source.prompts, source.spec.group)
    _another("second pass", rule, source)
    if isinstance(rule, Rewriting):
        _rewriting(source, rule)
    if source.task.verify_host is not None:
        raise ValueError(f"a second pass on task {source.task.name!r}, which is verified on the host, and groups are drawn "
                         "again within a step; set second to None, or take a task whose verifier runs on device")
    if source.demonstrations or source.needs_greedy or (source.forcing, source.replay) != (None, None):
        raise ValueError(f"a second pass with objective {name!r}: its groups would have demonstrations, forced tokens, "
                         "replayed rows or a greedy answer as well; set second to None")


_SECOND = {"hints": SecondPass, "guides": Reformulation}
_DRAWN_AGAIN = {"hints": "groups that are drawn again with hints", "guides": "answers that are drawn again behind the solution"}


def _rewriting(source, rule):
    """Rewritten groups take the place of others, which what belongs to a place does not follow."""
    rule.require(source.task)
    objective = source.spec.objective
    if rule.relief != 1 and not (isinstance(objective, PolicyGradient) and objective.kl_place == "loss"):
        raise ValueError(f"rewriting relief={rule.relief} with objective {objective.name!r}, which has no KL term in its loss; "
                         "set relief to 1, or take kl_place='loss'")
    if unlike := source.curriculum.needs - {"pool", "reward", "length", "prompt_state"}:
        raise ValueError(f"rewriting with a curriculum that needs {sorted(unlike)[0]!r} of the rows that are trained on; leave "
                         "it out, or take one that chooses problems alone")


def _another(where, rule, source):
    if getattr(rule, "another", False) and (drawn := source.oversample * source.prompts) < 2:
        raise ValueError(f"{where} another=True takes the solution of another prompt, and a step draws {drawn}; set prompts to "
                         "at least 2")


def stored_shapes(source) -> tuple:
    """(name, shape, dtype) of what a replay buffer keeps of a group of the source."""
    (P, T), G = source.lengths, source.spec.group
    fields = {"prompt_NxP": (P, "int32"), "completion_NxT": (T, "int32"), "mask_NxT": (T, "float32"),
              "behaviour_NxT": (T, "float32"), "reward_N": (None, "float32"), "absent_N": (None, "float32")}
    if isinstance(source.spec.objective, PolicyGradient):  # the others have no advantages that a weight would multiply
        fields["weight_N"] = (None, "float32")
    if source.task.role is not None or source.forcing is not None or source.task.episodes is not None:
        fields["role_NxT"] = (T, "int32")
    if source.spec.model.experts:
        fields["real_NxT"] = (T, "float32")
    if "truncated" in source.spec.objective.needs:
        fields["truncated_N"] = (None, "float32")
    return tuple((name, (G,) if width is None else (G, width), dtype) for name, (width, dtype) in sorted(fields.items()))
