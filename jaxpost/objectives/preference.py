"""Paired preferences: a score for each completion, a link from two scores to a loss, label noise, an optional likelihood term.

Shapes: N rows, K = N/2 pairs, T completion tokens, V vocabulary. Rows 2i and 2i+1 are the preferred and the other completion.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import aggregation, kl, links, scores
from jaxpost.objectives.base import Batch, Objective, View, masked, mean_over

NLL_ROWS = ("chosen", "both")
WEIGHTINGS = ("none", "wpo")
PAIRING_FORMULAS = {  # pairing -> what takes the place of beta (s_w - s_l)
    "own": "beta (s_w - s_l) of the pair",
    "sorted": "beta (k-th smallest of sum_t l_w - sum_t l_l, less the k-th smallest of sum_t f_w - sum_t f_l)",
    "sorted_rows": "beta (k-th smallest s_w, less the k-th smallest s_l)",
}
PAIRINGS = tuple(PAIRING_FORMULAS)
MODES = ("token", "sequence", "sequence_sum")
EXTRA_LINKS = ("none", *links.SMOOTHED, *links.SEPARATES)  # the links without constants of their own


@dataclasses.dataclass(frozen=True)
class Preference(Objective):
    """loss = mean_pairs( w (pair_coef link + extra_coef extra_link) ) + nll_coef NLL.

      u = beta (s_w - contrastive_bias s_l) - margin is what a link reads, or both rewards beta s_w and beta s_l

    s = a row's score, `scores.score`; link and label noise, `links.of_difference` or `links.of_rewards`; w = 1, or WPO's weight
    (arXiv:2406.11827): the product over both rows of exp(mean_t(log p(y_t) - log sum_v p(v)^2)), without gradient.

    With pairing "sorted" or "sorted_rows", beta (s_w - s_l) is of sorted scores (AOT, arXiv:2406.05882): the distribution of
    the chosen answers is to dominate that of the others, whichever answers share a prompt. The k-th smallest are taken over
    the pairs that count in an update, which therefore cannot be split into microbatches.

    With `ties`, a pair whose `Batch.tie_N` is 1 has two answers equally good; its loss is the mean of the link's over both
    orders (CPL's label 1/2).

    A pair counts if both of its rows have a token; with aggregation_empty="counted" every pair does, an empty row's score
    being 0 (TRL). The pair term is a mean over pairs; `aggregation` is that of NLL = -l alone and stays "token" without it. NLL
    has its own count, which `balance` puts on that of the pairs over an optimizer step.

    With `nll_prompt`, NLL is over the prompt's tokens too, but for its first, which nothing predicts (ORPO in TRL and Tunix).
    TRL takes its token mean over the batch, aggregation="token"; Tunix the mean of row means, "sequence".
    """

    reference_free: bool = False  # scores from log-probabilities instead of log-ratios to a reference
    reduction: str = "sum"  # scores.REDUCTIONS
    discount: float = 1.0  # gamma of CPL, a token
    tail_weight: float = 1.0  # of tokens beyond the length of the other completion (LD-DPO)
    transform: str = "none"  # scores.TRANSFORMS
    alpha: float | None = None  # of transform "alpha"
    beta: float = 0.1  # inverse temperature: scale of a score
    contrastive_bias: float = 1.0  # lambda of CPL: weight of the other row's score
    margin: float = 0.0  # gamma of SimPO: taken from the scaled difference
    pairing: str = "own"  # PAIRINGS
    ties: bool = False  # batches hold pairs of equal answers
    link: str = "logistic"  # links.DIFFERENCES or links.SEPARATES
    smoothing: str = "none"  # links.SMOOTHINGS
    label_noise: float = 0.0  # eps: how often a label is taken to be wrong
    discopop_tau: float | None = None  # of link "discopop"
    weighting: str = "none"  # WEIGHTINGS
    pair_coef: float = 1.0  # weight of the pair term (ORPO's lambda)
    extra_link: str = "none"  # EXTRA_LINKS: a second pair term, on the same scores, never smoothed
    extra_coef: float = 0.0  # its weight
    nll_coef: float = 0.0  # weight of the likelihood term
    nll_rows: str = "chosen"  # NLL_ROWS
    nll_prompt: bool = False  # the likelihood is of prompt and completion

    def __post_init__(self):
        super().__post_init__()
        self.choose(batch=("pairs",), reduction=scores.REDUCTIONS, transform=scores.TRANSFORMS,
                    link=(*links.DIFFERENCES, *links.SEPARATES), smoothing=links.SMOOTHINGS, weighting=WEIGHTINGS,
                    nll_rows=NLL_ROWS, aggregation=MODES, extra_link=EXTRA_LINKS, pairing=PAIRINGS)
        self._require_ranges()
        self._require_consistent_score()
        self._require_consistent_link()
        self._require_consistent_pairing()

    def _require_consistent_pairing(self):
        if self.pairing == "own":
            return
        self.require(self.link in links.DIFFERENCES and self.extra_link == "none",
                     f"pairing={self.pairing!r} with link={self.link!r}, extra_link={self.extra_link!r}: sorted scores have a "
                     f"difference and no answers; choose a link from {', '.join(links.DIFFERENCES)}, and no other")
        self.unread(f"with pairing={self.pairing!r}: a sorted difference belongs to no pair", "weighting", "contrastive_bias",
                    "ties")
        self.require(self.pairing != "sorted" or (self.reference_free, self.transform) == (False, "none"),
                     f"pairing='sorted' with reference_free={self.reference_free}, transform={self.transform!r}: it sorts "
                     "differences under the policy and under the reference; leave False and 'none', or choose 'sorted_rows'")

    def _require_ranges(self):
        self.require(self.beta > 0, f"beta={self.beta} must be greater than 0, e.g. 0.1")
        self.require(0 < self.discount <= 1, f"discount={self.discount} must lie in (0, 1]; 1 is none")
        self.require(0 <= self.tail_weight <= 1, f"tail_weight={self.tail_weight} must lie in [0, 1]; 1 is none")
        self.require(0 < self.contrastive_bias <= 1,
                     f"contrastive_bias={self.contrastive_bias} must lie in (0, 1]; 1 is none")
        self.require(self.margin >= 0, f"margin={self.margin} is negative; 0 is none")
        self.require(0 <= self.label_noise < 0.5,
                     f"label_noise={self.label_noise} must lie in [0, 0.5): at one half the labels say nothing")
        self.require(self.pair_coef > 0, f"pair_coef={self.pair_coef} must be greater than 0; for the likelihood alone "
                     "take objective 'cross_entropy'")
        self.require(self.extra_coef >= 0 and (self.extra_link == "none") == (self.extra_coef == 0),
                     f"extra_coef={self.extra_coef} with extra_link={self.extra_link!r}: a second pair term needs a weight "
                     "above 0, 'none' takes 0")
        self.require(self.nll_coef >= 0, f"nll_coef={self.nll_coef} is negative; 0 is none")
        self.require(self.nll_coef > 0 or (self.aggregation, self.nll_rows, self.nll_prompt) == ("token", "chosen", False),
                     f"aggregation={self.aggregation!r}, nll_rows={self.nll_rows!r}, nll_prompt={self.nll_prompt} belong to "
                     "the likelihood term and nll_coef is 0 (the pair term is a mean over pairs); leave 'token', 'chosen' and "
                     "False, or set nll_coef")

    def _require_consistent_score(self):
        self.require((self.transform == "alpha") == (self.alpha is not None) and self.alpha != 1,
                     f"alpha={self.alpha} with transform={self.transform!r}: 'alpha' needs a number other than 1 (1 is the "
                     "reverse KL: transform='none'), the others take None")
        self.require(self.transform != "log_odds" or self.reference_free,
                     "transform='log_odds' is of a probability, not of a ratio; set reference_free=True")
        self.require(self.reduction != "sum_over_length" or self.transform != "none",
                     "reduction='sum_over_length' with transform='none' is reduction='mean'; choose that")

    def _require_consistent_link(self):
        for field in ("link", "extra_link"):
            link = getattr(self, field)
            self.require(link not in links.SEPARATES or (self.margin, self.contrastive_bias, self.transform) == (0, 1, "none"),
                         f"{field}={link!r} reads the two log-ratios and is not defined with margin={self.margin}, "
                         f"contrastive_bias={self.contrastive_bias} or transform={self.transform!r}; leave them, or choose a "
                         f"link from {', '.join(links.DIFFERENCES)}")
        self.require(not self.label_noise or self.smoothing != "none",
                     f"label_noise={self.label_noise} has no effect with smoothing='none'; choose 'conservative' or 'robust'")
        if self.link == "exo":
            self.require(self.smoothing == "conservative" and self.label_noise > 0,
                         f"link='exo' with smoothing={self.smoothing!r}, label_noise={self.label_noise}: its target needs "
                         "smoothing='conservative' and a noise above 0, e.g. 0.001")
        else:
            self.require(self.smoothing == "none" or self.link in links.SMOOTHED,
                         f"smoothing={self.smoothing!r} is not defined for link={self.link!r}; choose 'none'")
        self.require(self.smoothing == "none" or self.contrastive_bias == 1,
                     f"smoothing={self.smoothing!r} with contrastive_bias={self.contrastive_bias}: a flipped label does not "
                     "flip the sign of u; choose one of the two")
        self.require((self.link == "discopop") == (self.discopop_tau is not None),
                     f"discopop_tau={self.discopop_tau} with link={self.link!r}: 'discopop' needs one, e.g. 0.05, "
                     "the others take None")
        self.require(self.discopop_tau is None or 0 < self.discopop_tau <= 1,
                     f"discopop_tau={self.discopop_tau} must lie in (0, 1], e.g. 0.05")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return (frozenset(() if self.reference_free else ("reference",))
                | frozenset(("logits",) if self.weighting == "wpo" else ()) | frozenset(("tie",) if self.ties else ())
                | frozenset(("prompt",) if self.nll_prompt else ()))

    @property
    def couples_update(self) -> bool:
        """As `Objective.couples_update`: sorting does."""
        return self.pairing != "own"

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        first = self._link_formula(self.link)
        if self.smoothing != "none" and self.link != "exo":
            x, where = links.SMOOTHING_FORMULAS[self.smoothing], [f"phi(u) = {first}"]
        else:
            (x, *where) = first.split(", m = ")
            where = [f"m = {m}" for m in where]
        extra = "" if self.extra_link == "none" else f" + extra_coef ({self._link_formula(self.extra_link)})"
        x = (f"pair_coef ({x})" if self.pair_coef != 1 else x) + extra
        if self.weighting == "wpo":
            x = f"w ({x})"
            where.append("w = product over both rows of exp(mean_t(l - log sum_v pi(v)^2)), no gradient")
        rows = {"chosen": "preferred rows", "both": "both rows"}[self.nll_rows]
        rows += ", prompt tokens among them" if self.nll_prompt else ""
        likely = [f"NLL = {aggregation.FORMULAS[self.aggregation]} [ -l ] of {rows}"] if self.nll_coef else []
        return [f"loss = mean_pairs [ {x} ]{' + nll_coef NLL' if likely else ''}", *where, *self._read_formula(),
                *likely, *self._score_formula()]

    def _link_formula(self, link):
        return links.DIFFERENCE_FORMULAS.get(link) or links.SEPARATE_FORMULAS[link]

    def _read_formula(self):
        """What the links read: u, or both rewards."""
        used = {self.link, self.extra_link}
        bias, margin = ("contrastive_bias " if self.contrastive_bias != 1 else ""), (" - margin" if self.margin else "")
        u = f"beta (s_w - {bias}s_l)" if self.pairing == "own" else PAIRING_FORMULAS[self.pairing]
        return [*([f"u = {u}{margin}"] if used & set(links.DIFFERENCES) else []),
                *(["of a tie the mean over both orders of its answers"] if self.ties else []),
                *(["a = beta s_w, b = beta s_l"] if used & set(links.SEPARATES) else [])]

    def _score_formula(self):
        """s of a row."""
        weights = [*(["discount^k for the row's k-th token (from 0)"] if self.discount != 1 else []),
                   *(["tail_weight beyond the other completion's length"] if self.tail_weight != 1 else [])]
        h = f"sum_t {'w_t ' if weights else ''}{'l' if self.reference_free else '(l - f)'}"
        x = f"{h} / n" if self.reduction == "mean" else h
        s = x if self.transform == "none" else scores.TRANSFORM_FORMULAS[self.transform]
        return [f"s = {f'({s}) / n' if self.reduction == 'sum_over_length' else s}",
                *([f"x = {x}"] if self.transform != "none" else []),
                *([f"w_t = {' times '.join(weights)}{', else 1' if self.discount == 1 else ''}"] if weights else [])]

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """As `Objective.prepare`: pairs share nothing, so only a check.

        Raises:
          ValueError: an odd number of rows, or a field that `needs` names is missing.
        """
        return self.check(batch)

    def balance(self, batch: Batch) -> Batch:
        """Fill `total_N`: (number of pairs) / (count of the likelihood term) over the update's rows."""
        if not self.nll_coef:
            return batch
        batch, full_K = self._complete(batch)
        mask = self._nll_mask(batch)
        own = aggregation.aggregate(mask, mask, self.aggregation)[1]
        share = jnp.where(own > 0, full_K.sum() / jnp.maximum(own, 1.0), 0.0)
        return batch._replace(total_N=jnp.broadcast_to(share, batch.mask_NxT.shape[:1]))

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; the count is the number of pairs.

        aux: `accuracy` (how often the preferred row has the higher implicit reward beta s), `margin` of the rewards,
        `chosen` and `rejected` themselves, and `nll` where there is such a term.

        Raises:
          ValueError: an odd number of rows: a microbatch has cut a pair.
        """
        del state, kl_coef
        batch = self.check(batch)
        batch, full_K = self._complete(batch)
        view, batch = masked(view, batch)
        reward_Kx2 = self.beta * self.score(view, batch).reshape(-1, 2)
        counted_K = full_K
        if self.pairing == "own":
            x_K = self.pair_coef * self._own_loss(batch, reward_Kx2)
        else:
            x_K, counted_K = self.pair_coef * self._sorted_loss(view, batch, reward_Kx2, full_K), jnp.sort(full_K)[::-1]
        if self.extra_link != "none":
            x_K = x_K + self.extra_coef * self.pair_loss(reward_Kx2[:, 0], reward_Kx2[:, 1], self.extra_link)
        if self.weighting == "wpo":
            x_K = x_K * _wpo(view, batch)
        total, count = mean_over(x_K, counted_K)
        difference_K = reward_Kx2[:, 0] - reward_Kx2[:, 1]
        aux = {"accuracy": mean_over((difference_K > 0).astype(x_K.dtype), full_K), "margin": mean_over(difference_K, full_K),
               "chosen": mean_over(reward_Kx2[:, 0], full_K), "rejected": mean_over(reward_Kx2[:, 1], full_K)}
        if self.nll_coef:
            mask, logp = self._nll_mask(batch), view.logp_NxT
            if self.nll_prompt:
                logp = jnp.concatenate([view.prompt_logp_NxQ, logp], axis=1)
            nll, _ = aggregation.aggregate(-logp, mask, self.aggregation)
            aux["nll"] = mean_over(-logp, mask)
            total = total + self.nll_coef * batch.total_N[0] * nll
        return total, count, aux

    def score(self, view: View, batch: Batch) -> jax.Array:
        """score_N of every row."""
        score_N = scores.score(view.logp_NxT, None if self.reference_free else batch.reference_NxT, batch.mask_NxT,
                               self._token_weights(batch), reduction=self.reduction, transform=self.transform, alpha=self.alpha)
        if self.transform != "log_odds":
            return score_N
        return jnp.where((batch.mask_NxT > 0).any(axis=1), score_N, 0.0)  # the probability of nothing is 1, its odds infinite

    def _own_loss(self, batch, reward_Kx2):
        """loss_K of each pair, over both orders where it is a tie."""
        x_K = self.pair_loss(reward_Kx2[:, 0], reward_Kx2[:, 1])
        if not self.ties:
            return x_K
        return jnp.where(batch.tie_N[::2] > 0, 0.5 * (x_K + self.pair_loss(reward_Kx2[:, 1], reward_Kx2[:, 0])), x_K)

    def _sorted_loss(self, view, batch, reward_Kx2, full_K):
        """loss_K of the k-th smallest scores of the pairs that count, k = 0 to their number; the others are last."""
        def ordered(x_K):
            return jnp.where(full_K.sum() > jnp.arange(full_K.size), jnp.sort(jnp.where(full_K > 0, x_K, jnp.inf)), 0.0)

        high, low = reward_Kx2[:, 0], reward_Kx2[:, 1]
        if self.pairing == "sorted":
            reference_N = scores.score(batch.reference_NxT, None, batch.mask_NxT, self._token_weights(batch),
                                 reduction=self.reduction)
            reference_K = self.beta * (reference_N[::2] - reference_N[1::2])
            high, low = high - low + reference_K, reference_K
        return self.pair_loss(ordered(high), ordered(low))

    def _token_weights(self, batch):
        return scores.token_weights(batch.mask_NxT, self.discount, self.tail_weight)

    def pair_loss(self, chosen_K: jax.Array, rejected_K: jax.Array, extra: str | None = None) -> jax.Array:
        """loss_K from the implicit rewards beta s of both rows, through the objective's link or through an extra one."""
        if (extra or self.link) in links.SEPARATES:
            return links.of_rewards(chosen_K, rejected_K, extra or self.link, self.beta)
        u_K = chosen_K - self.contrastive_bias * rejected_K - self.margin
        if extra is not None:
            return links.of_difference(u_K, extra, self.beta)
        return links.of_difference(u_K, self.link, self.beta, self.smoothing, self.label_noise, self.discopop_tau)

    @property
    def counts_rows(self) -> bool:
        """As `Objective.counts_rows`: the pair term is a mean over pairs whatever `aggregation` is."""
        return True

    def _complete(self, batch):
        """The batch and full_K: 1 for the pairs that count; the others have lost their tokens."""
        full_K = (batch.mask_NxT > 0).any(axis=1).reshape(-1, 2).all(axis=1).astype(batch.mask_NxT.dtype)
        if self.aggregation_empty == "counted":
            return batch, jnp.ones_like(full_K)
        return batch._replace(mask_NxT=batch.mask_NxT * jnp.repeat(full_K, 2)[:, None]), full_K

    def _nll_mask(self, batch):
        """1 on the tokens of the likelihood term: of the completion, with `nll_prompt` behind those of the prompt."""
        mask = batch.mask_NxT
        if self.nll_prompt:  # of the rows that count
            full_Nx1 = (mask > 0).any(axis=1, keepdims=True) | (self.aggregation_empty == "counted")
            mask = jnp.concatenate([batch.prompt_mask_NxQ * full_Nx1, mask], axis=1)
        return mask if self.nll_rows == "both" else mask * (jnp.arange(mask.shape[0]) % 2 == 0)[:, None]


def _wpo(view, batch):
    """WPO's weight of a pair, without gradient."""
    aligned_NxT = jax.lax.stop_gradient(view.logp_NxT - jnp.log(kl.collision(view.logits_NxTxV)))
    length_N = jnp.maximum(batch.mask_NxT.sum(axis=1), 1)
    return jnp.exp((aligned_NxT * batch.mask_NxT).sum(axis=1) / length_N).reshape(-1, 2).prod(axis=1)


def _row(name, paper, **parts):
    return Preference(name, "preference", paper, "pairs", **parts)


# Defaults are the papers' as TRL's paper index and the official repositories list them; recalled, not read: those of wpo,
# sppo_hard, dpo_norm, ld_dpo, mpo and the noise of cdpo. beta = 0.1 where no source fixes one (hinge, ipo).
ROWS = (
    _row("dpo", "arXiv:2305.18290"),
    _row("cdpo", "E. Mitchell, A note on DPO with noisy preferences and relationship to IPO, 2023",
         smoothing="conservative", label_noise=0.1),
    _row("robust_dpo", "arXiv:2403.00409", beta=0.01, smoothing="robust", label_noise=0.1),
    _row("ipo", "arXiv:2310.12036", link="squared"),
    _row("hinge", "arXiv:2305.10425", link="hinge"),
    _row("dpo_norm", "arXiv:2411.15124", beta=5.0, reduction="mean"),
    _row("ld_dpo", "arXiv:2409.06411", tail_weight=0.5),
    _row("wpo", "arXiv:2406.11827", beta=0.01, weighting="wpo"),
    _row("exo_pair", "arXiv:2402.00856", link="exo", smoothing="conservative", label_noise=1e-3),
    _row("discopop", "arXiv:2406.08414", beta=0.05, link="discopop", discopop_tau=0.05),
    _row("aot", "arXiv:2406.05882", pairing="sorted"),
    _row("aot_unpaired", "arXiv:2406.05882", pairing="sorted_rows"),
    _row("nca_pair", "arXiv:2402.05369", beta=0.01, link="nca"),
    _row("bco_pair", "arXiv:2404.04656", beta=0.01, link="bco"),
    _row("sppo_hard", "arXiv:2405.00675", beta=1e-3, link="sppo_hard"),
    _row("apo_zero", "arXiv:2408.06266", link="apo_zero"),
    _row("apo_down", "arXiv:2408.06266", link="apo_down"),
    _row("mpo", "arXiv:2411.10442", pair_coef=0.8, extra_link="bco", extra_coef=0.2, nll_coef=1.0),
    _row("simpo", "arXiv:2405.14734", reference_free=True, reduction="mean", beta=2.5, margin=1.375),
    _row("alphapo", "arXiv:2501.03884", reference_free=True, reduction="mean", transform="alpha", alpha=0.75, beta=2.5,
         margin=0.1),
    _row("cpo", "arXiv:2401.08417", reference_free=True, nll_coef=1.0),
    _row("orpo", "arXiv:2403.07691", reference_free=True, reduction="mean", transform="log_odds", beta=1.0, pair_coef=0.1,
         nll_coef=1.0),
    _row("orpo_prompt_nll", "arXiv:2403.07691 (likelihood of prompt and answer, as TRL)", reference_free=True, reduction="mean",
         transform="log_odds", beta=1.0, pair_coef=0.1, nll_coef=1.0, nll_prompt=True),
    _row("cpl", "arXiv:2310.13639", reference_free=True, beta=0.1, contrastive_bias=0.5),
    _row("cpl_ties", "arXiv:2310.13639", reference_free=True, beta=0.1, contrastive_bias=0.5, ties=True),
    _row("cpl_kl", "arXiv:2310.13639", beta=0.2, contrastive_bias=0.75),
    _row("cpl_bc", "arXiv:2310.13639", reference_free=True, beta=0.1, nll_coef=1.0, nll_rows="both"),
)
