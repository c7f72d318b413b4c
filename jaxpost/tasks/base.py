"""The task contract, procedural data, and what families share.

A family is one file with one public function `make(**options) -> Task`. All callables of a Task act on one problem;
callers `vmap`. They are pure, run on device under jit, and are total: for any i32 tokens they return a number, never
raise, never give NaN.

Data is stateless and seekable: example i of a split is drawn with the key `fold_in(hash(family, split, version), i)`,
so the data of a training step is a range of indices, and resuming needs no saved position. Splits never share a key.
They share no *content* either: every possible problem falls by a hash of its content into fold 0 (split `train`) or
fold 1 (all evaluation splits), and a generator redraws until the fold is right. Without that, small worlds repeat
themselves and an in-distribution test partly measures memory.

Legend: P prompt tokens, T completion tokens, N examples, W any width.
"""

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.lookup import nearest
from jaxpost.tasks import vocab

TRAIN_FOLD, EVAL_FOLD = 0, 1
ATTEMPTS = 512  # redraws before a generator gives up; the families' docstrings say how improbable that is


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One task family at fixed options. Compared and hashed by identity, so it can be a static argument of jit.

    `prompt` gives i32[P], padded with PAD on the left, its last token directly before the answer. `oracle` gives a
    best answer i32[T]: answer, EOS, then PAD. `verify` gives f32 in [0, 1]: the maximum 1 for every best answer
    (tokens after the first EOS are ignored), 0 for garbage and for anything without EOS.
    """

    name: str
    version: int  # raised whenever a generator changes what it draws
    prompt_len: int  # P, the longest prompt over the splits
    completion_len: int  # T, the longest oracle answer over the splits, with its EOS
    splits: Mapping[str, Any]  # split -> knobs, a pytree of numpy scalars with one structure for all splits
    sample: Callable[[Any, Any], Any]  # (key, knobs) -> problem
    prompt: Callable[[Any], Any]  # problem -> i32[P]
    oracle: Callable[[Any, Any], Any]  # (problem, key) -> i32[T]
    verify: Callable[[Any, Any], Any]  # (problem, i32[T]) -> f32[]
    guess: Callable[
        [str], float
    ]  # split -> reward of the best guess that does not solve the problem (the family says which)
    vocab_size: int = vocab.SIZE
    pad: int = vocab.PAD  # token id on the left of prompts and after answers; may be that of EOS
    eos: int = vocab.EOS  # token id that ends an oracle's answer
    other_ends: tuple[int, ...] = ()  # further token ids that end a policy's answer
    verify_host: Callable[[Any, str], float] | None = None  # (problem as read, text) -> [0, 1], where `verify` cannot
    table: Callable[[str], Any] | None = None  # split -> all its problems, where a family can list them
    roles: tuple[str, ...] = ("answer",)  # of jaxpost.roles, that tokens of its completions have
    role: Callable[[Any], Any] | None = None  # i32[T] any completion -> i32[T] roles; None: all are the answer
    styles: tuple[str, ...] = ("answer",)  # kinds of `traces` that the family's oracle can write in
    content: Callable[[Any], Any] | None = None  # problem -> i32[W], equal for problems that are the same but for their form
    difficulty: Callable[[Any], Any] | None = None  # problem -> f32[], see the family
    strategies: Callable[[Any], Any] | None = None  # problem -> Strategies, where two Bayes predictors could answer it
    strategy_bits: Callable[[], tuple[float, float]] | None = None  # that describe the memorising and the generalising one
    episodes: Any = None  # tasks.episodes.Episodes, where an answer is an episode of a closed loop
    words: Mapping[int, str] | None = None  # token id -> text, of a family with tokens of its own; None: those of `vocab`

    @property
    def ends(self) -> int | tuple[int, ...]:
        """What ends a policy's answer: `eos`, or a tuple of it and the others."""
        return (self.eos, *self.other_ends) if self.other_ends else self.eos


class Strategies(NamedTuple):
    """What a learner would answer that has memorised the training set's sources, and one that infers any source in context."""

    token_C: Any  # i32, the answers; no other can come
    memorising_C: Any  # f32, their chances given the problem's context
    generalising_C: Any


class Examples(NamedTuple):
    """Problems with their prompts and one best answer each."""

    problem: Any  # pytree, leading axis N
    prompt_NxP: Any  # i32
    answer_NxT: Any  # i32


