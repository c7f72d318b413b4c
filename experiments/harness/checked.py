"""What every study states before any compute, from a base or from scratch: arms, seeds, claims, their gate, trends."""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments.harness import arms as arm_table
from experiments.harness import checks, power, probing, stages, trends
from experiments.harness import claims as claim_rules
from experiments.harness.arms import Arm
from experiments.harness.errors import UserError
from jaxpost import probes
from jaxpost.tasks import Task


class Checked:
    """A study whose config has been read; the subclasses build `arms` and the probes, then call `state`.

    Raises:
      UserError: a value that cannot run; the message names the fix.
    """

    arms: Sequence[Arm]

    def __init__(self, config: ConfigDict):
        self.config = config
        checks.values(config)
        if config.pilot:
            power.pilot_rows(config.pilot)
        self.stages = stages.stages(config)
        self.tasks: dict[str, Task] = {name: arm_table.make_task(section)
                                       for name, section in arm_table.task_sections(config).items()}
        self.task = self.tasks["task"]
        if closed := [name for name in ("task", "second") if name in self.tasks and self.tasks[name].episodes]:
            raise UserError(f"{closed[0]}.turns={config[closed[0]].turns}: a closed loop has no demonstrations, from which a "
                            "base learns; make it one of the section tasks, and name it as an arm's task")

    def state(self, claims: Sequence[dict], splits: Sequence[str], measured: Sequence[probes.Probe],
              compared: Sequence[str] = ()) -> None:
        """Check the claims, the gate and the trends against what is measured, and keep those that the arms can judge.

        Args:
          splits: on which something is measured. measured: the probes of all arms; compared: ids that must be among them.
        """
        config, names = self.config, stages.names(self.config)
        claim_rules.fields(claims)
        claim_rules.require_arms(claims, names)
        self.claims = claim_rules.placed(claim_rules.judgeable(claims, [arm.name for arm in self.arms]),
                                         {name: dataclasses.asdict(stage) for name, stage in self.stages.items()})
        claim_rules.check(self.claims, splits)
        claim_rules.require_curves(self.claims, self.last)
        probing.require(measured, compared, self.claims)
        claim_rules.require_read(self.claims)
        probing.require_settings(config.probe, measured)
        metrics = probing.metrics_of(measured)
        self.gate = claim_rules.gates.named(config.gate, self.ends, metrics, splits)
        trends.check(config.trend, names, metrics, splits)

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every arm."""
        return list(range(self.config.seeds.first, self.config.seeds.first + self.config.seeds.count))

    @property
    def ends(self) -> dict[str, claim_rules.End]:
        """arm -> where it ends and starts; without a base every arm is measured at step 0, the first of a chain too."""
        first = {arm.name: claim_rules.Start(stages.chain(arm.name, self.stages)[0]) for arm in self.arms}
        return {arm.name: claim_rules.End(arm.steps, made_of=self.made_of(arm), start=claim_rules.Start(arm.name),
                                          origin=first[arm.name]) for arm in self.arms}

    def made_of(self, arm: arm_table.Arm) -> tuple[str, ...]:
        """The arms that one which is not trained is an average or edit of."""
        return () if arm.steps else tuple(name for name in arm.start if name in self.stages)

    @property
    def last(self) -> dict[str, int]:
        """arm -> its last step."""
        return {name: end.step for name, end in self.ends.items()}
