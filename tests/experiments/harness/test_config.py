"""What a user can get wrong in a config: one line that names the fix, before any compute. Files of the user's own."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import run
from experiments.harness import config as configs
from experiments.study import Setup
from jaxpost import objectives, tasks
from tests.experiments.conftest import TINY


@pytest.fixture(autouse=True)
def nothing_is_computed(monkeypatch):
    def compute(*given):
        raise AssertionError("a mistake must be found before anything is trained")

    monkeypatch.setattr("experiments.study._one_base", compute)


@pytest.mark.parametrize(("override", "expected"), [
    ("--config.train.stepz=3", "config key 'train.stepz' is not known; did you mean 'train.steps'?"),
    ("--config.train.steps=many", "'train.steps' is 'many': expected a whole number, as in 4"),
    ("--config.train.steps=1.5", "expected a whole number; nearest valid: 2, as in 4"),
    ("--config.train.learning_rates=(1e-4,'x',1e-3)", "'train.learning_rates[1]' is 'x': expected a finite number"),
    ("--config.train.learning_rates=1e-4", "is 0.0001: expected a list, as in (3e-05,"),
    ("--config.train.learning_rates=(1e400,1.0,1.0)", "learning_rates[0]' is inf: expected a finite number"),
    ("--config.train.learning_rates=(-1e-4,1e-4,1e-3)", "a learning rate must be greater than 0"),
    ("--config.train.learning_rates=()", "needs at least one entry"),
    ("--config.train.steps=0", "train.steps=0: must be at least 1"),
    ("--config.train.group=1", "train.group=1: must be at least 2"),
    ("--config.train.microbatches=3", "train.microbatches=3 does not divide the train.prompts * train.group = 16 rows of a "
     "step; nearest valid: 2"),
    ("--config.train.objective=grp", "train.objective='grp' is not known; did you mean 'grpo'?"),
    ("--config.train.steps_per_call=0", "at least 1"),
    ("--config.arms=('rlvr-lr1','sft-lr7')", "arm 'sft-lr7' is not known; did you mean 'sft-lr"),
    ("--config.arms=('rlvr-lr1','rlvr-lr1')", "none twice"),
    ("--config.task.name=chain", "task 'chain' is not known; did you mean 'chains'?"),
    ("--config.task.nodes=(5,2)", "nodes"),
    ("--config.task.nodess=(2,2)", "option 'nodess' is not known; did you mean 'nodes'?"),
    ("--config.model.widht=3", "config key 'model.widht' is not known; did you mean 'width'?"),
    ("--config.arm.raft.lerning_rate=3", "field 'lerning_rate' is not known; did you mean 'learning_rate'?"),
    ("--config.arm.rafft.learning_rate=3", "config key 'arm.rafft.learning_rate' is not known"),
    ("--config.model.layers=99999", "model.layers=99999: must be between 1 and 1024"),
    ("--config.model.kv_heads=0", "model.kv_heads=0: must be at least 1"),
    ("--config.model.heads=3", "error: "),
    ("--config.model.head_dim=15", "head_dim=15 is odd"),
    ("--config.seeds.count=0", "seeds.count=0: must be at least 1"),
    ("--config.seeds.first=-1", "seeds.first=-1: must be at least 0"),
    ("--config.seeds.first=2147483647", "the last seed must be at most"),
    ("--config.measure.grid_points=1", "at least 2"),
    ("--config.measure.ks=(1,)", "every k >= 2"),
    ("--config.measure.alphas=(1.5,)", "must lie in (0, 1)"),
    ("--config.measure.ks=(32,)", "k=32 is above every matrix of the model; the largest possible is 31"),
    ("--config.measure.probes=('wieght','policy')", "probe or preset 'wieght' is not known; did you mean 'weight'?"),
    ("--config.measure.probes=('weight','inline')", "'inline' cannot be chosen: it is part of every train step"),
    ("--config.measure.probes=('weight',)", "measure.probes lacks 'policy', which this experiment's comparisons are made of"),
    ("--config.measure.probes=()", "needs at least one entry"),
    ("--config.measure.budget=-0.1", "measure.budget=-0.1: must be at least 0"),
    ("--config.pretrain.success_low=1.5", "between 0.0 and 1.0"),
    ("--config.pretrain.success_low=0.74", "a guess at chains has 0.5, and a check of 64 problems shows 0.75 by chance; "
                                           "expected at least 0.75, or 0, which takes any base"),
    ("--config.mesh.ensemble=16", "mesh.ensemble=16 needs 16 devices, found 8; set it to at most 8"),
    ("--config.mesh.ensemble=0", "at least 1"),
    ("--config.wandb.mode=of", "wandb.mode='of' is not known; did you mean 'offline'?"),
    ("--confg.train.steps=3", "argument '--confg.train.steps=3' is not known"),
])
def test_a_mistake_is_one_line_with_the_fix(refused, tmp_path, override, expected):
    more = ["--config.model.kv_heads=2"] if "heads=3" in override else []
    assert expected in refused(override, *more)
    assert not (tmp_path / "run").exists()


def test_seeds_must_divide_over_the_ensemble_axis(refused):
    line = refused("--config.mesh.ensemble=2", "--config.seeds.count=3")
    assert "its 3 seeds 100 to 102 are not divisible by mesh.ensemble=2; change seeds.count by 1" in line


def test_an_unknown_config_names_the_nearest(capsys):
    assert run.main(["--config=rlvr_sparsty"]) == 2
    assert "config 'rlvr_sparsty' is not known; did you mean 'rlvr_sparsity'?" in capsys.readouterr().err
    assert run.main(["--config=rlvr_sparsity:smok"]) == 2
    assert "argument 'smok' is not known (valid: default, smoke, full)" in capsys.readouterr().err
    assert run.main([]) == 2
    assert "--config is missing" in capsys.readouterr().err


def test_list_names_every_config_with_question_and_run_time(capsys):
    assert run.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for name in configs.names():
        assert name in shown
    assert "Do RL and SFT move weights differently" in shown and shown.count("run time: ") == len(configs.names())
    assert "not stated" not in shown


def sections(config, prefix=""):
    """(dotted key, object) of every section."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield f"{prefix}{key}", value
            yield from sections(value, f"{prefix}{key}.")


