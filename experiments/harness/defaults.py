"""What a study's config starts from; a config of one's own changes what differs: `c = defaults.study()`."""

from ml_collections import ConfigDict

# Fields of an arm that it takes from the section train when its own table does not have them.
TRAIN_FIELDS = ("steps", "prompts", "group", "microbatches", "minibatches", "epochs", "objective", "learning_rate", "schedule",
                "warmup_steps", "final_share", "temperature", "top_k", "top_p")

# The arms that RLVR and SFT are compared with: equal learning rates, and the controls. See experiments/harness/stages.py.
RLVR_AND_SFT = {
    "rlvr": {"objective": "train.objective", "family": "rl"},
    "sft": {"objective": "cross_entropy"},
    "rlvr-lr{}": {"like": "rlvr", "over": {"learning_rate": "train.learning_rates"}},
    "sft-lr{}": {"like": "sft", "over": {"learning_rate": "train.learning_rates"}},
    "raft": {"like": "rlvr-lr1", "objective": "raft"},
    "permuted": {"like": "rlvr-lr1", "permute_rewards": True},
    "rlvr-bf16": {"like": "rlvr-lr1", "storage_dtype": "bfloat16"},
    "sft-bf16": {"like": "sft-lr1", "storage_dtype": "bfloat16"},
    "rlvr-sgd": {"like": "rlvr", "optimizer": "sgd", "learning_rate": "train.sgd_learning_rate"},
    "sft-sgd": {"like": "sft", "optimizer": "sgd", "learning_rate": "train.sgd_learning_rate"},
}


RLVR_PAPERS = ("2511.08567", "2505.11711", "2509.04259")  # arXiv numbers, of comparisons of RLVR and SFT


def require(argument: str, *valid: str) -> None:
    """Refuse an argument of a config (`name:argument`) that it does not know. Raises: ValueError."""
    if argument not in valid:
        raise ValueError(f"argument {argument!r} is not known (valid: {', '.join(valid)})")


def claim(name: str, statement: str, metric: str, arms: tuple, *, kind: str = "difference", at: str = "final",
          direction: str = "greater", threshold: float = 0.02, equivalence_margin: float | None = None, primary: bool = True,
          **fields) -> dict:
    """A claim that a statistic is greater than its threshold, which is its equivalence margin as well.

    Args:
      fields: what picks and reads the statistic, as `experiments.harness.claims` lists them: split, dtype, k, matched_on, ...
    """
    margin = abs(threshold) if equivalence_margin is None else equivalence_margin
    return {"id": name, "primary": primary, "kind": kind, "statement": statement, "metric": metric, "arms": arms, "at": at,
            "direction": direction, "threshold": threshold, "equivalence_margin": margin, **fields}


SOLVED = "policy.pass_at_k"  # with k = 1: the share of problems that one sample at temperature 1 solves


def solved(name: str, statement: str, arms: tuple, *, threshold: float = 0.1, **fields) -> dict:
    """A claim on the share of problems that are solved, of a study as `small_decoders` begins it; `fields` as in `claim`."""
    return claim(name, statement, SOLVED, arms, k=1, threshold=threshold, **fields)


def memory(remat: str = "none", logprob_chunk: int = 0) -> ConfigDict:
    """The section memory: what passes over the model hold."""
    return ConfigDict({
        "remat": remat,  # computed again for the gradient: none, layer (all of it) or dots (all but products with weights)
        "logprob_chunk": logprob_chunk,  # entries of a larger vocabulary that training reads at once; 0: all
        "report": False,  # compile every program before step 0 and print what it takes on each device
    })


