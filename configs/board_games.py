"""Does what is learned of a board game survive other marks, and a board that is written the other way?

Question: language models that know board games are said to play ASCII ones badly ("Show, Don't Tell", ChildPlay; an evaluation,
without training). Here the games are trained: a base knows part of connect four on 4 x 4 cells, whose best columns are known
exactly; SFT on a best column and GRPO with every best column right go on from it, and are evaluated with other marks and on the
board written column by column; and once more on battleship, whose base has seen no board of it.
Controls:  GRPO with rewards permuted within each group; the guess baselines of the families (0.44 of connect four, a random
column where it is legal; 0.10 of battleship).

Command:   python -m experiments.run --config=board_games          (5 seeds, 5 arms)
           python -m experiments.run --config=board_games:smoke    (2 seeds, tiny)
Healthy:   SFT and GRPO raise success on connect four above its guess baseline; the permuted control does not.
Differs from the paper in: a small transformer is trained, on positions instead of whole games; boards of 4 x 4 and 5 x 5 cells.
Came out:  not run yet; the smoke form runs to its end (its arms learn nothing in eight steps).
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured (smoke 5 CPU minutes)"


def _claim(name, statement, arms, split, primary=True, **fields):
    return defaults.claim(name, statement, "policy.success", arms, primary=primary, split=split, **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("rl-survives-marks", "With other marks GRPO has higher success than SFT.", ("grpo", "sft"), "ood/marks"),
    _claim("rl-survives-turning", "On the board written column by column GRPO has higher success than SFT.", ("grpo", "sft"),
           "ood/turned"),
    _claim("turning-at-equal-success", "So it does where both have the same success on the board as they know it.",
           ("grpo", "sft"), "ood/turned", at="matched_success"),
    _claim("reward-matters", "GRPO has higher success than with permuted rewards.", ("grpo", "permuted"), "id"),
    _claim("sft-learns-ships", "On battleship SFT gains more than GRPO, whose base hardly hits.", ("sft-ships", "grpo-ships"),
           "ships", primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Board games", __doc__.splitlines()[0]
    c.task = ConfigDict({"name": "connect_four", "rows": 4, "columns": 4, "depth": 0})
    c.tasks = ConfigDict({"ships": {"name": "battleship"}})
    c.pretrain.update({"success_low": 0.58, "success_high": 0.78})  # a guess has 0.44
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "sft": {"objective": "cross_entropy"},
        "grpo": {"objective": "grpo"},
        "permuted": {"like": "grpo", "permute_rewards": True},
        "sft-ships": {"like": "sft", "task": "ships"},
        "grpo-ships": {"like": "grpo", "task": "ships"},
    })
    c.arms = tuple(c.arm)
    c.gate.first_only = True  # controls are not meant to learn
    return c
