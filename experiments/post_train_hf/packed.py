"""Packed rows of the supervised arms, where `data.pack` asks for them: how many a step takes, and what is in them."""

import math

import numpy as np

from experiments.harness.arms import Arm
from experiments.harness.errors import UserError
from jaxpost import training
from jaxpost.objectives.supervised import Supervised
from jaxpost.tasks import text, text_data
from jaxpost.training import packing


def rows(arm: Arm, setup) -> int | None:
    """Packed rows of a step of the arm, as many as the fullest step of any seed takes; None for arms that sample.

    Where no data is at hand (compiled ahead of time) it is as many as there are demonstrations: never more.

    Raises:
      UserError: an objective of which rows of several demonstrations change more than the padding.
    """
    if isinstance(arm.source, training.Rollouts):
        return None
    objective = arm.spec.objective
    plain = isinstance(objective, Supervised) and objective.aggregation == "token"
    if not plain or objective.anchor != "none" or objective.data_weight != "none":
        raise UserError(f"data.pack with arm {arm.name!r}, whose objective {objective.name!r} weighs rows, roles or a "
                        "reference: rows of several demonstrations are for a mean over tokens, such as cross_entropy; set "
                        "data.pack to False")
    count = arm.source.rows
    if not hasattr(setup, "train"):
        return count
    length_N = np.sum(_lengths(setup), axis=0)
    steps = range(setup.config.train.steps)
    orders = [text_data.Order(len(setup.train), seed + arm.offset) for seed in setup.seeds]
    most = max(packing.first_fit(length_N[order.take(step, count)], _width(setup)).max() + 1
               for order in orders for step in steps)
    ways = 1 if setup.mesh is None else setup.mesh.shape["data"] * setup.mesh.shape["fsdp"]
    unit = math.lcm(arm.spec.microbatches, ways)
    return min(int(-(-most // unit) * unit), count)


def made(arm: Arm, setup, index_N: np.ndarray, own: np.ndarray) -> packing.Packed:
    """The demonstrations of a step in packed rows, those of this process."""
    problems_N = text.rows(setup.train, index_N)
    packed = packing.pack(problems_N.prompt_P, problems_N.answer_T, setup.task.pad, _ends(setup.task), setup.packed[arm.name])
    return packing.Packed(*(x[own] for x in packed))


def _lengths(setup) -> tuple[np.ndarray, np.ndarray]:
    return packing.lengths(setup.train.prompt_NxP, setup.train.answer_NxT, setup.task.pad, _ends(setup.task))


def _width(setup) -> int:
    return setup.task.prompt_len + setup.task.completion_len


def _ends(task) -> tuple[int, ...]:
    return (task.eos, *task.other_ends)
