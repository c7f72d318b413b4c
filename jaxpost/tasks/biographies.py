"""Biographies: facts in the weights, facts in the prompt, and questions that need both.

A fact is `person relation -> person`. The world has a group of parametric relations, whose facts are the same in every problem
(they have to be learned), and a group of contextual ones, whose facts are drawn anew for every problem and stand in its prompt.

    problem      prompt                                  answer
    parametric   `e r?`                                  the person
    contextual   `e r f;...e r?`                         the person; other people's facts around it
    composite    `e r f;...e r_1 r_2...?`                the person at the end of a path of both groups, `hops` long
                                                         (contextual facts of the path stand in the prompt, with distractors)

Parametric facts come from a hash of world, person and relation: no table, and a world is the same for every problem and
option. In a fact that is told, the person may be named before or after the relation, and the order in a question likewise: two
phrasings. After arXiv:2512.01970; differs from the paper in: all relations lead to people (the paper has attributes, symmetric
and inverse relations as well), names and relations are single tokens, and contextual facts are fresh in every problem.

Relations of composite paths are of three classes, as in the paper: of each group a fifth (at least one) is `iid`, one is
`zero-shot`, the others are `composition`.

Splits of composite:
    train            paths with an iid relation and none of zero-shot (half of the problems), and half of all paths whose
            relations
                     are all composition (the other half)
    id               paths with an iid relation, other problems
    ood/composition  the other half of the composition paths: seen parts, unseen path
    ood/zero_shot    paths with a zero-shot relation
Splits of parametric: train has every fact in one of two phrasings, id the other one. Of contextual: train and id differ in
problems, ood/zero_shot asks for the zero-shot relation, which training then never asks for.

Reasoning (`traces`): the facts of the path in order, `e r f;`.

Difficulty: the number of hops. Guess baseline: the commonest answer of 2,048 problems.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "biographies", 1
PAPER, VERIFIER = "arXiv:2512.01970", "the person, one token"
PROBLEMS = ("parametric", "contextual", "composite")
PERSON = vocab.ID  # token of the i-th person is PERSON + i; relations follow the people
IID, COMPOSITION, ZERO_SHOT = range(3)


class Problem(NamedTuple):
    """A path of H hops, the first `hops` of them, and told facts (person, relation, person) in the order of the prompt."""

    person_L: Any  # i32[H + 1], along the path
    relation_H: Any  # i32
    hops: Any  # i32[]
    fact_Fx3: Any  # i32, -1 where there is none
    phrasing: Any  # i32[], 0: person first


def make(problem="composite", people=100, relations=10, hops=2, distractors=2, world=0, style="answer", room=0):
    """Parametric, contextual or composite questions over one world.

    Args:
        problem: a name of the table above.
        people: 8 to 4096.
        relations: of each group, 4 to 64.
        hops: of composite paths, 2 to 4; the others have one.
        distractors: told facts that are not needed, 0 to 8.
        world: number of the world.
        style, room: see `traces`.
    """
    if problem not in PROBLEMS:
        raise ValueError(f"unknown problem of task {NAME!r} {problem!r}{nearest(problem, PROBLEMS)}")
    for option, value, least, most in (("people", people, 8, 4096), ("relations", relations, 4, 64), ("hops", hops, 2, 4),
                                       ("distractors", distractors, 0, 8), ("world", world, 0, 2**31 - 1)):
        base.require(isinstance(value, int) and least <= value <= most, NAME, option, value,
                     f"an integer from {least} to {most}")
    H = hops if problem == "composite" else 1
    told = {"parametric": 0, "contextual": 1, "composite": H}[problem]
    F = told + (distractors if told else 0)
    prompt_len, RELATION = 1 + 4 * (F - (H > 1)) + 1 + H + 1, PERSON + people  # a composite path has a fact that is not told

    def sample(key, knobs):
        def draw(path_word, fact_word, order_word, phrasing_word):
            group_H = base.below(path_word[:H], 2)  # 0: parametric, 1: contextual
            if problem == "composite":
                group_H = group_H.at[-1].set(jnp.where(jnp.all(group_H == group_H[0]), 1 - group_H[0], group_H[-1]))
            else:
                group_H = jnp.full(H, int(problem == "contextual"))
            relation_H = base.below(path_word[H:2 * H], relations)
            person, person_L = base.below(path_word[2 * H], people), []
            for hop in range(H):
                person_L.append(person)
                fresh = base.below(path_word[2 * H + 1 + hop], people)
                person = jnp.where(group_H[hop] == 1, fresh, fact(person, relation_H[hop]))
            person_L = jnp.stack([*person_L, person])
            named_H = relation_H + relations * group_H
            fact_Fx3 = jnp.full((F, 3), -1)
            if told:
                path = jnp.stack([person_L[:-1], named_H, person_L[1:]], axis=1)
                path = jnp.where(group_H[:, None] == 1, path, -1)
                other = jnp.stack([base.below(fact_word[0::3], people), relations + base.below(fact_word[1::3], relations),
                                   base.below(fact_word[2::3], people)], axis=1)[:F - told]
                fact_Fx3 = jnp.concatenate([path, other])[jnp.argsort(order_word)[:F]]
            return Problem(person_L, named_H, jnp.int32(H), fact_Fx3, base.below(phrasing_word[0], 2))

        def accept(made):
            return _consistent(made) & allowed(made, knobs)

        return base.choose(key, (3 * H + 1, 3 * max(F, 1), max(F, 1), 1), draw, accept)

    def fact(person, relation):
        return base.below(base.hash_of(jnp.stack([jnp.int32(world), person, relation])), people)

    iid = max(relations // 5, 1)

    def allowed(made, knobs):
        """Whether a problem is of the split: `kind` 0 any, 1 an iid path, 2 a composition path, 3 zero-shot."""
        place_H = made.relation_H % relations
        class_H = jnp.select([place_H < iid, place_H == relations - 1], [IID, ZERO_SHOT], COMPOSITION)
        zero = jnp.any(class_H == ZERO_SHOT)
        path = jnp.where(zero, 3, jnp.where(jnp.any(class_H == IID), 1, 2))
        if problem == "parametric":
            held = base.fold_of(jnp.append(made.person_L[:1], made.relation_H))  # the phrasing that training does not have
            return jnp.where(knobs["fold"] == base.TRAIN_FOLD, made.phrasing != held, made.phrasing == held)
        if problem == "contextual":
            return (base.fold_of(_content(made)) == knobs["fold"]) & (zero == (knobs["kind"] == 3))
        fold = jnp.where(path == 2, base.fold_of(made.relation_H), base.fold_of(_content(made)))
        wanted = jnp.where(knobs["kind"] == 0, path != 3, path == knobs["kind"])
        return wanted & ((fold == knobs["fold"]) | (path == 3))

    def setting(fold, kind=0):
        return base.setting(fold, kind=kind)

    splits = {"train": setting(base.TRAIN_FOLD), "id": setting(base.EVAL_FOLD, int(problem == "composite"))}
    if problem == "composite":
        splits["ood/composition"] = setting(base.EVAL_FOLD, 2)
    if problem != "parametric":
        splits["ood/zero_shot"] = setting(base.EVAL_FOLD, 3)

    def prompt(made):
        fact_Fx4 = jnp.concatenate([_ordered(PERSON + made.fact_Fx3[:, :1], RELATION + made.fact_Fx3[:, 1:2], made.phrasing),
                                    PERSON + made.fact_Fx3[:, 2:], jnp.full((F, 1), vocab.TOKEN[";"])], axis=1)
        fact_Fx4 = jnp.where(made.fact_Fx3[:, :1] >= 0, fact_Fx4, vocab.PAD)
        question = _ordered(PERSON + made.person_L[None, :1], RELATION + made.relation_H[None], made.phrasing)[0]
        tokens = traces.joined(vocab.BOS, fact_Fx4.reshape(-1), question, "?")
        return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")

    def answer(made):
        return jnp.stack([PERSON + made.person_L[-1], vocab.EOS]).astype(jnp.int32)

    def steps(made, key, detours):
        columns = [PERSON + made.person_L[:-1], RELATION + made.relation_H, PERSON + made.person_L[1:], ";"]
        return traces.table(columns, (2,), made.hops, H)

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=2, splits=splits, sample=sample,
        prompt=prompt, answer=answer, verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)),
        guess=functools.cache(lambda split: base.best_constant(task, split)), content=_content,
        difficulty=lambda made: made.hops.astype(jnp.float32),
        reasoning=traces.Reasoning(steps, longest=4 * H, detour=4, ids=people), vocab_size=RELATION + 2 * relations)
    return task


def _ordered(person, relations, phrasing):
    """Person first, or the relations first, along the last axis."""
    first, last = jnp.concatenate([person, relations], axis=-1), jnp.concatenate([relations, person], axis=-1)
    return jnp.where(phrasing == 0, first, last)


def _content(made):
    return jnp.concatenate([made.person_L, made.relation_H, made.fact_Fx3.reshape(-1), made.phrasing[None]])


def _consistent(made):
    """Whether no person has two values of one relation among the told facts."""
    F = made.fact_Fx3.shape[0]
    same_FxF = jnp.all(made.fact_Fx3[:, None, :2] == made.fact_Fx3[None, :, :2], axis=-1) & (made.fact_Fx3[:, :1] >= 0)
    return ~jnp.any(same_FxF & ~jnp.eye(F, dtype=bool))
