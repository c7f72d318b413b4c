"""The source of a step's rows, chosen by what the objective trains on."""

from jaxpost.objectives.rewards import Reward
from jaxpost.tasks import Task
from jaxpost.training import needs
from jaxpost.training.forcing import GUIDANCE
from jaxpost.training.preferences import Preferences
from jaxpost.training.reformulating import Reformulation
from jaxpost.training.replay import Replay
from jaxpost.training.rl import Rollouts
from jaxpost.training.second import SecondPass
from jaxpost.training.step import StepSpec
from jaxpost.training.supervised import Demonstrations

TERMS = (Reward("correct"), Reward("finished", 0.5))  # of the reward, for an objective that normalises each apart
AGAIN = {"hints": SecondPass, "guides": Reformulation}  # need of an objective -> its second pass


def source(task: Task, spec: StepSpec, prompts: int) -> Demonstrations | Preferences | Rollouts:
    """What feeds `spec.objective` from a task: the same number of rows a step, prompts * group, for every objective.

      groups              Rollouts: `prompts` groups of `group` rows; the reward is TERMS for an objective that needs terms,
                          answers begin as GUIDANCE says for one that learns from prefixes,
                          and as many groups are replayed from the last four steps for one that learns from earlier rows;
                          groups that failed are drawn again for one that learns from hints or from solutions in sight
      pairs, labelled     Preferences: prompts * group / 2 pairs
      rows                Demonstrations: prompts * group rows

    Args:
      task: problems, oracle and verifier.
      spec: the step; its objective chooses, its group counts.
      prompts: B, groups a step.

    Raises:
      ValueError: the objective needs what no source gives, the model lacks a value head, or an odd number of rows for pairs.
    """
    kind, rows = needs.source_of(spec.objective), prompts * spec.group
    if kind == "Rollouts":
        guided = "prefixes" in spec.objective.needs
        return Rollouts(task, prompts, spec, reward=TERMS if "terms" in spec.objective.needs else (),
                        forcing=GUIDANCE[spec.objective.guidance] if guided else None,
                        second=next((rule() for need, rule in AGAIN.items() if need in spec.objective.needs), None),
                        replay=replay(prompts) if "replay" in spec.objective.needs else None)
    if kind == "Demonstrations":
        return Demonstrations(((task, rows),), spec=spec)
    if rows % 2:
        raise ValueError(f"objective {spec.objective.name!r} trains on pairs, and prompts * group = {prompts} * {spec.group} = "
                         f"{rows} rows are not a whole number of them; nearest valid: {max(rows - 1, 2)} or {rows + 1} rows")
    return Preferences(task, rows // 2, spec)


def replay(prompts: int) -> Replay:
    """As many groups as a step makes, drawn from those of the last four steps."""
    return Replay(prompts, 4 * prompts, 4)
