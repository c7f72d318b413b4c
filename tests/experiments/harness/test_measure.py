"""Probes of an experiment: needs met once, trajectories kept and judged, prices before and after, a user's own probe."""

import dataclasses
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from experiments import run
from experiments.harness import measure as measuring
from experiments.harness import probing
from experiments.harness.base_model import Base
from experiments.harness.errors import UserError
from jaxpost import models, probes, records, tasks, training
from jaxpost.probes import catalog, price, schedules
from jaxpost.records.verify import verify
from tests.experiments.conftest import TINY

MODEL = models.TransformerConfig(vocab=24, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
TINY_PROBE = Path(__file__).resolve().parents[2] / "probes" / "tiny_probe.py"
SEEDS = [3, 4]


@dataclasses.dataclass(frozen=True)
class Seen:
    """Reports its needs, its key and the step's tokens."""

    id: str = "seen"
    needs: frozenset = frozenset({probes.WEIGHTS, probes.PARAMS, probes.PARAMS0})
    schedule: schedules.Schedule = schedules.Every(1)
    lane: str = "sidecar"
    stream: str | None = None
    metrics: tuple[str, ...] = ()

    def init(self, ctx, key):
        return {"norm0": sum(jnp.vdot(x, x) for x in jax.tree.leaves(ctx[probes.PARAMS0]))}

    def measure(self, ctx, state, key):
        squares = [sum(jnp.vdot(x, x) for x in jax.tree.leaves(ctx[need])) for need in (probes.WEIGHTS, probes.PARAMS)]
        return state, {"weights": squares[0], "params": squares[1], "norm0": state["norm0"], "bits": jax.random.bits(key)}

    def arrays(self, values):
        return {"params": np.asarray(values["params"])}

    def finalize(self, values, state, *, infos, arm, step, seeds, conditional_on, row_ids):
        n = len(seeds)
        return {"metric": ["seen"] * n, "arm": [arm] * n, "role": ["seed"] * n, "step": [step] * n, "seed": list(seeds),
                "granularity": ["global"] * n, "value": np.asarray(values["params"], np.float64).tolist()}

    def across(self, series, *, infos, arm, seeds, conditional_on, row_ids):
        found = np.stack([series[step]["params"] for step in sorted(series)])
        return {"metric": ["seen.steps"] * len(seeds), "arm": [arm] * len(seeds), "role": ["seed"] * len(seeds),
                "step": [max(series)] * len(seeds), "seed": list(seeds), "granularity": ["global"] * len(seeds),
                "value": found.sum(axis=0).tolist()}


class Shelf:
    """Stands for a bundle: keeps what is written."""

    def __init__(self):
        self.arrays, self.rows, self.costs = {}, {}, []

    def write_arrays(self, name, arrays):
        self.arrays[name] = arrays

    def write_rows(self, name, columns):
        self.rows[name] = columns

    def read_rows(self, exclude=()):
        kept = [records.measurement_table(columns) for name, columns in self.rows.items() if name not in exclude]
        return kept[0] if kept else records.measurement_table({"metric": [], "role": [], "granularity": []})

    def cost(self, phase, **given):
        self.costs.append((phase, given))


@pytest.fixture
def base():
    params = models.init(MODEL, jax.random.key(0))
    return Base(params, "digest", 1, 0.5, 1.0)


@pytest.fixture
def policies(base):
    return jax.tree.map(lambda x: jnp.stack([x, 2 * x]).astype(jnp.bfloat16), base.params)


def norm2(tree):
    return sum(float(np.sum(np.asarray(x, np.float64) ** 2)) for x in jax.tree.leaves(tree))


def test_needs_are_met_in_float32_and_each_is_made_once(base, policies, tmp_path, monkeypatch):
    measure = measuring.Measurement(base, MODEL, (Seen(), Seen(id="again")), directory=tmp_path)
    made = []
    monkeypatch.setattr(measure, "matrices", lambda params: made.append(1) or measuring._matrix_program(MODEL)(params))
    columns = measure(dataclasses.make_dataclass("Arm", ["name", "probes"])("arm", ()), 1, SEEDS, policies, {})
    assert made == [1] and len(columns["metric"]) == 4
    values = measure.values(Seen(), 1, SEEDS, policies)
    single = jax.tree.map(lambda x: x[1].astype(jnp.float32), policies)
    np.testing.assert_allclose(values["params"][1], norm2(single), rtol=1e-5)
    np.testing.assert_allclose(values["weights"][1], norm2(models.matrices(single, MODEL)), rtol=1e-5)
    np.testing.assert_allclose(values["norm0"], norm2(base.params), rtol=1e-5)


def test_a_key_depends_on_seed_probe_and_step_or_on_the_seed_alone(base, policies, tmp_path):
    measure = measuring.Measurement(base, MODEL, (Seen(), Seen(id="fixed", stream="evaluate")), directory=tmp_path)
    free, fixed = measure.probes
    drawn = {(step, s): int(measure.values(free, step, SEEDS, policies)["bits"][s]) for step in (1, 2) for s in (0, 1)}
    assert len(set(drawn.values())) == 4
    same = [measure.values(fixed, step, SEEDS, policies)["bits"].tolist() for step in (1, 2)]
    assert same[0] == same[1] and same[0][0] != same[0][1]
    wanted = jax.random.bits(training.stream(SEEDS[0], "evaluate", 0))
    assert same[0][0] == int(wanted)


def test_trajectories_wait_until_the_arm_is_finished_and_gather_all_seeds(base, policies, tmp_path):
    shelf = Shelf()
    measure = measuring.Measurement(base, MODEL, (Seen(schedule=schedules.At((1, 4))),), directory=tmp_path, bundle=shelf)
    arm = dataclasses.make_dataclass("Arm", ["name", "probes"])("arm", ())
    for step, scale in ((1, 1.0), (4, 3.0)):
        moved = jax.tree.map(lambda x, c=scale: c * x, policies)
        for seeds in ([5, 6], [1, 2]):  # blocks in any order
            measure(arm, step, seeds, moved if seeds[0] == 1 else jax.tree.map(jnp.zeros_like, moved), {})
    assert not shelf.arrays
    measure.finish("arm", [1, 2, 5, 6])
    kept = shelf.arrays["seen-arm"]
    assert set(kept) == {"1/params", "4/params"} and kept["4/params"].shape == (4,)
    assert kept["1/params"][0] > 0 and kept["1/params"][2] == 0  # in seed order
    found = dict(zip(shelf.rows["across-arm"]["seed"], shelf.rows["across-arm"]["value"], strict=True))
    np.testing.assert_allclose(found[1], float(kept["1/params"][0]) + float(kept["4/params"][0]))
    assert {phase for phase, _ in shelf.costs} == {"probe.seen"}
    times = [sum(name in given for _, given in shelf.costs) for name in ("wall_s", "compile_s")]
    assert times == [4, 1]


def test_inline_values_are_the_history(base, tmp_path):
    measure = measuring.Measurement(base, MODEL, (catalog.get("loss_tokens", schedule=schedules.At((2,))),), directory=tmp_path)
    arm = dataclasses.make_dataclass("Arm", ["name", "probes"])("arm", ())
    columns = measure(arm, 2, SEEDS, {}, {"loss_tokens": np.asarray([[1.0, 2.0], [3.0, 5.0]])})
    assert columns["value"] == [1.5, 4.0] and set(columns["metric"]) == {"policy.loss_tokens"}


def suite():
    task = tasks.get("chains", nodes=(2, 2), ood_nodes=(3, 3))
    return training.Suite(dataclasses.replace(MODEL, vocab=tasks.vocab.SIZE), (("id", task, "id"),), 4, "id")


def test_a_panel_is_read_in_full_at_the_last_step_only():
    found = probing.build_on_suite(("weight", "policy"), suite(), (1, 3, 9), {"weight": {"ks": (8, 4)}})
    panels = {step: [p.panel.ks for p in found if p.id == "weight" and p.schedule(step)] for step in (1, 2, 3, 9)}
    assert panels == {1: [(8,)], 2: [], 3: [(8,)], 9: [(8, 4)]}
    assert probing.measured_steps(found, 9) == (1, 3, 9)


def test_what_cannot_run_is_refused_before_it_does():
    for names, settings, expected in (
            (("weight",), {"weight": {"ks": (16,)}}, "k=16 is above every matrix of the model; the largest possible is 15"),
            (("weight.rank_one",), {}, "probe 'weight.rank_one': k=16 is above every matrix"),
            (("weihgt",), {}, "did you mean 'weight'"),
            (("weight",), {"weight": {"ks": (1,)}}, "every k >= 2")):
        with pytest.raises(UserError, match=expected.replace("(", r"\(")):
            probing.build_on_suite(names, suite(), (1, 9), settings)


def test_a_probe_batch_of_another_tokenizer_is_refused():
    batch = {"prompt": jnp.asarray([[0, 23], [24, 1]]), "mask": jnp.ones((2, 2))}
    with pytest.raises(UserError, match=r"another tokenizer: \['prompt'\] has token 24, and the model's vocabulary has 24"):
        probing.require_batch((), batch, MODEL)
    probing.require_batch((), jax.tree.map(lambda x: jnp.minimum(x, 23), batch), MODEL)


def test_a_probe_batch_that_settings_do_not_fit_is_refused():
    about = suite()
    batch = probing.demonstration_batch(about.splits[0][1], 12)
    for name, settings, expected in (("gradient", {"microbatch": 8}, "microbatch=8 does not divide the 12 examples"),
                                     ("gradient_gram", {}, "examples=16 is more than the 12 of the probe batch")):
        with pytest.raises(UserError, match=f"does not fit probe '{name}': {expected}"):
            probing.require_batch(probing.build_on_suite((name,), about, (1, 9), {name: settings}), batch, about.model)
    fitting = {"gradient": {"microbatch": 4}, "fisher": {"microbatch": 4, "groups": 4}}
    probing.require_batch(probing.build_on_suite(tuple(fitting), about, (1, 9), fitting), batch, about.model)


def test_budgets_hold_presets_to_their_own_and_everything_to_the_configs(monkeypatch):
    lines = [price.Priced("weight", "sidecar", (), probes.Cost(), 1.0, 3, 0.2),
             price.Priced("policy", "sidecar", (), probes.Cost(), 1.0, 3, 0.5)]
    monkeypatch.setattr(price, "priced", lambda *given: lines)
    said = dataclasses.make_dataclass("Said", ["console"])(dataclasses.make_dataclass("Quiet", [])())
    said.console.print = lambda *given: None

    def predict(names, limit):
        probing.predict(said, (), {}, 3, names, limit, 1.0)

    predict(("weight", "policy"), 0.0)  # ids have no budget
    predict(("full", "policy"), 0.0)
    with pytest.raises(UserError, match=
                       r"would take 20.0% .* budget is 10.0%; the most expensive is 'weight'.*preset 'economy'"):
        predict(("standard", "policy"), 0.0)
    with pytest.raises(UserError, match=r"would take 70.0% .* the most expensive is 'policy'.*measure.budget"):
        predict(("weight", "policy"), 0.6)
    predict(("standard", "policy"), 0.8)


OWN = """
import importlib.util
from jaxpost.probes import catalog, schedules
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    import sys
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
tiny = load("tiny_of_own", {tiny!r})
mine = load("probe_of_own", {probe!r})
mine.register()
catalog.register("mine", mine.MeanAbs, tells="mean change of an entry", schedule=schedules.Every(2))
CLAIMS = tiny.CLAIMS[:1]
def get_config(argument="default"):
    c = tiny.get_config()
    c.measure.probes = ("economy", "policy", "mine")
    c.measure.budget = 1e9
    return c
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A user's file that registers a probe."""
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(OWN.format(tiny=str(TINY), probe=str(TINY_PROBE)))
    before = dict(catalog.CATALOG)
    yield path
    catalog.CATALOG.clear()
    catalog.CATALOG.update(before)


@pytest.fixture(scope="module")
def own(mine):
    """A finished run of the user's file: (its directory, the file, what was printed)."""
    directory = mine.parent
    with pytest.MonkeyPatch.context() as patch, open(directory / "out.txt", "w") as out:
        patch.setattr(sys, "stdout", out)
        code = run.main([f"--config={mine}", f"--workdir={directory}/run"])
    assert code == 0
    return directory / "run", mine, (directory / "out.txt").read_text()


def rows(path, **wanted):
    return records.select(records.read_measurements(path), **wanted).to_pylist()


@pytest.mark.slow
def test_a_users_probe_has_rows_metrics_arrays_and_costs_in_the_bundle(own):
    path, _, printed = own
    assert not verify(path)[1]
    steps = {metric: {row["step"] for row in rows(path, metric=metric, role="seed", params=None)}
             for metric in ("mine.mean_abs", "weight.sparsity.bf16")}
    assert steps == {"mine.mean_abs": {2, 4}, "weight.sparsity.bf16": {1, 4}}  # its own schedule, and the config's grid
    metrics = {row["metric"]: row for row in records.read_metrics(path).to_pylist()}
    assert metrics["mine.mean_abs"]["definition"] == "mean of |dW|"
    costs = pq.read_table(path / "costs.parquet")
    mine = costs.filter(pc.equal(costs["phase"], "probe.mine")).to_pylist()
    assert {(cost["arm"], cost["step"]) for cost in mine} == {(arm, step) for arm in ("rlvr-lr1", "sft-lr1") for step in (2, 4)}
    assert all(cost["value"] >= 0 for cost in mine)
    assert "predicted cost of measuring" in printed and "measured cost of measuring" in printed
    assert not {row["metric"] for row in rows(path)} & {"weight.spectral_shift", "weight.rotation.max_angle"}  # economy


@pytest.mark.slow
def test_a_trajectory_statistic_is_what_its_rows_say(own):
    path, _, _ = own
    for arm in ("rlvr-lr1", "sft-lr1"):
        kept = load_file(path / "arrays" / f"mine-{arm}.safetensors")
        for i, seed in enumerate((100, 101)):
            found = {step: rows(path, metric="mine.mean_abs", arm=arm, seed=seed, step=step, granularity="tensor")
                     for step in (2, 4)}
            at = {step: {row["tensor"]: row["value"] for row in some} for step, some in found.items()}
            np.testing.assert_allclose([at[4][name] for name in sorted(at[4])], kept["4/mean_abs"][i], rtol=1e-6)
            (climb,) = rows(path, metric="mine.climb", arm=arm, seed=seed, role="seed")
            assert climb["value"] == pytest.approx(max(at[4][name] - at[2][name] for name in at[2]), rel=1e-5)


@pytest.mark.slow
def test_added_seeds_extend_a_users_trajectories(own, tmp_path, capsys):
    path, file, _ = own
    copy = shutil.copytree(path, tmp_path / "run")
    assert run.main([f"--config={file}", f"--workdir={copy}", "--config.seeds.count=3"]) == 0, capsys.readouterr().err
    assert not verify(copy)[1]
    old, new = (rows(p, metric="mine.climb", role="seed") for p in (path, copy))
    kept = {row["row_id"]: row for row in new}
    assert len(new) == 6 and all(kept[row["row_id"]] == row for row in old)
    assert load_file(copy / "arrays" / "mine-sft-lr1.safetensors")["2/mean_abs"].shape[0] == 3


def test_over_budget_is_one_line_before_anything_is_trained(mine, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("experiments.study._one_base", lambda *given: pytest.fail("trained"))
    monkeypatch.setattr("experiments.harness.probing.step_seconds", lambda *given: 0.01)
    code = run.main([f"--config={mine}", f"--workdir={tmp_path}/run", "--config.measure.budget=1e-9"])
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and "the most expensive is" in err and "raise the budget" in err
