"""Supervised fine-tuning: a weighted negative log-likelihood of demonstrations, if wanted anchored to a reference.

Shapes: N rows, T completion tokens, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxpost.objectives import aggregation, kl, token_weights
from jaxpost.objectives.base import Batch, Objective, View, masked, mean_over

ANCHORS = ("none", "forward", "reverse")
DATA_WEIGHTS = ("none", "select", "scale")


@dataclasses.dataclass(frozen=True)
class RowObjective(Objective):
    """An objective on independent demonstrations: nothing couples the rows, so that `prepare` has only to check them."""

    def __post_init__(self):
        super().__post_init__()
        self.choose(batch=("rows",))

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """As `Objective.prepare`.

        Raises:
          ValueError: a field that `needs` names is missing.
        """
        del group, kl_coef, state
        return self.check(batch)


@dataclasses.dataclass(frozen=True)
class Supervised(RowObjective):
    """Token weight x negative log-likelihood + anchor, each chosen on its own.

      loss = aggregate( data_weight token_weight (-l) + anchor_coef KL )

    l = log pi of the demonstrated token; with label_smoothing eps, (1 - eps) l + eps mean_v log pi(v) takes its place
    (arXiv:1512.00567; Hugging Face's label_smoothing_factor). The token weight has no gradient. With
    token_weight="probability" this is DFT (arXiv:2508.05629), whose gradient is -p grad l; with a forward anchor as well it
    is ASFT (arXiv:2509.23753).

      data_weight  none    1
                   select  tokens with `Batch.token_weight_NxT` > 0 are the mask, its size does not matter: what is left
                           out does not count, and a row with nothing left is an empty row
                   scale   `Batch.token_weight_NxT` multiplies -l, not the anchor; every token of the mask counts as 1
                   Sources fill it from the tokens' roles by `role_weights`; without these a batch brings its own.
      anchor       none    0
                   forward KL(ref || pi) over the whole vocabulary, at every counted token
                   reverse KL(pi || ref)

    Differs from the papers in: DFT's and ASFT's official code divide by the tokens of one device's microbatch; here, as in
    TRL, by those of the whole update.
    """

    label_smoothing: float = 0.0  # eps: share of the target that is spread over the whole vocabulary
    token_weight: str = "none"  # token_weights.KINDS: from the token's own probability
    data_weight: str = "none"  # DATA_WEIGHTS: from the data
    role_weights: tuple | Mapping = ()  # ((role, weight), ...) that make the data's weights; a role not named has weight 0
    anchor: str = "none"  # ANCHORS
    anchor_coef: float = 0.0  # default weight of the anchor; a step may pass its own as kl_coef

    def __post_init__(self):
        super().__post_init__()
        self.choose(token_weight=token_weights.KINDS, data_weight=DATA_WEIGHTS, anchor=ANCHORS)
        object.__setattr__(self, "role_weights", token_weights.pairs(self.role_weights))
        self.require(0 <= self.label_smoothing < 1, f"label_smoothing={self.label_smoothing} must lie in [0, 1), e.g. 0.1")
        self.require(self.anchor_coef >= 0, f"anchor_coef={self.anchor_coef} is negative, e.g. 0.05")
        if self.data_weight == "none":
            self.unread("with data_weight='none'", "role_weights")
        if self.anchor == "none":
            self.unread("with anchor='none'", "anchor_coef")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        anchored = {"logits", "reference_logits"} if self.anchor != "none" else set()
        smoothed = {"logits"} if self.label_smoothing else set()
        return frozenset(anchored | smoothed | ({"token_weight"} if self.data_weight != "none" else set()))

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        w = token_weights.FORMULAS[self.token_weight]
        likely = "l" if not self.label_smoothing else "((1 - label_smoothing) l + label_smoothing mean_v log pi(v))"
        x = f"-{'Batch.token_weight_NxT ' if self.data_weight == 'scale' else ''}{'' if w == '1' else w + ' '}{likely}"
        anchor = {"none": "", "forward": " + anchor_coef KL(ref || pi)", "reverse": " + anchor_coef KL(pi || ref)"}[self.anchor]
        return [f"loss = {aggregation.FORMULAS[self.aggregation]} [ {x}{anchor} ]", *([] if w == "1" else ["p = exp(l)"]),
                *(["only tokens with Batch.token_weight_NxT > 0 count"] if self.data_weight == "select" else [])]

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """With data_weight="select", replace the mask by the selected tokens; as `RowObjective.prepare`."""
        batch = super().prepare(batch, group, kl_coef, state)
        if self.data_weight == "select":
            return batch._replace(mask_NxT=jnp.where(batch.token_weight_NxT > 0, batch.mask_NxT, 0.0))
        return batch

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; a `kl_coef` that is given takes the place of `anchor_coef`.

        aux: `nll`, the plain mean of -l, where it is not the loss itself; `anchor`, the mean KL, where there is one.
        """
        del state
        view, batch = masked(view, batch)
        nll_NxT, aux = -view.logp_NxT, {}
        x_NxT = nll_NxT
        if self.label_smoothing:
            x_NxT = (1 - self.label_smoothing) * nll_NxT - self.label_smoothing * kl.mean_logp(view.logits_NxTxV)
        x_NxT = x_NxT * token_weights.stopped(view.logp_NxT, self.token_weight)
        if self.data_weight == "scale":
            x_NxT = x_NxT * batch.token_weight_NxT
        if self.anchor != "none":
            kl_NxT = self._divergence(view)
            x_NxT = x_NxT + (self.anchor_coef if kl_coef is None else kl_coef) * kl_NxT
            aux["anchor"] = mean_over(kl_NxT, batch.mask_NxT)
        if self.label_smoothing or (self.token_weight, self.data_weight, self.anchor) != ("none", "none", "none"):
            aux["nll"] = mean_over(nll_NxT, batch.mask_NxT)
        return *self.aggregate(x_NxT, batch), aux

    def _divergence(self, view):
        reference_NxTxV = jax.lax.stop_gradient(view.reference_NxTxV)
        if self.anchor == "forward":
            return kl.full_vocabulary(reference_NxTxV, view.logits_NxTxV)
        return kl.full_vocabulary(view.logits_NxTxV, reference_NxTxV)


ROWS = (
    Supervised("cross_entropy", "sft", "maximum likelihood; token mean as in TRL's SFTTrainer", "rows"),
    Supervised("sft_label_smoothing", "sft", "arXiv:1512.00567", "rows", label_smoothing=0.1),
    Supervised("dft", "sft", "arXiv:2508.05629", "rows", token_weight="probability"),
    Supervised("asft", "sft", "arXiv:2509.23753", "rows", token_weight="probability", anchor="forward", anchor_coef=0.05),
    Supervised("sft_kl", "sft", "arXiv:2509.23753 (baseline SFT + KL)", "rows", anchor="forward", anchor_coef=0.05),
    Supervised("selective_sft", "sft", "maximum likelihood of selected tokens; masking as in arXiv:2505.11896", "rows",
               data_weight="select", role_weights=(("answer", 1.0),)),
    Supervised("weighted_sft", "sft", "maximum likelihood with a weight a token", "rows", data_weight="scale",
               role_weights=(("answer", 1.0), ("think", 1.0), ("plan", 1.0))),
)
