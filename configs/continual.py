"""Over three tasks in a row, does GRPO maintain more of the earlier ones than SFT, and does it need its KL penalty for that?

Question: "Reinforcement Fine-Tuning Naturally Mitigates Forgetting in Continual Post-Training" (arXiv:2507.05386) trains on a
sequence of tasks: SFT loses earlier ones, RL keeps them, with and without a KL penalty. Here addition, chains of four edges and
chains of five are learned one after the other, each method from the end of its own last stage. The sequence is read by
performance maintenance (PM) and by backward and forward transfer (BT, FT; arXiv:2301.07799) of the success rates at the ends of
the stages. Success on the base's own chains is in the rows as well.
Controls: rewards permuted within each group in all stages; SFT with a tenth of the learning rate, which moves less.

Command:   python -m experiments.run --config=continual          (5 seeds, 15 stages)
           python -m experiments.run --config=continual:smoke    (2 seeds, tiny)
Healthy:   each stage of SFT and GRPO raises success on its own task; the permuted control raises none, so its PM is about 0.
Reads:     who learns less has less to forget: PM beside success after each stage. The quadratic fits of forgetting on
           KL to the base (forgetting.r2) say how much of it goes with the distance alone, over arms. Chains are answered yes or
           no: a guess scores 0.5, so that contrasts of them are small, and a stage that starts there has little to lose.
Differs from the papers in: three synthetic tasks of two families instead of seven of vision and language; no chain of thought;
           without the paper's filter of rollouts. The comparison at equal KL to the base is of the first stage alone.
Came out:  not run in its default form; the smoke form runs to its end (its arms learn nothing in eight steps).
Learning rate: the default of rlvr_sparsity's pilot, not tuned here; SFT runs at a tenth of it too.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured (smoke 15 min on two busy CPU cores, 4 min of CPU time)"
METHODS = {
    "sft": {"objective": "cross_entropy"},
    "grpo": {"objective": "grpo"},
    "grpo-kl": {"objective": "grpo", "settings": {"kl_place": "loss", "kl_coef": 0.05}, "reference": "start"},
    "sft-slow": {"objective": "cross_entropy", "learning_rate": "train.slow"},
    "permuted": {"objective": "grpo", "permute_rewards": True},
}


def _claim(name, statement, metric, arms, **fields):
    return defaults.claim(name, statement, metric, tuple(f"{arm}-3" for arm in arms), **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("grpo-maintains-more", "Over three tasks GRPO maintains more of what it learned than SFT.", "lifelong.pm",
           ("grpo", "sft")),
    _claim("grpo-transfers-back", "A stage of GRPO takes less of earlier tasks, in contrast, than a stage of SFT.",
           "lifelong.bt", ("grpo", "sft")),
    _claim("kl-is-not-needed", "With a KL penalty GRPO maintains as much as without.", "lifelong.pm", ("grpo-kl", "grpo"),
           direction="equivalent", threshold=0.0, equivalence_margin=0.02),
    _claim("slow-sft-maintains-less", "GRPO maintains more than SFT with a tenth of the learning rate.", "lifelong.pm",
           ("grpo", "sft-slow")),
    _claim("grpo-transfers-forward", "A stage of GRPO makes later tasks easier than a stage of SFT does.", "lifelong.ft",
           ("grpo", "sft"), primary=False),
    defaults.claim("grpo-keeps-more-at-equal-kl", "After the first task, at the same KL to the base, GRPO keeps more of the "
                   "second task than SFT.", "policy.success", ("grpo-1", "sft-1"), split="second", at="matched_kl",
                   primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c, short = defaults.sized(argument), 3 if argument == "smoke" else 4
    c.title, c.question = "Three tasks in a row: maintenance and transfer", __doc__.splitlines()[0]
    c.papers = ("2507.05386", "2301.07799")
    c.tasks = ConfigDict({name: {"name": "chains", "nodes": (short + i, short + i), "ood_nodes": (short + 2, short + 2)}
                          for i, name in enumerate(("later", "last"))})
    c.train.learning_rate, c.train.slow = 1e-4, 1e-5
    c.arm = ConfigDict({f"{method}-{i + 1}": {**table, "task": task, **({"start": f"{method}-{i}"} if i else {})}
                        for method, table in METHODS.items() for i, task in enumerate(("task", "later", "last"))})
    c.arms = tuple(f"{method}-3" for method in METHODS)
    c.measure.grid_points = 3
    return c
