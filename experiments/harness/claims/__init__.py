"""Claims as data, written before the run and judged after it: one dialect for every experiment.

A claim is a mapping. It names a statistic, where along the run it is read, what is compared, and what would support it:

    id, statement, primary   its name, one sentence, and whether it is one of the at most four that Holm's correction covers
    metric                   with split, dtype, k, layer, module_kind, granularity, params, alpha and column (value or
                             null_value) where these pick the variant
    at                       final, matched_norm, matched_kl, matched_success (`matched_on` a split), mean, area,
                             half_change, reaches (`level`), or trend (correlation with the curve `against`: reading,
                             method, window)
    after                    {metric, split, level}: events are looked for from where that curve reached the level
    kind                     value, difference, ratio, excess_over_null, order (`against`), slope (`over`, `over_scale`),
                             signed_sum (`terms`), rank_correlation (over the arms, with the statistic `against`)
    arms                     whose statistics are compared
    direction, threshold     greater or less than the threshold, or equivalent: inside the margin around 0
    equivalence_margin       what is practically nothing

Seeds are paired: the statistic is taken in every seed, then averaged. The verdict is supported, contradicted, practically
equivalent or inconclusive (`stats.verdict`); an arm that its gate (`gates`) does not pass supports nothing.
"""

from experiments.harness.claims import gates
from experiments.harness.claims.checking import (
    check,
    check_strength,
    fields,
    judgeable,
    placed,
    require_arms,
    require_curves,
    require_read,
)
from experiments.harness.claims.curves import curves, values
from experiments.harness.claims.gates import End, Start
from experiments.harness.claims.judging import judge, judging, statistic
from experiments.harness.claims.terms import among, contrast, target

__all__ = ["End", "Start", "among", "check", "check_strength", "contrast", "curves", "fields", "gates", "judge", "judgeable",
           "judging", "placed", "require_arms", "require_curves", "require_read", "statistic", "target", "values"]
