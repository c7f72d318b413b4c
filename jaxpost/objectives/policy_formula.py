"""The formula of a policy gradient, written from its parts in the symbols of docs/objectives.md."""

import re

from jaxpost.objectives import advantages, aggregation, kl, ratios


def lines(o, name: str = "loss", tokens: str = "") -> list[str]:
    """The loss of a `PolicyGradient`, the ratio, the advantage and the KL estimate that it reads, a line each.

    Args:
      o: the objective; name: of the loss; tokens: which of them it is taken over, if not all.
    """
    x, *where = o.surrogate_formula()
    if o.off_policy_limit is not None:
        x = f"m ({x})"
        over = " of sampled tokens" if o.needs & {"demonstrations", "prefixes"} else ""
        where.append(f"m = 0 where A < 0 and mean_t(b - l){over} > off_policy_limit, else 1")
    if o.corrects_sampler:
        x, corrected = _corrected(o, x)
        where += corrected
    if o.kl_place == "loss":
        x += f" + kl_coef {kl.GRADIENT_FORMULAS[o.kl_gradient]}"
    if o.entropy_bonus:
        x += f" - {o.bonus_formula()}"
    x += o.further_formula()
    formulas = [f"{name} = {aggregation.FORMULAS[o.aggregation]} [ {x} ]{tokens}", *where]
    if re.search(r"\br\b", " ".join(formulas)):
        formulas.append(f"r = {_ratio(o)}")
    return [*formulas, *o.advantage_formula()]


def advantage(o) -> list[str]:
    """The advantage that the batch is prepared with, from the score of a row to the number of a token."""
    formulas = [f"R = {_reward(o)}"] if _reward(o) != "score" else []
    centred = o.centred_formula()
    if o.credit_unit == "row":
        formulas.insert(0, f"A = {centred}")
    else:
        penalty = " - kl_coef k" if o.kl_place == "reward" else ""
        formulas = [*o.credit_formula(), f"s_t = (on the row's last token: {centred}; else 0){penalty}", *formulas]
    if o.rejected == "left_out":
        formulas.append("rows with A = 0 do not count")
    if o.informative_only:
        formulas.append("A = 0 in a group whose R are all equal")
    if o.whiten != "none":
        formulas.append(f"A <- {advantages.WHITENING_FORMULAS[o.whiten]}")
    if o.kl_place != "none":
        formulas.append(f"k = {_estimate(o)}")
    if o.mask_truncated:
        formulas.append("a row that was cut before its end token carries no loss and stays in its group")
    return formulas


def _corrected(o, x: str) -> tuple[str, list[str]]:
    """The loss of a token, weighted for the sampler, and what the weight is."""
    w = ratios.SAMPLER_FORMULAS[o.sampler_level]
    low, high = o.sampler_floor is not None, o.sampler_cap is not None
    inside = f"{'sampler_floor <= ' if low else ''}w{' <= sampler_cap' if high else ''}"
    but = "; 1 on demonstrated tokens" if "demonstrations" in o.needs else ""
    if o.sampler_rule == "reject":
        return x, [f"a sampled token counts where {inside}, w = {w}"]
    if o.sampler_rule == "mask":
        return f"v ({x})", [f"v = sg(w) where {inside}, else 0; w = {w}{but}"]
    held = {(False, True): "min(w, sampler_cap)", (True, False): "max(w, sampler_floor)",
            (True, True): "clip(w, sampler_floor, sampler_cap)"}[low, high]
    return f"v ({x})", [f"v = sg({held}), w = {w}{but}"]


def _ratio(o) -> str:
    formula = ratios.FORMULAS[o.ratio]
    return formula if o.log_ratio_clamp is None else formula.replace("l - o", "clip(l - o, -log_ratio_clamp, log_ratio_clamp)")


def _reward(o) -> str:
    formula = "reward_low + (1 - reward_low) score" if o.reward_low else "score"
    if o.overlong_limit is not None:
        formula += " + clip((overlong_limit - overlong_cache - n) / overlong_cache, -1, 0)"
    if o.kl_place == "reward" and o.credit_unit == "row":
        formula += " - kl_coef sum_t k"
    return formula


def _estimate(o) -> str:
    formula = kl.FORMULAS[o.kl_estimator]
    if o.kl_estimator == "full":
        return formula
    d = "l - f" if o.kl_place == "loss" else "b - f"
    if o.kl_log_ratio_clamp is not None:
        d = f"clip({d}, -kl_log_ratio_clamp, kl_log_ratio_clamp)"
    if o.kl_clamp is not None:
        formula = f"clip({formula}, -kl_clamp, kl_clamp)"
    return f"{formula}, d = {d}"
