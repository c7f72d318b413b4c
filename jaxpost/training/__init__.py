"""Training: state, the one step, batches of the two loops, segments, evaluation."""

from jaxpost.training.evaluate import Suite
from jaxpost.training.loop import NonFiniteLoss, one_step, run_segment, segment_program, stack
from jaxpost.training.preferences import Preferences
from jaxpost.training.rl import Rollouts
from jaxpost.training.sources import source
from jaxpost.training.state import Member, Scalars, TrainState, bf16_grid, soup, stream
from jaxpost.training.step import StepSpec, create, token_logp, train_step
from jaxpost.training.supervised import Demonstrations, demonstrations
from jaxpost.training.whole_table import WholeTable

__all__ = ["Demonstrations", "Member", "NonFiniteLoss", "Preferences", "Rollouts", "Scalars", "StepSpec", "Suite",
           "TrainState", "WholeTable", "bf16_grid", "create", "demonstrations", "one_step", "run_segment", "segment_program",
           "soup", "source", "stack", "stream", "token_logp", "train_step"]