@pytest.mark.parametrize("name", configs.names())
def test_no_two_places_of_a_config_hold_one_object(name):
    loaded, owner = configs.load(name, {}), {}
    for key, section in sections(loaded):
        assert owner.setdefault(id(section), key) == key
    assert loaded.to_dict() == configs.module(name).get_config("default").to_dict()


def test_a_command_may_add_to_the_tables_of_a_study():
    loaded = configs.load("rlvr_sparsity", {"task.reverse": "True", "model.experts": "4", "arm.raft.prompts": "8"})
    assert (loaded.task.reverse, loaded.model.experts, loaded.arm.raft.prompts) == (True, 4, 8)


def test_an_override_of_one_arm_leaves_the_others():
    before = configs.leaves(configs.load("curry_dpo", {}))
    after = configs.leaves(configs.load("curry_dpo", {"arm.dpo.pairs.responses": "5"}))
    assert [key for key in before if before[key] != after[key]] == ["arm.dpo.pairs.responses"]


def own_config(path, body, imports=""):
    path.write_text(f"""
import importlib.util
import jax.numpy as jnp
from jaxpost import objectives, tasks
{imports}
spec = importlib.util.spec_from_file_location("tiny_for_{path.stem}", {str(TINY)!r})
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
def get_config(argument="default"):
    c = tiny.get_config()
{body}
    return c
""")
    return path


