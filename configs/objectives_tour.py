"""Does every row of the recipe table improve its metric, or at least hold it, when it is trained shortly from one base?

Question: a table of objectives is worth what its rows do when they are run. Each row is an arm, trained for the same number
of batches on the same number of fresh rows from the base of `rlvr_sparsity` (same task, same second task, same model), over
paired seeds. The verdict (improved, held, lost, undecided) follows a rule that is fixed here before the run. A row that
diverges, or that no source has data for, is listed as that. One that weighs tokens of a role that the task's answers do not
have (hicra) weighs all of them; teachers and aligned models are the base itself. It ranks nothing: learning rates are one a
family and no row is tuned.

Command:   python -m experiments.run --config=objectives_tour          (5 seeds, all rows)
           python -m experiments.run --config=objectives_tour:smoke    (2 seeds, tiny, the best known rows)
           python -m experiments.run --config=objectives_tour --config.rows="('grpo','dpo')"
           python -m experiments.run --config=objectives_tour --config.overrides="('gspo.learning_rate=3e-4',)"
Healthy:   most rows of the families rl and sft improve; none diverges. Preferences without a likelihood term may lose: they
           push the preferred answer down together with the other one (for dpo at 1e-4 on seed 3 its log-probability fell from
           -1.2 to -4.2 while the accuracy of the preference rose to 0.79; at 2e-5, chosen for that, to -1.7). At the smoke
           form's two seeds and few steps most rows stay undecided: it shows that every row runs, not what it does.
"""

from ml_collections import ConfigDict

from experiments.harness import config as configs
from experiments.harness import defaults

RUN_TIME = "30 s a row on two CPU cores (smoke 3 min)"

BEST_KNOWN = ("cross_entropy", "dft", "asft", "raft", "reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo",
              "reinforce_pp", "reinforce_pp_baseline", "raft_pp", "ppo", "luffy", "chord_mu", "dpo", "ipo", "simpo", "orpo",
              "kto", "cpl")


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    base, c = configs.module("rlvr_sparsity").get_config(argument), ConfigDict()
    c.experiment = "objectives_tour"
    c.rows = ("all",)  # of objectives.RECIPES; ("all",) is the whole table
    c.overrides = ()  # "row.part=value"; the part learning_rate replaces the family's
    c.margins = ConfigDict({
        "improved": 0.05,  # the whole interval of the change in success lies above
        "held": 0.05,  # the whole interval lies above minus this
    })
    c.seeds = ConfigDict({
        "first": 200,  # paired: every row has the same ones
        "count": 5,  # more may be added later: finished ones are reused
        "base": base.seeds.base,  # seed of the base
    })
    for section in ("model", "task", "second", "pretrain", "mesh", "checkpoint", "wandb", "tensorboard"):
        c[section] = base[section]  # the base of rlvr_sparsity
    c.train = ConfigDict({
        "steps": 100,  # batches
        "prompts": 16, "group": 8,  # rows of a batch = prompts * group, in every family
        "minibatches": 2,  # updates a batch, so that importance ratios leave 1
        "learning_rates": ConfigDict({"sft": 1e-4, "preference": 2e-5, "rl": 1e-4, "hybrid": 1e-4}),  # AdamW, a family
        "steps_per_call": 64,  # at most, between host decisions
        "optimization_level": 3,  # of the compiler's back end, for the training programs
    })
    c.measure = ConfigDict({
        "grid_points": 6,  # measured steps, log-spaced from 1 to the last
        "problems": 256,  # a split and measurement
        "reevaluations": 20,  # evaluations of the base that give the noise of one
    })
    if argument == "smoke":
        c.rows = BEST_KNOWN
        c.seeds.count = 2
        c.train.update({"steps": 20, "prompts": 8, "optimization_level": 0})
        c.train.learning_rates.update({"sft": 1e-3, "preference": 3e-4, "rl": 3e-4, "hybrid": 3e-4})
        c.measure.update({"grid_points": 3, "reevaluations": 8})
    return c
