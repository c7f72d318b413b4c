"""Do earlier rollouts, trained on again, make RL faster at an equal number of rollouts?

Question: ReMix (arXiv:2507.06892) mixes rollouts of earlier policies into each step and reports the same accuracy from a
fraction of the rollouts; SPEAR (arXiv:2509.22601) imitates its own successes from a buffer while entropy is regulated. Both
are compared with GRPO that samples as many rollouts and trains on them once. Controls: the same buffers with rewards permuted
within each replayed group, which train on as many rows as old; and GRPO with two passes over each batch, which takes as many
rows through the gradient without any buffer, in twice the optimizer steps.

Command:   python -m experiments.run --config=replay          (5 seeds, 6 arms)
           python -m experiments.run --config=replay:smoke    (2 seeds, tiny)
Healthy:   `replayed_rows` in the events rises to near 1 within four steps; `replay_age` stays at most four batches; the
           shuffled controls do not beat their originals.
Differs from the papers in: a small transformer and one task; the buffer holds four steps of rollouts; ReMix without its switch
           to on-policy training at the end; SPEAR without tool rewards.
Came out:  (bundle 1a637ee0cff7, 5 seeds) every claim PRACTICALLY EQUIVALENT at 0.02: areas beyond GRPO's ReMix +0.0004
           [-0.015, +0.016], SPEAR -0.0001 [-0.017, +0.017]; beyond permuted rewards in the buffer +0.010 [+0.002, +0.018] and
           +0.003 [-0.002, +0.008]. A second pass over fresh rollouts does more than either: ReMix is 0.0145 [0.0090, 0.0199]
           below it.
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "16 min on one CPU core (smoke 4 min on two)"


def _claim(name, statement, arms, primary=True):
    return defaults.claim(name, statement, "policy.success", arms, primary=primary, split="id", at="area")


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("remix-is-faster", "ReMix has a larger area under the curve of success than GRPO at equal rollouts.",
           ("remix", "grpo")),
    _claim("spear-is-faster", "SPEAR has a larger area than GRPO at equal rollouts.", ("spear", "grpo")),
    _claim("remix-reward-matters", "ReMix has a larger area than with permuted rewards in its buffer.",
           ("remix", "remix-shuffled")),
    _claim("spear-reward-matters", "SPEAR has a larger area than with permuted rewards in its buffer.",
           ("spear", "spear-shuffled")),
    _claim("remix-beats-two-passes", "ReMix has a larger area than two passes over fresh rollouts.", ("remix", "two-passes"),
           primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Replay at equal rollouts", __doc__.splitlines()[0]
    c.papers = ("2507.06892", "2509.22601")
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "grpo": {"objective": "grpo"},
        "two-passes": {"like": "grpo", "epochs": 2},
        "remix": {"objective": "remix"},
        "remix-shuffled": {"like": "remix", "replay": {"shuffled": True}},
        "spear": {"objective": "spear"},
        "spear-shuffled": {"like": "spear", "replay": {"shuffled": True}},
    })
    c.arms = tuple(c.arm)
    return c
