"""Does training on simpler versions of hard problems help RL, beyond leaving uninformative groups out?

Question: CLPO (arXiv:2509.25004) rewrites problems that the policy mostly fails (simpler) or half solves (varied), trains on
the rewritten ones beside the originals, and holds hard ones less to the reference; it reports that this beats GRPO. Here the
world rewrites: a hard chain is made again of three nodes, a half-solved one has its edges in another order.
Controls: CLPO's filter and its smaller KL term without rewriting; rewriting that varies problems and makes none simpler; and
twice the rollouts of GRPO, since a step that rewrites draws every group twice.

Command:   python -m experiments.run --config=rewriting          (5 seeds, 5 arms)
           python -m experiments.run --config=rewriting:smoke    (2 seeds, tiny)
Healthy:   `rewritten_groups` in the events falls where an arm learns, `rewritten_reward` lies above `reward` of the filter's
           arm, `kept_rewritten` stays below 1.
Differs from the paper in: operators of the world instead of the policy's own words, so that a rewritten problem may have
           another answer; as many groups are trained on as without rewriting; no loss on the rewriting; a small transformer.
Came out:  not run in its default form; the smoke form runs to its end (its arms learn nothing in eight steps).
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured (smoke a few minutes on two CPU cores)"
SHUFFLED = 2  # the knob `order` of chains


def _claim(name, statement, arms, primary=True, split="id"):
    return defaults.claim(name, statement, "policy.success", arms, primary=primary, split=split, at="area")


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("rewriting-helps", "CLPO has a larger area under the curve of success than its filter alone.", ("clpo", "filter")),
    _claim("simpler-is-what-helps", "CLPO has a larger area than rewriting that only varies problems.", ("clpo", "varied")),
    _claim("beats-more-rollouts", "CLPO has a larger area than GRPO with twice the rollouts.", ("clpo", "grpo-twice")),
    _claim("order-carries-over", "Out of order, CLPO has a larger area than its filter alone.", ("clpo", "filter"), False,
           "ood/shuffled"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Rewritten problems", __doc__.splitlines()[0]
    c.papers = ("2509.25004",)
    c.task = ConfigDict({"name": "chains", "nodes": (3, 4), "ood_nodes": (5, 5), "style": "cot"})
    c.second.update({"nodes": (2, 2), "ood_nodes": (3, 3)})  # answered without reasoning
    c.pretrain.update({"success_low": 0.65, "success_high": 0.85})  # a guess has 0.5
    c.train.learning_rate, c.train.twice = 1e-4, 2 * c.train.group
    varied = {"diversify": {"order": SHUFFLED}}
    c.arm = ConfigDict({
        "grpo": {"objective": "grpo", "settings": {"kl_place": "loss", "kl_coef": 0.01}},
        "grpo-twice": {"like": "grpo", "group": "train.twice"},
        "filter": {"like": "grpo", "curriculum": "clpo"},
        "clpo": {"like": "grpo", "second_pass": {"rewrite": {"simplify": {"high": 3}, **varied}}},
        "varied": {"like": "grpo", "second_pass": {"rewrite": varied}},
    })
    c.arms = tuple(c.arm)
    c.gate.first_only = True  # controls are not meant to learn
    return c
