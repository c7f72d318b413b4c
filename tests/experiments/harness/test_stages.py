"""Arms as data: inheritance, grids, references to keys, starts; what is refused, in one line, before any compute."""

import chex
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.harness import arms, defaults, stages, work
from experiments.harness import config as configs
from experiments.harness.errors import UserError
from jaxpost import curricula, models, tasks
from jaxpost.training.preferences import Ranked

MODEL = models.TransformerConfig(vocab=tasks.vocab.SIZE, width=16, layers=1, heads=1, kv_heads=1, head_dim=16, ff=16)
TASKS = {"task": tasks.get("addition", digits=1)}


def config(table, run):
    c = defaults.study()
    c.train.learning_rates = (1e-5, 1e-4)
    c.train.learning_rate = 3e-4
    c.arm, c.arms = ConfigDict(table), tuple(run)
    return c


def test_a_table_inherits_expands_and_names_other_keys():
    found = stages.stages(config({
        "rl": {"objective": "train.objective", "settings": {"clip_high": 0.3}},
        "rl-{}-{}": {"like": "rl", "over": {"learning_rate": "train.learning_rates", "pool": (0, 8)}},
        "own": {"like": "rl-1-1", "learning_rate": 5e-4, "steps": 7},
    }, ("own", "rl-0-1", "rl")))
    assert list(found) == ["own", "rl-0-1", "rl"]
    assert (found["own"].learning_rate, found["own"].pool, found["own"].steps) == (5e-4, 8, 7)
    assert found["own"].settings == (("clip_high", 0.3),) and found["own"].objective == "grpo"
    assert (found["rl-0-1"].learning_rate, found["rl-0-1"].steps, found["rl"].learning_rate) == (1e-5, 150, 3e-4)
    assert dict(found["rl-0-1"].keys)["learning_rate"] == "train.learning_rates"
    assert "learning_rate" not in dict(found["own"].keys)  # its own table says it


@pytest.mark.parametrize(("value", "steps"), [("train.steps/3", 50), ("train.steps*2/3", 100), ("train.steps*2", 300),
                                              ("train.seen[1]/4", 5), ("train.seen[1]", 20)])
def test_a_reference_may_be_a_share_of_a_key(value, steps):
    c = config({"a": {"steps": value, "learning_rate": "train.learning_rate/2", "objective": "grpo",
                      "curriculum": {"dump": {"window": value}}, "pool": 8}}, ("a",))
    c.train.seen = (10, 20)
    found = stages.stages(c)["a"]
    assert (found.steps, found.learning_rate, found.curriculum) == (steps, 1.5e-4, (("dump", {"window": steps}),))


SHARED = {  # config -> paths of arms whose steps add up to train.steps
    "curry_dpo": [("dpo",), *([f"{name}-{i}" for i in (1, 2, 3)] for name in ("curry", "hard", "mixed"))],
    "sft_then_rl": [("sft", "sft-then-sft"), ("rl", "rl-then-rl"), ("sft", "sft-then-rl"), ("chord_mu",)],
    "soup_reference": [("sft-a", "own"), ("sft-b", "from-soup"), ("sft-a", "free")],
    "sampling_entropy": [("long", "long"), ("short",) * 6, ("after-short",)],
    "length_budget": [("none",), ("decaying",)],
}