def knobs(task, split):
    """Knobs of a split. Raises: ValueError for an unknown split, naming the nearest."""
    if split not in task.splits:
        raise ValueError(f"task {task.name!r}: split {split!r} is not known{nearest(split, task.splits)}")
    return task.splits[split]


def problem_keys(task, split, index_N):
    """Keys of examples: `fold_in(K, index)`, K the first 64 bits of sha256("name/version/split").

    Args:
        index_N: integer array, taken as u32 (2**32 examples a split); may be traced.
    Returns:
        typed key array [N] (threefry, whatever the default generator is).
    """
    knobs(task, split)
    word_2 = np.frombuffer(hashlib.sha256(f"{task.name}/{task.version}/{split}".encode()).digest()[:8], ">u4")
    root = jax.random.wrap_key_data(jnp.asarray(word_2.astype(np.uint32)), impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root, jnp.asarray(index_N).astype(jnp.uint32))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _problems(task, key_N, knobs, axis=None):
    """One program a task and batch size: splits differ in arguments only."""
    return jax.vmap(task.sample, in_axes=(0, axis))(key_N, knobs)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _examples(task, key_N, knobs, axis=None):
    problem = _problems(task, key_N, knobs, axis)
    answer_NxT = jax.vmap(task.oracle)(problem, jax.vmap(jax.random.fold_in, in_axes=(0, None))(key_N, 1))
    return Examples(problem, jax.vmap(task.prompt)(problem), answer_NxT)


def problems(task, split, index_N, knobs_N=None):
    """Problems of a split at the given indices: a pytree with leading axis N. Pure; index_N may be traced.

    Args:
        knobs_N: knobs of every problem in place of the split's, with a leading axis N, which may be traced: a batch may so
            hold problems of several difficulties (`mixed_knobs`).
    """
    return _problems(task, problem_keys(task, split, index_N), *_each(task, split, index_N, knobs_N))


def examples(task, split, index_N, knobs_N=None):
    """Problems, prompts and oracle answers (supervised targets) of a split at the given indices; knobs_N as in `problems`.

    The oracle's key is `fold_in(problem key, 1)`.
    """
    return _examples(task, problem_keys(task, split, index_N), *_each(task, split, index_N, knobs_N))


def _each(task, split, index_N, knobs_N):
    """(knobs, their axis): the split's, or those of every problem."""
    return (knobs(task, split), None) if knobs_N is None else (knobs_N, 0)


def mixed_knobs(task, splits, choice_N):
    """Knobs of N problems: those of splits[choice_N], where the choice may be traced.

    The fold is a knob too: of evaluation splits alone, or of `train` alone, the problems stay apart.
    """
    rows = [knobs(task, split) for split in splits]
    return jax.tree.map(lambda *leaf: jnp.stack([jnp.asarray(x) for x in leaf])[choice_N], *rows)


def distinct(task, split, count, within=None):
    """The first `count` indices of a split whose problems differ in content: a finite pool without duplicates, uint32[count].

    Args:
        within: how many indices are looked at; None: 8 * count + 64.
    Raises:
        ValueError: a task without a canonical form, or fewer distinct problems (the message says how many there are).
    """
    if task.content is None:
        raise ValueError(f"task {task.name!r} has no canonical form of its problems, so that equal ones cannot be told")
    within = 8 * count + 64 if within is None else within
    content_NxW = np.asarray(jax.vmap(task.content)(problems(task, split, np.arange(within, dtype=np.uint32))))
    first = np.sort(np.unique(content_NxW, axis=0, return_index=True)[1])
    if len(first) < count:
        raise ValueError(f"a pool of {count} problems of task {task.name!r}, split {split!r}: its first {within} problems have "
                         f"{len(first)} different ones; nearest valid: {len(first)}")
    return first[:count].astype(np.uint32)


def difficulties(task, split, count):
    """Difficulty of the first `count` problems of a split, a tuple of floats; what it counts, the family says.

    Raises: ValueError for an unknown split, or a task that does not say how difficult its problems are.
    """
    if task.difficulty is None:
        raise ValueError(f"task {task.name!r} does not say how difficult its problems are")
    made = problems(task, split, np.arange(count, dtype=np.uint32))
    return tuple(np.asarray(jax.vmap(task.difficulty)(made), float).tolist())


