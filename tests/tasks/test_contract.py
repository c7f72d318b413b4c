"""What every family promises, checked on all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import base, vocab

COUNT = 256
FAMILIES = {
    "addition": tasks.get("addition"),
    "addition/forward": tasks.get("addition", digits=2, reverse=False),
    "countdown": tasks.get("countdown"),
    "chains": tasks.get("chains"),
    "chains/long": tasks.get("chains", nodes=(3, 6), ood_nodes=(7, 9), branches=3),
    "general_points": tasks.get("general_points"),
    "rasp/hints": tasks.get("rasp", problem="addition_reversed", hints="index"),
    "arithmetic": tasks.get("arithmetic"),
    "spatial": tasks.get("spatial"),
    "biographies": tasks.get("biographies"),
    "gameable": tasks.get("gameable"),
    "slabs": tasks.get("slabs"),
    "machine": tasks.get("machine"),
    "satisfiability": tasks.get("satisfiability"),
    "grid": tasks.get("grid"),
}  # the families whose problems are tables are in test_modular.py, test_facts.py and test_worlds.py
EXACT = ("addition", "addition/forward", "countdown", "chains", "chains/long", "rasp/hints", "spatial")  # no room is left over
DEAR = ("countdown", "general_points", "grid", "satisfiability")  # baselines that take seconds
EASY = {"satisfiability": 0.6, "gameable": 0.6}  # guess baselines above a half
CASES = [pytest.param(task, split, id=f"{name}-{split}") for name, task in FAMILIES.items() for split in task.splits]
TASKS = [pytest.param(task, id=name) for name, task in FAMILIES.items()]

GOLDEN = {  # first 12 digits of digest(task, split, COUNT)
    "addition": {
        "train": "62d60177fb6a",
        "id": "284586e004b8",
        "ood/operand_length": "1b081d177df9",
        "ood/carry": "51107f611d05",
    },
    "countdown": {
        "train": "7d7850f604b3",
        "id": "37f9e5855119",
        "ood/numbers": "7e5ef784099f",
        "ood/target": "99c4685678e2",
    },
    "chains": {
        "train": "0a8dc33f9a56",
        "id": "588d29c4f96b",
        "ood/length": "c3dfe8ed2012",
        "ood/branching": "f43676f274de",
        "ood/reversed": "b5c6eba8114c",
        "ood/shuffled": "9c5306fd2723",
    },
    "general_points": {
        "train": "65c86bdcbae2",
        "id": "02ec02df3320",
        "ood/rule": "f65d0463570d",
        "ood/all_5": "693c336b4477",
        "ood/all_7": "9f7917a10828",
        "ood/all_12": "0eff97d02806",
        "ood/large": "0d843facc6df",
        "ood/fake": "e4a55f491b8c",
    },
    "rasp/hints": {
        "train": "38a04641ec58",
        "id": "71ad563b10d0",
        "ood/length": "5809bd62ec34",
    },
    "arithmetic": {
        "train": "834f3db0b5de",
        "id": "027f499e5586",
        "ood/depth": "7d7dc4c3a501",
    },
    "spatial": {
        "train": "758016e2b246",
        "id": "0da55aa9f46b",
        "ood/phrasing": "afe0affcc4d9",
        "ood/length": "6f7bd621fc28",
        "ood/both": "65635f1a5f0d",
    },
    "biographies": {
        "train": "d529ff1ded3e",
        "id": "b9f7a5f89f4c",
        "ood/composition": "724157e96d4e",
        "ood/zero_shot": "16ed2040a756",
    },
    "gameable": {
        "train": "9d3127ab5ae2",
        "id": "ce7c69760ca1",
        "ood/checker": "8f8738b9608c",
    },
    "slabs": {
        "train": "57821f76821c",
        "id": "4b46b4abc41e",
        "ood/simple_random": "6a0917fe7d61",
        "ood/complex_random": "05091aad3937",
    },
    "machine": {
        "train": "8ea4b8e968a7",
        "id": "4e14cb38f03f",
        "ood/medium": "f84f4655ef22",
        "ood/long": "3fabc9670e29",
    },
    "satisfiability": {
        "train": "8865458f1155",
        "id": "c6ae2be43157",
        "ood/clauses": "e318a3e900d6",
        "ood/variables": "daa88071675d",
        "ood/literals": "cbb1cbc5c818",
    },
    "grid": {
        "train": "18dead0b8313",
        "id": "409d6882ca03",
        "ood/larger": "4bc80112eb23",
        "ood/moves": "7b85f8f9dfa0",
        "ood/names": "c81fd05be546",
        "ood/fake": "fdcc5807c2f8",
    },
}


@functools.cache
def batch_of(task, split, start=0):
    """Host arrays, drawn once for all tests."""
    return jax.device_get(tasks.examples(task, split, np.arange(start, start + COUNT, dtype=np.uint32)))


def rewards(task, problem, tokens_NxT):
    return np.asarray(_verify(task, problem, jnp.asarray(tokens_NxT, jnp.int32)))


_verify = jax.jit(lambda task, problem, tokens: jax.vmap(task.verify)(problem, tokens), static_argnums=0)
_content = jax.jit(lambda task, problem: jax.vmap(task.content)(problem), static_argnums=0)


@pytest.mark.parametrize("task,split", CASES)
def test_oracle_scores_one_and_is_well_formed(task, split):
    batch = batch_of(task, split)
    assert batch.answer_NxT.shape == (COUNT, task.completion_len) and batch.answer_NxT.dtype == np.int32
    np.testing.assert_array_equal(rewards(task, batch.problem, batch.answer_NxT), 1.0)
    answer = np.asarray(batch.answer_NxT)
    end = np.argmax(answer == vocab.EOS, axis=1)
    after = np.arange(task.completion_len)[None] > end[:, None]
    assert (np.sum(answer == vocab.EOS, axis=1) == 1).all() and (end > 0).all()
    assert (answer[after] == vocab.PAD).all() and (answer[~after] != vocab.PAD).all()


@pytest.mark.parametrize("task,split", CASES)
def test_prompt_is_left_padded_and_ends_before_the_answer(task, split):
    prompt = np.asarray(batch_of(task, split).prompt_NxP)
    assert prompt.shape == (COUNT, task.prompt_len) and prompt.dtype == np.int32
    start = np.argmax(prompt != vocab.PAD, axis=1)
    inside = np.arange(task.prompt_len)[None] >= start[:, None]
    assert (prompt[np.arange(COUNT), start] == vocab.BOS).all()
    assert ((prompt != vocab.PAD) == inside).all() and (np.sum(prompt == vocab.BOS, axis=1) == 1).all()
    assert prompt.max() < task.vocab_size and not (prompt == vocab.EOS).any()


@pytest.mark.parametrize("name", EXACT)
def test_the_longest_prompt_and_answer_fill_their_rows(name):
    task = FAMILIES[name]
    batches = [batch_of(task, split) for split in task.splits]
    assert max((b.prompt_NxP != vocab.PAD).sum(axis=1).max() for b in batches) == task.prompt_len
    assert max((b.answer_NxT != vocab.PAD).sum(axis=1).max() for b in batches) == task.completion_len


@pytest.mark.parametrize("task,split", CASES)
def test_garbage_scores_zero(task, split):
    batch = batch_of(task, split)
    answer = np.asarray(batch.answer_NxT)
    no_end = np.where(answer == vocab.EOS, vocab.PAD, answer)
    late_end = np.where(answer == vocab.EOS, vocab.BOS, answer)
    early_end = np.concatenate([np.full((COUNT, 1), vocab.EOS), answer[:, :-1]], axis=1)
    shortened = np.where(np.roll(answer, -1, axis=1) == vocab.EOS, vocab.EOS, answer)  # EOS in place of the last token
    for tokens in (no_end, late_end, early_end, shortened):
        np.testing.assert_array_equal(rewards(task, batch.problem, tokens), 0.0)
    tokens = np.resize([-(2**31), -1, *range(task.vocab_size + 1), 2**31 - 1], COUNT).astype(np.int32)
    for turn in (0, 97, 181):  # every token alone, for three problems or more
        alone = np.tile(np.roll(tokens, turn)[:, None], answer.shape[1])
        np.testing.assert_array_equal(rewards(task, batch.problem, alone), 0.0)


@pytest.mark.parametrize("task,split", CASES)
def test_verify_is_total_and_random_text_earns_almost_nothing(task, split):
    batch = batch_of(task, split)
    rng = np.random.default_rng(0)
    shape = (COUNT, task.completion_len)
    for tokens in (rng.integers(-(2**31), 2**31, shape), rng.integers(0, task.vocab_size, shape)):
        reward = rewards(task, batch.problem, tokens)
        assert reward.dtype == np.float32 and set(np.unique(reward)) <= {0.0, 1.0} and reward.mean() < 0.02
    shuffled = rewards(task, batch.problem, np.asarray(batch.answer_NxT)[::-1])  # answers of other problems
    assert shuffled.mean() < 0.6  # labels of chains are right half the time, and so are assignments of other formulas


@pytest.mark.parametrize("task,split", CASES)
def test_text_after_the_first_eos_does_not_matter(task, split):
    batch = batch_of(task, split)
    noise = np.random.default_rng(1).integers(0, task.vocab_size, batch.answer_NxT.shape)
    noisy = np.where(np.asarray(batch.answer_NxT) == vocab.PAD, noise, batch.answer_NxT)
    np.testing.assert_array_equal(rewards(task, batch.problem, noisy), 1.0)


@pytest.mark.parametrize("task,split", [  # splits differ in arguments of one program
    pytest.param(task, split, id=f"{name}-{split}", marks=() if split in list(task.splits)[::len(task.splits) - 1]
                 else pytest.mark.slow) for name, task in FAMILIES.items() for split in task.splits])
def test_data_is_seekable_and_deterministic(task, split):
    batch = batch_of(task, split)
    order = np.random.default_rng(2).integers(0, COUNT, COUNT)
    drawn = tasks.examples(task, split, order.astype(np.uint32))
    jax.tree.map(np.testing.assert_array_equal, drawn, jax.tree.map(lambda leaf: leaf[order], batch))
    assert not (batch.prompt_NxP == batch_of(task, split, 10**9).prompt_NxP).all()


@pytest.mark.parametrize("name", ["addition", "countdown", "chains", "spatial"])
def test_a_scanned_step_with_one_problem_at_a_time_equals_the_batch(name):
    """jit, scan and a traced index; no vmap over examples, unlike in the batch."""
    task, split = FAMILIES[name], list(FAMILIES[name].splits)[-1]

    def step(index, _):
        key = tasks.problem_keys(task, split, index[None])[0]
        problem = task.sample(key, tasks.knobs(task, split))
        answer = task.oracle(problem, key)
        return index + 1, (
            task.prompt(problem),
            answer,
            task.verify(problem, answer),
            task.verify(problem, answer[::-1]),
        )

    _, (prompt, answer, reward, reverse) = jax.jit(lambda: jax.lax.scan(step, jnp.int32(0), None, length=8))()
    batch = batch_of(task, split)
    np.testing.assert_array_equal(prompt, batch.prompt_NxP[:8])
    np.testing.assert_array_equal(answer, batch.answer_NxT[:8])
    np.testing.assert_array_equal(reward, 1.0)
    np.testing.assert_array_equal(reverse, rewards(task, batch.problem, batch.answer_NxT[:, ::-1])[:8])


@pytest.mark.parametrize("task", [
    pytest.param(FAMILIES[name], id=name, marks=pytest.mark.slow if name == "grid" else ()) for name in FAMILIES])
def test_splits_share_neither_keys_nor_training_prompts(task):
    keys = [jax.random.key_data(tasks.problem_keys(task, split, jnp.arange(COUNT))) for split in task.splits]
    assert len({tuple(map(int, key)) for key in np.concatenate(keys)}) == COUNT * len(task.splits)
    prompts = {}
    for split in task.splits:
        tokens = np.concatenate([batch_of(task, split, start).prompt_NxP for start in range(0, 4 * COUNT, COUNT)])
        prompts[split] = {tuple(row) for row in tokens.tolist()}
    assert not any(prompts["train"] & prompts[split] for split in task.splits if split != "train")


@pytest.mark.parametrize("task", [
    pytest.param(task, id=name, marks=pytest.mark.slow if name == "grid" else ()) for name, task in FAMILIES.items()
    if task.content])
def test_no_problem_of_training_is_evaluated_in_another_form(task):
    content = {split: {tuple(row) for start in range(0, 4 * COUNT, COUNT) for row in np.asarray(_content(
        task, tasks.problems(task, split, jnp.arange(start, start + COUNT)))).tolist()} for split in task.splits}
    assert not any(content["train"] & content[split] for split in task.splits if split != "train")


@pytest.mark.parametrize("name,split", [
    (name, split) if split == "train" and name not in DEAR else pytest.param(name, split, marks=pytest.mark.slow)
    for name, task in FAMILIES.items() for split in task.splits])
def test_guess_is_a_small_probability(name, split):
    assert 0.0 < FAMILIES[name].guess(split) <= EASY.get(name, 0.5)


@pytest.mark.parametrize("name,split", [(name, split) for name in GOLDEN for split in GOLDEN[name]])
def test_digest_is_pinned(name, split):
    batch = batch_of(FAMILIES[name], split)
    found = base.digest_of(FAMILIES[name], split, batch.prompt_NxP, batch.answer_NxT)[:12]
    assert found == GOLDEN[name][split], (
        f"the data of {name} / {split} changed: digest {found}. If that was meant, raise the family's VERSION and "
        "update GOLDEN; otherwise evaluation sets of earlier runs can no longer be reproduced"
    )


@pytest.mark.parametrize("task", TASKS)
def test_split_names_and_knobs(task):
    assert list(task.splits)[:2] == ["train", "id"] and all(s.startswith("ood/") for s in list(task.splits)[2:])
    structures = {jax.tree.structure(k) for k in task.splits.values()}
    types = {tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(k)) for k in task.splits.values()}
    assert len(structures) == 1 and len(types) == 1


def test_get_returns_one_object_for_equal_settings():
    assert tasks.get("chains", nodes=[3, 4]) is tasks.get("chains", branches=1) is tasks.get("chains")
    assert tasks.get("addition", digits=2) is not tasks.get("addition", digits=4)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: tasks.get("adition"), "task 'adition' is not known; did you mean 'addition'"),
        (lambda: tasks.get("addition", digit=3), "task 'addition': option 'digit' is not known; did you mean 'digits'"),
        (lambda: tasks.get("addition", digits=0), "digits=0, expected an integer from 1 to 32"),
        (lambda: tasks.get("addition", reverse="no"), "reverse='no', expected True or False"),
        (lambda: tasks.get("countdown", numbers=9), "numbers=9, expected an integer from 3 to 5"),
        (lambda: tasks.get("countdown", max_target=500), "max_target=500, expected an integer from 19 to 155"),
        (lambda: tasks.get("countdown", numbers=5), "exact evaluation is in i32"),
        (lambda: tasks.get("chains", nodes=(4, 3)), r"nodes=\(4, 3\), expected \(low, high\)"),
        (lambda: tasks.get("chains", ood_nodes=(4, 6)), "expected .* with 5 <= low"),
        (lambda: tasks.get("chains", ood_nodes=(5, 27)), "at most 26 nodes"),
        (lambda: tasks.get("chains", branches=0), "branches=0"),
        (lambda: tasks.examples(tasks.get("chains"), "ood/lenght", jnp.arange(2)), "did you mean 'ood/length'"),
        (lambda: tasks.get("chains").guess("test"), "task 'chains': split 'test' is not known"),
        (
            lambda: tasks.require_vocab(tasks.get("chains"), 32),
            f"0..{vocab.SIZE - 1}, but the model's vocabulary has 32",
        ),
        (lambda: base.check_tokens("chains", jnp.zeros((3, 2)), 2), r"shape \(2,\), found \(3, 2\)"),
    ],
)
def test_errors_name_what_was_found_and_the_nearest(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_large_enough_vocabulary_passes():
    tasks.require_vocab(tasks.get("addition"), vocab.SIZE)


def test_folds_are_balanced_and_depend_on_order():
    content = jnp.asarray(np.random.default_rng(0).integers(0, 10, (4096, 8)), jnp.int32)
    fold = np.asarray(jax.vmap(base.fold_of)(content))
    assert abs(fold.mean() - 0.5) < 0.03
    assert 0.4 < np.mean(fold != np.asarray(jax.vmap(base.fold_of)(content[:, ::-1]))) < 0.6


def test_giving_up_returns_the_last_draw():
    def draw(key):
        return base.below(base.words(key, 1)[0][0], 10)

    value, accepted = base.first_accepted(draw, lambda drawn: drawn > 20, jax.random.key(0))
    assert not accepted and 0 <= value < 10


def test_below_covers_its_range_evenly():
    left, right = base.words(jax.random.key(3), 6000, 2)
    counts = np.bincount(np.asarray(base.below(left, 6)), minlength=6)
    assert right.shape == (2,) and counts.shape == (6,) and abs(counts - 1000).max() < 120
