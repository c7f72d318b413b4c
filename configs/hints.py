"""Do hints help RL where the policy never succeeds, and is it what they say that helps?

Question: GHPO (arXiv:2507.10628) draws groups that failed again with the beginning of a solution, a larger part each time,
and reports that RL then learns from problems which plain GRPO gets no gradient from. Here a base that knows part of sums of
two digits is trained on sums of three, of which it solves next to none. Controls: the same groups drawn again with as long a
part of the solution of another problem, so that the policy is forced as often and told nothing; and SFT on demonstrations of
the same problems, which sees all of every solution. EGSR (arXiv:2505.08364) draws half of a failed group again with the whole
solution before the prompt, and trains on what it says as an answer to the prompt alone; its control sees another solution.

Command:   python -m experiments.run --config=hints          (5 seeds, 6 arms)
           python -m experiments.run --config=hints:smoke    (2 seeds, tiny)
Work:      GHPO draws a failing group up to three times more, so up to four times the rollouts of GRPO in as many steps: the
           primary claim compares it with its control, which draws as often.
Healthy:   the base's success on the task "hard" is near 0; `hinted_groups` in the events is near 1 at first and falls where
           an arm learns; an arm that does not move success by 0.05 supports nothing.
Differs from the paper in: the hint begins the answer instead of ending the prompt; no cold start; a small transformer; answers
           without reasoning, so that a hint is a part of the answer itself.
Came out:  (bundle ff0442224274, 5 seeds) nothing may be concluded: in 150 steps no arm moved success on "hard" by 0.05 (GHPO
           +0.002 [-0.002, +0.007], EGSR 0.000, SFT on whole solutions +0.013 [+0.008, +0.017]), so that every claim is
           INCONCLUSIVE. The problems are too hard for this base at this length, for SFT too.
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "20 min on one CPU core (smoke a few minutes on two)"


def _claim(name, statement, arms, primary=True):
    return defaults.claim(name, statement, "policy.success", arms, primary=primary, split="hard")


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("it-is-what-they-say", "Hints of the problem reach higher success than hints of another problem.",
           ("ghpo", "ghpo-another")),
    _claim("hints-beat-none", "With hints, and the further rollouts that they take, RL reaches higher success than without.",
           ("ghpo", "grpo"), primary=False),
    _claim("demonstrations-beat-hints", "SFT on whole solutions reaches higher success than RL with hints.", ("sft", "ghpo"),
           primary=False),
    _claim("own-words-need-the-solution", "EGSR reaches higher success than with solutions of other problems.",
           ("egsr", "egsr-another"), primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Hints where nothing succeeds", __doc__.splitlines()[0]
    c.papers = ("2505.08364", "2507.10628")
    c.tasks = ConfigDict({"hard": {"name": "addition", "digits": 3}})
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "grpo": {"objective": "grpo", "task": "hard"},
        "ghpo": {"objective": "ghpo", "task": "hard"},
        "ghpo-another": {"like": "ghpo", "second_pass": {"another": True}},
        "egsr": {"objective": "egsr", "task": "hard", "second_pass": {"rows": 4}},
        "egsr-another": {"like": "egsr", "second_pass": {"rows": 4, "another": True}},
        "sft": {"objective": "cross_entropy", "task": "hard"},
    })
    c.arms = tuple(c.arm)
    c.gate.first_only = True  # controls are not meant to learn
    return c
