"""Distillation: the reference policy is a teacher, and the loss a divergence between the two over the vocabulary.

Shapes: N rows, T completion tokens, V vocabulary.
"""

import dataclasses

import jax

from jaxpost.objectives import aggregation, kl
from jaxpost.objectives.base import Batch, Objective, View, masked, mean_over
from jaxpost.objectives.policy_gradient import PolicyGradient

DIVERGENCE_FORMULAS = {  # divergence -> of a token's state, p the policy and q the teacher
    "forward": "KL(q || p)",
    "reverse": "KL(p || q)",
    "jensen_shannon": "w KL(q || m) + (1 - w) KL(p || m), m = w q + (1 - w) p, w = teacher_weight",
}
DIVERGENCES = tuple(DIVERGENCE_FORMULAS)


@dataclasses.dataclass(frozen=True)
class Distillation(Objective):
    """loss = aggregate( divergence of the policy p and the teacher q at every counted token ), q the reference policy.

      forward         KL(q || p), covers what the teacher does
      reverse         KL(p || q), does only what the teacher does
      jensen_shannon  w KL(q || m) + (1 - w) KL(p || m), m = w q + (1 - w) p   (GKD, arXiv:2306.13649; TRL's beta is w)

    On rows that are given this is distillation as usual; on groups, whose rows the policy samples, it is on-policy
    distillation: the states are the policy's own, and no gradient goes through the sampling. With `demonstrated`, some rows of
    a group are the oracle's answers: GKD's share lambda of sampled rows is S / G. Rewards are not read.

    Differs from the paper in: GKD draws for each batch whether it is on policy; here every batch holds both, lambda in
    expectation.
    """

    divergence: str = "reverse"  # DIVERGENCES
    teacher_weight: float | None = None  # w of "jensen_shannon"
    demonstrated: bool = False  # batches of groups hold demonstrations too

    def __post_init__(self):
        super().__post_init__()
        self.choose(batch=("rows", "groups"), divergence=DIVERGENCES)
        mixed = self.divergence == "jensen_shannon"
        self.require(mixed == (self.teacher_weight is not None) and (not mixed or 0 < self.teacher_weight < 1),
                     f"teacher_weight={self.teacher_weight} with divergence={self.divergence!r}: 'jensen_shannon' needs one "
                     "between 0 and 1, e.g. 0.5 (its ends are 'forward' and 'reverse'), the others take None")
        if self.batch == "rows":
            self.unread("with rows, which are demonstrations all", "demonstrated")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return frozenset({"logits", "reference_logits"} | ({"demonstrations"} if self.demonstrated else set()))

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        return [f"loss = {aggregation.FORMULAS[self.aggregation]} [ {DIVERGENCE_FORMULAS[self.divergence]} ]",
                "p the policy, q the reference policy, at the state of each token",
                *(["sampled and demonstrated rows of a group alike"] if self.demonstrated else [])]

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """As `Objective.prepare`: rows share nothing, so only a check.

        Raises:
          ValueError: rows that `group` does not divide, or a field that `needs` names is missing.
        """
        del kl_coef, state
        return self.check(batch, group)

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; aux: `reverse_kl`, the mean of l - f's expectation KL(p || q), nats."""
        del state, kl_coef
        view, batch = masked(view, batch)
        teacher = jax.lax.stop_gradient(view.reference_NxTxV)
        reverse_NxT = kl.full_vocabulary(view.logits_NxTxV, teacher)
        if self.divergence == "reverse":
            x_NxT = reverse_NxT
        elif self.divergence == "forward":
            x_NxT = kl.full_vocabulary(teacher, view.logits_NxTxV)
        else:
            x_NxT = kl.jensen_shannon(view.logits_NxTxV, teacher, self.teacher_weight)
        return *self.aggregate(x_NxT, batch), {"reverse_kl": mean_over(reverse_NxT, batch.mask_NxT)}


ROWS = (
    Distillation("distillation", "sft", "arXiv:1503.02531", "rows", divergence="forward"),
    Distillation("gkd", "hybrid", "arXiv:2306.13649", "groups", divergence="jensen_shannon", teacher_weight=0.5,
                 demonstrated=True),
    Distillation("on_policy_distillation", "rl", "arXiv:2306.13649 (reverse KL, samples alone)", "groups"),
    PolicyGradient("on_policy_distillation_sampled", "rl", "K. Lu et al., On-Policy Distillation, Thinking Machines Lab, 2025",
                   "groups", baseline="ignored", credit_unit="token", gamma=0.0, kl_place="reward", kl_estimator="k1",
                   kl_coef=1.0, ratio="token"),
)
