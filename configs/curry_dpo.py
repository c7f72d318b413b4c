"""Does DPO on ranked pairs gain from easy pairs first, or from taking the last stage as its reference?

Question: Curry-DPO (arXiv:2403.07230) ranks the answers to a prompt, trains on the pair with the largest gap first and on
closer ones later, each stage with the policy that the stage before has reached as its reference, and reports more wins than DPO
on the same pairs. Two things change at once: the order, and the reference. Here the other answer of a pair is one of three
samples of the reference, ranked by reward and then by log-probability, and a stage trains on one rank.
Controls: the stages in the reversed order; stages with new references whose pairs are of any rank; plain DPO on pairs of any
rank for as many steps, its reference the base throughout.

Command:   python -m experiments.run --config=curry_dpo          (5 seeds, 4 arms of three stages each)
           python -m experiments.run --config=curry_dpo:smoke    (2 seeds, tiny)
Healthy:   `informative` in the events, the share of pairs with a wrong sample, falls from rank 0 to rank 2; an arm that does
           not move success by 0.05 supports nothing.
Differs from the paper in: the best answer is the oracle's, ratings are right or wrong, samples are of the stage's reference and
           not of a fixed data set; a small transformer.
Came out:  (bundle dbcad68a55bd, 5 seeds) not healthy: DPO lowers success here, Curry-DPO by -0.083 [-0.123, -0.043] on fresh
           problems. Against DPO -0.025 [-0.048, -0.002], CONTRADICTED; against hard pairs first -0.023 [-0.053, +0.007],
           INCONCLUSIVE at 0.02; against stages with new references +0.006 [-0.006, +0.018], PRACTICALLY EQUIVALENT; on carries
           +0.016 [-0.026, +0.059], INCONCLUSIVE. What it says is which of four losses of success is the largest.
Learning rate: that of the tour's preference rows, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "10 min on one busy CPU core"
ANY = {"responses": 3}


def _claim(name, statement, control, primary=True, split="id"):
    return defaults.claim(name, statement, "policy.success", ("curry-3", control), primary=primary, split=split)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("curry-beats-dpo", "Curry-DPO reaches higher success than DPO on pairs of any rank.", "dpo"),
    _claim("order-matters", "Easy pairs first reach higher success than hard pairs first.", "hard-3"),
    _claim("more-than-references", "Curry-DPO reaches higher success than stages with new references on pairs of any rank.",
           "mixed-3"),
    _claim("on-carries", "On carries Curry-DPO reaches higher success than DPO on pairs of any rank.", "dpo", False,
           "ood/carry"),
)


def _stages(name: str, ranks: tuple) -> dict:
    """Three stages, each from the end of the one before and with it as its reference."""
    starts = ("base", f"{name}-1", f"{name}-2")
    return {f"{name}-{i}": {"objective": "dpo", "steps": "train.steps/3", "start": start, "reference": "start",
                            "pairs": ANY if rank is None else {**ANY, "rank": rank}}
            for i, (start, rank) in enumerate(zip(starts, ranks, strict=True), 1)}


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Ranked pairs in stages", __doc__.splitlines()[0]
    c.papers = ("2403.07230",)
    c.train.update({"learning_rate": 2e-5, "steps": 150 if argument == "default" else 9})
    c.arm = ConfigDict({
        "dpo": {"objective": "dpo", "pairs": ANY},
        **_stages("curry", (0, 1, 2)), **_stages("hard", (2, 1, 0)), **_stages("mixed", (None, None, None)),
    })
    c.arms = ("dpo", "curry-3", "hard-3", "mixed-3")
    c.gate.first_only = True  # controls are not meant to learn
    return c
