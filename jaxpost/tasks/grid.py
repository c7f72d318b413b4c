"""Grid worlds: Sokoban with one box and Frozen Lake, as plans, as next actions, and as a closed loop.

    world     cells                                    solved when
    sokoban   floor `.`, wall `%`                      the box is on the target
    lake      floor `.`, hole `@` (an end without reward)   the player is on the target

Prompt: the names of up, down, left, right, then the grid row by row, `^{u}{d}{l}{r}:..<.;.%&.;..!.;....;?`, player `<`, box
`&`, target `!`, box on the target `'`, player on the target `|`. Names are single tokens from `vocab.ID` on. `answer="plan"`
is answered by the names of a whole plan, `answer="next"` by the next action. Every plan that ends solved within its room is
accepted, and every optimal action: distances come from value iteration over (player, box). Outside the grid is wall; a step
against a wall or a stuck box does nothing.

Levels of Sokoban are played backwards from the solved state (at most `moves` steps, so that no solution is longer), with walls
at random, until the box is two cells from its target; lakes are drawn with holes at random until the target is within `moves`
steps. After arXiv:2510.00237 and RAGEN (Sokoban) and arXiv:2405.11870 (Frozen Lake, recalled); reconstructed: the generators;
differs from the papers in: smaller rooms, no slippery ice, reward 1 for being solved and nothing else. Content is the level
without its names; turned and mirrored levels are different.

Splits: train, id (names: the first four in order, or with `names="diverse"` four of the first 24), ood/larger (one row and
column more), ood/moves (up to 1.5 times the moves), ood/names (four of the last 8), ood/fake (the prompt shows four of the
last 8, and the verifier goes by the first four in order: what is right here has not read the names).

Reasoning (`traces`) of a plan: a step a move, its name and where it leads, `{u}12:34;` (column and row of the player, of the
box or, on a lake, of the target).

Difficulty: the number of moves of a shortest plan. Guess baseline: uniformly random actions (within the room of a plan; for the
next action the share of optimal ones), measured over 2,048 problems; with one episode each.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, environment, traces, vocab

NAME, VERSION = "grid", 1
PAPER, VERIFIER = "arXiv:2510.00237, arXiv:2405.11870", "simulation: any plan that solves, or any optimal action"
WORLDS, ANSWERS, NAMES = ("sokoban", "lake"), ("plan", "next"), ("fixed", "diverse")
FLOOR, WALL, HOLE = range(3)
DELTA = np.asarray([(-1, 0), (1, 0), (0, -1), (0, 1)])  # row, column of up, down, left, right
NAME_TOKENS, KNOWN = 32, 24  # names, and those that training may use
FAR = 1000  # distance of what cannot be solved


class Problem(NamedTuple):
    """A level on an M x M grid, of which `size` x `size` exist, and the names that are shown and those that hold."""

    cell_C: Any  # i32, C = M * M
    player: Any  # i32[], place in C
    box: Any  # i32[], -1 on a lake
    target: Any  # i32[]
    size: Any  # i32[]
    shown_4: Any  # i32
    name_4: Any  # i32


class State(NamedTuple):
    """An episode: the level as it stands."""

    problem: Problem
    turn: Any  # i32[]


def make(world="sokoban", answer="plan", size=4, moves=8, names="fixed", style="answer", room=0):
    """Sokoban or Frozen Lake.

    Args:
        world: "sokoban" or "lake".
        answer: "plan" or "next".
        size: rows and columns of train, 3 to 6; of Sokoban 4 to 6.
        moves: most steps of a shortest plan in train, 2 to 12; of Sokoban 3 to 12.
        names: "fixed" or "diverse" names of the actions in train and id.
        style, room: see `traces`; reasoning is for plans.
    """
    for option, value, valid in (("world", world, WORLDS), ("answer", answer, ANSWERS), ("names", names, NAMES)):
        base.require(value in valid, NAME, option, value, f"one of {valid}")
    pushes = int(world == "sokoban")  # twice at least, for which smaller levels have no room
    for option, value, least, most in (("size", size, 3 + pushes, 6), ("moves", moves, 2 + pushes, 12)):
        base.require(isinstance(value, int) and least <= value <= most, NAME, option, value,
                     f"an integer from {least} to {most} with world={world!r}")
    rules = Rules(world, size + 1)
    longest = moves + max(moves // 2, 1)
    prompt_len = _prompt_len(size)
    answer_len = longest + 1 if answer == "plan" else 2

    def setting(fold, size=size, most=moves, low=0, high=4 if names == "fixed" else KNOWN, fake=0):
        ordered = int(high - low == 4)
        return base.setting(fold, size=size, moves=most, low=low, high=high, ordered=ordered, fake=fake)

    def written(problem, action_L):
        """Names of actions, -1 for none, with EOS: i32[A]."""
        name_L = jnp.where(action_L >= 0, vocab.ID + problem.name_4[jnp.maximum(action_L, 0)], vocab.PAD)
        tokens = jnp.append(name_L, vocab.EOS)
        return vocab.pack(tokens, tokens != vocab.PAD, answer_len, "left")

    def best(problem):
        return written(problem, rules.plan(problem, longest) if answer == "plan" else rules.plan(problem, 1))

    def verify(problem, tokens_A):
        action_A = rules.named(problem, tokens_A)
        end = jnp.argmax(tokens_A == vocab.EOS)
        formed = jnp.any(tokens_A == vocab.EOS) & (end > 0) & jnp.all((action_A >= 0) | (jnp.arange(answer_len) >= end))
        if answer == "next":
            return (formed & (end == 1) & rules.optimal(problem)[jnp.maximum(action_A[0], 0)]).astype(jnp.float32)
        action_L = jnp.where(jnp.arange(answer_len) < end, action_A, -1)
        return (formed & rules.solved(rules.follow(problem, action_L)[0])).astype(jnp.float32)

    def steps(problem, key, detours):
        action_L = rules.plan(problem, longest)
        _, (player_L, other_L) = rules.follow(problem, action_L)
        digits = [vocab.DIGIT + x for place in (player_L, other_L) for x in (place % rules.M, place // rules.M)]
        name_L = vocab.ID + problem.name_4[jnp.maximum(action_L, 0)]
        columns = [name_L, *digits[:2], ":", *digits[2:], ";"]
        return traces.table(columns, (1, 2), jnp.sum(action_L >= 0), longest)

    @functools.cache
    def guess(split):
        problem_N = base.problems(task, split, np.arange(2048))

        def one(problem, word_L):
            action_L = base.below(word_L, 4)
            return verify(problem, written(problem, action_L if answer == "plan" else action_L[:1]))

        word_NxL = jax.random.bits(jax.random.key(0), (2048, longest), "uint32")
        return float(jnp.mean(jax.jit(jax.vmap(one))(problem_N, word_NxL)))

    held = {"low": KNOWN, "high": NAME_TOKENS}
    splits = {"train": setting(base.TRAIN_FOLD), "id": setting(base.EVAL_FOLD),
              "ood/larger": setting(base.EVAL_FOLD, size=size + 1),
              "ood/moves": setting(base.EVAL_FOLD, most=longest),
              "ood/names": setting(base.EVAL_FOLD, **held), "ood/fake": setting(base.EVAL_FOLD, **held, fake=1)}
    if world == "lake":
        del splits["ood/moves"]  # a lake of this size has hardly any far targets
    reasoning = traces.Reasoning(steps, longest=7 * longest, detour=7) if answer == "plan" else None
    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=answer_len, splits=splits,
        sample=rules.sample, prompt=lambda problem: rules.prompt(problem, prompt_len), answer=best, verify=verify,
        guess=guess, content=rules.content,
        difficulty=lambda problem: rules.distance(problem).astype(jnp.float32), reasoning=reasoning,
        vocab_size=vocab.ID + NAME_TOKENS)
    return task


def loop(task_options: dict, turns: int = 20) -> environment.Environment:
    """The closed loop of `make(**task_options)` with answer="next": one action a turn, at most `turns` of them.

    An observation is the prompt of the level as it stands. An action that is no name that holds wastes a turn.
    """
    options = {"world": "sokoban", "size": 4} | task_options
    rules, prompt_len = Rules(options["world"], options["size"] + 1), _prompt_len(options["size"])

    def observe(state):
        return rules.prompt(state.problem, prompt_len)

    def step(state, tokens_A):
        action = rules.named(state.problem, tokens_A)[0]
        action = jnp.where((tokens_A.shape[0] < 2) | (tokens_A[1] == vocab.EOS), action, -1)
        problem = rules.move(state.problem, action)
        solved = rules.solved(problem)
        state = State(problem, state.turn + 1)
        return state, observe(state), solved.astype(jnp.float32), solved | rules.lost(problem) | (state.turn >= turns)

    def reset(problem):
        return State(problem, jnp.int32(0))

    return environment.Environment(f"{NAME}/{options['world']}", turns, reset, observe, step)


def _prompt_len(size):
    return 1 + 4 + 1 + (size + 1) * (size + 2) + 1


class Rules:
    """How a world on an M x M grid moves."""

    def __init__(self, world: str, M: int):
        self.world, self.M, self.C = world, M, M * M
        row, column = np.divmod(np.arange(self.C), M)
        there = np.stack([row, column], axis=1)[:, None] + DELTA
        inside = ((there >= 0) & (there < M)).all(axis=-1)
        self._next_Cx4 = np.where(inside, there[..., 0] * M + there[..., 1], -1).astype(np.int32)

    @property
    def next_Cx4(self):
        """The place that each action leads to, -1 outside the grid."""
        return jnp.asarray(self._next_Cx4)

    def move(self, problem, action):
        """The level after an action; as it was for -1, against a wall, and in a hole."""
        place = self.next_Cx4[problem.player, action]
        beyond = self.next_Cx4[place, action]
        pushes = (place == problem.box) & (problem.box >= 0)
        free = (action >= 0) & (place >= 0) & (problem.cell_C[place] != WALL) & ~self.lost(problem)
        free &= ~pushes | ((beyond >= 0) & (problem.cell_C[beyond] == FLOOR))
        return problem._replace(player=jnp.where(free, place, problem.player),
                                box=jnp.where(free & pushes, beyond, problem.box))

    def solved(self, problem):
        return jnp.where(problem.box >= 0, problem.box, problem.player) == problem.target

    def lost(self, problem):
        return problem.cell_C[problem.player] == HOLE

    def follow(self, problem, action_L):
        """(the level after the actions, (player, box or target) after each)."""

        def one(problem, action):
            problem = self.move(problem, action)
            return problem, (problem.player, jnp.where(problem.box >= 0, problem.box, problem.target))

        return jax.lax.scan(one, problem, action_L)

    def distances(self, problem):
        """Moves to a solution from every state, by value iteration: i32[C, C] over (player, box), or i32[C, 1] on a lake."""
        B = self.C if self.world == "sokoban" else 1
        player, box = (x.reshape(-1) for x in jnp.meshgrid(jnp.arange(self.C), jnp.arange(B) - (B == 1), indexing="ij"))

        def after(player, box, action):
            moved = self.move(problem._replace(player=player, box=box), action)
            return moved.player * B + jnp.maximum(moved.box, 0)

        over_box = jax.vmap(after, (None, None, 0))
        next_Sx4 = jax.vmap(over_box, (0, 0, None))(player, box, jnp.arange(4))
        done_S = jax.vmap(lambda p, b: self.solved(problem._replace(player=p, box=b)))(player, box)
        start_S = jnp.where(done_S, 0, FAR)
        rounds = 3 * self.M if self.world == "sokoban" else self.C
        distance_S = jax.lax.fori_loop(0, rounds, lambda _, d_S: jnp.minimum(d_S, 1 + jnp.min(d_S[next_Sx4], axis=1)), start_S)
        return distance_S.reshape(self.C, B)

    def distance(self, problem):
        return self.distances(problem)[problem.player, jnp.maximum(problem.box, 0)]

    def optimal(self, problem):
        """bool[4]: actions that come one move nearer."""
        return self._nearer(problem, self.distances(problem))

    def _nearer(self, problem, distance):
        moved = jax.vmap(lambda action: self.move(problem, action))(jnp.arange(4))
        return distance[moved.player, jnp.maximum(moved.box, 0)] < distance[problem.player, jnp.maximum(problem.box, 0)]

    def plan(self, problem, length):
        """A shortest plan, i32[length], -1 after its end: the first optimal action each time."""
        distance = self.distances(problem)

        def one(problem, _):
            action = jnp.where(self.solved(problem), -1, jnp.argmax(self._nearer(problem, distance)))
            return self.move(problem, action), action

        return jax.lax.scan(one, problem, None, length=length)[1]

    def named(self, problem, tokens_A):
        """Actions of names that hold, -1 for every other token."""
        same_Ax4 = tokens_A[:, None] == (vocab.ID + problem.name_4)[None]
        return jnp.where(jnp.any(same_Ax4, axis=1), jnp.argmax(same_Ax4, axis=1), -1)

    def sample(self, key, knobs):
        place_C = jnp.arange(self.C)
        outside_C = (place_C // self.M >= knobs["size"]) | (place_C % self.M >= knobs["size"])

        name_word = base.words(jax.random.fold_in(key, base.ATTEMPTS), NAME_TOKENS)[0]  # not drawn again
        held_4 = knobs["low"] + jnp.argsort(jnp.where(jnp.arange(NAME_TOKENS) < knobs["high"] - knobs["low"],
                                                      name_word >> 1, jnp.uint32(2**31)))[:4]
        shown_4 = jnp.where(knobs["ordered"] == 1, knobs["low"] + jnp.arange(4), held_4).astype(jnp.int32)
        name_4 = jnp.where(knobs["fake"] == 1, jnp.arange(4), shown_4).astype(jnp.int32)
        size = jnp.asarray(knobs["size"], jnp.int32)

        def draw(cell_word, place_word, move_word, pull_word):
            target = base.below(place_word[0], size * size)
            player = (target + 1 + base.below(place_word[1], size * size - 1)) % (size * size)
            target, player = (place // size * self.M + place % size for place in (target, player))
            kept_C = (place_C == target) | (place_C == player)
            barrier = WALL if self.world == "sokoban" else HOLE
            cell_C = jnp.where(base.below(cell_word, 5) == 0, barrier, FLOOR)
            cell_C = jnp.where(outside_C, WALL, jnp.where(kept_C, FLOOR, cell_C)).astype(jnp.int32)
            problem = Problem(cell_C, player, jnp.int32(-1), target, size, shown_4, name_4)
            if self.world == "lake":
                return problem
            return self._backwards(problem._replace(box=target), move_word, pull_word, knobs["moves"])

        def accept(problem):
            if self.world == "lake":
                distance = self.distance(problem)
                good = (distance <= knobs["moves"]) & (distance >= 1)
            else:  # the box is two cells from its target at least, or random actions solve a third of the levels
                apart = jnp.abs(problem.box // self.M - problem.target // self.M)
                good = apart + jnp.abs(problem.box % self.M - problem.target % self.M) >= 2
            return good & (base.fold_of(self.content(problem)) == knobs["fold"])

        return base.choose(key, (self.C, 2, 20, 18), draw, accept)

    def _backwards(self, problem, move_word, pull_word, moves):
        """The level some backward moves before: the player steps back, mostly on and on, and mostly pulls a box in front."""

        def one(state, word_3):
            problem, before = state
            happens, direction_word, pull_word = word_3
            action = jnp.where(base.below(direction_word, 8) < 4, before, base.below(direction_word, 4))
            back = self.next_Cx4[problem.player, action ^ 1]  # up and down, left and right are pairs
            front = self.next_Cx4[problem.player, action]
            free = happens & (back >= 0) & (problem.cell_C[back] == FLOOR) & (back != problem.box)
            pulls = free & (front == problem.box) & (base.below(pull_word, 4) > 0)
            moved = problem._replace(player=jnp.where(free, back, problem.player),
                                     box=jnp.where(pulls, problem.player, problem.box))
            return (moved, action), None

        turns = pull_word.shape[0]
        count = 3 + base.below(move_word[turns + 1], moves - 2)
        start = base.below(move_word[turns], 4)
        beside = self.next_Cx4[problem.target, start ^ 1]
        stands = (beside >= 0) & (problem.cell_C[beside] == FLOOR)
        problem = problem._replace(player=jnp.where(stands, beside, problem.player))
        words = (jnp.arange(turns) < count, move_word[:turns], pull_word)
        return jax.lax.scan(one, (problem, start), words)[0][0]

    def content(self, problem):
        return jnp.concatenate([problem.cell_C, jnp.stack([problem.player, problem.box, problem.target, problem.size])])

    def prompt(self, problem, prompt_len):
        place_C = jnp.arange(self.C)
        symbol = {name: vocab.TOKEN[name] for name in ".%@!&<'|"}
        drawn_C = jnp.asarray([symbol["."], symbol["%"], symbol["@"]])[problem.cell_C]
        drawn_C = jnp.where(place_C == problem.target, symbol["!"], drawn_C)
        drawn_C = jnp.where(place_C == problem.box, jnp.where(problem.box == problem.target, symbol["'"], symbol["&"]), drawn_C)
        on_target = problem.player == problem.target
        drawn_C = jnp.where(place_C == problem.player, jnp.where(on_target, symbol["|"], symbol["<"]), drawn_C)
        inside_C = (place_C // self.M < problem.size) & (place_C % self.M < problem.size)
        row_MxM = jnp.where(inside_C, drawn_C, vocab.PAD).reshape(self.M, self.M)
        end_M = jnp.where(jnp.arange(self.M) < problem.size, vocab.TOKEN[";"], vocab.PAD)
        grid = jnp.concatenate([row_MxM, end_M[:, None]], axis=1).reshape(-1)
        tokens = traces.joined(vocab.BOS, vocab.ID + problem.shown_4, ":", grid, "?")
        return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")