@pytest.mark.parametrize(("body", "expected"), [
    ("    c.train.stepz = 1", "key 'train.stepz' is not known; did you mean 'train.steps'?"),
    ("    del c.train.steps", "key 'train.steps' is missing"),
    ("    del c.model", "key 'model."),
    ("    with c.ignore_type(): c.train.steps = 'x'", "'train.steps' is 'x': expected a whole number"),
    ("    c.experiment = 'rlvr_sparsty'", "experiment='rlvr_sparsty' is not known; did you mean 'rlvr_sparsity'?"),
    ("    c.model.widht = 3", "config key 'model.widht' is not known; did you mean 'width'?"),
    ("    c.model.vocab = 20", "model.vocab=20: task 'chains' uses tokens 0..50, but the model's vocabulary has 20"),
    ("    c.mesh.data = 3", "has 16 rows, not divisible by mesh data*fsdp=3; nearest valid: 15 or 18"),
    ("    c.mesh.date = 3", "config key 'mesh.date' is not known; did you mean 'data'?"),
    ("    1 / 0", "division by zero (mine.py line "),
    ("    return 5", "get_config returned int, expected an ml_collections.ConfigDict"),
])
def test_a_mistake_in_a_file_of_ones_own_is_one_line(capsys, tmp_path, body, expected):
    path = own_config(tmp_path / "mine.py", body)
    assert run.main([f"--config={path}", f"--workdir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.startswith("error: ") and err.count("\n") == 1, err


def test_a_file_that_does_not_load_is_one_line(capsys, tmp_path):
    for name, text, expected in (("a.py", "import nowhere", "ModuleNotFoundError: No module named 'nowhere' (a.py line 1)"),
                                 ("b.py", "def f(:", "SyntaxError"), ("c.py", "x = 1", "has no get_config(argument) function")):
        (tmp_path / name).write_text(text)
        assert run.main([f"--config={tmp_path / name}"]) == 2
        err = capsys.readouterr().err
        assert expected in err and err.count("\n") == 1, err
    assert run.main([f"--config={tmp_path}/none.py"]) == 2
    assert "is not known: there is no such file" in capsys.readouterr().err


def test_a_file_of_ones_own_registers_a_task_and_an_objective(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "FAMILIES", dict(tasks.FAMILIES))
    path = own_config(tmp_path / "mine.py", """
    c.task = type(c)({"name": "short_chains", "longest": 3})
    c.train.objective = "mine"
""", imports="""
import dataclasses
from jaxpost.tasks import chains
def short_chains(longest=2):
    return dataclasses.replace(chains.make(nodes=(2, longest), ood_nodes=(longest + 1, longest + 1)), name="short_chains")
tasks.register("short_chains", short_chains)
objectives.register(dataclasses.replace(objectives.get("grpo", clip_high=0.3), name="mine"))
""")
    try:
        setup = Setup(configs.load(str(path), {"task.longest": "2"}), ())
        assert setup.task.name == "short_chains" and setup.config.task.longest == 2
        assert setup.arms[0].spec.objective.clip_high == 0.3
        shown = tasks.examples(setup.task, "train", np.arange(3))
        assert shown.answer_NxT.shape[0] == 3
    finally:
        objectives.recipes.RECIPES.pop("mine", None)


def test_claims_are_checked_before_the_run(tmp_path, capsys):
    for claim, expected in (("{'id': 'a'}", "claim 'a' lacks 'primary'"),
                            ("{**tiny.CLAIMS[0], 'metric': 'weight.sparsty.bf16'}", "did you mean 'weight.sparsity.bf16'?"),
                            ("{**tiny.CLAIMS[0], 'metric': 'weight.l1_mean'}", "no probe of measure.probes gives; add 'dis")):
        path = own_config(tmp_path / f"claims{len(claim)}.py", "    pass")
        path.write_text(path.read_text() + f"\nCLAIMS = ({claim},)\n")
        assert run.main([f"--config={path}", f"--workdir={tmp_path}/run"]) == 2
        assert expected in capsys.readouterr().err


def test_a_metric_that_a_measured_probe_leaves_out_is_not_asked_for_again(tmp_path, capsys):
    path = own_config(tmp_path / "no_ranks.py", '    c.probe.weight = {"spectra": "none"}')
    path.write_text(path.read_text() + "\nCLAIMS = ({**tiny.CLAIMS[0], 'metric': 'weight.rank.stable', 'dtype': 'fp32'},)\n")
    assert run.main([f"--config={path}", f"--workdir={tmp_path}/run"]) == 2
    assert "gives; 'weight' leaves it out with the settings that it has here" in capsys.readouterr().err


def test_the_pilot_sweep_loads_and_keeps_off_the_test_seeds():
    shipped = configs.load("rlvr_sparsity", {})
    test_seeds = set(range(shipped.seeds.first, shipped.seeds.first + shipped.seeds.count))
    for overrides in configs.module("rlvr_sparsity").sweep():
        pilot = configs.load("rlvr_sparsity", overrides)
        assert not test_seeds & set(range(pilot.seeds.first, pilot.seeds.first + pilot.seeds.count))
        assert len(pilot.train.learning_rates) == 3


def test_a_command_names_further_files_of_problems():
    assert configs.load("post_train_hf", {"ood.hard": "hard.jsonl"}).ood.to_dict() == {"hard": "hard.jsonl"}
    with pytest.raises(run.UserError, match="config key 'tune.hard' is not known"):
        configs.load("post_train_hf", {"tune.hard": "x"})
