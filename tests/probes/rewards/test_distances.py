"""Distances: invariants, hand-made values, a Pearson of scipy, and that regret stays below its bound on random processes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from jaxpost.probes import rewards
from jaxpost.probes.rewards import canonical


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small, forms = _beside("test_finite"), _beside("test_canonical")
DISTANCES = {
    "starc": rewards.starc,
    "l1": lambda mdp, a, b: rewards.starc(mdp, a, b, norm="l1"),
    "linf": lambda mdp, a, b: rewards.starc(mdp, a, b, norm="linf"),
    "value_potential": lambda mdp, a, b: rewards.starc(mdp, a, b, form=canonical.value_potential),
    "epic": lambda mdp, a, b: rewards.epic(a, b, mdp.discount),
    "dard": rewards.dard,
}


@pytest.mark.parametrize("name", DISTANCES)
def test_shaping_and_scale_cost_nothing_and_redistribution_only_starc(name):
    distance, mdp, a = DISTANCES[name], small.process(), small.reward(1)
    assert distance(mdp, a, 7 * a + 3 * forms.shaping(mdp)) < 1e-12
    far = 1 if name in ("epic", "dard") else 2
    assert abs(distance(mdp, a, -a) - far) < 1e-12 and abs(distance(mdp, a, 0 * a) - far / 2) < 1e-12
    assert distance(mdp, forms.shaping(mdp), np.zeros_like(a)) == 0  # shaping alone is a reward without preferences
    moved = distance(mdp, a, a + forms.redistribution(mdp))
    assert moved < 1e-12 if name in ("starc", "l1", "linf") else moved > 0.2, moved


def test_controls_see_what_they_do_not_take_out():
    mdp, a = small.process(), small.reward(1)
    assert rewards.starc(mdp, a, 7 * a, scaled=False) == pytest.approx(6 * np.linalg.norm(canonical.val(mdp, a)))
    assert rewards.direct(mdp, a, 7 * a) < 1e-12 and rewards.direct(mdp, a, a + 3 * forms.shaping(mdp)) > 0.2
    with pytest.raises(ValueError, match="norm 'l3' is not known; did you mean 'l"):
        rewards.starc(mdp, a, a, norm="l3")


def test_pearson_distances_are_scipys():
    mdp, a, b = small.process(2), small.reward(2), small.reward(3)
    rho = scipy.stats.pearsonr(*(canonical.epic(r, mdp.discount).ravel() for r in (a, b))).statistic
    assert rewards.epic(a, b, mdp.discount) == pytest.approx(((1 - rho) / 2) ** 0.5, abs=1e-12)
    times = np.random.default_rng(0).integers(1, 9, a.shape)  # a coverage of whole numbers: every entry that many times
    rho = scipy.stats.pearsonr(*(np.repeat(canonical.dard(mdp, r).ravel(), times.ravel()) for r in (a, b))).statistic
    assert rewards.dard(mdp, a, b, coverage_SxAxS=times) == pytest.approx(((1 - rho) / 2) ** 0.5, abs=1e-12)


def test_rewards_of_responses_are_a_process_of_one_step():
    """Prompts are first states, responses actions, and then nothing: VAL takes out the mean of a prompt."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 4, 5))
    tau = np.zeros((5, 5, 5))
    tau[..., 4] = 1  # state 4 is the end
    mdp = rewards.FiniteMDP(tau, np.asarray([0.25] * 4 + [0.0]), 0.0)
    whole = [np.concatenate([r, np.zeros((1, 5))])[..., None] + np.zeros(5) for r in (first, second)]
    assert rewards.responses(first, second) == pytest.approx(rewards.starc(mdp, *whole), abs=1e-13)
    offset = rng.normal(size=(4, 1))
    assert rewards.responses(first, 3 * first + offset) < 1e-12 and rewards.responses(first, -first) == pytest.approx(2)
    policy = rng.dirichlet(np.ones(5), 4)
    assert abs(rewards.responses(first, second, policy) - rewards.responses(first, second)) > 1e-3


def test_worst_regret_lies_below_its_bound_and_above_zero_where_rewards_differ():
    """Near rewards make the bound informative; a distance of nothing allows no regret, any other some."""
    informative = 0
    for seed in range(40):
        mdp, a = small.process(seed), small.reward(seed)
        b = a + 10.0 ** -(seed % 4) * small.reward(99) + forms.shaping(mdp, seed)
        worst = rewards.worst_regret(mdp, a, b)
        bound = rewards.regret_bound(mdp, a, rewards.starc(mdp, a, b))
        assert 0 < worst <= bound + 1e-9
        informative += bound < 1
        assert rewards.worst_regret(mdp, a, 2 * a + forms.shaping(mdp) + forms.redistribution(mdp)) < 1e-7
    assert informative >= 8
    assert rewards.regret_bound(small.process(), np.ones_like(small.reward(0)), 1.0) == np.inf
