"""Rewritten problems: knobs and keys, which groups are trained on and how much, against plain Python; refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula, models, training
from jaxpost.curricula.clpo import Clpo
from jaxpost.tasks import base
from jaxpost.training.rewriting import Rewriting
from jaxpost.training.second import Rows
from tests.training.conftest import NOISY

B, G = 6, 4
WORLD = dataclasses.replace(
    NOISY, splits={"train": base.setting(0, size=9, order=0)}, prompt=lambda p: jnp.stack([p["size"], p["order"], p["word"]]),
    sample=lambda key, knobs: {"size": knobs["size"], "order": knobs["order"], "word": jax.random.randint(key, (), 1, 2**30)})
RULE = Rewriting(simplify=(("size", 3),), diversify=(("order", 2),))


def rows_of(index, first):
    found = base.problems(WORLD, "train", jnp.repeat(index, G))
    made = models.Completions(jnp.zeros((B * G, 2), int), jnp.zeros((B * G, 2)), jnp.ones((B * G, 2)))
    return Rows(found, jax.vmap(WORLD.prompt)(found), made, jnp.asarray(first, jnp.float32).reshape(-1))


def passed(rule, first, second, index):
    """(what the rule makes of the rewards of both passes, problems that were asked in the second)."""
    asked = []

    def draw(problems_N, prompt_NxP, key):
        asked.append(prompt_NxP)
        made = models.Completions(jnp.ones((B * G, 2), int), jnp.zeros((B * G, 2)), jnp.ones((B * G, 2)))
        return made, jnp.asarray(second, jnp.float32).reshape(-1)

    with jax.disable_jit():
        out = rule.again(WORLD, rows_of(index, first), curricula.Plan(index), G, draw, jax.random.key(0))
    return out, np.asarray(asked[0] if asked else np.zeros((B * G, 3))).reshape(B, G, 3)


@pytest.mark.parametrize("rule", [RULE, dataclasses.replace(RULE, diversify=()), dataclasses.replace(RULE, simplify=())])
def test_what_is_trained_on_is_what_plain_python_says(rule):
    rng, index = np.random.default_rng(3), jnp.arange(40, 40 + B, dtype=jnp.uint32)
    seen = set()
    for trial in range(5):
        first, second = (rng.integers(0, 2, (B, G)) * (rng.random((B, 1)) < 0.8) for _ in range(2))
        if trial == 0:
            first, second = np.zeros((B, G)), np.ones((B, G))
        out, asked = passed(rule, first, second, index)
        original = np.asarray(rows_of(index, first).prompt_NxP).reshape(B, G, 3)
        chosen = []  # (rank, place, prompt, rewards, factor of the KL)
        for b in range(B):
            p, p2 = first[b].mean(), second[b].mean()
            kind = "hard" if p <= 0.3 and rule.simplify else "medium" if 0.3 < p <= 0.7 and rule.diversify else None
            chosen.append((2 if 0 < p < 1 else 3, b, original[b], first[b], 0.5 if p <= 0.3 else 1.0))
            if kind:
                expected = original[b] * [0, 0, 1] + ([3, 0, 0] if kind == "hard" else [9, 2, 0])  # the same key
                np.testing.assert_array_equal(asked[b], expected)
                if 0 < p2 < 1:
                    chosen.append((0 if kind == "hard" else 1, b, expected, second[b], 0.5 if kind == "hard" else 1.0))
        none = not any(rank < 3 for rank, *_ in chosen)
        chosen = sorted(chosen, key=lambda x: x[:2])[:B]
        for g, (rank, _, prompt, rewards, factor) in enumerate(chosen):
            rows = slice(g * G, (g + 1) * G)
            seen.add(rank)
            np.testing.assert_array_equal(out.rows.prompt_NxP[rows], prompt)
            np.testing.assert_array_equal(out.rows.reward_N[rows], rewards)
            np.testing.assert_array_equal(out.rows.made.tokens_NxT[rows], int(rank < 2))
            np.testing.assert_array_equal(out.weights.keep_BxG[g], float(rank < 3 or none))
            np.testing.assert_array_equal(out.weights.kl_BxG[g], factor)
        assert float(out.told["kept_rewritten"][0]) == sum(rank < 2 for rank, *_ in chosen)
    assert {2, 3} < seen and (0 in seen) == bool(rule.simplify) and (1 in seen) == bool(rule.diversify)


def test_a_step_trains_on_rewritten_problems(feed):
    """The first pass fails and simpler problems are solved half of the time: all groups that are trained on are those."""
    task = dataclasses.replace(NOISY, splits={"train": base.setting(0, size=9)}, prompt_len=2,
                               prompt=lambda p: jnp.stack([p["size"], p["word"]]),
                               sample=lambda key, knobs: {"size": knobs["size"], "word": jax.random.randint(key, (), 3, 9)},
                               verify=lambda p, tokens_T: ((p["size"] == 3) & (tokens_T[0] % 2 == 0)).astype(jnp.float32))
    rule = Rewriting(simplify=(("size", 3),), relief=0.25)
    run = feed("deepseek_v3_2", task=task,
               make=lambda task, spec, prompts: training.Rollouts(task, prompts, spec, second=rule))
    batch, metrics, _ = run.batch(run.member, run.state, run.params)
    assert [float(x) for x in metrics["rewritten_groups"]] == [4, 4] and float(metrics["kept_rewritten"][0]) >= 2
    counted = np.asarray(batch.mask_NxT).any(axis=1)
    assert (np.asarray(batch.prompt_NxP)[counted, 0] == 3).all() and counted.sum() == 4 * float(metrics["kept_rewritten"][0])
    assert (np.asarray(batch.kl_weight_N) == 0.25).all()
    state, measured = run.step(run.member, run.state, run.params)
    assert np.isfinite(float(measured["loss"][0]))


@pytest.mark.parametrize(("name", "rule", "parts", "message"), [
    ("grpo", Rewriting((("digit", 1),)), {}, "sets the knob 'digit', which task 'addition' does not have"),
    ("grpo", Rewriting((("fold", 1),)), {}, "sets the knob 'fold'"),
    ("grpo", Rewriting((("size", 1),)), {}, "relief=0.5 with objective 'grpo', which has no KL term"),
    ("deepseek_v3_2", Rewriting((("size", 1),)), {"curriculum": Clpo()}, "a curriculum that needs 'kl_scale'"),
])
def test_what_is_refused(feed, name, rule, parts, message):
    task = NOISY if "digit" in str(rule) else WORLD
    with pytest.raises(ValueError, match=message):
        feed(name, task=task, make=lambda task, spec, prompts: training.Rollouts(task, prompts, spec, second=rule, **parts))


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match="rewriting has no operator"):
        Rewriting()
    with pytest.raises(ValueError, match="0 <= hard <= medium <= 1"):
        Rewriting((("size", 1),), hard=0.8)
