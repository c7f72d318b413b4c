"""Does credit for single turns teach a policy in a closed loop faster than one advantage for the whole episode?

Question: in an episode of several turns GRPO gives every token one advantage. Credit may be given to turns instead: each action
answers for the rewards that come after it and is compared with the actions of the same turn in the group's other episodes
(`turn_grpo`); IterResearch (arXiv:2511.07327) discounts the final reward by the turns that are left, so that early success is
worth more (`eapo`). Here a base that has learned single moves on a frozen lake walks it in a closed loop of at most five turns,
in one context: it moves, sees the lake as it then is, and moves again; the reward is 1 in the turn that reaches the target.
Controls: rewards that fall to a random turn of their episode, which keeps every episode's sum and takes away its place; rewards
permuted within each group, which hold no signal.

Command:   python -m experiments.run --config=credit_of_turns          (5 seeds, 5 arms)
           python -m experiments.run --config=credit_of_turns:smoke    (2 seeds, tiny)
Healthy:   the base reaches the target in some episodes (`policy.success` on `episodes` above its guess baseline), and
           `reward` in the events rises; an arm that does not move success by 0.05 supports nothing.
Differs from the paper in: a small transformer and one world; every turn sees all turns before it, where IterResearch sees a
           summary; no reasoning before an action; eapo's discount is recalled.
Came out:  not run in its default form; the smoke form runs to its end (its arms learn nothing in eight steps).
Learning rate: the default of rlvr_sparsity's pilot, the same for all arms, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured (smoke a few minutes on two CPU cores)"
TURNS = 5


def _claim(name, statement, arms, primary=True, **fields):
    fields = {"split": "episodes", "at": "area", **fields}
    return defaults.claim(name, statement, "policy.success", arms, primary=primary, **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("turns-are-faster", "Credit of turns has a larger area under the curve of success than one advantage an episode.",
           ("turns", "episode")),
    _claim("place-matters", "Credit of turns has a larger area than with rewards at random turns.",
           ("turns", "turns-shuffled")),
    _claim("rewards-matter", "One advantage an episode has a larger area than with permuted rewards.", ("episode", "permuted")),
    _claim("discount-helps", "EAPO has a larger area than one advantage an episode.", ("eapo", "episode"), False),
    _claim("single-moves", "After credit of turns more single moves are best than after one advantage an episode.",
           ("turns", "episode"), False, split="id", at="final"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Credit of turns in a closed loop", __doc__.splitlines()[0]
    c.papers = ("2511.07327",)
    lake = {"name": "grid", "world": "lake", "answer": "next", "size": 3, "moves": 4}
    c.task = ConfigDict(lake)  # single moves
    c.tasks = ConfigDict({"episodes": {**lake, "turns": TURNS}})
    c.pretrain.update({"success_low": 0.6, "success_high": 0.95, "second_min": 0.8})  # of single moves; a guess has 0.32
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "episode": {"objective": "grpo", "task": "episodes", "settings": {"aggregation": "token"}},
        "permuted": {"like": "episode", "permute_rewards": True},
        "turns": {"objective": "turn_grpo", "task": "episodes"},
        "turns-shuffled": {"like": "turns", "settings": {"shuffled": True}},
        "eapo": {"objective": "eapo", "task": "episodes"},
    })
    c.arms = tuple(c.arm)
    c.gate.first_only = True  # controls are not meant to learn
    return c
