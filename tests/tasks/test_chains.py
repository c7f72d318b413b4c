"""Chains against a transitive closure in numpy, read from the prompt's text."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import chains, vocab

COUNT = 1536
DEFAULT = tasks.get("chains")
LONG = tasks.get("chains", nodes=(3, 6), ood_nodes=(7, 9), branches=3)
SPLITS = [
    pytest.param(task, split, id=f"{i}-{split}") for i, task in enumerate((DEFAULT, LONG)) for split in task.splits
]


def rows(task, split):
    """(edges, query, answer) of the first examples, parsed from text."""
    batches = [tasks.examples(task, split, jnp.arange(256) + start) for start in range(0, COUNT, 256)]
    prompts, answers = (np.concatenate([getattr(b, name) for b in batches]) for name in ("prompt_NxP", "answer_NxT"))
    for prompt, answer in zip(prompts, answers, strict=True):
        match = re.fullmatch(r"_*\^((?:[a-z]>[a-z],)*[a-z]>[a-z])\?([a-z])([a-z])", vocab.decode(prompt))
        assert match, vocab.decode(prompt)
        yield [edge.split(">") for edge in match[1].split(",")], match[2] + match[3], vocab.decode(answer)


def closure(edges):
    """Reachability between letters by Warshall's algorithm."""
    reach = np.zeros((26, 26), bool)
    for u, v in edges:
        reach[ord(u) - 97, ord(v) - 97] = True
    for k in range(26):
        reach |= reach[:, k][:, None] & reach[k][None, :]
    return reach


def distance(edges, query):
    """Undirected distance of the query nodes."""
    reached, frontier = {query[0]: 0}, [query[0]]
    while frontier:
        node = frontier.pop(0)
        for u, v in edges:
            for a, b in ((u, v), (v, u)):
                if a == node and b not in reached:
                    reached[b] = reached[a] + 1
                    frontier.append(b)
    return reached[query[1]]


@pytest.mark.parametrize("task,split", SPLITS)
def test_labels_are_paths_in_a_well_formed_graph(task, split):
    setting = tasks.knobs(task, split)
    for edges, query, answer in rows(task, split):
        assert answer == ("Y$" if closure(edges)[ord(query[0]) - 97, ord(query[1]) - 97] else "N$")
        nodes = {node for edge in edges for node in edge}
        chain = len(nodes) - setting["branches"]
        assert len(edges) == len(nodes) - 1 and setting["low"] <= chain <= setting["high"]
        assert set(query) <= nodes and query[0] != query[1]
        assert setting["shortest"] <= distance(edges, query) <= chain - 1  # finite, so the tree is connected there


@pytest.mark.parametrize("task,split", SPLITS)
def test_labels_are_balanced_at_every_distance(task, split):
    labels = {}
    for edges, query, answer in rows(task, split):
        labels.setdefault(distance(edges, query), []).append(answer == "Y$")
    assert len(labels) == int(tasks.knobs(task, split)["high"] - tasks.knobs(task, split)["shortest"])
    for values in labels.values():
        assert abs(np.mean(values) - 0.5) < 4 * 0.5 / np.sqrt(len(values))


@pytest.mark.parametrize(
    "split,rate", [("train", 0.92), ("id", 0.92), ("ood/length", 0.63), ("ood/branching", 0.88)], ids=lambda x: str(x)
)
def test_the_documented_rate_of_the_local_rule(split, rate):
    problem = tasks.problems(DEFAULT, split, jnp.arange(4000))
    right = np.asarray(jax.vmap(chains.local_rule)(problem) == jax.vmap(chains.reachable)(problem))
    assert abs(right.mean() - rate) < 0.02


@pytest.mark.parametrize("split,rate", [("train", 0.59), ("ood/length", 0.50), ("ood/branching", 0.58)])
def test_letters_carry_no_label_and_the_order_of_mention_little(split, rate):
    by_letter, by_mention = [], []
    for edges, query, answer in rows(DEFAULT, split):
        mentioned = [node for edge in edges for node in edge]
        by_letter.append((query[0] < query[1]) == (answer == "Y$"))
        by_mention.append((mentioned.index(query[0]) < mentioned.index(query[1])) == (answer == "Y$"))
    assert abs(np.mean(by_letter) - 0.5) < 0.05
    assert abs(np.mean(by_mention) - rate) < 0.05


def test_edges_point_either_way_and_all_letters_occur():
    seen, forward = set(), []
    for edges, _, _ in rows(DEFAULT, "ood/length"):
        seen |= {node for edge in edges for node in edge}
        forward += [edges[i][1] in edges[i + 1] for i in range(len(edges) - 1)]
    assert len(seen) == 26 and 0.4 < np.mean(forward) < 0.6


def test_side_branches_hang_anywhere_and_are_listed_anywhere():
    degrees, last = [], []
    for edges, _, _ in rows(DEFAULT, "ood/branching"):
        nodes = [node for edge in edges for node in edge]
        degrees.append(max(map(nodes.count, nodes)))
        last.append(not set(edges[-1]) & set(edges[-2]))
    assert set(degrees) == {2, 3} and 0.05 < np.mean(last) < 0.5


def test_a_hand_made_graph():
    """a>b, c>b, c>d: the stretch from a to d is broken inside, both of its ends look right."""
    letters = {"source_E": [0, 2, 2, 0], "target_E": [1, 1, 3, 0]}
    problem = chains.Problem(*(jnp.asarray(x) for x in letters.values()), jnp.int32(3), jnp.asarray([0, 3]))
    assert not chains.reachable(problem) and chains.local_rule(problem)
    assert vocab.decode(DEFAULT.prompt(problem)) == "____^a>b,c>b,c>d?ad"
    joined = problem._replace(
        edges=jnp.int32(4), source_E=problem.source_E.at[3].set(1), target_E=problem.target_E.at[3].set(2)
    )
    assert chains.reachable(joined)
    assert DEFAULT.verify(joined, jnp.asarray(vocab.encode("Y$"))) == 1.0
    assert DEFAULT.verify(problem, jnp.asarray(vocab.encode("Y$"))) == 0.0