def study() -> ConfigDict:
    """A study on one small transformer: a base that is partly competent at a new task and holds a second one."""
    c = ConfigDict()
    c.experiment = "study"
    c.title, c.question = "A study", ""  # of the report
    c.papers = ()  # arXiv numbers, cited by the bundle
    c.pilot = ""  # directory of an earlier run: what the planned seeds resolve, by its spread, is printed before the run
    c.seeds = ConfigDict({
        "first": 100,  # test seeds are first, first + 1, ...
        "count": 5,  # more may be added later: finished ones are reused
        "bases": 1,  # independently pretrained bases; 1 makes every row conditional on it
        "base": 7,  # seed of the first base
    })
    c.model = ConfigDict({
        "width": 128, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32, "ff": 256,
    })
    c.task = ConfigDict({"name": "addition", "digits": 2})  # the new task, of which the base is partly competent
    c.second = ConfigDict({"name": "chains", "nodes": (2, 3), "ood_nodes": (4, 4)})  # the old task: forgetting
    c.tasks = ConfigDict()  # name -> further tasks {name, options}, each a split of its name in the measurements
    c.pretrain = ConfigDict({
        "rows": 128,  # a step
        "learning_rate": 1e-3,  # AdamW
        "second_steps": 1500,  # of the second task alone, before the mixture
        "max_steps": 3000,  # of the mixture, before giving up
        "check_every": 5,  # steps between checks: competence comes suddenly
        "problems": 512,  # a check
        "success_low": 0.3, "success_high": 0.6,  # of the new task, at temperature 1: partly competent, and no guess
        "second_min": 0.9,  # success on the second task
    })
    c.train = ConfigDict({  # of every arm that does not say otherwise
        "steps": 150,
        "prompts": 16, "group": 8,  # RL rows = prompts * group; SFT takes as many demonstrations
        "objective": "grpo",
        "microbatches": 1,  # exact accumulation
        "steps_per_call": 64,  # at most, between host decisions
    })
    c.arm = ConfigDict()  # name -> table of an arm
    c.arms = ()  # the arms that run, in this order
    c.gate = ConfigDict({"kind": "success_moved"})  # of experiments/harness/claims/gates.py: an arm that supports nothing
    c.trend = ConfigDict()  # curves of finished arms against an outcome: experiments/harness/trends.py
    c.probe = ConfigDict()  # id -> settings of a probe that differ from its defaults
    c.measure = ConfigDict({
        "grid_points": 6,  # measured steps, log-spaced from 1 to the last
        "ks": (16, 8), "alphas": (0.5,),  # first is primary
        "problems": 256,  # a split and measurement; as many demonstrations are the probe batch
        "probes": ("weight", "policy", "loss_tokens"),  # ids, or the presets economy, standard and full
        "budget": 0.0,  # share of the training time that they may take; 0: what a preset allows, and no limit for ids
        "completions": 4,  # prompts whose answers are kept at every measurement, for readers; 0: none
    })
    c.mesh = ConfigDict({"ensemble": 1})  # devices that share the seeds
    c.memory = memory()
    c.checkpoint = ConfigDict({"every_seconds": 20.0})
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})  # mode: disabled, offline or online
    c.tensorboard = False  # event files in the bundle's telemetry/tensorboard
    return c


def from_scratch() -> ConfigDict:
    """A study whose arms start from scratch: no base, no second task, and so nothing that compares with them."""
    c = study()
    del c.pretrain, c.second, c.seeds["base"], c.seeds["bases"]
    c.train.objective = "cross_entropy"
    c.gate = ConfigDict({"kind": "unconditional"})
    c.measure = ConfigDict({
        "grid_points": 16,  # log-spaced steps from 1 to the last,
        "even_points": 0,  # evenly spaced ones, and 0
        "problems": 256,  # of the probe batch, and of a split where answers are sampled
        "completions": 0,  # prompts whose answers are kept at every measurement, for readers
        "probes": ("fit",),  # ids
    })
    return c


def small_decoders() -> ConfigDict:
    """A study from scratch of small decoders, measured by the share of problems that they solve (`solved`)."""
    c = from_scratch()
    c.seeds.count = 3
    c.model = ConfigDict({"width": 64, "layers": 3, "heads": 4, "kv_heads": 4, "head_dim": 16, "ff": 128})
    c.train.learning_rate = 1e-3
    c.measure.update({"grid_points": 8, "problems": 512, "completions": 4, "probes": ("samples", "loss_tokens")})
    c.probe = ConfigDict({"samples": {"samples": 1, "ks": (1,), "metrics": (SOLVED, "policy.ead")}})
    return c


def smaller_decoders(c: ConfigDict) -> None:
    """Make the study that `small_decoders` began its smoke form: two seeds, one narrow layer, forty steps."""
    c.seeds.count = 2
    c.model.update({"width": 32, "layers": 1, "heads": 2, "kv_heads": 2, "ff": 64})
    c.train.update({"steps": 40, "prompts": 4})
    c.measure.update({"grid_points": 3, "problems": 64})


def sized(argument: str) -> ConfigDict:
    """`study()` of a config that has two arguments, or its smoke form. Raises: ValueError: another argument."""
    require(argument, "default", "smoke")
    return smaller(study()) if argument == "smoke" else study()


def smaller(c: ConfigDict) -> ConfigDict:
    """The same study in its smoke form: two seeds, a narrow model, eight steps an arm; it shows that everything runs."""
    c.seeds.count = 2
    c.model.update({"width": 64, "heads": 2, "kv_heads": 1, "ff": 128})
    c.second.update({"nodes": (2, 2), "ood_nodes": (3, 3)})
    c.pretrain.update({"learning_rate": 3e-3, "second_steps": 400, "problems": 256})
    c.train.update({"steps": 8, "prompts": 4, "group": 8})
    c.measure.update({"grid_points": 3, "problems": 64, "ks": (8,), "alphas": (0.5,)})
    return c
