"""How much does a learner have to bring along to generalise on a task, and is it the dimension of the problems that says so?

Question: "Model-agnostic Measure of Generalization Difficulty" (arXiv:2305.01034) counts the bits that single out the
hypotheses which generalise among those which fit the training data, and finds that they grow with the exponential of the
intrinsic dimension of the inputs. Here they are counted for tasks of this package, whose prompts are points (one-hot tokens)
and whose answers are classes. No model is trained.
Controls:  the dimension of prompts whose tokens are permuted over the problems, each place by itself; margin and complexity
           of permuted answers; longer problems of the same family; the noise floor, half of the problems.

Command:   python -m experiments.run --config=task_complexity          (10 tasks, 8 draws of 2,048 problems)
           python -m experiments.run --config=task_complexity:smoke    (4 tasks; seconds)
Healthy:   a dimension lies below that of its permuted prompts: places of a prompt depend on each other.
Reads:     the measure was made for images. Distances between token sequences tie, which raises the dimension, and with as many
           classes as answers in the draw it depends on the number of problems: compare tasks at one number, not with the paper.
Differs from the paper in: one-hot tokens instead of pixels; the margin is the smallest one of the draw, without its
           extreme-value fit.
Came out:  (bundle 599b2c734b64) dimension does not order these tasks: rank correlation +0.21 [+0.16, +0.27], p = 0.3 of the
           permutations, INCONCLUSIVE. A third digit of addition takes 1.45 [1.39, 1.51] decimal orders more, SUPPORTED; a
           fourth node of chains 1.7 [1.3, 2.1] fewer, CONTRADICTED: 2,048 of its far more problems lie further apart, a margin
           of 2.1 instead of 1.4. Half of the problems change an estimate by 0.1 to 1.6: these are figures of a sample size.
Left out:  slabs and facts of the first claim, after a first run in which they had no value: 2,048 problems of slabs leave
           nothing open, and nearly all distances between the two tokens of facts tie (a dimension of 650).
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "5 min on one CPU core (smoke 20 s)"
BITS = "task.inductive_bias_complexity"

# Written before the run; their hash enters the manifest before the first draw.
CLAIMS = (
    defaults.claim("dimension-orders-tasks", "Tasks whose prompts have more dimensions take more bits.", BITS,
                   ("addition-2", "addition-3", "chains-3", "chains-4", "spatial", "teachers", "arithmetic", "rasp"),
                   kind="rank_correlation", threshold=0.5, equivalence_margin=0.1,
                   against={"metric": "task.intrinsic_dimension"}),
    defaults.claim("more-digits-take-more", "Addition of three digits takes at least a tenth more decimal orders of bits than "
                   "that of two.", BITS, ("addition-3", "addition-2"), threshold=0.1),
    defaults.claim("more-nodes-take-more", "Chains of four nodes take more bits than chains of three.", BITS,
                   ("chains-4", "chains-3"), threshold=0.1),
    defaults.claim("places-depend", "Prompts of addition have fewer dimensions than independent tokens.",
                   "task.intrinsic_dimension", ("addition-2",), kind="excess_over_null", direction="less", threshold=-0.1,
                   primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = ConfigDict()
    c.experiment = "task_complexity"
    c.tasks = ConfigDict({
        "addition-2": {"name": "addition", "digits": 2}, "addition-3": {"name": "addition", "digits": 3},
        "chains-3": {"name": "chains", "nodes": (3, 3)}, "chains-4": {"name": "chains", "nodes": (4, 4)},
        "spatial": {"name": "spatial"}, "slabs": {"name": "slabs"}, "teachers": {"name": "teachers"},
        "arithmetic": {"name": "arithmetic"}, "rasp": {"name": "rasp", "problem": "parity"}, "facts": {"name": "facts"},
    })
    c.arms = tuple(c.tasks)
    c.seeds = ConfigDict({"first": 0, "count": 8})  # a seed is a draw of problems that no other draw has; more may be added
    c.split = "train"
    c.problems = 2048  # of a draw
    c.error = 0.01  # share of wrong answers that is allowed
    c.permutations = 10  # of each null
    c.mesh = ConfigDict({"ensemble": 1})  # this experiment runs on one device
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    if argument == "smoke":
        c.arms, c.seeds.count, c.problems = ("addition-2", "addition-3", "chains-3", "chains-4"), 3, 256
    return c