def table(task, split):
    """Every problem of a split once, with its prompt and oracle answer: Examples with N the size of the split.

    The oracle's key is `fold_in(key(0), row)`.

    Raises: ValueError for an unknown split, or a task that cannot list its problems.
    """
    knobs(task, split)
    if task.table is None:
        raise ValueError(f"task {task.name!r} cannot list its problems; draw some with tasks.examples")
    problem = task.table(split)
    count = jax.tree.leaves(problem)[0].shape[0]
    key_N = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(0), jnp.arange(count))
    return Examples(problem, jax.vmap(task.prompt)(problem), jax.vmap(task.oracle)(problem, key_N))


def digest(task, split, count):
    """SHA-256 (64 hex digits) of the first `count` prompts and oracle answers of a split, the name of that data set.

    Only integer arithmetic lies between key and tokens, so the digest is the same on every back end.
    """
    batch = examples(task, split, np.arange(count, dtype=np.uint32))
    return digest_of(task, split, batch.prompt_NxP, batch.answer_NxT)


def digest_of(task, split, prompt_NxP, answer_NxT, first=0):
    """`digest` of prompts and answers that are at hand; `first` is the index of the first of them."""
    start = f"/{first}" if first else ""
    head = f"{task.name}/{task.version}/{split}/{len(prompt_NxP)}/{task.prompt_len}/{task.completion_len}{start}\n"
    sha = hashlib.sha256(head.encode())
    for tokens in (prompt_NxP, answer_NxT):
        sha.update(np.asarray(tokens).astype("<i4").tobytes())
    return sha.hexdigest()


def require_vocab(task, vocab_size):
    """Raises ValueError if a model with `vocab_size` tokens cannot read or write the task's tokens."""
    if vocab_size < task.vocab_size:
        raise ValueError(
            f"task {task.name!r} uses tokens 0..{task.vocab_size - 1}, but the model's vocabulary has {vocab_size}: "
            f"set its vocab_size to at least {task.vocab_size}"
        )


def ends(tokens, eos):
    """bool, the shape of `tokens`: which are the id `eos`, or one of a tuple of them."""
    return functools.reduce(operator.or_, [tokens == i for i in (eos if isinstance(eos, tuple) else (eos,))])


def through(answer_NxT, eos):
    """f32[N, T], 1 up to and including each row's first `eos`, or first of several: what of an answer counts."""
    ended_NxT = ends(answer_NxT, eos)
    return (jnp.cumsum(ended_NxT, axis=-1) - ended_NxT == 0).astype(jnp.float32)


def evaluated(task):
    """Names of the splits on which a policy is asked: id, and those out of distribution."""
    return ("id", *(split for split in task.splits if split.startswith("ood/")))


def to_text(task, tokens, hidden=(vocab.PAD,)):
    """Text of symbolic tokens, those in `hidden` left out: characters of the shared vocabulary, its names as their number in
    braces; of a family with `words`, these with spaces between.
    """
    visible = [token for token in map(int, tokens) if token not in hidden]
    if task.words is None:
        return "".join(vocab.decode([token]) if token < vocab.ID else f"{{{token - vocab.ID}}}" for token in visible)
    return " ".join(task.words.get(token, vocab.decode([token]) if token <= vocab.EOS else f"{{{token}}}") for token in visible)


def check_tokens(task_name, tokens, completion_len):
    """Raises ValueError (at trace time) unless `tokens` has the shape (T,) that a verifier expects."""
    if jnp.shape(tokens) != (completion_len,):
        raise ValueError(
            f"verify of task {task_name!r} takes tokens of shape ({completion_len},), found {jnp.shape(tokens)}: "
            "vmap over examples, and pad or cut completions to completion_len"
        )


def require(condition, task_name, option, value, expected):
    """Raises ValueError for an option out of range, naming the option, what was found and what was expected."""
    if not condition:
        raise ValueError(f"task {task_name!r}: option {option}={value!r}, expected {expected}")


def setting(fold, **values):
    """Knobs of a split as numpy scalars: the fold, and integers or truth values."""
    return {"fold": np.int32(fold)} | {name: np.asarray(value, np.int32)[()] for name, value in values.items()}


def span(word, low, high):
    """Random i32 in [low, high] from u32 words; bounds may be traced."""
    return low + below(word, high - low + 1)


def choose(key, words_needed, draw, accept):
    """A problem `draw(words)` that is accepted, of up to ATTEMPTS draws (else the last); `words_needed` as in `words`."""
    return first_accepted(lambda key: draw(*words(key, *words_needed)), accept, key)[0]


