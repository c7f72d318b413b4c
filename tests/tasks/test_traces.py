"""Styles of oracles, over all families that reason: one program a family."""

import dataclasses
import functools
import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula, roles, tasks
from jaxpost.tasks import machine, traces, vocab

COUNT = 64
MATCHED = ("backtrack(2)", "filler(2)", "shuffled(2)", "wrong(2)")
STYLES = ("answer", "cot", *MATCHED)
CASES = [("countdown", {}), ("chains", {}), ("general_points", {}), ("rasp", {"problem": "parity"}),
         ("rasp", {"problem": "addition", "hints": "index"}), ("arithmetic", {}), ("arithmetic", {"problem": "equations"}),
         ("arithmetic", {"problem": "increasing"}), ("spatial", {}), ("biographies", {"hops": 3}),
         *(("machine", {"problem": problem}) for problem in machine.PROBLEMS), ("satisfiability", {}), ("grid", {}),
         ("sudoku", {}), ("arc", {}), ("variations", {})]
QUICK = ("spatial",)  # the others are slow: a program a family
GOLDEN = {"countdown": "ae243111babc", "chains": "e750814ec56b", "spatial": "caf01180eb3e", "grid": "e0bac154e1c3"}
NAMED = [pytest.param(name, options, id="-".join([name, *map(str, options.values())]),
                      marks=() if name in QUICK else pytest.mark.slow) for name, options in CASES]


@functools.cache
def written(name, options):
    """{style: (task, tokens, reward, roles)} of the same problems and keys, with rewards of damaged completions."""
    family = {style: tasks.get(name, **dict(options), style=style) for style in STYLES}
    task = family["cot"]
    problem_N = tasks.problems(task, "train", jnp.arange(COUNT))

    @jax.jit
    def write(problem_N, key_N):
        def one(problem, key):
            found = {}
            for style, task in family.items():
                tokens_T = task.oracle(problem, key)
                empty_T = jnp.zeros_like(tokens_T)
                thought = jnp.cumsum(tokens_T == traces.END)
                damaged = (jnp.where(tokens_T == vocab.EOS, vocab.PAD, tokens_T),  # no end
                           empty_T.at[0].set(vocab.EOS),  # nothing
                           jnp.where((thought == 1) & (tokens_T == traces.END), traces.BEGIN, tokens_T),  # no end of thought
                           jnp.roll(tokens_T, -1).at[-1].set(vocab.PAD) if style == "answer"
                           else jnp.where(thought > 0, jnp.where(tokens_T == traces.END, vocab.EOS, vocab.PAD), tokens_T))
                role_T = empty_T if task.role is None else task.role(tokens_T)
                found[style] = tokens_T, task.verify(problem, tokens_T), role_T, jnp.stack(
                    [task.verify(problem, bad_T) for bad_T in damaged])
            return found

        return jax.vmap(one)(problem_N, key_N)

    return family, jax.tree.map(np.asarray, write(problem_N, jax.random.split(jax.random.key(0), COUNT)))


def after(tokens_T):
    """The answer of a completion, as a list."""
    tokens = tokens_T.tolist()
    tokens = tokens[tokens.index(traces.END) + 1:] if traces.END in tokens else tokens
    return [t for t in tokens if t]


@pytest.mark.parametrize("name, options", NAMED)
def test_every_style_is_right_and_controls_have_its_length(name, options):
    family, found = written(name, tuple(options.items()))
    for style, (tokens, reward, role, damaged) in found.items():
        assert tokens.shape == (COUNT, family[style].completion_len) and (reward == 1).all(), style
        assert not damaged[:, [0, 1] if style == "answer" else slice(None)].any(), style
        assert [after(row) for row in tokens] == [after(row) for row in found["answer"][0]], style
        assert (np.cumsum(tokens == 0, axis=1)[tokens != 0] == 0).all(), style  # no gap before the end
        if style != "answer":
            inside = (tokens != 0) & (np.cumsum(np.cumsum(tokens == traces.END, axis=1), axis=1) <= 1)
            assert ((role == roles.ANSWER) | (role == roles.HINT) == ~inside)[tokens != 0].all(), style
            assert (tokens[:, 0] == traces.BEGIN).all() and ((tokens == traces.END).sum(axis=1) == 1).all()
    length = {style: (found[style][0] != 0).sum(axis=1) for style in MATCHED}
    assert all((length[style] == length["backtrack(2)"]).all() for style in MATCHED)
    backtrack, filler, shuffled, wrong = (found[style][0] for style in MATCHED)
    assert ((found["backtrack(2)"][2] == roles.PLAN).sum(axis=1) == 2).all()  # the marks of both detours
    for row, same, other in zip(backtrack.tolist(), filler.tolist(), shuffled.tolist()):
        end = row.index(traces.END)
        assert same[1:end] == [traces.FILLER] * (end - 1)
        assert sorted(other[:end]) == sorted(row[:end])
    assert (shuffled != backtrack).any(axis=1).mean() > 0.9 and (wrong != backtrack).any(axis=1).all()


