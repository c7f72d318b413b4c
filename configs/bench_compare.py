"""How fast are two checkpoints compared, and in how much memory?

Question: does `python -m jaxpost.compare` run at the speed of the disk and in a bounded memory? A synthetic pair with the
shapes of Qwen2.5-1.5B in bf16 (3.1 GB each) is written, read into the page cache and compared by the command in a process of
its own; the copy bandwidth of all cores is measured between the turns. Against targets that were set before:

    report       element-wise report, from the command line to report.html                          < 30 s
    bandwidth    bytes of both files over the time of the pass, over bytes copied in memory         >= 0.6
    spectra      report with leading subspaces of every matrix, embedding included                  < 15 minutes
    memory       largest resident set of those processes                                            < 2.5 GiB
    torch        CPU seconds of loading, subtracting and torch.linalg.svd, over ours, some layers   >= 8 (needs PyTorch)

Command:   python -m experiments.run --config=bench_compare          (about 13 minutes; writes 6.2 GB into its directory)
           python -m experiments.run --config=bench_compare:smoke    (small; a minute, its ratios mean nothing)
Healthy:   report, spectra and memory met: 14 s, 6.3 min with the embedding, 1.95 GiB (idle machine, two turns, `pip install
           numba xxhash`). Not met: bandwidth, 0.85 GB/s where copying moves 21 (the compiled loop alone counts 2.2 GB/s a
           core and is 19 % of the pass; the rest is ties, copies, small matrices and nulls); torch, 1.6 times in CPU seconds
           against float32 SVDs, which are 4 to 8 digits less accurate, and 2.7 times against float64 ones.
           docs/decisions.md says why.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "13 min on two CPU cores (smoke 1 min)"


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = ConfigDict()
    c.experiment = "bench_compare"
    c.model = ConfigDict({"layers": 28, "width": 1536, "ff": 8960, "kv": 256, "vocab": 151936})
    c.turns = 3  # of report and copy
    c.memory_gib = 2.0  # what the command is given
    c.torch_layers = 2  # compared by the plain torch script too; 0: none
    c.mesh = ConfigDict({"ensemble": 1})  # this experiment runs on one device
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    if argument == "smoke":
        c.model.update({"layers": 2, "width": 64, "ff": 96, "kv": 32, "vocab": 128})
        c.turns = 1
    return c
