"""Losses and gradients that TRL does not have, against torch transcriptions of the official formulas, in float64.

Each transcription follows the source named in its docstring step by step, in torch, with autograd for the gradient; inputs
are ragged, ratios lie on both sides of every clip, advantages have both signs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import given

torch = pytest.importorskip("torch", reason="pip install -e '.[test,parity]'")

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum()


def masked_whiten(x, mask):
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    n = mask.sum()
    return (x - mean) * torch.rsqrt(variance * n / (n - 1) + 1e-8)


def verl_policy(logp, b, low=0.2, high=0.2, c=3.0, clamp=20.0):
    """verl core_algos.compute_policy_loss, 0.9.1: dual clip always on, log ratio held in +-20, token mean."""
    ratio = torch.exp(torch.clamp(logp - b.behaviour_NxT, -clamp, clamp))
    first, second = -b.advantage_NxT * ratio, -b.advantage_NxT * torch.clamp(ratio, 1 - low, 1 + high)
    upper = torch.maximum(first, second)
    lower = torch.minimum(-b.advantage_NxT * c, upper)
    return masked_mean(torch.where(b.advantage_NxT < 0, lower, upper), b.mask_NxT)


def verl_gspo(logp, b, low=3e-4, high=4e-4):
    """verl compute_policy_loss_gspo: stop-gradient trick a token, log ratio at most 10, sequence mean of token means."""
    n = b.mask_NxT.sum(1).clamp(min=1)
    sequence = ((logp - b.behaviour_NxT) * b.mask_NxT).sum(1) / n
    log_ratio = torch.clamp(logp - logp.detach() + sequence.detach()[:, None], max=10.0)
    ratio = torch.exp(log_ratio)
    x = torch.maximum(-b.advantage_NxT * ratio, -b.advantage_NxT * torch.clamp(ratio, 1 - low, 1 + high))
    return ((x * b.mask_NxT).sum(1) / n).mean()


def verl_cispo(logp, b, low=0.2, high=0.28):
    """verl's CISPO: the stopped, two-sided clipped ratio weighs A log pi; token mean."""
    ratio = torch.exp(logp - b.behaviour_NxT)
    return masked_mean(-torch.clamp(ratio, 1 - low, 1 + high).detach() * b.advantage_NxT * logp, b.mask_NxT)


def luffy(logp, b):
    """LUFFY mix_core_alg: f(p) = p / (p + 0.1) on demonstrated tokens, the plain ratio on the others, sum / padded length."""
    ratio, p = torch.exp(logp - b.behaviour_NxT), torch.exp(logp)
    x = torch.where(b.demonstration_NxT > 0, -b.advantage_NxT * p / (p + 0.1), -b.advantage_NxT * ratio)
    return (x * b.mask_NxT).sum() / logp.shape[1]


def chord(logp, b, mu, weight):
    """Trinity-RFT chord_policy_loss: (1 - mu) clipped GRPO on sampled tokens + mu weighted NLL on expert tokens."""
    on, off = b.mask_NxT * (1 - b.demonstration_NxT), b.mask_NxT * b.demonstration_NxT
    ratio = torch.exp(logp - b.behaviour_NxT)
    x = torch.maximum(-b.advantage_NxT * ratio, -b.advantage_NxT * torch.clamp(ratio, 0.8, 1.2))
    p = torch.exp(logp).detach()
    w = {"p(1-p)": p * (1 - p), "probability": p, "none": torch.ones_like(p)}[weight]
    return (1 - mu) * masked_mean(x, on) + mu * masked_mean(-logp * w, off)


def ppo_critic(v, b):
    """TRL's experimental PPO: 0.5 max of clipped and unclipped square error, token mean, weight 0.1."""
    held = torch.clamp(v, b.value_NxT - 0.2, b.value_NxT + 0.2)
    return 0.1 * 0.5 * masked_mean(torch.maximum((v - b.return_NxT) ** 2, (held - b.return_NxT) ** 2), b.mask_NxT)


def dr_grpo(logp, b):
    """understand-r1-zero train_zero_math: masked sum over tokens / generate_max_length, mean over sequences."""
    ratio = torch.exp(logp - b.behaviour_NxT)
    x = torch.maximum(-b.advantage_NxT * ratio, -b.advantage_NxT * torch.clamp(ratio, 0.8, 1.2))
    return ((x * b.mask_NxT).sum(1) / given.T).mean()


