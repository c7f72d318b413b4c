"""Curricula in a step: what they plan is drawn, what they leave out does not count, and what a run does not give is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula, objectives, tasks, training
from jaxpost.curricula.base import Curriculum, Plan
from jaxpost.objectives.rewards import Reward

POOL = {"pool": 8, "difficulty": (1.0, 2.0) * 4}


def rolled(*rules, **options):
    return lambda task, spec, prompts: training.Rollouts(task, prompts, spec, curriculum=curricula.chain(*rules), **options)


@dataclasses.dataclass(frozen=True)
class Fixed(Curriculum):
    """A plan and weights of the test's choice; its state counts steps and keeps what it saw."""

    items: tuple[int, ...] = (3, 1, 3, 0)
    rollouts: tuple[int, ...] | None = None
    keep: tuple | None = None
    scale: tuple | None = None
    width: tuple[int, ...] | None = None
    train: bool = True
    wants: tuple[str, ...] = ("reward",)

    @property
    def needs(self):
        return frozenset(self.wants)

    @property
    def probes(self):
        return not self.train

    def init(self, key):
        return {"steps": jnp.int32(0)}

    def sample(self, state, key, plan, context):
        count = None if self.rollouts is None else jnp.asarray(self.rollouts)
        knobs = {} if self.width is None else {"width": jnp.asarray(self.width)}
        return state, Plan(jnp.asarray(self.items, jnp.uint32), count, knobs, jnp.asarray(self.train))

    def observe(self, state, feedback, weights):
        as_array = [None if x is None else jnp.asarray(x, jnp.float32) for x in (self.keep, self.scale)]
        return {"steps": state["steps"] + 1}, weights.times(keep=as_array[0], scale=as_array[1])


def fresh(run):
    state = training.create(run.spec, run.params, run.source.curriculum.init(jax.random.key(0)))
    return run, state


def test_planned_problems_are_the_prompts_and_unused_rollouts_are_as_if_not_drawn(feed):
    run, state = fresh(feed("grpo", make=rolled(Fixed(rollouts=(4, 2, 3, 1), width=(1, 2, 1, 2)))))
    batch, metrics, after = run.batch(run.member, state, None)
    knobs_N = jax.tree.map(lambda x: np.repeat(x, 16), run.task.splits["train"]) | {"width": np.repeat([1, 2, 1, 2], 4)}
    wanted = jax.vmap(run.task.prompt)(tasks.problems(run.task, "train", np.repeat([3, 1, 3, 0], 4), knobs_N))
    np.testing.assert_array_equal(batch.prompt_NxP, wanted)
    used_N = (np.arange(4)[None] < np.array([[4], [2], [3], [1]])).reshape(-1)
    np.testing.assert_array_equal(np.isnan(batch.reward_N), ~used_N)
    np.testing.assert_array_equal(np.asarray(batch.mask_NxT).any(axis=1), used_N)
    assert [float(x) for x in metrics["trained_rows"]] == [10, 16] and int(after["steps"]) == 1
    advantage = np.asarray(run.spec.objective.prepare(batch, 4).advantage_NxT)[:, 0].reshape(4, 4)
    reward = np.asarray(batch.reward_N).reshape(4, 4)
    for n, a, r in zip((4, 2, 3, 1), advantage, reward):
        np.testing.assert_allclose(a[:n] * (r[:n].std(ddof=1) + 1e-4 if n > 1 else 1), r[:n] - r[:n].mean(), atol=1e-3)
        assert not a[n:].any()


def test_scaled_advantages_scale_the_loss_of_their_groups(feed):
    """The loss of weights (1/2, 2) of two halves of the batch: from those of (1, 0) and (0, 1), as it is linear in them."""
    scale = ((0.5,) * 4,) * 2 + ((2.0,) * 4,) * 2
    objective = objectives.get("grpo", aggregation="constant", aggregation_length=4)
    run, state = fresh(feed(objective, make=rolled(Fixed(scale=scale, wants=("scale",)))))
    batch, _, _ = run.batch(run.member, state, None)
    np.testing.assert_array_equal(batch.weight_N, np.repeat([0.5, 2], 8))
    train = jax.jit(lambda batch: run.update(state, batch)[1]["loss"][0])
    first, second, both = (float(train(batch._replace(weight_N=jnp.asarray(np.repeat(np.float32(x), 8)))))
                           for x in ((1, 0), (0, 1), (0.5, 2)))
    assert abs(first) > 1e-3 and abs(both - (0.5 * first + 2 * second)) < 1e-5


def test_a_probing_step_changes_nothing_but_the_curriculum(feed):
    run, state = fresh(feed("grpo", make=rolled(Fixed(train=False))))
    state = state._replace(opt_state=jax.tree.map(lambda x: x + 1, state.opt_state))  # moments that would move parameters
    after, measured = run.step(run.member, state, None)
    assert int(after.step) == int(state.step) + 1 and int(after.curriculum_state["steps"]) == 1
    for a, b in zip(jax.tree.leaves((after.params, after.opt_state)), jax.tree.leaves((state.params, state.opt_state))):
        np.testing.assert_array_equal(a, b)
    assert float(measured["trained_rows"][0]) == 0


