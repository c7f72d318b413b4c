"""Does paying for late refusals make answers more precise than training that has no use for a refusal, without refusing most?

Question: "Automatic Curriculum Expert Iteration" (arXiv:2410.07627) rewards a refusal by how much was tried before it, moves
the length from which it is worth something to where precision and answering are balanced best, and reports more precision at a
moderate rate of refusals. Here a base solves short expressions step by step and partly the longer ones, half of which it was
taught to refuse after any part of the steps. Arms: expert iteration with that reward and a target that climbs (`auto_cei`), the
same with the target where it began (`fixed`), with refusals worth 0 whenever they come (`flat`), and with only right answers
worth anything (`answers`); and GRPO on the reward of `auto_cei`. `right`, `refused` and `not_wrong` are three views of the same
problems: the share answered rightly, refused, and either; precision is right / (1 - refused).

Command:   python -m experiments.run --config=refusals          (5 seeds, 5 arms)
           python -m experiments.run --config=refusals:smoke    (2 seeds, tiny)
Controls:  `flat` has the reward without its term of length; `fixed` the reward without the curriculum.
Healthy:   the base refuses some of the problems and is wrong on some; some arm moves a share by 0.05.
Differs from the paper in: a small transformer and expressions modulo 11; refusals were demonstrated (*reconstructed*), not
           tuned on the policy's own errors; tokens in place of steps; one run in place of one for every target.
Came out:  not run yet.
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured"
FIRST, SPREAD = 24, 8.0  # tokens: where a refusal is worth 0 at first, and how the base's refusals are spread


def _claim(name, statement, arms, split, primary=True, **fields):
    return defaults.claim(name, statement, "policy.success", arms, primary=primary, split=split, **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("fewer-wrong", "Auto-CEI ends with fewer wrong answers than expert iteration on right answers alone.",
           ("auto_cei", "answers"), "not_wrong"),
    _claim("no-laziness", "Auto-CEI ends with more right answers than with refusals worth 0 whenever they come.",
           ("auto_cei", "flat"), "right"),
    _claim("climbing-matters", "Auto-CEI ends with more right answers than with its first target throughout.",
           ("auto_cei", "fixed"), "right", primary=False),
    _claim("refuses-more", "Auto-CEI refuses more than expert iteration on right answers alone.", ("auto_cei", "answers"),
           "refused", primary=False),
)


def _world(low: int, high: int) -> str:
    return f"arithmetic(style='cot', size={(low, high)}, ood_size=(4, 4))"


def _refusing(low: int, high: int, score: str) -> str:
    return f"refusals(member={_world(low, high)!r}, score={score!r})"


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Refusing after trying", __doc__.splitlines()[0]
    c.papers = ("2410.07627",)
    easy, hard = ((1, 2), (3, 3)) if argument == "default" else ((1, 1), (2, 3))
    c.task = ConfigDict({"name": "mixture", "weights": (2, 1, 1),
                         "members": (
        _refusing(*easy, "right"), _refusing(*hard, "right"), _refusing(*hard, "refused"))})
    both = {"name": "refusals", "member": _world(easy[0], hard[1])}
    c.tasks = ConfigDict({score: {**both, "score": score} for score in ("graded", "right", "refused", "not_wrong")})
    c.pretrain.update({"success_low": 0.5, "success_high": 0.75})  # of the mixture, where a guess has 0.34
    c.train.learning_rate = 1e-4
    late = {"length": FIRST, "spread": SPREAD}
    c.arm = ConfigDict({
        "answers": {"objective": "auto_cei", "settings": {"reward_floor": 0.0}, "task": "right"},
        "fixed": {"objective": "auto_cei", "task": "graded", "reward": {"refusal": late}},
        "flat": {"like": "fixed", "reward": {"refusal": {**late, "spread": 1e6}}},
        "auto_cei": {"like": "fixed", "curriculum": {"auto_cei": {"first": float(FIRST), "step": 2.0, "every": 1024}}},
        "grpo": {"like": "auto_cei", "objective": "grpo"},
    })
    c.arms = tuple(c.arm)
    c.gate.first_only = True  # controls are not meant to learn
    return c
