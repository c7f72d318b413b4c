"""Does the order and the choice of training problems matter, at an equal number of rollouts, on a finite pool?

Question: bandits over difficulty (SEC arXiv:2505.14970, DUMP arXiv:2504.09710, TSCL arXiv:1707.00183), replay (PLR
arXiv:2010.03934), sampling by posterior success (CurES arXiv:2510.01037), easy to hard (arXiv:2012.03107), budgets (Knapsack RL
arXiv:2509.25849), subsets (PODS arXiv:2504.13818) and filters (arXiv:2504.03380) are all said to beat uniform draws. Here they
draw from one pool of chains of three to five nodes, with one base, one learning rate, and the same number of sampled rollouts.
Controls: a random order whose pool grows as that of easy to hard does; the anti-curriculum; and uniform draws in groups of half
the size, which train on as many rollouts as PODS and the budgets keep.

Command:   python -m experiments.run --config=curriculum_race          (5 seeds, 13 arms)
           python -m experiments.run --config=curriculum_race:smoke    (2 seeds, 3 arms, tiny)
Healthy:   uniform draws raise success on fresh problems; `trained_rows` in the events says what filters and budgets leave out.
Differs from the papers in: a small transformer and one task; a pool of 256 problems with four difficulties.
Came out:  not run yet; the smoke form runs to its end (its arms learn nothing in eight steps).
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured (smoke 3 min on two CPU cores)"


def _claim(name, statement, arms, primary=True, **fields):
    return defaults.claim(name, statement, "policy.success", arms, primary=primary, split="id", **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("sec-is-faster", "SEC has a larger area under the curve of success than uniform.", ("sec", "uniform"), at="area"),
    _claim("knapsack-beats-half", "Allocated rollouts beat as many in equal groups.", ("knapsack", "halved")),
    _claim("order-matters", "Easy to hard beats a random order whose pool grows alike.", ("easy-to-hard", "random-order")),
    _claim("anti-curriculum-loses", "Easy to hard beats hard to easy.", ("easy-to-hard", "hard-to-easy")),
    _claim("dump-is-faster", "DUMP has a larger area than uniform draws.", ("dump", "uniform"), primary=False, at="area"),
    _claim("pods-beats-half", "The subset of largest variance beats a random half.", ("pods", "halved"), primary=False),
    _claim("cures-beats-uniform", "CurES beats uniform draws.", ("cures", "uniform"), primary=False),
    _claim("replay-beats-uniform", "Prioritised replay beats uniform draws.", ("plr", "uniform"), primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c, small = defaults.sized(argument), argument == "smoke"
    c.title, c.question = "Curricula, raced on one pool", __doc__.splitlines()[0]
    c.papers = ("2505.14970", "2504.09710", "1707.00183", "2010.03934", "2510.01037", "2012.03107", "2509.25849", "2504.13818",
                "2504.03380")
    c.task = ConfigDict({"name": "chains", "nodes": (3, 5), "ood_nodes": (6, 6)})
    c.second.update({"nodes": (2, 2), "ood_nodes": (3, 3)})
    c.pretrain.update({"success_low": 0.65, "success_high": 0.85})  # an answer is one of two labels: a guess has 0.5
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "uniform": {"objective": "grpo", "pool": 64 if small else 256},
        "halved": {"like": "uniform", "group": 4},
        "sec": {"like": "uniform", "curriculum": "sec"},
        "dump": {"like": "uniform", "curriculum": "dump"},
        "tscl": {"like": "uniform", "curriculum": "tscl_online"},
        "plr": {"like": "uniform", "curriculum": "plr"},
        "cures": {"like": "uniform", "curriculum": "cures"},
        "easy-to-hard": {"like": "uniform", "curriculum": "easy_to_hard"},
        "hard-to-easy": {"like": "uniform", "curriculum": "hard_to_easy"},
        "random-order": {"like": "uniform", "curriculum": "random_order"},
        "knapsack": {"like": "uniform", "curriculum": {"knapsack": {"average": 4}}},
        "pods": {"like": "uniform", "curriculum": {"pods": {"keep": 4}}},
        "filtered": {"like": "uniform", "curriculum": "difficulty_filter"},
    })
    c.arms = tuple(c.arm)
    if small:
        c.arms = ("uniform", "sec", "knapsack")
    return c