def test_over_sampling_refills_what_a_filter_leaves_out(feed):
    keep = ((0,) * 4, (1,) * 4) * 4
    run, state = fresh(feed("grpo", make=rolled(Fixed(items=tuple(range(8)), keep=keep), oversample=2)))
    batch, _, _ = run.batch(run.member, state, None)
    prompts = np.asarray(jax.vmap(run.task.prompt)(tasks.problems(run.task, "train", np.arange(8))))
    counted = np.asarray(batch.prompt_NxP)[np.asarray(batch.mask_NxT).any(axis=1)]
    assert len(counted) and all((row == prompts[1::2]).all(axis=1).any() for row in counted)


def test_members_of_an_ensemble_learn_apart_and_resume_bit_for_bit(feed):
    """SEC, then budgets, then weights: two members, two steps in one segment, and in two with a copy through the host."""
    chain = [curricula.get("sec", **POOL), curricula.get("knapsack", pool=8, average=3), curricula.get("vl_cogito", steps=4)]
    run, state = fresh(feed("grpo", make=rolled(*chain)))
    program = training.segment_program(run.source, run.spec, 2)
    members = training.stack([run.member, run.member._replace(seed=jnp.uint32(6))])
    whole, _ = program(training.stack([state, state]), members, 2, None)
    half, _ = program(training.stack([state, state]), members, 1, None)
    resumed, _ = program(jax.tree.map(lambda x: np.array(x), half), members, 1, None)
    for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(x, y)
    sec, knapsack, _ = whole.curriculum_state
    assert np.asarray(sec["q_A"]).any(axis=1).all() and (np.asarray(sec["q_A"])[0] != np.asarray(sec["q_A"])[1]).any()
    assert knapsack["count_M"].sum(axis=1).tolist() == [24, 24]


def test_self_paced_demonstrations(make):
    run = make("cross_entropy", "sft")
    mixture = run.source.mixture
    losses = {}
    for pace in (1e6, None):
        rule = curricula.get("self_paced", pace=pace or losses["median"])
        source = training.Demonstrations(mixture, rule, run.spec)
        state = training.create(run.spec, run.params, rule.init(jax.random.key(0)))
        batch, metrics, _ = jax.jit(source.batch)(run.member, state, None)
        if pace:
            nll = -np.asarray(run.logp(state.params, batch)) * np.asarray(batch.mask_NxT)
            losses["each"] = nll.sum(axis=1) / np.asarray(batch.mask_NxT).sum(axis=1)
            losses["median"] = float(np.median(losses["each"]))
            assert float(metrics["trained_rows"][0]) == 16
        else:
            np.testing.assert_array_equal(np.asarray(batch.mask_NxT).any(axis=1), losses["each"] < losses["median"])


def test_a_length_budget_is_the_target_of_the_length_term(feed):
    term = Reward("triangular_length", length=100)
    rule = curricula.get("length_budget", first=4.0, factor=0.5, every=1)
    run, state = fresh(feed("grpo", make=rolled(rule, reward=(term,))))
    for step, target in ((0, 4.0), (1, 2.0), (5, 1.0)):
        batch, _, _ = run.batch(run.member, state._replace(step=jnp.int32(step)), None)
        share = np.asarray(batch.mask_NxT).sum(axis=1) / target
        np.testing.assert_allclose(batch.reward_N, np.clip(np.where(share <= 1, share, 2 - share), 0, 1), atol=1e-6)


@pytest.mark.parametrize("objective, rule, options, message", [
    ("grpo", Fixed(wants=("gradient_norm",)), {}, "needs 'gradient_norm', which no source gives"),
    ("grpo", curricula.get("self_paced"), {}, r"needs the loss .* Rollouts does not give it \(Demonstrations does"),
    ("grpo", curricula.get("sec", **POOL), {"oversample": 2}, "needs advantages .* with oversample=2; set it to 1"),
    ("grpo", curricula.get("length_budget"), {}, "needs a term triangular_length, band_length or refusal"),
    ("grpo", curricula.get("alp_gmm", knobs=(("widht", 1, 2),)), {}, "knob 'widht', which task 'addition' .* mean 'width'"),
    ("grpo", curricula.get("alp_gmm", knobs=(("width", 1, 9),)), {}, "up to 9, and the splits .* nearest valid: 2"),
    ("dpo", curricula.get("pods"), {}, "Preferences does not give it"),
    ("cross_entropy", curricula.get("pods"), {}, r"Demonstrations does not give it \(Rollouts does\)")])
def test_what_a_run_does_not_give_is_refused(feed, objective, rule, options, message):
    def make(task, spec, prompts):
        return dataclasses.replace(training.source(task, spec, prompts), curriculum=rule, **options)

    with pytest.raises(ValueError, match=message):
        feed(objective, make=make)
