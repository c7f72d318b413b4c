"""Do the null bands of a comparison hold 95 % of the updates that are blind to the weights?

Question: a null model says where a statistic would lie if the update knew nothing of the weights. If its band is too narrow or
out of place, a blind update looks like a finding. Here truly blind updates of four laws are added to four kinds of bases,
stored in the three ways that checkpoints are, and compared; how often each row's own band holds its value is counted.

Command:   python -m experiments.run --config=null_coverage           (200 updates a cell; about 40 minutes on two CPU cores)
           python -m experiments.run --config=null_coverage:smoke     (10 updates a cell, two bases; about a minute)
Healthy:   92 to 98 % where the law is known (float32 masters); 95 % or more over the laws where it is not (both sides bf16);
           "no calibrated null" where none can be had. docs/null_coverage.md holds the table of the default run.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "40 min on two CPU cores (smoke 1 min)"


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = ConfigDict()
    c.experiment = "null_coverage"
    c.seed = 0
    c.stored = ("masters", "float32", "bf16")
    c.bases = ("gaussian", "heavy_tailed", "row_scales", "power_law_spectrum")
    c.laws = ("gaussian", "laplace", "t3", "permuted")
    c.replicates = 200  # blind updates a cell
    c.shape = (128, 64)
    c.update = 0.003  # root mean square of the update over that of the base
    c.level = "exact"  # of the comparison
    c.mesh = ConfigDict({"ensemble": 1})  # this experiment runs on one device
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    if argument == "smoke":
        c.replicates, c.shape, c.bases = 10, (48, 32), ("gaussian", "row_scales")
    return c
