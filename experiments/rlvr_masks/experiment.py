"""RLVR under masks of the base and through adapters: which part of the weights has to be free?"""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from ml_collections import ConfigDict

from experiments import rlvr_sparsity
from experiments.harness import arms as arm_table
from experiments.harness.base_model import Base
from experiments.harness.session import StopSignals
from experiments.rlvr_masks import arms as tuning
from jaxpost import records

TITLE = "RLVR under masks and adapters"
QUESTION = ("Does RLVR need the principal weights: how do success, drift and forgetting differ between masks of the base, "
            "random masks of equal density, LoRA and PiSSA, at one learning rate and at one update norm?")


class Setup(rlvr_sparsity.Setup):
    """As for `rlvr_sparsity`, with the arms of `tuning` and their budgets."""

    metrics = MappingProxyType(tuning.METRICS)

    def make_arms(self) -> list[arm_table.Arm]:
        """The arms named in `config.arms`, in that order. Raises: UserError, as `tuning.build`."""
        return tuning.build(self.config, self.model, self.task)

    def write_more(self, bundle: records.Bundle, prefix: str, base: Base) -> None:
        """How many numbers each arm trains, and how far adapters start from the base."""
        bundle.write_rows(f"{prefix}budgets", tuning.budget_rows(self.arms, base.params, base.digest, self.seeds[0]))


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume, add seeds to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError, CheckpointError: one clear line; nothing that was written is lost.
    """
    rlvr_sparsity.carry_out(Setup(config, claims), TITLE, QUESTION, workdir, name, signals)
