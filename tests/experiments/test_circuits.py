"""What the fact store lets the circuit probe ask: partners that differ in one token, targets, and a decoder's stream."""

import numpy as np
import pytest

from experiments.harness import attention, circuits, tables
from experiments.harness.errors import UserError
from jaxpost import models, tasks

SMALL = {"composition": {"entities": 12, "relations": 5, "degree": 4, "ratio": 2.0, "ood_fraction": 0.3},
         "comparison": {"problem": "comparison", "entities": 14, "attributes": 3, "values": 4, "ratio": 5.0,
                        "ood_fraction": 0.3}}


@pytest.mark.parametrize("problem", SMALL)
def test_other_prompts_differ_in_one_token_and_in_the_answer(problem):
    task = tasks.get("facts", **SMALL[problem])
    model = models.TransformerConfig(vocab=task.vocab_size, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, ff=8)
    circuit = tables.subject(model, task, ("circuits",), 20).circuit
    answer = {tuple(prompt): int(row[0]) for split in task.splits for prompt, row in
              zip(tasks.table(task, split).prompt_NxP.tolist(), tasks.table(task, split).answer_NxT)}
    fact = {prompt[-2:]: token for prompt, token in answer.items() if prompt[0] == task.pad}
    assert [asked.split for asked in circuit.asked] == list(task.splits)
    for asked in circuit.asked:
        own = np.asarray(tasks.table(task, asked.split).prompt_NxP).tolist()
        tokens, inputs = asked.inputs.tokens_NxT.tolist(), asked.inputs
        assert 0 < len(tokens) <= 20 and all(row in own for row in tokens)
        target = dict(zip((name for name, _ in asked.targets), inputs.target_KxN.tolist(), strict=True))
        assert target["answer"] == [answer[tuple(row)] for row in tokens]
        if problem == "composition":
            assert target["bridge"] == [fact[e, r] for e, r, _ in tokens]
        else:
            assert target["second_value"] == [fact[e, a] for a, _, _, _, e in tokens]
        for name, others in zip(asked.replaced, inputs.other_CxNxT.tolist(), strict=True):
            position = asked.positions.index(name)
            for row, other in zip(tokens, others, strict=True):
                assert [i for i, (x, y) in enumerate(zip(row, other)) if x != y] == [position]
                assert answer[tuple(row)] != answer[tuple(other)]


def test_another_task_has_no_circuit():
    model = models.TransformerConfig(vocab=64, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, ff=8)
    with pytest.raises(UserError, match="task.name='modular': circuits are of 'facts'"):
        circuits.circuit(model, tasks.get("modular", modulus=7), 4)


def test_induction_is_asked_with_the_symbols_of_a_task_and_its_marks():
    model = models.TransformerConfig(vocab=256, width=8, layers=2, heads=2, kv_heads=1, head_dim=8, ff=8)
    found = attention.heads(model, tasks.get("rasp", problem="copy_unique"))
    assert (found.before, found.between) == ((tasks.vocab.BOS,), (tasks.vocab.TOKEN["="],)) and found.terms == 24
    assert min(found.tokens) == tasks.vocab.ID and len(found.tokens) == len(set(found.tokens)) == 64
    plain = attention.heads(model, tasks.get("addition", digits=2))
    assert plain.before == plain.between == () and tasks.vocab.BOS not in plain.tokens
