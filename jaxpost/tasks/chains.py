"""Transitivity on chains of nodes: is there a directed path?

Prompt `^c>a,c>f,f>b?cb`, answer `Y$` or `N$`. A chain x_1 ... x_n of distinct random letters; its n - 1 edges are
listed in chain order, each written in its own direction (`u>v`: u leads to v). The query names two chain nodes; Y iff
a directed path leads from the first to the second. After Vashishtha et al., Teaching Transformers Causal Reasoning
through Axiomatic Training (arXiv 2407.07612), complex (edge-flipped) chains; differs from the paper in: one token a
node, fresh letters each time, shorter chains, labels balanced given the distance.

Labels are balanced at every distance: a label, a distance d (uniform between the split's shortest and n - 1) and a
place are drawn independently, then the directions. Edges outside the queried stretch are random. For Y the stretch
points from the first query node to the second. For N it points the other way with probability 1/4 (always if d = 1),
else at least one edge of it does: one of the two if d = 2, and if d > 2 only inner edges, so that both ends look like
those of a path.

Guess baseline: a constant answer, 1/2 in every split. Two shortcuts do better on chains this short. "The first
query node is mentioned first" is right in 0.59 of train and id, 0.50 of ood/length, 0.58 of ood/branching. "The first
node has an edge out and the second an edge in" (`local_rule`) is right in 0.92 of train and id, 0.63 of ood/length,
0.88 of ood/branching. Success beyond that, on ood/length above all, is what shows transitivity.

Splits (`nodes` = (low, high), n uniform between them):
    train, id      n chain nodes, distances from 1.
    ood/length     n in `ood_nodes`, distances beyond any in training: from `high` (the number of training nodes) up.
    ood/branching  n in `nodes`, and `branches` further nodes, each tied to a random chain node in a random direction,
                   listed at a random place.
    ood/reversed   as id, the edges listed from the last to the first.
    ood/shuffled   as id, the edges listed in random order.

Reasoning (`traces`): the edges of the queried stretch in the order in which they are walked from the first query node, each in
its own direction (`c>f;`), up to the first that points against the walk, where there is one. A wrong step has another second
node.

Difficulty: the number of edges between the query nodes.

Content is the prompt itself, so evaluation prompts never occur in training; up to renaming the few small graphs do
recur. Each fold holds half of all prompts: a generator runs out of attempts with probability 2**-512.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "chains", 1
PAPER, VERIFIER = "arXiv:2407.07612", "the label, one token"
ANSWER_LEN = 2
LISTED, REVERSED, SHUFFLED = range(3)


class Problem(NamedTuple):
    """Edges in the order they are listed, and a query; nodes are letters 0..25, E the most edges over the splits."""

    source_E: Any  # i32
    target_E: Any  # i32
    edges: Any  # i32[] how many of the E entries count
    query_2: Any  # i32: from, to


def make(nodes=(3, 4), ood_nodes=(5, 5), branches=1, style="answer", room=0):
    """Chains task.

    Args:
        nodes: (low, high) chain nodes of train, id and ood/branching; 2 <= low <= high.
        ood_nodes: (low, high) chain nodes of ood/length; low > the `high` of nodes.
        branches: side nodes of ood/branching, at least 1. No graph may have more than 26 nodes.
        style, room: see `traces`.
    Returns:
        Task with T = 2 (without reasoning) and P = 4 E + 3, E the most edges; P = 19 at the defaults.
    """
    low, high = _range("nodes", nodes, 2)
    ood_low, ood_high = _range("ood_nodes", ood_nodes, high + 1)
    base.require(isinstance(branches, int) and branches >= 1, NAME, "branches", branches, "an integer of at least 1")
    most = max(ood_high, high + branches)
    base.require(
        most <= vocab.LETTERS, NAME, "nodes, ood_nodes, branches", (nodes, ood_nodes, branches), "at most 26 nodes"
    )
    prompt_len = 4 * (most - 1) + 3

    def setting(fold, low, high, shortest, branches=0, order=LISTED):
        return base.setting(fold, low=low, high=high, shortest=shortest, branches=branches, order=order)

    def sample(key, knobs):
        def accept(problem):
            return base.fold_of(_prompt(problem, prompt_len)) == knobs["fold"]

        return base.first_accepted(lambda key: _draw(key, knobs, most), accept, key)[0]

    def verify(problem, tokens):
        return base.exact(tokens, _answer(problem))

    splits = {
        "train": setting(base.TRAIN_FOLD, low, high, 1),
        "id": setting(base.EVAL_FOLD, low, high, 1),
        "ood/length": setting(base.EVAL_FOLD, ood_low, ood_high, high),
        "ood/branching": setting(base.EVAL_FOLD, low, high, 1, branches),
        "ood/reversed": setting(base.EVAL_FOLD, low, high, 1, order=REVERSED),
        "ood/shuffled": setting(base.EVAL_FOLD, low, high, 1, order=SHUFFLED),
    }
    task = traces.make(
        name=NAME,
        version=VERSION,
        style=style,
        room=room,
        prompt_len=prompt_len,
        answer_len=ANSWER_LEN,
        splits=splits,
        sample=sample,
        prompt=lambda problem: _prompt(problem, prompt_len),
        answer=_answer,
        verify=verify,
        guess=lambda split: _guess(task, split),
        content=lambda problem: _prompt(problem, prompt_len),
        difficulty=lambda problem: jnp.sum(_walked(problem) >= 0).astype(jnp.float32),
        reasoning=traces.Reasoning(lambda problem, key, detours: _steps(problem), longest=4 * (most - 1), detour=4),
        vocab_size=vocab.SIZE if style == "answer" else vocab.MARKED,
    )
    return task


def reachable(problem):
    """bool[]: a directed path leads from the first query node to the second. E rounds of relaxation over all edges."""
    active_E = jnp.arange(problem.source_E.shape[0]) < problem.edges
    start_L = jnp.arange(vocab.LETTERS) == problem.query_2[0]

    def relax(reached_L, _):
        gained_E = (active_E & reached_L[problem.source_E]).astype(jnp.int32)
        return reached_L | (jnp.zeros((vocab.LETTERS,), jnp.int32).at[problem.target_E].max(gained_E) > 0), None

    reached_L, _ = jax.lax.scan(relax, start_L, None, length=problem.source_E.shape[0])
    return reached_L[problem.query_2[1]]


def local_rule(problem):
    """bool[]: a shortcut that looks at single edges only: the first node has an edge out, the second an edge in."""
    active_E = jnp.arange(problem.source_E.shape[0]) < problem.edges
    edge_out = jnp.any(active_E & (problem.source_E == problem.query_2[0]))
    return edge_out & jnp.any(active_E & (problem.target_E == problem.query_2[1]))


def _walked(problem):
    """The edges from the first query node to the second, i32[E] in walking order and -1 after them: the graph is a tree."""
    E = problem.source_E.shape[0]
    active_E = jnp.arange(E) < problem.edges
    ends_Ex2 = jnp.stack([problem.source_E, problem.target_E], axis=1)

    def spread(state, _):
        """One step outwards from the second node, which every node remembers its edge back to."""
        known_L, back_L = state
        for a, b in ((0, 1), (1, 0)):
            new_E = active_E & known_L[ends_Ex2[:, a]] & ~known_L[ends_Ex2[:, b]]
            back_L = back_L.at[jnp.where(new_E, ends_Ex2[:, b], vocab.LETTERS)].set(jnp.arange(E), mode="drop")
        known_L = (jnp.arange(vocab.LETTERS) == problem.query_2[1]) | (back_L >= 0)
        return (known_L, back_L), None

    def walk(node, _):
        edge = jnp.where(node == problem.query_2[1], -1, back_L[node])
        other = jnp.where(problem.source_E[edge] == node, problem.target_E[edge], problem.source_E[edge])
        return jnp.where(edge >= 0, other, node), edge

    start_L = jnp.arange(vocab.LETTERS) == problem.query_2[1]
    (_, back_L), _ = jax.lax.scan(spread, (start_L, jnp.full(vocab.LETTERS, -1)), None, length=E)
    return jax.lax.scan(walk, problem.query_2[0], None, length=E)[1]


def _steps(problem):
    """The walked edges, up to the first that points against the walk."""
    edge_E = _walked(problem)
    source_E, target_E = problem.source_E[edge_E], problem.target_E[edge_E]
    along_E = source_E == jnp.concatenate([problem.query_2[:1], target_E[:-1]])
    size = jnp.minimum(jnp.sum(edge_E >= 0), 1 + jnp.sum(jnp.cumprod(along_E & (edge_E >= 0))))
    return traces.table([vocab.LETTER + source_E, ">", vocab.LETTER + target_E, ";"], (2,), size, len(edge_E))


def _range(option, value, least):
    """(low, high) of an option, checked."""
    good = isinstance(value, tuple) and len(value) == 2 and all(isinstance(x, int) for x in value)
    base.require(
        good and least <= value[0] <= value[1], NAME, option, value, f"(low, high) with {least} <= low <= high"
    )
    return value


def _draw(key, knobs, most):
    """A chain with its side branches and a query of balanced label."""
    most_edges = most - 1
    name_word, word_7, random_word, tie_word, place_word = base.words(
        key, vocab.LETTERS, 7, most_edges, most_edges, most_edges
    )
    letter_M = jnp.argsort(name_word, stable=True)[:most].astype(jnp.int32)  # chain nodes, then side nodes
    n = knobs["low"] + base.below(word_7[0], knobs["high"] - knobs["low"] + 1)
    label = base.below(word_7[1], 2) == 1
    distance = knobs["shortest"] + base.below(word_7[2], n - knobs["shortest"])
    first = base.below(word_7[3], n - distance)

    random_E = base.below(random_word, 2) == 1
    along = base.below(word_7[4], 2) == 1  # the query runs along the listing, or against it
    mixed = ~label & (distance > 1) & (base.below(word_7[5], 4) > 0)
    edge_E = jnp.arange(most_edges)
    stretch_E = (edge_E >= first) & (edge_E < first + distance)
    inner_E = (edge_E > first) & (edge_E < first + distance - 1)
    inner = distance > 2
    odd_one = first + inner + base.below(word_7[6], distance - 2 * inner)
    against_E = jnp.where(mixed, (edge_E == odd_one) | (inner_E & random_E), ~label)
    forward_E = jnp.where(stretch_E, along ^ against_E, random_E)
    ends_2 = jnp.stack([first, first + distance])
    query_2 = letter_M[jnp.where(along, ends_2, ends_2[::-1])]

    # Edge e joins node e + 1 to its predecessor: the chain node before it, or for a side node any chain node.
    side_E = edge_E >= n - 1
    before_E = jnp.where(side_E, base.below(tie_word, n), edge_E)
    here_E, there_E = letter_M[before_E], letter_M[edge_E + 1]
    source_E, target_E = jnp.where(forward_E, here_E, there_E), jnp.where(forward_E, there_E, here_E)
    edges = n - 1 + knobs["branches"]
    place_E = jnp.where(side_E, 2 * base.below(place_word, n) - 1, 2 * edge_E)  # odd: between chain edges
    place_E = jnp.select([knobs["order"] == REVERSED, knobs["order"] == SHUFFLED], [
        2 * vocab.LETTERS - 1 - place_E,
        base.below(base.words(jax.random.fold_in(key, 1), most_edges)[0], 2 * vocab.LETTERS),
    ], place_E)
    order_E = jnp.argsort(jnp.where(edge_E < edges, place_E, 2 * vocab.LETTERS), stable=True)
    return Problem(source_E[order_E], target_E[order_E], edges, query_2)


def _prompt(problem, prompt_len):
    """BOS u>v, ... u>v ? from to, LEFT-padded."""
    most = problem.source_E.shape[0]
    edge_E = jnp.arange(most)
    active_E = edge_E < problem.edges
    arrow_E = jnp.full((most,), vocab.TOKEN[">"])
    comma_E = jnp.where(edge_E == problem.edges - 1, vocab.TOKEN["?"], vocab.TOKEN[","])
    statement_Ex4 = jnp.stack(
        [vocab.LETTER + problem.source_E, arrow_E, vocab.LETTER + problem.target_E, comma_E], axis=-1
    )
    one, two = jnp.ones((1,), bool), jnp.ones((2,), bool)
    tokens = jnp.concatenate([jnp.asarray([vocab.BOS]), statement_Ex4.reshape(-1), vocab.LETTER + problem.query_2])
    return vocab.pack(tokens, jnp.concatenate([one, jnp.repeat(active_E, 4), two]), prompt_len, "right")


def _answer(problem):
    """Y or N by reachability in the listed graph, EOS: i32[2]."""
    label = jnp.where(reachable(problem), vocab.TOKEN["Y"], vocab.TOKEN["N"])
    return jnp.stack([label, vocab.EOS]).astype(jnp.int32)


def _guess(task, split):
    """Success of a constant answer: labels are balanced by construction."""
    base.knobs(task, split)
    return 0.5
