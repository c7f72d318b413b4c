"""Paired preferences against a float64 transcription pair by pair, closed forms and identities; what a part moves; refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import links, preference, scores
from tests.objectives import given

NAMES = [o.name for o in preference.ROWS]
LENGTHS = (6, 2, 3, 5, 0, 4, 1, 6)  # the third pair has an empty row


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


# ---- the transcription: python loops over pairs and tokens, complex numbers for exact derivatives ----

def log_sigmoid(u):
    return -np.log(1 + np.exp(-u)) if u.real > -30 else u - np.log(1 + np.exp(u))


def sigma(u):
    return 1 / (1 + np.exp(-u))


def dpo(beta=0.1):
    return lambda a, b: -log_sigmoid(beta * (a - b))


PAIR_LOSS = {  # name: (what a row's score is, loss of the two scores), each with the row's own constants
    "dpo": ("ratio", dpo()),
    "cdpo": ("ratio", lambda a, b: -0.9 * log_sigmoid(0.1 * (a - b)) - 0.1 * log_sigmoid(-0.1 * (a - b))),
    "robust_dpo": ("ratio", lambda a, b: (-0.9 * log_sigmoid(0.01 * (a - b)) + 0.1 * log_sigmoid(-0.01 * (a - b))) / 0.8),
    "ipo": ("ratio", lambda a, b: (a - b - 5.0) ** 2),
    "hinge": ("ratio", lambda a, b: max(1 - 0.1 * (a - b), 0, key=lambda x: x.real)),
    "dpo_norm": ("mean ratio", dpo(5.0)),
    "ld_dpo": ("tail ratio", dpo()),
    "wpo": ("ratio", dpo(0.01)),
    "exo_pair": ("ratio", lambda a, b: sigma(0.1 * (a - b)) * (log_sigmoid(0.1 * (a - b)) - np.log(0.999))
                 + sigma(0.1 * (b - a)) * (log_sigmoid(0.1 * (b - a)) - np.log(0.001))),
    "discopop": ("ratio", lambda a, b: -log_sigmoid(0.05 * (a - b)) * (1 - sigma(a - b))
                 + np.exp(0.05 * (b - a)) * sigma(a - b)),
    "nca_pair": ("ratio", lambda a, b: -log_sigmoid(0.01 * a) - 0.5 * log_sigmoid(-0.01 * a) - 0.5 * log_sigmoid(-0.01 * b)),
    "bco_pair": ("ratio", lambda a, b: -log_sigmoid(0.01 * a) - log_sigmoid(-0.01 * b)),
    "sppo_hard": ("ratio", lambda a, b: (a - 500) ** 2 + (b + 500) ** 2),
    "apo_zero": ("ratio", lambda a, b: 1 - sigma(0.1 * a) + sigma(0.1 * b)),
    "apo_down": ("ratio", lambda a, b: sigma(0.1 * a) + 1 - sigma(0.1 * (a - b))),
    "mpo": ("ratio", lambda a, b: -0.8 * log_sigmoid(0.1 * (a - b)) - 0.2 * (log_sigmoid(0.1 * a) + log_sigmoid(-0.1 * b))),
    "simpo": ("mean", lambda a, b: -log_sigmoid(2.5 * (a - b) - 1.375)),
    "alphapo": ("mean", lambda a, b: -log_sigmoid(2.5 * ((1 - np.exp(-a / 4)) * 4 - (1 - np.exp(-b / 4)) * 4) - 0.1)),
    "cpo": ("sum", dpo()),
    "aot": ("sum", dpo()),  # of sorted scores, below
    "aot_unpaired": ("ratio", dpo()),
    "cpl_ties": ("sum", lambda a, b: -np.log(np.exp(0.1 * a) / (np.exp(0.1 * a) + np.exp(0.5 * 0.1 * b)))),
    "orpo": ("mean", lambda a, b: -0.1 * log_sigmoid(a - np.log(1 - np.exp(a)) - b + np.log(1 - np.exp(b)))),
    "orpo_prompt_nll": ("mean", lambda a, b: -0.1 * log_sigmoid(a - np.log(1 - np.exp(a)) - b + np.log(1 - np.exp(b)))),
    "cpl": ("sum", lambda a, b: -np.log(np.exp(0.1 * a) / (np.exp(0.1 * a) + np.exp(0.5 * 0.1 * b)))),
    "cpl_kl": ("ratio", lambda a, b: -np.log(np.exp(0.2 * a) / (np.exp(0.2 * a) + np.exp(0.75 * 0.2 * b)))),
    "cpl_bc": ("sum", dpo()),
}
NLL = {"cpo": "chosen", "orpo": "chosen", "orpo_prompt_nll": "chosen", "mpo": "chosen", "cpl_bc": "both"}


def row_score(kind, logp, reference, length, partner):
    x = logp[:length] - (reference[:length] if "ratio" in kind else 0)
    if "tail" in kind:
        return x[:min(length, partner)].sum() + 0.5 * x[partner:].sum()
    return x.sum() / (length if "mean" in kind else 1)


def transcribed(name, logp, batch, view):
    """The loss of a row at (complex) log-probabilities."""
    kind, pair = PAIR_LOSS[name]
    reference = None if batch.reference_NxT is None else np.asarray(batch.reference_NxT)
    lengths = np.asarray(batch.mask_NxT).sum(1).astype(int)
    if name in ("aot", "aot_unpaired"):
        return transcribed_sorted(name, logp, reference, lengths)
    total, pairs, nll = 0, 0, []
    for a in range(0, len(lengths), 2):
        b = a + 1
        if not (lengths[a] and lengths[b]):
            continue
        row = [row_score(kind, logp[i], None if reference is None else reference[i], lengths[i], lengths[a + b - i])
               for i in (a, b)]
        weight = np.prod([wpo_weight(view, i, lengths[i]) for i in (a, b)]) if name == "wpo" else 1
        own = pair(*row)
        if name == "cpl_ties" and batch.tie_N[a]:
            own = 0.5 * (own + pair(*row[::-1]))
        total, pairs = total + weight * own, pairs + 1
        for i in {"chosen": (a,), "both": (a, b), None: ()}[NLL.get(name)]:
            nll.extend(-logp[i, :lengths[i]])
            if name == "orpo_prompt_nll":
                nll.extend(-np.asarray(view.prompt_logp_NxQ)[i, np.asarray(batch.prompt_mask_NxQ[i]) > 0])
    return total / pairs + (np.sum(nll) / len(nll) if nll else 0)


def transcribed_sorted(name, logp, reference, lengths):
    """AOT: sorted differences under the policy less those under the reference; unpaired: sorted scores of either side."""
    whole = [a for a in range(0, len(lengths), 2) if lengths[a] and lengths[a + 1]]
    sums = lambda x, i: x[i, :lengths[i]].sum()  # noqa: E731
    if name == "aot":
        first, second = ([sums(x, a) - sums(x, a + 1) for a in whole] for x in (logp, reference))
    else:
        first, second = ([sums(logp, a + i) - sums(reference, a + i) for a in whole] for i in (0, 1))
    pairs = zip(sorted(first, key=lambda x: x.real), sorted(second, key=lambda x: x.real), strict=True)
    return sum(dpo()(a, b) for a, b in pairs) / len(whole)


def wpo_weight(view, row, length):
    p = np.exp(np.asarray(view.logits_NxTxV[row, :length]))
    p = p / p.sum(-1, keepdims=True)
    return np.exp(np.mean(np.asarray(view.logp_NxT[row, :length]) - np.log((p**2).sum(-1))))


def derivative(f, x, step=1e-30):
    """Gradient of an analytic f by complex steps: no cancellation."""
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[i] += 1j * step
        out[i] = np.imag(f(moved)) / step
    return out


def agree(got, expected, limit=1e-12):
    error = np.linalg.norm(np.asarray(got) - expected) / np.linalg.norm(expected)
    print(f"error {error:.1e}")
    assert error <= limit


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_of_every_row(name):
    objective, view, batch = given.ready(name, lengths=LENGTHS)
    total, count, grads = given.differentiated(objective, view, batch)
    assert count == 3
    logp = np.asarray(view.logp_NxT)
    agree(total / count, np.real(transcribed(name, logp.astype(complex), batch, view)))
    agree(grads.logp_NxT / count, derivative(lambda x: transcribed(name, x, batch, view), logp))


# ---- known answers ----

GOLDEN = objectives.Batch(None, None, np.asarray([[1., 1, 1, 1], [1, 1, 0, 0]]),
                          reference_NxT=np.asarray([[-.4, -1.2, -.3, -1], [-.9, -.1, 0, 0]]))
GOLDEN_VIEW = objectives.View(np.asarray([[-.5, -1, -.2, -2], [-.7, -.1, 0, 0]]))


@pytest.mark.parametrize("name, parts, expected", [
    ("dpo", {}, 0.74439666), ("cdpo", {}, 0.73439666), ("robust_dpo", {"beta": 0.1}, 0.75689666), ("hinge", {}, 1.1),
    ("ipo", {}, 36.0), ("ipo", {"reduction": "mean"}, 28.09), ("simpo", {}, 2.75333536),
    ("orpo", {}, 0.14096033 + 0.925)])
def test_golden(name, parts, expected):
    objective = objectives.get(name, **parts)
    total, count, aux = objective.loss(GOLDEN_VIEW, objective.balance(objective.prepare(GOLDEN)), {})
    assert float(total / count) == pytest.approx(expected, abs=5e-9)
    assert float(aux["accuracy"][0]) == 0.0
    assert float(aux["margin"][0]) == pytest.approx({"orpo": -1.12957163}.get(name, float(aux["margin"][0])), abs=5e-9)


def test_aux_are_the_implicit_rewards():
    _, _, aux = objectives.get("dpo").loss(GOLDEN_VIEW, GOLDEN, {})
    np.testing.assert_allclose([aux[k] for k in ("chosen", "rejected", "margin", "accuracy")],
                               [(-0.08, 1), (0.02, 1), (-0.1, 1), (0, 1)], atol=1e-15)


def test_the_gradient_of_dpo_in_closed_form():
    """-beta sigma(-beta Delta) grad(S_w - S_l), per pair."""
    objective, view, batch = given.ready("dpo", beta=0.7)
    grads = given.differentiated(objective, view, batch)[2].logp_NxT
    mask = np.asarray(batch.mask_NxT)
    ratio = ((np.asarray(view.logp_NxT) - np.asarray(batch.reference_NxT)) * mask).sum(1)
    weight = 0.7 / (1 + np.exp(0.7 * (ratio[0::2] - ratio[1::2])))
    np.testing.assert_allclose(grads, np.stack([-weight, weight], 1).reshape(-1, 1) * mask, rtol=1e-12, atol=1e-15)


def value(name, view, batch, **parts):
    objective = objectives.get(name, **parts)
    total, count, _ = objective.loss(view, given.prepared(objective, batch), {})
    return float(total / count)


def same(one, other, rel=1e-12):
    assert one == pytest.approx(other, rel=rel)


def test_identities_between_rows():
    view, batch = given.rows(3)
    base = value("dpo", view, batch, beta=0.3)
    same(value("cdpo", view, batch, beta=0.3, label_noise=0.0), base)
    same(value("robust_dpo", view, batch, beta=0.3, label_noise=0.0), base)
    same(value("cpl_kl", view, batch, beta=0.3, contrastive_bias=1.0), base)
    same(value("simpo", view, batch, reference_free=False, reduction="sum", beta=0.3, margin=0.0), base)
    same(value("ld_dpo", view, batch, beta=0.3, tail_weight=1.0), base)
    same(value("dpo", view, batch, beta=0.3, transform="alpha", alpha=1 + 1e-7), base, rel=1e-5)
    same(value("dpo", view, batch, beta=0.3, transform="alpha", alpha=0.0),  # f'(t) = 1 - 1/t
         value("dpo", view, batch, beta=0.3, transform="forward_kl"))
    same(value("dpo", view, batch._replace(reference_NxT=jnp.zeros_like(view.logp_NxT)), beta=0.3),
         value("dpo", view, batch, beta=0.3, reference_free=True))
    same(value("cpo", view, batch, nll_coef=0.0), value("dpo", view, batch, reference_free=True))


@pytest.mark.parametrize("link", links.SMOOTHED)
def test_robust_smoothing_is_unbiased_and_conservative_is_not(link):
    """Flipping every label with probability eps: the expectation of the robust loss is the clean loss."""
    view, batch = given.rows(4)
    flip = lambda x: x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)  # noqa: E731
    eps, clean = 0.2, value("dpo", view, batch, link=link)

    def expected(smoothing):
        parts = {"link": link, "smoothing": smoothing, "label_noise": eps}
        return ((1 - eps) * value("dpo", view, batch, **parts)
                + eps * value("dpo", jax.tree.map(flip, view), jax.tree.map(flip, batch), **parts))

    same(expected("robust"), clean)
    assert abs(expected("conservative") - clean) > 1e-3


@pytest.mark.parametrize("transform", ["none", "forward_kl", "js", "alpha"])
@pytest.mark.parametrize("smoothing, noise", [("none", 0.0), ("robust", 0.2)])
def test_the_optimum_of_the_regularised_reward(transform, smoothing, noise):
    """All pairs of five completions, labels from Bradley-Terry: no gradient where reward = beta f'(pi / reference) + constant.

    With "robust" the labels are flipped with that probability and the optimum stays.
    """
    alpha, beta = (0.5 if transform == "alpha" else None), 0.3
    objective = objectives.get("dpo", transform=transform, alpha=alpha, beta=beta, smoothing=smoothing, label_noise=noise)
    rng = np.random.default_rng(0)
    optimum, reference = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(2, 5))))
    batch = objectives.Batch(None, None, jnp.ones((5, 1)), reference_NxT=reference[:, None])

    def reward(logp):
        return beta * objective.score(objectives.View(logp[:, None]), batch)

    a, b = np.nonzero(~np.eye(5, dtype=bool))
    r = np.asarray(reward(optimum))
    preferred = 1 / (1 + np.exp(r[b] - r[a]))
    preferred = (1 - noise) * preferred + noise * (1 - preferred)

    def expected(theta):
        s = reward(jax.nn.log_softmax(theta))
        return preferred @ objective.pair_loss(s[a], s[b])

    np.testing.assert_allclose(jax.grad(expected)(optimum), 0.0, atol=1e-14)
    assert np.linalg.norm(jax.grad(expected)(optimum + jnp.arange(5))) > 1e-2


def test_the_optimum_of_ipo_is_linear_in_the_preference():
    """argmin of p (d - 1/(2 tau))^2 + (1 - p) (-d - 1/(2 tau))^2 is d = (p - 1/2) / tau."""
    p, tau = 0.8, 0.25
    f = lambda d: (p * links.of_difference(tau * d, "squared", tau) + (1 - p) * links.of_difference(-tau * d, "squared", tau))  # noqa: E731
    assert float(jax.grad(f)((p - 0.5) / tau)) == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("transform, f_prime", [
    ("none", np.log), ("forward_kl", lambda t: 1 - 1 / t), ("js", lambda t: np.log(2 * t / (t + 1))),
    ("alpha", lambda t: (t**-0.5 - 1) / -0.5)])
@pytest.mark.parametrize("reduction", scores.REDUCTIONS)
def test_transforms_are_derivatives_of_divergences(transform, f_prime, reduction):
    view, batch = given.rows(5)
    alpha = 0.5 if transform == "alpha" else None
    got = scores.score(view.logp_NxT, batch.reference_NxT, batch.mask_NxT, batch.mask_NxT, reduction=reduction,
                       transform=transform, alpha=alpha)
    mask = np.asarray(batch.mask_NxT)
    total, n = ((np.asarray(view.logp_NxT) - np.asarray(batch.reference_NxT)) * mask).sum(1), mask.sum(1)
    expected = {"sum": f_prime(np.exp(total)), "mean": f_prime(np.exp(total / n)),
                "sum_over_length": f_prime(np.exp(total)) / n}
    np.testing.assert_allclose(got, expected[reduction], rtol=1e-11)


def test_discount_counts_counted_tokens():
    """gamma^k of the k-th counted token, also when a token in between is masked."""
    mask = jnp.asarray([[1., 0, 1, 1], [0, 0, 1, 0]])
    np.testing.assert_allclose(scores.token_weights(mask, discount=0.5), [[1, 0, 0.5, 0.25], [0, 0, 1, 0]])
    np.testing.assert_allclose(scores.token_weights(mask, tail_weight=0.2), [[1, 0, 0.2, 0.2], [0, 0, 1, 0]])
    view, batch = given.rows(6)
    weight = 0.9 ** np.arange(given.T) * np.asarray(batch.mask_NxT)
    s = 0.1 * (np.asarray(view.logp_NxT) * weight).sum(1)
    expected = np.mean(np.log1p(np.exp(0.5 * s[1::2] - s[0::2])))
    same(value("cpl", view, batch, discount=0.9), expected)


def test_the_likelihood_term_has_its_own_mean():
    view, batch = given.rows(7, lengths=LENGTHS)
    nll, mask = -np.asarray(view.logp_NxT), np.asarray(batch.mask_NxT).copy()
    mask[4:6] = 0
    n = mask.sum(1)
    rows = {"chosen": [0, 2, 6], "both": [0, 1, 2, 3, 6, 7]}
    for which, i in rows.items():
        sums = (nll * mask).sum(1)[i]
        expected = {"token": sums.sum() / n[i].sum(), "sequence": (sums / n[i]).mean(), "sequence_sum": sums.mean()}
        for mode, mean in expected.items():
            parts = {"nll_rows": which, "aggregation": mode}
            same(value("cpo", view, batch, nll_coef=0.3, **parts), value("cpo", view, batch, nll_coef=0.0) + 0.3 * mean)


def test_a_pair_with_an_empty_row_does_not_count():
    """Its other row says nothing either, not even in the likelihood; NaN there reaches no gradient."""
    kept = np.r_[0:4, 6:8]
    for name in ("dpo", "orpo", "cpl_bc", "alphapo", "wpo"):
        objective = objectives.get(name)
        view, batch = given.needed(objective, *given.rows(8, lengths=LENGTHS))
        dirty = view._replace(logp_NxT=view.logp_NxT.at[4:6].set(jnp.nan))
        whole = given.differentiated(objective, dirty, given.prepared(objective, batch))
        short = given.differentiated(objective, jax.tree.map(lambda x: x[kept], view),
                                     given.prepared(objective, batch.where(kept)))
        assert whole[:2] == pytest.approx(short[:2], rel=1e-12)
        np.testing.assert_allclose(whole[2].logp_NxT[kept], short[2].logp_NxT, rtol=1e-12)
        assert not np.any(whole[2].logp_NxT[4:6])


@pytest.mark.parametrize("link", (*links.DIFFERENCES, *links.SEPARATES))
@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_extreme_scores_stay_finite(link, far):
    parts = {"exo": {"smoothing": "conservative", "label_noise": 0.1}, "discopop": {"discopop_tau": 0.05}}.get(link, {})
    objective = objectives.get("dpo", link=link, beta=1.0, **parts)

    def loss(chosen, rejected):
        return objective.pair_loss(chosen, rejected).sum()

    ends = jnp.asarray([far], jnp.float32), jnp.asarray([-far], jnp.float32)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.value_and_grad(loss, argnums=(0, 1))(*ends)))


@pytest.mark.parametrize("transform", scores.TRANSFORMS)
@pytest.mark.parametrize("ratio", [-500.0, 0.0, 500.0])
def test_extreme_transforms_stay_finite(transform, ratio):
    alpha = 0.5 if transform == "alpha" else None
    f = lambda x: scores.score(x, None, jnp.ones_like(x), jnp.ones_like(x), transform=transform, alpha=alpha).sum()  # noqa: E731
    assert all(np.isfinite(x).all() for x in jax.value_and_grad(f)(jnp.full((1, 2), ratio, jnp.float32)))


@pytest.mark.parametrize("delta, slope", [(9.9, -0.1), (10.1, 0.0)])
def test_the_hinge_on_both_sides(delta, slope):
    f = lambda d: links.of_difference(0.1 * d, "hinge", 0.1)  # noqa: E731
    assert float(jax.grad(f)(delta)) == pytest.approx(slope, abs=1e-15)


@pytest.mark.parametrize("name, parts, message", [
    ("dpo", {"aggregation": "sequence"}, "the pair term is a mean over pairs"),
    ("dpo", {"nll_rows": "both"}, "nll_coef is 0"),
    ("orpo", {"aggregation": "constant", "aggregation_length": 5}, "choose one of token, sequence, sequence_sum"),
    ("dpo", {"beta": 0.0}, "beta=0.0 must be greater than 0"),
    ("dpo", {"label_noise": 0.1}, "no effect with smoothing='none'"),
    ("cdpo", {"label_noise": 0.5}, "at one half the labels say nothing"),
    ("dpo", {"link": "logit"}, "choose one of logistic, hinge"),
    ("dpo", {"transform": "alpha"}, "needs a number other than 1"),
    ("dpo", {"transform": "alpha", "alpha": 1}, "needs a number other than 1"),
    ("dpo", {"alpha": 0.5}, "the others take None"),
    ("dpo", {"transform": "log_odds"}, "set reference_free=True"),
    ("ipo", {"reduction": "sum_over_length"}, "is reduction='mean'"),
    ("apo_zero", {"margin": 1.0}, "is not defined with margin=1.0"),
    ("nca_pair", {"transform": "js"}, "transform='js'; leave them"),
    ("exo_pair", {"label_noise": 0.0}, "a noise above 0, e.g. 0.001"),
    ("discopop", {"smoothing": "robust"}, "not defined for link='discopop'"),
    ("bco_pair", {"smoothing": "robust"}, "not defined for link='bco'"),
    ("dpo", {"extra_link": "bco"}, "needs a weight above 0"),
    ("dpo", {"extra_coef": 0.2}, "'none' takes 0"),
    ("mpo", {"margin": 1.0}, "extra_link='bco' reads the two log-ratios"),
    ("dpo", {"extra_link": "discopop", "extra_coef": 1.0}, "choose one of none, logistic"),
    ("discopop", {"discopop_tau": None}, "needs one, e.g. 0.05"),
    ("discopop", {"discopop_tau": 2.0}, "must lie in"),
    ("cpl", {"smoothing": "conservative"}, "does not flip the sign of u"),
    ("cpl", {"contrastive_bias": 1.5}, "must lie in"),
    ("simpo", {"margin": -1.0}, "is negative"),
    ("cpl", {"discount": 0.0}, "must lie in"),
    ("ld_dpo", {"tail_weight": 2.0}, "must lie in"),
    ("dpo", {"pair_coef": 0.0}, "take objective 'cross_entropy'"),
    ("orpo", {"nll_coef": -1.0}, "is negative"),
    ("dpo", {"weighting": "policy"}, "choose one of none, wpo"),
])
def test_parts_that_contradict_each_other_are_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)


def test_a_pair_cannot_be_cut():
    objective = objectives.get("dpo")
    view, batch = given.rows(N=8)
    with pytest.raises(ValueError, match="7 rows are not a whole number of pairs; nearest valid: 6 rows"):
        objective.prepare(batch.where(slice(0, 7)))
    with pytest.raises(ValueError, match="3 rows are not a whole number of pairs"):
        objective.loss(jax.tree.map(lambda x: x[:3], view), batch.where(slice(0, 3)), {})


@pytest.mark.parametrize("name", ["dpo", "simpo", "orpo", "cpo", "ipo", "apo_zero", "mpo", "ld_dpo", "dpo_norm"])
def test_a_pair_with_an_empty_row_counts_where_asked(name):
    """Its score is 0 there, whatever stands off the mask; by default the pair is not there."""
    lengths = [3, 0, 2, 4, 0, 0, 5, 2]
    losses = {}
    for rule, N in (("default", 4), ("counted", 4)):
        objective = objectives.get(name, aggregation_empty=rule, nll_coef=0.0, **(
            {"nll_rows": "chosen", "aggregation": "token"} if objectives.RECIPES[name].nll_coef else {}))
        view, batch = given.needed(objective, *given.rows(seed=2, lengths=lengths))
        total, count, aux = objective.loss(view, objective.prepare(batch), {})
        assert np.isfinite(float(total)) and count == {"default": 2, "counted": N}[rule]
        score = np.asarray(objective.score(view, batch))
        losses[rule] = float(total)
    assert not score[[1, 4, 5]].any()
    reward = jnp.asarray(objective.beta * score.reshape(-1, 2))
    every = np.asarray(objective.pair_coef * objective.pair_loss(reward[:, 0], reward[:, 1]))
    if objective.extra_link != "none":
        every = every + objective.extra_coef * np.asarray(objective.pair_loss(reward[:, 0], reward[:, 1], objective.extra_link))
    assert losses["counted"] == pytest.approx(every.sum(), rel=1e-12)
    assert losses["default"] == pytest.approx(every[[1, 3]].sum(), rel=1e-12)


@pytest.mark.parametrize("name, parts, message", [
    ("aot", {"link": "nca"}, "sorted scores have a difference and no answers"), ("aot", {"ties": True}, "belongs to no pair"),
    ("aot", {"reference_free": True}, "choose 'sorted_rows'"), ("aot", {"pairing": "ranked"}, "choose one of own, sorted")])
def test_pairings_that_are_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)


@pytest.mark.parametrize("name", ["orpo", "orpo_prompt_nll", "cpl_bc", "mpo"])
def test_a_first_pair_that_does_not_count_leaves_the_likelihood_of_the_others(name):
    objective = given.recipe(name)
    view, batch = given.needed(objective, *given.rows(3, lengths=(0, 4, 3, 5, 2, 6, 1, 6)))
    whole, rest = (objective.loss(v, objective.balance(objective.prepare(b)), {})
                   for v, b in ((view, batch), (jax.tree.map(lambda x: x[2:], view), batch.where(slice(2, None)))))
    np.testing.assert_allclose(whole[:2], rest[:2], rtol=1e-12)