UNCLAMPED = {"kl_place": "none", "kl_coef": 0.0, "entropy_coef": 0.0}
CASES = {  # name: (row, parts, transcription)
    "verl-grpo": ("grpo", {"aggregation": "token", "dual_clip": 3.0, "log_ratio_clamp": 20.0}, verl_policy),
    "verl-dapo": ("dapo", {"dual_clip": 3.0, "mask_truncated": False}, lambda logp, b: verl_policy(logp, b, high=0.28)),
    "verl-tight-clamp": ("grpo", {"aggregation": "token", "dual_clip": 1.5, "log_ratio_clamp": 0.3},
                         lambda logp, b: verl_policy(logp, b, c=1.5, clamp=0.3)),
    "minimal-rl-raft++": ("raft_pp", UNCLAMPED, verl_policy),
    "minimal-rl-reinforce-rej": ("reinforce_rej", UNCLAMPED, verl_policy),
    "verl-reinforce++": ("reinforce_pp", {"kl_coef": 0.01, "dual_clip": 3.0}, verl_policy),
    "verl-gspo": ("gspo_token", {}, verl_gspo),
    "verl-cispo": ("cispo", {"clip_low": 0.2}, verl_cispo),
    "luffy": ("luffy", {"entropy_coef": 0.0}, luffy),
    "chord-phi": ("chord_phi", {}, lambda logp, b: chord(logp, b, 0.1, "p(1-p)")),
    "chord-sft-is": ("chord_phi", {"sft_token_weight": "probability"}, lambda logp, b: chord(logp, b, 0.1, "probability")),
    "chord-mu": ("chord_mu", {"sft_weight": 0.4, "sft_weight_end": None, "warmup": 0, "decay": 0},
                 lambda logp, b: chord(logp, b, 0.4, "none")),
    "dr_grpo": ("dr_grpo", {}, dr_grpo),
    "ppo-policy": ("ppo", {"value_coef": 0.0}, lambda logp, b: verl_policy(logp, b, c=1e9, clamp=1e9)),
}


def as_torch(batch):
    return type(batch)(*(None if x is None else torch.tensor(np.asarray(x, np.float64 if x.dtype.kind == "f" else np.int64))
                         for x in batch))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient(hf, case, seed):
    name, parts, official = CASES[case]
    objective, view, batch = given.ready(name, seed, N=16, **parts)
    s, count, grads = given.differentiated(objective, view, batch)
    logp = torch.tensor(np.asarray(view.logp_NxT), requires_grad=True)
    expected = official(logp, as_torch(batch))
    expected.backward()
    assert abs(s / count - expected.item()) <= 1e-12 * max(abs(expected.item()), 1.0)
    hf.agree(hf.normwise(np.asarray(grads.logp_NxT) / count, logp.grad.numpy()), 1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_critic(hf, seed):
    objective, view, batch = given.ready("ppo", seed)
    quiet = batch._replace(advantage_NxT=jnp.zeros_like(batch.advantage_NxT))
    s, count, grads = given.differentiated(objective, view, quiet)
    v = torch.tensor(np.asarray(view.value_NxT), requires_grad=True)
    expected = ppo_critic(v, as_torch(batch))
    expected.backward()
    assert abs(s / count - expected.item()) <= 1e-12
    hf.agree(hf.normwise(np.asarray(grads.value_NxT) / count, v.grad.numpy()), 1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_token_advantages_of_verl_and_trl(seed):
    """Generalised advantages and returns of PPO, and REINFORCE++'s whitened returns, as loops over time in torch."""
    objective, _, batch = given.ready("ppo", seed, kl_coef=0.05)
    b = as_torch(batch)
    last = (b.mask_NxT.sum(1) - 1).long()
    reward = -0.05 * (b.behaviour_NxT - b.reference_NxT)
    reward[torch.arange(len(last)), last] += b.reward_N
    carry, rows = torch.zeros(len(last), dtype=torch.float64), []
    value = b.value_NxT * b.mask_NxT
    for t in reversed(range(given.T)):
        after = value[:, t + 1] if t + 1 < given.T else 0.0
        delta = reward[:, t] * b.mask_NxT[:, t] + after - value[:, t]
        carry = delta + 0.95 * carry
        rows.insert(0, carry)
    advantage = torch.stack(rows, 1) * b.mask_NxT
    np.testing.assert_allclose(batch.return_NxT * batch.mask_NxT, ((advantage + value) * b.mask_NxT).numpy(), atol=1e-12)
    np.testing.assert_allclose(batch.advantage_NxT, (masked_whiten(advantage, b.mask_NxT) * b.mask_NxT).numpy(), atol=1e-12)