@pytest.mark.parametrize("name", SHARED)
def test_stages_that_share_the_steps_keep_their_total(name):
    for steps in (12, 300):
        found = stages.stages(configs.load(name, {"train.steps": str(steps)}))
        assert [sum(found[arm].steps for arm in path) for path in SHARED[name]] == [steps] * len(SHARED[name])
        if name == "length_budget":
            every = {arm: dict(found[arm].curriculum)["length_budget"]["every"] for arm in ("decaying", "late-drop")}
            assert every == {"decaying": steps // 4, "late-drop": 3 * steps // 4}
    with pytest.raises(UserError, match="gives no whole number; nearest valid: train.steps="):
        stages.stages(configs.load(name, {"train.steps": "121"}))


def test_a_number_takes_the_place_of_a_reference():
    overrides = {"train.steps": "100", "arm.curry-1.steps": "7", "arm.curry-2.steps": "train.steps/4", "arms": "('curry-2',)"}
    found = stages.stages(configs.load("curry_dpo", overrides))
    assert (found["curry-1"].steps, found["curry-2"].steps) == (7, 25)
    with pytest.raises(UserError, match="expected a whole number"):
        configs.load("curry_dpo", {"arm.curry-1.steps": "7.5"})


def test_what_an_arm_starts_from_comes_first_and_once():
    c = config({"warm": {"steps": 5, "objective": "cross_entropy"},
                "a": {"start": "warm", "objective": "grpo", "minibatches": 2},
                "b": {"like": "warm", "start": "warm", "steps": 150},
                "mean": {"start": ("a", "b", "base")}, "after": {"start": "mean", "steps": 3}}, ("after", "a"))
    found = stages.stages(c)
    assert list(found) == ["warm", "a", "b", "mean", "after"] and found["mean"].steps == 0
    assert stages.chain("after", found) == ["warm", "a", "b", "mean", "after"]
    made = arms.build(c, MODEL, TASKS)
    columns = work.rows(made, found, "d" * 16)
    counts = {(arm, metric): value for arm, metric, value in zip(columns["arm"], columns["metric"], columns["value"])}
    assert counts["after", "work.optimizer_steps"] == 5 + 2 * 150 + 150 + 3
    assert counts["a", "work.rollouts"] == 150 * 128 and counts["b", "work.rollouts"] == 0
    assert counts["b", "work.rows"] == (5 + 150) * 128


def test_the_reference_is_the_base_an_end_or_an_average_and_may_be_refreshed():
    kl = {"objective": "grpo", "settings": {"kl_place": "loss", "kl_coef": 0.1}}
    made = {arm.name: arm for arm in arms.build(config(
        {"warm": {}, "other": {}, "base-kl": kl, "own": kl | {"start": "warm", "reference": "start"},
         "soup": kl | {"reference": ("warm", "other")}, "moving": kl | {"refresh_every": 5}},
        ("base-kl", "own", "soup", "moving")), MODEL, TASKS)}
    assert list(made) == ["base-kl", "warm", "own", "other", "soup", "moving"]
    assert made["base-kl"].source.needs_reference and not made["soup"].source.needs_reference
    assert (made["own"].reference, made["soup"].reference) == (("warm",), ("warm", "other"))
    assert made["moving"].spec.reference_refresh == 5
    params = models.init(MODEL, jax.random.key(0))
    reference = jax.tree.map(lambda x: np.asarray(x) + 1, params)
    chex.assert_trees_all_equal(made["soup"].fresh(params, 0, reference).reference, reference)
    chex.assert_trees_all_equal(made["soup"].fresh(params, 0, reference).params, params)


def test_a_curriculum_is_a_name_names_or_settings():
    chained = {"task": tasks.get("chains")}
    made = {arm.name: arm.source.curriculum for arm in arms.build(config({
        "a": {"objective": "grpo", "pool": 8, "group": 4}, "b": {"like": "a", "curriculum": "sec"},
        "c": {"like": "a", "curriculum": ("vl_cogito", "pods")},
        "d": {"like": "a", "curriculum": {"pods": {"keep": 3}, "sec": {"temperature": 0.5}}, "steps": 9},
        "e": {"like": "a", "objective": "cross_entropy", "curriculum": "easy_to_hard", "steps": 9}}, "abcde"), MODEL, chained)}
    difficulty = tasks.difficulties(chained["task"], "train", 8)
    assert len(difficulty) == 8 and len(set(difficulty)) > 1
    uniform = curricula.Uniform(pool=8)
    assert made["a"] == uniform
    assert made["b"] == curricula.chain(uniform, curricula.get("sec", pool=8, difficulty=difficulty))
    assert made["c"] == curricula.chain(uniform, curricula.get("vl_cogito", steps=150), curricula.get("pods"))
    assert made["d"].links[1:] == (curricula.get("sec", pool=8, difficulty=difficulty, temperature=0.5),
                                   curricula.get("pods", keep=3))
    assert made["e"].links[1].steps == 9 and made["e"].links[1].difficulty == difficulty


def test_arms_that_differ_in_scalars_and_starts_share_a_program():
    made = arms.build(config({"a": {"objective": "grpo"}, "b": {"like": "a", "learning_rate": 1e-2, "permute_rewards": True},
                              "c": {"like": "a", "start": "b"}, "d": {"like": "a", "pool": 4}}, ("a", "c", "d")), MODEL, TASKS)
    programs = [(arm.source, arm.spec) for arm in made]
    assert programs[0] == programs[1] == programs[2] != programs[3]


@pytest.mark.parametrize(("table", "expected"), [
    ({"a": {"start": "b"}, "b": {"start": "a"}}, "arm 'a' needs its own end: a -> b -> a"),
    ({"a": {"start": "b"}, "b": {"reference": "a"}}, "arm 'a' needs its own end: a -> b -> a"),
    ({"a": {"start": "warmup"}, "warm-up": {}}, "needs the end of 'warmup', which is not known; did you mean 'warm-up'?"),
    ({"a": {"schedule": "cosin"}}, "did you mean 'cosine'?"),
    ({"a": {"schedule": "linear", "warmup_steps": 150}}, "a warm-up leaves at least one step"),
    ({"a": {"warmup_steps": 150}}, "warmup_steps=150 of steps=150"),  # a constant rate too would never be reached
    ({"a": {"optimizer_settings": {"clip_norm": 0.0}}}, "clip_norm=0.0: must be greater than 0"),
    ({"a": {"optimizer_settings": {"weight_decya": 0.1}}}, "weight_decya"),
    ({"a": {"refresh_every": -1}}, "refresh_every=-1"),
    ({"a": {"temperature": 0}}, "temperature"),
    ({"a": {"like": "b"}, "b": {"like": "a"}}, "arm 'a' is like itself: a -> b -> a"),
    ({"a": {"like": "c"}, "b": {}}, "arm 'a' is like 'c', which is not known"),
    ({"a": {"learningrate": 1.0}}, "field 'learningrate' is not known; did you mean 'learning_rate'?"),
    ({"a": {"learning_rate": "train.learning_rat"}}, "names no key of the config; did you mean 'train.learning_rate'?"),
    ({"a": {"steps": "train.steps/4"}}, "train.steps=150 gives no whole number; nearest valid: train.steps=148 or 152"),
    ({"a": {"steps": "train.steps*2/400"}}, "nearest valid: train.steps=200"),
    ({"a": {"steps": "train.steps/0"}}, "train.steps=150 has no such share"),
    ({"a": {"steps": "train.steps/x"}}, "expected train.steps, an element (train.steps[0]) or a share (train.steps/2, train.s"),
    ({"a": {"learning_rate": "train.learning_rates/2"}}, "train.learning_rates=(1e-05, 0.0001) has no such share"),
    ({"a": {"learning_rate": "train.learning_rates[2]/2"}}, "has no such element"),
    ({"a": {"learning_rate": "train.learning_rat/2"}}, "names no key of the config; did you mean 'train.learning_rate'?"),
    ({"a": {"start": ("b",)}, "b": {}}, "start=('b',) names 1 place, and an average is made of at least two and"),
    ({"a": {"start": ()}}, "start=() names no place"),
    ({"a": {"start": ("b",), "edit": {"mix": {"share": 0.5}}}, "b": {}}, "and the edit mix is made of at least two"),
    ({"a": {"start": ("base", "b"), "steps": 3, "edit": {"mix": {"share": 0.5}}}, "b": {}}, "and steps=3"),
    ({"a": {"learning_rate": "fast"}}, "learning_rate='fast': expected a finite number"),
    ({"a": {"learning_rate": -1.0}}, "a learning rate must be greater than 0"),
    ({"a": {"permute_rewards": 1}}, "permute_rewards=1: expected True or False; nearest valid: True"),
    ({"a": {"steps": 0}}, "steps=0: must be at least 1"),
    ({"a": {"pool": -3}}, "pool=-3"),
    ({"a": {"task": "tsk"}}, "task='tsk' is not known; did you mean 'task'?"),
    ({"a": {"optimizer": "adamv"}}, "adamv"),
    ({"a": {"objective": "grp_o", "family": "rl"}}, "did you mean 'grpo'?"),
    ({"a": {"objective": "dpo", "family": "rl"}}, "is of the family 'preference', and arm 'a' takes one of 'rl'"),
    ({"a": {"reference": "stat"}}, "did you mean 'start'?"),
    ({"a": {"objective": "grpo", "reward": {"corect": 1.0}}}, "reward 'corect' is not known; did you mean 'correct'?"),
    ({"a": {"objective": "grpo", "reward": {"correct": {"wieght": 1.0}}}}, "wieght"),
    ({"a": {"objective": "cross_entropy", "reward": {"correct": 1.0}}}, "which samples no answers; leave reward out"),
    ({"a": {"objective": "remax", "reward": {"correct": 1.0}}}, "leave reward empty"),
    ({"a": {"objective": "grpo", "start": "b", "reference": "start"}, "b": {}}, "reads no reference policy"),
    ({"a": {"objective": "grpo", "curriculum": "secc"}}, "curriculum 'secc' is not known; did you mean 'sec'?"),
    ({"a": {"objective": "grpo", "curriculum": {"pods": {"kep": 2}}}}, "setting 'kep' is not known; did you mean 'keep'?"),
    ({"a": {"objective": "grpo", "curriculum": {"pods": 2}}}, "takes {setting: value}, found 2"),
    ({"a": {"objective": "grpo", "curriculum": ("pods", "pods")}}, "curriculum 'pods' appears twice"),
    ({"a": {"objective": "grpo", "curriculum": "sec"}}, "among the problems of a pool, and pool=0 has no end; set pool"),
    ({"a": {"objective": "grpo", "curriculum": "sec", "pool": 8}}, "1 of them different; take a task"),
    ({"a": {"objective": "grpo", "curriculum": "knapsack", "pool": 8, "group": 4}}, "average=8 rollouts a problem"),
    ({"a": {"objective": "cross_entropy", "curriculum": "pods"}}, "Demonstrations does not give it (Rollouts does)"),
    ({"a": {"objective": "grpo", "curriculum": "self_paced"}}, "needs the loss of each example before the update"),
    ({"a": {"objective": "grpo", "settings": {"clip_hihg": 0.3}}}, "clip_hihg"),
    ({"a": {}, "g": {"over": {"pool": (1, 2)}}}, "its name needs 1 pairs of braces, found 0"),
    ({"a": {}, "g{}": {}}, "has braces in its name and no 'over'"),
    ({"a": {}, "g{}": {"over": {"pool": 8}}}, "arm 'g{}': over.pool=8 is not several values"),
    ({"a": {}, "g{}": {"over": {"pool": "train.steps"}}}, "arm 'g{}': over.pool=150 is not several values"),
    ({"a": {}, "g{}": {"over": (1, 2)}}, "over=(1, 2) is tuple; expected {field: (value, ...)}"),
    ({"a": {}, "base": {}}, "are places where an arm starts"),
    ({"a": 3}, "arm.a=3 is int; expected {field: value}"),
    ({"a": {"start": 3}}, "start=3 is int; expected a name or a tuple of names"),
    ({"a": {"curriculum": 3}}, "curriculum=3 is int; expected a rule's name"),
    ({"a": {"prompts": -3}}, "prompts=-3: must be at least 1"),
    ({"a": {"answer_tokens": -1}}, "answer_tokens=-1: must be at least 0"),
    ({"a": {"final_share": 3.0}}, "final_share=3.0: must be between 0 and 1"),
    ({"a": {"storage_dtype": "float8"}}, "storage_dtype='float8' is not known"),
    ({"a": {"optimizer_settings": {"weight_deca": 1}}}, "did you mean 'weight_decay'?"),
    ({"a": {}, "g0": {}, "g{}": {"over": {"pool": (1, 2)}}}, "arm 'g0' is named twice"),
    ({"a": {}, "g{}{x}": {"over": {"poool": (1, 2)}}, "g0{x}": {}}, "arm 'g0{x}' is named twice"),
])
def test_a_mistake_is_one_line_with_the_fix(table, expected):
    with pytest.raises(UserError) as error:
        arms.build(config(table, ("a",)), MODEL, TASKS)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_grid_of_too_many_programs_says_how_many():
    table = {"a{}": {"over": {"pool": tuple(range(1, 27))}}}
    with pytest.raises(UserError, match="compile 26 programs, and at most 24"):
        arms.build(config(table, [f"a{i}" for i in range(26)]), MODEL, TASKS)


def test_rollouts_are_forced_replayed_and_drawn_again_as_the_table_says():
    made = {arm.name: arm.source for arm in arms.build(config({
        "hinted": {"objective": "grpo", "forcing": {"prefix": {"draw": "fixed", "start": 0.5, "end": 0.0, "role": "hint"}}},
        "cut": {"objective": "grpo", "forcing": {"interrupt": {"at": 1, "words": (9,)}}},
        "slow": {"objective": "prefix_rft", "forcing": {"prefix": {"steps": 77}}},
        "again": {"objective": "grpo", "second_pass": {"shares": (0.5,), "capacity": 3}, "reward": {"correct": 2.0}},
        "kept": {"objective": "spear", "replay": {"capacity": 99}, "pool": 8, "curriculum": "difficulty_filter"},
        "old": {"objective": "grpo", "replay": {"keep": "best"}}}, ("hinted", "cut", "slow", "again", "kept", "old")),
        MODEL, TASKS)}
    assert (made["hinted"].forcing.role, made["hinted"].forcing.start, made["cut"].forcing.words) == ("hint", 0.5, (9,))
    assert (made["slow"].forcing.steps, made["slow"].forcing.draw, made["slow"].forcing.rows) == (77, "uniform", 1)  # its row's
    assert (made["again"].second.shares, made["again"].second.capacity, made["again"].reward[0].weight) == ((0.5,), 3, 2.0)
    for name, capacity in (("kept", 99), ("old", 64)):
        assert made[name].replay.capacity == capacity == made[name].curriculum.replay.capacity
    assert made["kept"].curriculum.rule == curricula.for_run({"difficulty_filter": {}}, {"pool": 8})


def test_pairs_are_ranked_and_the_reference_is_where_the_stage_starts():
    ranked = {"objective": "dpo", "pairs": {"responses": 3, "rank": 1}}
    made = {arm.name: arm for arm in arms.build(config({
        "first": ranked, "next": {**ranked, "start": "first", "reference": "start"}, "plain": {"objective": "dpo"}},
        ("next", "plain")), MODEL, TASKS)}
    assert made["first"].source.ranked == Ranked(3, 1) and made["plain"].source.ranked is None
    assert made["next"].reference == ("first",) and made["next"].spec.reference_refresh > 0


def test_a_task_with_turns_is_a_closed_loop_that_an_arm_samples_in():
    lake = {"name": "grid", "world": "lake", "answer": "next", "size": 3}
    loop = arms.make_task(ConfigDict({**lake, "turns": 2}))
    assert loop.episodes.environment.turns == 2 and loop is arms.make_task(ConfigDict({**lake, "turns": 2}))
    for turns, message in ((0, "turns=0 must be a whole number"), ("2", "turns='2' must be a whole number")):
        with pytest.raises(UserError, match=message):
            arms.make_task(ConfigDict({**lake, "turns": turns}))
    with pytest.raises(UserError, match="closed loop of task 'addition' is not known"):
        arms.make_task(ConfigDict({"name": "addition", "turns": 2}))
    for objective, message in (("cross_entropy", "a closed loop, which has none"), ("dpo", "a closed loop, which has none")):
        with pytest.raises(UserError, match=message):
            arms.build(config({"one": {"objective": objective}}, ("one",)), MODEL, {**TASKS, "task": loop})


@pytest.mark.parametrize("table, message", [
    ({"objective": "grpo", "pairs": {"rank": 1}}, "trains on no preferences; leave pairs out"),
    ({"objective": "dpo", "pairs": {"rank": 3}}, "rank=3 of 3 responses"),
    ({"objective": "dpo", "pairs": {"ranks": 1}}, "pairs has no setting 'ranks'; did you mean 'rank'"),
    ({"objective": "cross_entropy", "replay": {"capacity": 9}}, "samples no answers; leave replay out"),
    ({"objective": "grpo", "replay": {"capcity": 9}}, "replay has no setting 'capcity'; did you mean 'capacity'"),
    ({"objective": "grpo", "forcing": {"prefx": {}}}, "of one rule; did you mean 'prefix'"),
    ({"objective": "grpo", "forcing": {"interrupt": {"at": 1}}}, "forcing interrupt needs the setting 'words', found at"),
    ({"objective": "grpo", "second_pass": {"capacity": 99}}, "nearest valid: 16"),
    ({"objective": "grpo", "replay": {"capacity": 3}}, "replay capacity=3 is below the 16 groups"),
    ({"objective": "grpo", "replay": {}}, "replay={}: expected {setting: value} with what differs"),
    ({"objective": "grpo", "replay": {"shuffled": "no"}}, "shuffled='no': expected True or False; nearest valid: False"),
    ({"objective": "grpo", "replay": {"groups": 1.5}}, "replay setting groups=1.5: expected a whole number; nearest valid: 2"),
    ({"objective": "grpo", "forcing": {"interrupt": {"at": 1, "words": 5}}}, "words=5: expected a list (each a whole number)"),
    ({"objective": "grpo", "second_pass": {"capacity": True}}, "capacity=True: expected a whole number or None; nearest"),
    ({"objective": "grpo", "second_pass": {"rewrit": {}}}, "of one rule; did you mean 'rewrite'"),
    ({"objective": "grpo", "second_pass": {"rewrite": {"simplfy": {"digits": 1}}}}, "no setting 'simplfy'; did you mean"),
    ({"objective": "grpo", "second_pass": {"rewrite": {"simplify": {"digit": 1}}}}, "sets the knob 'digit', which task"),
    ({"objective": "ghpo", "top_k": 3}, "top_k=3, top_p=1.0 with a second pass"),
    ({"objective": "ghpo", "prompts": 1, "second_pass": {"another": True}}, "set prompts to at least 2"),
])
def test_options_of_rollouts_that_cannot_be_are_one_line(table, message):
    with pytest.raises(UserError) as raised:
        arms.build(config({"one": table}, ("one",)), MODEL, TASKS)
    assert "arm 'one'" in str(raised.value) and message in str(raised.value) and "\n" not in str(raised.value)
