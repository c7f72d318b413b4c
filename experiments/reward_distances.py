"""How closely distances between rewards follow regret, and what disguises they see through, in random decision processes.

A seed is a process with its pairs of rewards, the same for every arm: an arm is a distance. Host side, float64.

Legend: S states, A actions, P pairs.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.harness import checks
from experiments.harness import claims as claim_rules
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened, publish
from experiments.harness.session import StopSignals
from jaxpost import probes
from jaxpost.lookup import nearest
from jaxpost.probes import rewards
from jaxpost.probes.rewards import canonical

TITLE = "Distances between rewards and regret"
QUESTION = "Which distance between two reward functions says what optimising the one costs under the other?"
PAPERS = ("2309.15257", "2006.13900", "2201.10081")
DISTANCES = {
    "starc": rewards.starc,
    "epic": lambda mdp, first, second: rewards.epic(first, second, mdp.discount),
    "dard": rewards.dard,
    "value_potential": lambda mdp, first, second: rewards.starc(mdp, first, second, form=canonical.value_potential),
    "direct": rewards.direct,
    "unscaled": lambda mdp, first, second: rewards.starc(mdp, first, second, scaled=False),
}
REGRETS = {"optimal": rewards.regret, "worst": rewards.worst_regret}
DISGUISES = ("shaping", "redistribution", "scale")
METRICS = {m.id: m for m in (
    probes.Metric("reward.regret_correlation", "Pearson correlation over pairs of rewards of the arm's distance with params "
                  "regret: of the optimal policy, or the worst between two policies of which the learned reward likes the "
                  "second no less, each a share of the range of returns", "1", "STARC, arXiv:2309.15257",
                  "permutation: distances of other pairs, mean and 95 % of the permutations", "none",
                  "exact distances and regrets, float64; noise floor: what rewards in float32 change", domain="[-1, 1]"),
    probes.Metric("reward.disguised_distance", "mean distance of a reward from itself under params disguise: shaping (a random "
                  "potential), redistribution (noise of mean 0 over next states), scale (a positive factor), or all; none of "
                  "them moves a preference", "1", "STARC, arXiv:2309.15257",
                  "random_pair: the mean distance of the seed's pairs, with the range that holds 95 % of them", "none",
                  "exact distances, float64; noise floor: the distance of a reward from its float32 copy", domain="[0, inf)"),
)}


def check(config: ConfigDict, claims: Sequence[Mapping]) -> None:
    """Refuse a config or claims that cannot run. Raises: UserError."""
    for arm in config.arms:
        if arm not in DISTANCES:
            raise UserError(f"arms: {arm!r} is not known{nearest(arm, DISTANCES)}")
    process = config.process
    for key, value, least in (("process.states", process.states, 2), ("process.actions", process.actions, 2),
                              ("pairs", config.pairs, 3), ("permutations", config.permutations, 40),
                              ("seeds.count", config.seeds.count, 1)):
        if value < least:
            raise UserError(f"{key}={value}: must be at least {least}")
    if not 0 <= process.discount < 1 or process.concentration <= 0 or config.disguise <= 0:
        raise UserError(f"process.discount={process.discount} must lie in [0, 1), process.concentration="
                        f"{process.concentration} and disguise={config.disguise} above 0")
    checks.one_device(config)
    claim_rules.fields(claims, METRICS)
    claim_rules.require_arms(claims, tuple(DISTANCES))


def random_process(rng: np.random.Generator, section: Mapping) -> rewards.FiniteMDP:
    """Dirichlet transitions from a uniformly drawn first state."""
    states, actions = section["states"], section["actions"]
    tau = rng.dirichlet(np.full(states, section["concentration"]), (states, actions))
    return rewards.FiniteMDP(tau, np.full(states, 1 / states), section["discount"])


def disguised(rng: np.random.Generator, mdp: rewards.FiniteMDP, reward: np.ndarray, size: float,
              kinds: Sequence[str] = DISGUISES) -> np.ndarray:
    """The reward with another factor, potential shaping and redistribution over next states, as `kinds` name them."""
    potential, noise = size * rng.normal(size=reward.shape[0]), size * rng.normal(size=reward.shape)
    parts = {"shaping": (mdp.discount * potential - potential[:, None])[:, None],
             "redistribution": noise - mdp.expected(noise)[..., None]}
    factor = np.exp(size * rng.normal()) if "scale" in kinds else 1.0
    return factor * reward + sum(parts[kind] for kind in kinds if kind in parts)


def pair(rng: np.random.Generator, mdp: rewards.FiniteMDP, size: float) -> tuple[np.ndarray, np.ndarray]:
    """(true, learned): learned is cos(t) true + sin(t) other, t uniform from 0 (alike) to pi (opposite), disguised."""
    true, other = rng.normal(size=(2, *mdp.transition_SxAxS.shape))
    angle = rng.uniform(0, np.pi)
    return true, disguised(rng, mdp, np.cos(angle) * true + np.sin(angle) * other, size)


def single(reward: np.ndarray) -> np.ndarray:
    """The reward as float32 holds it."""
    return reward.astype(np.float32).astype(np.float64)


def correlation_rows(rng: np.random.Generator, distance_P: np.ndarray, rounded_P: np.ndarray, regret_P: np.ndarray,
                     permutations: int) -> dict:
    """Value, permutation null and noise floor of one correlation."""
    value, rounded = (float(np.corrcoef(x, regret_P)[0, 1]) for x in (distance_P, rounded_P))
    null = [np.corrcoef(rng.permutation(distance_P), regret_P)[0, 1] for _ in range(permutations)]
    lo, hi = np.quantile(null, (0.025, 0.975))
    return {"value": value, "null_kind": "permutation", "null_value": float(np.mean(null)), "null_lo": lo, "null_hi": hi,
            "noise_floor": abs(rounded - value)}


def measure(config: Mapping, seed: int) -> dict:
    """Columns of every arm in one process."""
    rng = np.random.default_rng(seed)
    mdp = random_process(rng, config["process"])
    pairs = [pair(rng, mdp, config["disguise"]) for _ in range(config["pairs"])]
    regret_P = {name: np.asarray([regret(mdp, *one) for one in pairs]) for name, regret in REGRETS.items()}
    kinds = {"all": DISGUISES, **{kind: (kind,) for kind in DISGUISES}}
    hidden = {name: [disguised(rng, mdp, true, config["disguise"], some) for true, _ in pairs] for name, some in kinds.items()}
    rows = []
    for arm in config["arms"]:
        distance = DISTANCES[arm]
        distance_P, rounded_P, copies_P = (
            np.asarray([distance(mdp, *of(*one)) for one in pairs])
            for of in (lambda a, b: (a, b), lambda a, b: (single(a), single(b)), lambda a, b: (a, single(a))))
        for name, found_P in regret_P.items():
            rows.append({"arm": arm, "metric": "reward.regret_correlation", "params": f"regret={name}",
                         **correlation_rows(np.random.default_rng([seed, 1]), distance_P, rounded_P, found_P,
                                            config["permutations"])})
        lo, hi = np.quantile(distance_P, (0.025, 0.975))
        for name, others in hidden.items():
            away_P = [distance(mdp, true, other) for (true, _), other in zip(pairs, others, strict=True)]
            rows.append({"arm": arm, "metric": "reward.disguised_distance", "params": f"disguise={name}",
                         "value": float(np.mean(away_P)), "null_kind": "random_pair", "null_value": float(distance_P.mean()),
                         "null_lo": lo, "null_hi": hi, "noise_floor": float(copies_P.mean())})
    shared = {"role": "seed", "step": 0, "seed": seed, "granularity": "experiment"}
    return {name: [(shared | row)[name] for row in rows] for name in shared | rows[0]}


def run(config: ConfigDict, claims: Sequence[Mapping], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume (a process is a unit), add processes to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError: one clear line; nothing that was written is lost.
    """
    check(config, claims)
    claims = claim_rules.judgeable(claims, config.arms)
    claim_rules.check(claims)
    seeds = list(range(config.seeds.first, config.seeds.first + config.seeds.count))
    stated = Stated(TITLE, QUESTION, claims, config.arms, seeds, bases=0)
    with opened(config, stated, workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        for seed in seeds:
            if bundle.has_rows(shard := f"process-{seed}"):
                continue
            began = time.monotonic()
            bundle.write_rows(shard, measure(config.to_dict(), seed))
            session.boundary(f"process {seed} is finished")
            session.say(f"process {seed}: {config.pairs} pairs, {time.monotonic() - began:.1f} s")
        judge = claim_rules.judging(claims, dict.fromkeys(config.arms, 0), claim_rules.gates.unconditional())
        publish(stated, bundle, session, judge, metrics=METRICS, papers=PAPERS)
