"""Facts that are told and facts that follow: two-hop composition and comparison over a fact store, one token an entity.

A store holds atomic facts. Training tells all of them, and for a part of them what follows:

    problem      atomic fact         what follows
    composition  `e r` -> entity     `e r_1 r_2` -> the entity at the end of both hops, through a bridge entity
    comparison   `e a` -> value      `a ? e_1 _ e_2` -> less, equal or greater, a label of that attribute

A fact is in distribution or, for a given fraction of them, out of distribution (OOD): told, and never part of an inference that
is trained on. In a composition facts are drawn out of all, in a comparison entities are drawn for every attribute anew.
Inferences from facts of both kinds do not occur.

Splits:
    train      every atomic fact, and `ratio` inferences for each fact in distribution
    id         inferences from facts in distribution that were held out: a given fraction of all
    ood/facts  inferences from OOD facts alone
The store, the splits and what is held out come from hashes of world and content: a world is the same for every option that does
not name it, and a larger ratio has the inferences of a smaller one. Both orders of a pair of entities are in one split.

After Wang et al., arXiv:2405.15071, and its code (OSU-NLP-Group/GrokkedTransformer, MIT). Differs from it in: hashes in place
of shuffles, one option for the fraction that is held out of both problems, and smaller worlds as defaults (the paper has 2000
entities, 200 relations, 20 a head and 5 % OOD facts; 1000 entities, 20 attributes of 20 values and 10 % OOD entities). Its
third problem, complex reasoning, is absent, and so is a chain of thought that names the bridge entity.

Reasoning: answers only. Difficulty: facts that an answer takes, 1 or 2.

Guess baseline: the commonest answer of the split, in a comparison that of the attribute.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "facts", 1
PAPER, VERIFIER = "arXiv:2405.15071", "the entity, value or label, one token"
PROBLEMS = ("composition", "comparison")
QUERY, MASK = vocab.EOS + 1, vocab.EOS + 2  # of a comparison
ENTITY = vocab.EOS + 3  # token of the i-th entity is ENTITY + i; relations or attributes follow, then values, then labels
LABELS = "<=>"
_FACT, _TAIL, _KIND, _HELD = range(4)  # what a hash decides
_ATOMIC = (vocab.PAD, vocab.PAD)  # nothing lies between an atomic fact's question and its answer


class Problem(NamedTuple):
    """Tokens of a question and of what it takes; P is 3 for a composition and 5 for a comparison."""

    prompt_P: Any  # i32, padded on the left
    answer: Any  # i32[]
    between_2: Any  # i32, tokens that stand in neither: the bridge entity and PAD, or both values; PAD for an atomic fact


def make(problem="composition", entities=32, relations=12, degree=8, attributes=4, values=8, ratio=5.4, held_out=0.1,
         ood_fraction=0.15, world=0, style="answer", room=0):
    """Compositions or comparisons over one store.

    Args:
        problem: a name of the table above.
        entities: 4 to 2048.
        relations, degree: of a composition: how many there are, 2 to 1024, and how many of them an entity has.
        attributes, values: of a comparison, 1 to 64 and 2 to 64.
        ratio: inferences in `train` for each atomic fact in distribution (phi of the paper).
        held_out: share of the inferences in distribution that is `id`.
        ood_fraction: share of the facts, or of the entities of an attribute, that is out of distribution.
        world: number of the world.
        style, room: see `traces`; answers only.
    Raises: ValueError for an option out of range, a split without a problem, or more inferences than there are.
    """
    if problem not in PROBLEMS:
        raise ValueError(f"unknown problem of task {NAME!r} {problem!r}{nearest(problem, PROBLEMS)}")
    for option, value, least, most in (("entities", entities, 4, 2048), ("relations", relations, 2, 1024),
                                       ("degree", degree, 1, relations), ("attributes", attributes, 1, 64),
                                       ("values", values, 2, 64), ("world", world, 0, 2**31 - 1)):
        base.require(isinstance(value, int) and least <= value <= most, NAME, option, value,
                     f"an integer from {least} to {most}")
    for option, value in (("held_out", held_out), ("ood_fraction", ood_fraction)):
        base.require(0 < value < 1, NAME, option, value, "a number between 0 and 1")
    base.require(ratio > 0, NAME, "ratio", ratio, "a number above 0")
    if problem == "composition":
        atomic, inferred, facts = _compositions(world, entities, relations, degree, ood_fraction)
        columns, P, size = (0, 1, 2), 3, ENTITY + entities + relations
    else:
        atomic, inferred, facts = _comparisons(world, entities, attributes, values, ood_fraction)
        columns, P, size = (0, 2, 4), 5, ENTITY + entities + attributes + values + len(LABELS) * attributes

    def content(made):
        """The tokens that tell problems apart; of two entities the larger first."""
        x, y, z = (jnp.asarray(made.prompt_P, jnp.int32)[i] for i in columns)
        swap = (y < z) & (x != vocab.PAD) & (problem == "comparison")
        return jnp.stack([x, jnp.where(swap, z, y), jnp.where(swap, y, z)])

    listed = _split(atomic, inferred, facts, _hashes(world, _HELD, jax.jit(jax.vmap(content))(inferred[0])), ratio, held_out)
    for split, problems in listed.items():
        base.require(len(problems.answer), NAME, "world", world, f"one with a problem in {split!r}, or a larger one")
    ordered = jax.tree.map(lambda *x: np.concatenate(x), *listed.values())
    count = {split: len(problems.answer) for split, problems in listed.items()}
    first = dict(zip(count, np.cumsum([0, *count.values()])[:-1], strict=True))

    def sample(key, knobs):
        place = knobs["first"] + base.below(base.words(key, 1)[0][0], knobs["count"])
        return jax.tree.map(lambda x: jnp.asarray(x)[place], ordered)

    def answer(made):
        return jnp.stack([jnp.asarray(made.answer, jnp.int32), jnp.int32(vocab.EOS)])

    def guess(split):
        base.knobs(task, split)
        return _commonest(listed[split].answer, listed[split].prompt_P[:, 0] * (problem == "comparison"))

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=P, answer_len=2,
        splits={split: {"first": np.int32(first[split]), "count": np.int32(count[split])} for split in listed},
        sample=sample, prompt=lambda made: jnp.asarray(made.prompt_P, jnp.int32), answer=answer,
        verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)), guess=guess, content=content,
        difficulty=lambda made: jnp.where(inferred_of(made), 2.0, 1.0), vocab_size=size, table=lambda split: listed[split],
        words=_words(problem, entities, relations, attributes, values))
    return task


def inferred_of(made):
    """Whether a problem takes two facts, the shape of `answer`."""
    return jnp.asarray(made.between_2)[..., 0] != vocab.PAD


_hash_N = jax.jit(jax.vmap(base.hash_of))


def _hashes(world, what, *columns_N):
    """u32[N] hashes of (world, what, the columns)."""
    columns_N = [np.asarray(x).reshape(len(x), -1) for x in columns_N]
    head_N = np.broadcast_to(np.asarray([world, what]), (len(columns_N[0]), 2))
    return np.asarray(_hash_N(np.concatenate([head_N, *columns_N], axis=1).astype(np.int32)))


def _below(hash_N, share):
    return hash_N < np.uint32(min(share * 2**32, 2**32 - 1))


def _compositions(world, E, R, degree, ood):
    """(atomic facts, (inferences, whether they are OOD), facts in distribution), by entity and relations."""
    entity, relation = (x.reshape(-1) for x in np.meshgrid(np.arange(E), np.arange(R), indexing="ij"))
    order_ExR = np.argsort(_hashes(world, _FACT, entity, relation).reshape(E, R), axis=1, kind="stable")
    has_ExR = np.zeros((E, R), bool)
    np.put_along_axis(has_ExR, order_ExR[:, :degree], True, axis=1)
    tail_ExR = (_hashes(world, _TAIL, entity, relation) % np.uint32(E)).astype(int).reshape(E, R)
    ood_ExR = _below(_hashes(world, _KIND, entity, relation), ood).reshape(E, R)
    head, r1 = np.nonzero(has_ExR)
    first, r2 = np.nonzero(has_ExR[tail_ExR[head, r1]])  # the second hop of the first-th fact
    e, r, bridge = head[first], r1[first], tail_ExR[head[first], r1[first]]
    second_ood, first_ood = ood_ExR[bridge, r2], ood_ExR[e, r]
    kept, RELATION = first_ood == second_ood, ENTITY + E
    atomic = _problems((vocab.PAD, ENTITY + head, RELATION + r1), ENTITY + tail_ExR[head, r1], _ATOMIC)
    inferred = _problems((ENTITY + e, RELATION + r, RELATION + r2), ENTITY + tail_ExR[bridge, r2], (ENTITY + bridge, vocab.PAD))
    return atomic, (jax.tree.map(lambda x: x[kept], inferred), first_ood[kept]), int((has_ExR & ~ood_ExR).sum())


def _comparisons(world, E, A, V, ood):
    """As `_compositions`, by attribute and entities."""
    attribute, entity = (x.reshape(-1) for x in np.meshgrid(np.arange(A), np.arange(E), indexing="ij"))
    value_AxE = (_hashes(world, _FACT, attribute, entity) % np.uint32(V)).astype(int).reshape(A, E)
    ood_AxE = _below(_hashes(world, _KIND, attribute, entity), ood).reshape(A, E)
    ATTRIBUTE, VALUE, LABEL = ENTITY + E, ENTITY + E + A, ENTITY + E + A + V
    a, one, two = np.nonzero(~np.eye(E, dtype=bool) & (ood_AxE[:, :, None] == ood_AxE[:, None, :]))
    atomic = _problems((*(vocab.PAD,) * 3, ENTITY + entity, ATTRIBUTE + attribute), VALUE + value_AxE.reshape(-1), _ATOMIC)
    left, right = value_AxE[a, one], value_AxE[a, two]
    label = LABEL + len(LABELS) * a + 1 + np.sign(left - right)
    prompt = (ATTRIBUTE + a, QUERY, ENTITY + one, MASK, ENTITY + two)
    return atomic, (_problems(prompt, label, (VALUE + left, VALUE + right)), ood_AxE[a, one]), int((~ood_AxE).sum())


def _problems(prompt, answer_N, between):
    """Problem of columns of tokens, i32[N] or one for all."""
    prompt_NxP, between_Nx2 = (np.stack(np.broadcast_arrays(*columns, answer_N)[:-1], axis=1) for columns in (prompt, between))
    return jax.tree.map(lambda x: x.astype(np.int32), Problem(prompt_NxP, answer_N, between_Nx2))


def _split(atomic, inferred, facts, hash_N, ratio, held_out):
    """{split: its problems}: inferences in distribution of the smallest hashes are held out, those of the next trained on."""
    problems, ood_N = inferred
    held_N = ~ood_N & _below(hash_N, held_out)
    free = np.nonzero(~ood_N & ~held_N)[0]
    count = round(ratio * facts)
    base.require(count <= len(free), NAME, "ratio", ratio, f"at most {len(free) / facts:.2f}: {len(free)} inferences for "
                 f"{facts} facts in distribution")
    trained = np.sort(free[np.argsort(hash_N[free], kind="stable")[:count]])
    train = jax.tree.map(lambda told, inferred: np.concatenate([told, inferred[trained]]), atomic, problems)
    return {"train": train, "id": jax.tree.map(lambda x: x[held_N], problems),
            "ood/facts": jax.tree.map(lambda x: x[ood_N], problems)}


def _commonest(answer_N, group_N):
    """Share of problems that have the commonest answer of their group."""
    return float(sum(np.bincount(answer_N[group_N == group]).max() for group in np.unique(group_N)) / len(answer_N))


def _words(problem, entities, relations, attributes, values):
    names = [f"e{i}" for i in range(entities)]
    if problem == "composition":
        names += [f"r{i}" for i in range(relations)]
    else:
        names += [f"a{i}" for i in range(attributes)] + [f"v{i}" for i in range(values)]
        names += [f"a{i}{label}" for i in range(attributes) for label in LABELS]
    return {QUERY: "?", MASK: "_", **{ENTITY + i: name for i, name in enumerate(names)}}