@pytest.mark.parametrize("name", [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ("chains", "spatial")])
def test_what_the_styles_write_is_pinned(name):
    _, found = written(name, ())
    sha = hashlib.sha256(b"".join(found[style][0].astype("<i4").tobytes() for style in STYLES)).hexdigest()[:12]
    assert sha == GOLDEN[name], f"the traces of {name} changed: {sha}; raise the family's VERSION if that was meant"


@pytest.mark.parametrize("name, options", NAMED)
def test_detours_differ_and_without_them_the_steps_are_those_of_cot(name, options):
    _, found = written(name, tuple(options.items()))
    twice = 0
    for row, plain in zip(found["backtrack(2)"][0].tolist(), found["cot"][0].tolist()):
        pieces = bytes(row[1:row.index(traces.END)]).split(bytes([traces.UNDO]))
        assert len(pieces) == 3
        twice += pieces[0] == pieces[1]
        kept = bytes(plain[1:plain.index(traces.END)])
        assert all(token in bytes(row) for token in kept)
    assert twice <= 0.02 * COUNT


def test_dead_ends_of_countdown_reach_nothing():
    """Plain Python: after the first join of the one detour no joins of the rest make the target."""
    task = tasks.get("countdown", style="backtrack(1)")
    batch = tasks.examples(task, "train", jnp.arange(COUNT))

    def joins(a, b):
        a, b = max(a, b), min(a, b)
        return {a + b, a - b, a * b} | ({a // b} if b and a % b == 0 else set())

    def reaches(values, target):
        if len(values) == 1:
            return values[0] == target
        return any(reaches([v, *(x for k, x in enumerate(values) if k not in (i, j))], target)
                   for i in range(len(values)) for j in range(i) for v in joins(values[i], values[j]))

    for prompt, answer in zip(batch.prompt_NxP, batch.answer_NxT):
        numbers, target = vocab.decode(prompt).strip("_^=").split("?")
        values, left = list(map(int, numbers.split(","))), []
        assert vocab.decode(answer).count("~") == 1  # however few tokens a detour has
        for step in vocab.decode(answer).split("]")[0].strip("[").split(";")[:-1]:
            undone = step.startswith("~")
            step = step.removeprefix("~")
            if undone:
                assert not reaches(left, int(target))
            left = list(values)
            text, value = step.split("=")
            for operand in re.split(r"[-+*/]", text):
                left.remove(int(operand))
            left.append(int(value))
            following = vocab.decode(answer).split("]")[0]
            if f"{step};~" not in following:
                values = left
        assert values == [int(target)]


@pytest.mark.parametrize("style, message", [
    ("cott", r"unknown style of task 'countdown' 'cott'; did you mean 'cot'\? \(valid: answer, backtrack\(k\), cot, filler"),
    ("scratchpad", "unknown style of task 'countdown' 'scratchpad'"),
    ("cot(2)", r"takes no number of detours; write 'cot', or backtrack\(2\)"),
    ("backtrack(10)", "expected 0 to 9 detours"), ("", "unknown style"), (3, "unknown style")])
def test_styles_that_are_not_there(style, message):
    with pytest.raises(ValueError, match=message):
        tasks.get("countdown", style=style)


def test_a_family_without_steps_has_answers_only_and_room_is_shared():
    with pytest.raises(ValueError, match=r"unknown style of task 'slabs' 'cot' \(valid: answer\)"):
        tasks.get("slabs", style="cot")
    with pytest.raises(ValueError, match="room=-1, expected a number of tokens"):
        tasks.get("countdown", room=-1)
    assert tasks.get("countdown", room=120).completion_len == 120 > tasks.get("countdown", style="cot").completion_len


def test_a_batch_may_hold_several_difficulties_and_a_pool_no_problem_twice():
    task = tasks.get("machine", problem="letter_count")
    splits = ("id", "ood/medium", "ood/long")
    choice_N = jnp.arange(COUNT) % 3
    mixed = jax.jit(lambda choice_N: tasks.problems(task, "id", jnp.arange(COUNT), tasks.mixed_knobs(task, splits, choice_N)))
    size_N = np.asarray(jax.vmap(task.difficulty)(mixed(choice_N)))
    assert [(size_N[i::3].min(), size_N[i::3].max()) for i in range(3)] == [(2, 6), (7, 10), (11, 14)]
    small = tasks.get("rasp", problem="parity", length=(1, 4), ood_length=(5, 6))
    index = tasks.distinct(small, "train", 10)
    prompts = np.asarray(tasks.examples(small, "train", index).prompt_NxP)
    assert len(np.unique(prompts, axis=0)) == 10 and len(np.unique(index)) == 10
    key = jax.random.key(0)
    plan = curricula.blank(key, 256)
    drawn = curricula.Uniform(indices=tuple(index.tolist())).sample({}, key, plan, curricula.Context(0))[1].index_B
    assert set(np.asarray(drawn).tolist()) == set(index.tolist())
    with pytest.raises(ValueError, match="pool=3 with 10 indices"):
        curricula.Uniform(3, tuple(index.tolist()))
    with pytest.raises(ValueError, match="a pool of 1000 problems .* have .* different ones; nearest valid: "):
        tasks.distinct(small, "train", 1000)
    with pytest.raises(ValueError, match="'rasp' has no canonical form"):
        tasks.distinct(dataclasses.replace(small, content=None), "train", 3)
