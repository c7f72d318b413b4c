"""What of an update is enough: its rank-one part, its frames at the base's spectrum, or its spectrum in the base's frames?

Question: "On Predictability of RL Dynamics" (arXiv:2510.00553) keeps the rank-one part of every matrix's update, at the whole
update's norm, and recovers nearly all of the gain; ISO (arXiv:2607.19331) keeps the base's singular values and lets the frames
turn. Here final weights are edited so, without training: rank one, with a random rank-one update of the same norm as the
control; the tuned frames on the base's spectrum (spectrum_reset); the base's frames with the tuned spectrum (spectrum_only).

Command:   python -m experiments.run --config=update_spectra          (5 seeds, 10 arms)
           python -m experiments.run --config=update_spectra:smoke    (2 seeds, tiny)
Healthy:   SFT and GRPO raise success; random rank-one updates of their norm do not.
Caution:   a small update hardly moves a spectrum whatever it does (weight.fixed_spectrum has the null), so that recovery by
           spectrum_reset is expected of it. `spectrum_only` gives the base with other singular values: its loss beside that of
           the base says what the values alone do.
Differs from the papers in: embeddings, head and gains keep their update (the first paper does not say); a small transformer.
Came out:  not run yet in its default form.
Learning rate: as in weight_interpolation, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured in its default form (smoke 76 s without the tails of spectra)"
_TUNED = {"grpo": "grpo", "sft": "cross_entropy"}
_EDITS = {"rank-one": {"low_rank": {}}, "random-rank-one": {"low_rank": {"random": True}}, "reset": {"spectrum_reset": {}},
          "values": {"spectrum_only": {}}}


def _claim(name, statement, arms, **fields):
    return defaults.claim(name, statement, "policy.success", arms, split="id", **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("rank-one-of-grpo-is-enough", "The rank-one part of GRPO's update has the success of the whole.",
           ("grpo", "grpo-rank-one"), direction="equivalent", threshold=0.0, equivalence_margin=0.02),
    _claim("rank-one-of-sft-is-not", "The rank-one part of SFT's update has less success than the whole.",
           ("sft", "sft-rank-one")),
    _claim("rank-one-is-a-direction", "The rank-one part of GRPO's update has more success than a random one of its norm.",
           ("grpo-rank-one", "grpo-random-rank-one")),
    _claim("values-are-not-enough", "GRPO's singular values in the base's frames have less success than its frames on the "
           "base's values.", ("grpo-reset", "grpo-values")),
    _claim("reset-is-enough", "GRPO's frames on the base's values have the success of the whole.", ("grpo", "grpo-reset"),
           direction="equivalent", threshold=0.0, equivalence_margin=0.02, primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "What of an update is enough", __doc__.splitlines()[0]
    c.papers = ("2510.00553", "2607.19331")
    c.train.learning_rate = 2e-4
    c.arm = ConfigDict({name: {"objective": objective} for name, objective in _TUNED.items()} | {
        f"{name}-{word}": {"start": ("base", name), "edit": edit} for name in _TUNED for word, edit in _EDITS.items()})
    c.arms = tuple(c.arm)
    c.gate = ConfigDict({"kind": "success_moved", "first_only": True})
    c.measure.probes = ("weight", "policy", "loss_tokens", "weight.rank_one", "weight.fixed_spectrum", "tails")
    return c
