"""Policy statistics: what a policy does on fixed problems, as measurement rows with the base as reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxpost.probes.base import Metric, register

register(
    Metric("policy.success", "mean verifier reward of one sample a problem at temperature 1, fixed problems", "1",
           "arXiv:2511.08567", "best guess that does not solve the problem (the task states it)", "mean over prompts",
           "one KV-cached sample a problem", higher_is_better=True),
    Metric("policy.kl_forward", "E_{y ~ pi0} sum_t KL(pi0(.|x, y_<t) || pi(.|x, y_<t)), full vocabulary; params "
           "reduce=sequence_sum or token_mean", "nat", "arXiv:2509.04259", "0 at the base", "mean over prompts",
           "teacher forcing on samples of the base"),
    Metric("policy.kl_reverse", "E_{y ~ pi} sum_t KL(pi(.|x, y_<t) || pi0(.|x, y_<t)), full vocabulary; params "
           "reduce=sequence_sum or token_mean", "nat", "arXiv:2509.04259", "0 at the base", "mean over prompts",
           "teacher forcing on the policy's own samples"),
    Metric("policy.entropy", "mean over tokens sampled from pi at temperature 1 of -sum_v pi_v log pi_v", "nat",
           "arXiv:2505.22617", "none in the row: compare with the rows of arm base", "mean over tokens",
           "full vocabulary on the policy's own samples"),
    Metric("policy.loss_tokens", "tokens that entered the loss, mean over the steps since the last measurement", "token",
           "jaxpost", "none: a control of equal work between arms", "none", "sum of the loss mask"),
)

# value name of training.Suite.measure -> (metric, params)
_DIVERGENCES = {
    "kl_forward": ("policy.kl_forward", "reduce=sequence_sum"),
    "kl_forward_token": ("policy.kl_forward", "reduce=token_mean"),
    "kl_reverse": ("policy.kl_reverse", "reduce=sequence_sum"),
    "kl_reverse_token": ("policy.kl_reverse", "reduce=token_mean"),
    "entropy": ("policy.entropy", None),
}


def finalize(values: Mapping[str, np.ndarray], *, arm: str, step: int, seeds: Sequence[int], conditional_on: str,
             guesses: Mapping[str, float]) -> dict[str, list]:
    """Columns of rows of role "seed" from the values of `training.Suite.measure`.

    Args:
      values: name -> array over seeds; `success/<label>`, the divergences, entropy, `loss_tokens` (any may be missing).
      guesses: label -> guess baseline, the null of success.
    """
    rows = []
    for name, value_S in values.items():
        label = name.removeprefix("success/")
        if label != name:
            fixed = {"metric": "policy.success", "split": label, "null_kind": "guess", "null_value": guesses[label]}
        elif name in _DIVERGENCES:
            metric, params = _DIVERGENCES[name]
            fixed = {"metric": metric, "params": params}
            if name != "entropy":
                fixed |= {"null_kind": "base", "null_value": 0.0}
        else:
            fixed = {"metric": f"policy.{name}"}
        for seed, value in zip(seeds, np.asarray(value_S, np.float64), strict=True):
            finite = bool(np.isfinite(value))
            rows.append({"arm": arm, "role": "seed", "step": step, "seed": seed, "granularity": "policy", "n_units": 1,
                         "unit": "seed", "value": float(value) if finite else None, "status": "ok" if finite else "nan",
                         "status_reason": None if finite else "the policy's logits are not finite",
                         "conditional_on": conditional_on, **fixed})
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
