"""Do the gains of post-training sit in attention: what is lost when attention or feed-forward weights are put back?

Question: "A Multi-Dimensional Constraint Framework for Evaluating and Improving Instruction Following in Large Language
Models" reports that the gains of its RL come mainly from changes of attention. Here the matrices of one kind are put back to
the base after training, and the rest keeps its update. A part is large or small, so the control puts as many entries back,
drawn from all linear matrices; and feed-forward weights are asked the same. Embeddings, head and gains keep their update.

Command:   python -m experiments.run --config=update_parts          (5 seeds, 10 arms)
           python -m experiments.run --config=update_parts:smoke    (2 seeds, tiny)
Healthy:   SFT and GRPO raise success; what is put back at random loses some of it. Success of what is left, not the update's
           norm, is the outcome: `weight.update_norm` of the same arms says how much of the update was put back.
Caution:   parts were trained together: what one loses without the other is not what it would gain alone. The arms that end
           in -attention-only and -feed-forward-only are each other's complements but for what is outside of the layers.
Differs from the paper in: addition and chains instead of instructions with constraints; the paper's table was not at hand.
Came out:  not run yet in its default form.
Learning rate: the default of rlvr_sparsity's pilot doubled, as in weight_interpolation, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured in its default form (smoke 7 min on a busy machine)"
_KINDS = {"attention": ("q", "k", "v", "o"), "feed-forward": ("gate", "up", "down")}
_TUNED = {"grpo": "grpo", "sft": "cross_entropy"}


def _loses_more(tuned, part, primary=True):
    """The first arm is the control: it keeps more of the success."""
    return defaults.claim(
        f"{tuned}-needs-its-{part}", f"Without the update of its {part} weights {tuned.upper()} keeps less success than with "
        "as many entries put back at random.", "policy.success", (f"{tuned}-random-{part}", f"{tuned}-without-{part}"),
        split="id", primary=primary)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _loses_more("grpo", "attention"), _loses_more("sft", "attention"),
    *(defaults.claim(f"{tuned}-sits-in-attention", f"Without the update of its feed-forward weights {tuned.upper()} keeps more "
                     "success than without that of attention.", "policy.success",
                     (f"{tuned}-without-feed-forward", f"{tuned}-without-attention"), split="id") for tuned in _TUNED),
    _loses_more("grpo", "feed-forward", primary=False), _loses_more("sft", "feed-forward", primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Which part of the update holds the gains", __doc__.splitlines()[0]
    c.train.learning_rate = 2e-4
    c.arm = ConfigDict({name: {"objective": objective} for name, objective in _TUNED.items()} | {
        f"{name}-{word}-{part}": {"start": ("base", name), "edit": {rule: {"kinds": kinds}}} for name in _TUNED
        for part, kinds in _KINDS.items() for word, rule in (("without", "restore"), ("random", "restore_random"))})
    c.arms = tuple(c.arm)
    c.gate = ConfigDict({"kind": "success_moved", "first_only": True})
    return c
