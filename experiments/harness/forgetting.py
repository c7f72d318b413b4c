"""RL's Razor (arXiv:2509.04259) on an experiment's own runs: which distance from the base predicts what was forgotten?"""

import pyarrow as pa

from jaxpost import records
from jaxpost.probes.policy import forgetting_fit

PREDICTORS = (
    {"metric": "policy.kl_forward", "params": "reduce=sequence_sum"},
    {"metric": "policy.kl_reverse", "params": "reduce=sequence_sum"},
    {"metric": "weight.update_norm", "dtype": "fp32"},
    {"metric": "weight.l1_mean", "dtype": "fp32"},
    {"metric": "weight.spectral_norm", "dtype": "fp32"},
    {"metric": "fisher.weighted_l2", "params": "estimator=exact"},
)


def columns(table: pa.Table, base: str) -> dict[str, list]:
    """Rows of `forgetting_fit.fit` over all arms and measured steps of a base, for every predictor that was measured.

    Args:
      table: measurement rows with success on the second task, of the base too; base: its digest.
    """
    rows = records.select(table, conditional_on=base, role="seed")
    measured = set(rows["metric"].unique().to_pylist())
    predictors = [predictor for predictor in PREDICTORS if predictor["metric"] in measured]
    wanted = [forgetting_fit.OLD_TASK["metric"], *(predictor["metric"] for predictor in predictors)]
    return forgetting_fit.fit(records.select(rows, metric=wanted).to_pylist(), predictors, conditional_on=base)