def best_constant(task, split, count=2048, chunk=256):
    """Reward of the best constant answer among the oracle's own: the share of the commonest of `count` problems.

    An upper bound where nearly all answers differ: it is at least 1 / count.
    """
    rows = [np.asarray(examples(task, split, np.arange(i, i + chunk)).answer_NxT) for i in range(0, count, chunk)]
    answer = np.concatenate(rows)
    answer = np.where(np.cumsum(answer == vocab.TOKEN["]"], axis=1)[:, -1:] > 0, _after(answer, vocab.TOKEN["]"]), answer)
    return float(np.unique(answer, axis=0, return_counts=True)[1].max() / count)


def average(task, split, one, count=2048, chunk=256):
    """Mean of `one` (problem, key) -> f32[...] over `count` problems of a split; the keys are `fold_in(key(0), index)`."""
    each = jax.jit(jax.vmap(lambda problem, i: one(problem, jax.random.fold_in(jax.random.key(0), i))))
    index = [np.arange(i, i + chunk, dtype=np.uint32) for i in range(0, count, chunk)]
    return np.concatenate([each(examples(task, split, i_N).problem, i_N) for i_N in index]).mean(axis=0, dtype=np.float64)


def _after(tokens_NxT, mark):
    """The tokens after the first `mark` of each row, without regard to where they stand."""
    past = np.cumsum(tokens_NxT == mark, axis=1) > 0
    out = np.where(past & (tokens_NxT != mark), tokens_NxT, vocab.PAD)
    return np.take_along_axis(out, np.argsort(out == vocab.PAD, axis=1, kind="stable"), axis=1)


def length_range(task_name, option, value, least, most):
    """(low, high), checked: a pair of integers with least <= low <= high <= most. Raises: ValueError."""
    good = isinstance(value, tuple) and len(value) == 2 and all(isinstance(x, int) for x in value)
    require(good and least <= value[0] <= value[1] <= most, task_name, option, value,
            f"(low, high) with {least} <= low <= high <= {most}")
    return value


def exact(tokens_T, answer_T):
    """f32[] 1 if `tokens_T` equals `answer_T` up to and including the answer's EOS, else 0."""
    after_T = jnp.cumsum(answer_T == vocab.EOS) - (answer_T == vocab.EOS) > 0
    return jnp.all(after_T | (tokens_T == answer_T)).astype(jnp.float32)


def words(key, *sizes):
    """Independent random u32 words in rows of the given sizes, from one generator call (a call costs compile time).

    Raw bits instead of `jax.random.randint` and its like: evaluation sets then depend on the generator (threefry)
    alone, not on how a JAX version turns its bits into integers.
    """
    return jnp.split(jax.random.bits(key, (sum(sizes),), jnp.uint32), np.cumsum(sizes)[:-1])


def below(word, bound):
    """Random i32 in [0, bound) from u32 words: word % bound, uniform up to a bias of bound / 2**32."""
    return (word % jnp.asarray(bound).astype(jnp.uint32)).astype(jnp.int32)


def fold_of(content_W):
    """Fold (0 or 1) of a problem with integer content `content_W`: the parity of a position-dependent hash.

    It is the lowest bit of `hash_of`.
    """
    return (hash_of(content_W) & np.uint32(1)).astype(jnp.int32)


def hash_of(content_W):
    """u32 hash of a problem with integer content `content_W`, the same on every back end.

    h = mix(sum_i mix(x_i * 0x9e3779b1 + i * 0x85ebca77)) in u32, mix = the finaliser of MurmurHash3 (public domain).
    """
    place_W = jnp.arange(content_W.shape[0], dtype=jnp.uint32)
    word_W = content_W.astype(jnp.uint32) * np.uint32(0x9E3779B1) + place_W * np.uint32(0x85EBCA77)
    return mix(jnp.sum(mix(word_W), dtype=jnp.uint32))


def mix(word):
    """MurmurHash3's 32-bit finaliser, elementwise on u32."""
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def first_accepted(draw, accept, key):
    """The first of up to ATTEMPTS draws that is accepted, and whether there was one (else the last draw).

    Args:
        draw: key -> problem.
        accept: problem -> bool[].
    Returns:
        (problem, bool[]).
    """

    def again(state):
        attempt, _, accepted = state
        return ~accepted & (attempt < ATTEMPTS)

    def step(state):
        attempt = state[0]
        problem = draw(jax.random.fold_in(key, attempt))
        return attempt + 1, problem, accept(problem)

    shape = jax.eval_shape(draw, key)
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
    _, problem, accepted = jax.lax.while_loop(again, step, (jnp.int32(0), start, jnp.bool_(False)))
    return problem, accepted
