"""Interrupted answers of a scripted policy against plain Python: what is cut, what the control says, what both are worth."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, tasks, training
from jaxpost.models import DRAW
from jaxpost.probes import base, catalog
from jaxpost.tasks import vocab
from jaxpost.training import interrupting

from ..probes.trajectories import as_rows, ids

BEGIN, END, DOT = (vocab.TOKEN[mark] for mark in "[].")
TASK = tasks.get("chains", nodes=(3, 3), ood_nodes=(4, 4), style="cot")
T = TASK.completion_len
MODEL = models.TransformerConfig(vocab=TASK.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
BUDGETS = (0, 2, 3, 5, 8)
SAID = [[3, 1, 4], [7], [2, 2], [5, 9, 2, 6, 5], [1, 8, 2, 8, 1, 8, 2], [], [4, 4, 4, 1, 2, 3, 9, 9]]  # of each problem
PROBLEM = {"said": jnp.asarray([row + [0] * (8 - len(row)) for row in SAID]), "length": jnp.asarray([len(r) for r in SAID]),
           "thinks": jnp.asarray([1, 1, 1, 1, 1, 1, 0])}


def scripted(config, params, prompt_NxP, key, *, length, eos, pad, forced_NxT):
    """A policy that says `[`, its digits, `]`, the digit before that mark, and the end; the last one says no `[`."""
    columns = []
    for t in range(length):
        digit = vocab.DIGIT + PROBLEM["said"][:, min(max(t - 1, 0), 7)]
        own = jnp.where(t == 0, jnp.where(PROBLEM["thinks"] == 1, BEGIN, digit), jnp.where(t <= PROBLEM["length"], digit, END))
        if columns:
            so_far = jnp.stack(columns, 1)
            ended, at = (so_far == END).any(1), jnp.argmax(so_far == END, axis=1)
            before = jnp.take_along_axis(so_far, jnp.maximum(at - 1, 0)[:, None], 1)[:, 0]
            own = jnp.where(ended, jnp.where(at == t - 1, before, jnp.where(at == t - 2, eos, pad)), own)
        columns.append(jnp.where(forced_NxT[:, t] == DRAW, own, forced_NxT[:, t]).astype(jnp.int32))
    tokens_NxT = jnp.stack(columns, 1)
    return models.Completions(tokens_NxT, 0.0 * tokens_NxT, jnp.ones(tokens_NxT.shape))


def verify(problem, tokens_T):
    """The answer is the last digit that the problem says."""
    last = vocab.DIGIT + problem["said"][jnp.maximum(problem["length"] - 1, 0)]
    return (tokens_T[jnp.argmax(tokens_T == END) + 1] == last).astype(jnp.float32)


@pytest.fixture
def asked(monkeypatch):
    """(control) -> Cut of the scripted policy, and the numbers that shuffle."""
    monkeypatch.setattr(models, "sample", scripted)
    task = dataclasses.replace(TASK, verify=verify)

    def ask(control):
        prompt_NxP, key = jnp.zeros((len(SAID), 2)), jax.random.key(1)
        return jax.device_get(interrupting.answers(MODEL, {}, task, PROBLEM, prompt_NxP, key, BUDGETS, control))

    return ask


@pytest.mark.parametrize("control", ["shuffled", "filler"])
def test_cut_answers_are_worth_what_a_plain_loop_says(asked, control):
    found = asked(control)
    word = np.asarray(jax.random.uniform(jax.random.fold_in(jax.random.key(1), T), (len(SAID), T)))
    for i, said in enumerate(SAID):
        thinks, worth = i < 6, float(bool(said))
        assert found.free_N[i] == (worth if thinks else 1.0)
        for k, budget in enumerate(BUDGETS):
            kept = said[:budget]
            last = said[-1] if said else None
            if not thinks:
                expected, bare, cut = 1.0, 1.0, False
            else:
                order = sorted(range(len(kept)), key=lambda j, i=i: word[i, j + 1])
                mixed = [kept[j] for j in order] if control == "shuffled" else [None] * len(kept)
                expected, bare = (float(bool(x) and x[-1] == last) for x in (kept, mixed))
                cut = len(said) > budget
            assert (found.reward_NxK[i, k], found.control_NxK[i, k], found.cut_NxK[i, k]) == (expected, bare, cut), (i, budget)


def test_the_control_says_the_same_tokens_behind_the_same_mark():
    rows = [[BEGIN, *(vocab.DIGIT + d for d in said), END, vocab.DIGIT, vocab.EOS] for said in SAID[:6]]
    tokens = np.asarray([row + [0] * (T - len(row)) for row in rows])
    tokens[5, :3] = BEGIN, vocab.DIGIT, vocab.EOS  # ends inside its thought: left as it is
    cut, control, was = (np.asarray(x) for x in interrupting.forced(jnp.asarray(tokens), TASK, 4, "shuffled",
                                                                    jax.random.uniform(jax.random.key(0), (6, T))))
    assert was.tolist() == [False, False, False, True, True, False]
    for i, said in enumerate(SAID[:5]):
        end = 1 + min(len(said), 4)
        assert sorted(control[i, 1:end]) == sorted(tokens[i, 1:end]) and control[i, end] == END
        assert control[i, 0] == BEGIN and (control[i, end + 1:] == DRAW).all()
        assert (np.delete(cut[i], end) == DRAW).all() and cut[i, end] == (END if was[i] else DRAW)
    assert (control[5] == DRAW).all() and (cut[5] == DRAW).all()
    filler = np.asarray(interrupting.forced(jnp.asarray(tokens), TASK, 4, "filler", jnp.zeros((6, T)))[1])
    assert (filler[3, 1:5] == DOT).all() and filler[3, 5] == END


def test_rows_are_those_of_plain_numpy(asked):
    class Suite:
        def interrupted(self, params, key, budgets, control):
            assert budgets == BUDGETS
            return {"id": asked(control)}

    probe = catalog.get("interrupted", subject=catalog.Subject(suite=Suite()), budgets=BUDGETS)
    values = {name: np.stack([x, x]) for name, x in
              probe.measure(base.Context({base.PARAMS: {}}), {}, jax.random.key(0))[1].items()}
    values["id/free_N"][1] = 0.0
    rows = as_rows(probe.finalize(values, {}, arm="a", step=1, seeds=[1, 2], conditional_on="d", row_ids=ids))
    cut = asked("shuffled")
    for k, budget in enumerate(BUDGETS):
        row, _ = (r for r in rows if r["metric"] == "policy.interrupted_success" and f"budget={budget};" in r["params"])
        assert row["value"] == pytest.approx(cut.reward_NxK[:, k].mean()) and row["null_kind"] == "shuffled"
        assert row["null_value"] == pytest.approx(cut.control_NxK[:, k].mean())
    own, none = (r for r in rows if r["metric"] == "policy.interrupted_budget")
    s, free = cut.reward_NxK.mean(0), cut.free_N.mean()
    area = sum((b - a) * (1 - (s[k] + s[k + 1]) / 2 / free) for k, (a, b) in enumerate(zip(BUDGETS, BUDGETS[1:], strict=False)))
    assert own["value"] == pytest.approx(area) and own["ci_lo"] < area < own["ci_hi"]
    assert none["status"] == "absent" and "no free answer" in none["status_reason"]


def test_a_policy_that_does_not_think_is_not_interrupted():
    short = dataclasses.replace(TASK, sample=lambda key, knobs: jax.random.randint(key, (), 3, 9), completion_len=8,
                                prompt=lambda problem: jnp.stack([problem, problem + 1]),
                                verify=lambda problem, tokens_T: (tokens_T[0] % 2).astype(jnp.float32))
    plain = dataclasses.replace(short, roles=("answer",))
    suite = training.Suite(MODEL, (("id", short, "id"), ("second", plain, "id")), 8, "id")
    params, key = models.init(MODEL, jax.random.key(0)), jax.random.key(3)
    found = suite.interrupted(params, key, (0, 3), "shuffled")
    assert set(found) == {"id"} and not found["id"].cut_NxK.any()
    free, _ = suite.success(params, key, only="id")
    np.testing.assert_array_equal(found["id"].reward_NxK.mean(0), [free["id"]] * 2)
    assert 0 < free["id"] < 1


@pytest.mark.parametrize(("splits", "budgets", "control", "expected"), [
    ([("id", TASK)], (0, T - 3), "shuffled", f"a budget of {T - 3} tokens.*{T} tokens in all; nearest valid: {T - 4}"),
    ([("id", TASK)], (0, 3), "shuffle", "did you mean 'shuffled'?"),
    ([], (0, 3), "filler", "no split has answers with reasoning"),
])
def test_what_cannot_be_cut_is_refused(splits, budgets, control, expected):
    with pytest.raises(ValueError, match=expected.replace("?", r"\?")):
        interrupting.check(splits, budgets, control)
    with pytest.raises(ValueError, match="budgets=\\(1, 2\\); expected"):
        catalog.get("interrupted", subject=catalog.Subject(suite=training.Suite(MODEL, (), 1, "id")), budgets=(1, 2))
