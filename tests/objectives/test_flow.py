"""Flow balance on an enumerated tree: zero at P proportional to R, numpy away from it, gradient descent reaches it.

The tree has seven completions over two letters and an end token, at most two letters long; a table holds the logits of its
seven prefixes. Shapes: N = 7 rows, T = 3 tokens, V = 3, S states.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import Batch, View
from tests.objectives import given

END, V, T = 0, 3, 3
PREFIXES = ("", "1", "2", "11", "12", "21", "22")  # also the seven completions, without their end token
TOKENS = np.array([[int(c) for c in p.ljust(T, "0")] for p in PREFIXES])
MASK = np.array([[t <= len(p) for t in range(T)] for p in PREFIXES]) * 1.0
STATE = np.array([[PREFIXES.index(p[:min(t, len(p))]) for t in range(T)] for p in PREFIXES])  # table row of each token's state
LEAF = np.array([[0.0] * V if len(p) < 2 else [0.0, -1e4, -1e4] for p in PREFIXES])  # the longest prefixes can only end


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def optimum(log_reward):
    """(logits whose completions are drawn in proportion to the reward, log F of each prefix), summed from the leaves up."""
    flow = np.zeros(7)
    for i in reversed(range(7)):
        below = sum(flow[PREFIXES.index(PREFIXES[i] + c)] for c in "12") if len(PREFIXES[i]) < 2 else 0.0
        flow[i] = np.exp(log_reward[i]) + below
    step = [[np.exp(log_reward[i]), *(flow[PREFIXES.index(p + c)] if len(p) < 2 else 1.0 for c in "12")]
            for i, p in enumerate(PREFIXES)]
    return np.log(np.array(step)), np.log(flow)


def row_logp(logits):
    """Log-probability of each completion."""
    lp = jax.nn.log_softmax(jnp.asarray(logits) + LEAF)
    return (lp[STATE, TOKENS] * MASK).sum(axis=1)


def seen(logits, value=None, far=None):
    """What a tabular policy, value head and reference say about the seven rows."""
    lp = jax.nn.log_softmax(logits + LEAF)
    return View(lp[STATE, TOKENS], (logits + LEAF)[STATE], None if far is None else (far + LEAF)[STATE],
                None if value is None else value[STATE])


def prepared(objective, view, reward):
    """The whole tree as one group, prepared under the parameters of the view."""
    now = jax.lax.stop_gradient(view)
    return objective.prepare(Batch(None, jnp.asarray(TOKENS), jnp.asarray(MASK), reward_N=reward, proximal_NxT=now.logp_NxT,
                                   value_NxT=now.value_NxT), 7)


def loss(objective, logits, value=None, far=None, reward=None):
    """(sum / count, count), prepared under the same parameters."""
    view = seen(logits, value, far)
    s, count, _ = objective.loss(view, prepared(objective, view, reward), {})
    return s / count, count


def problem(seed=0):
    """Log-rewards, tables of a policy, a value head and a reference."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=7), rng.normal(size=(7, V)), rng.normal(size=7), rng.normal(size=(7, V))


def get(**parts):
    """A row of the table with flows, level and aggregation chosen freely."""
    modified = parts.get("flows") == "termination"
    return objectives.get("trajectory_balance", **({"reward": "reference", "end_token": END} if modified else {}), **parts)


EVERY = [{"flows": "group"}, *({"flows": f, "level": lv, **more} for f in ("critic", "termination")
                               for lv, more in (("trajectory", {}), ("detailed", {}), ("detailed", {"aggregation": "sequence"}),
                                                ("subtrajectory", {"lam": 0.7}),
                                                ("subtrajectory", {"aggregation": "sequence"}),
                                                ("subtrajectory", {"aggregation": "sequence_sum", "lam": 0.7})))]


def rewards_of(parts, log_reward, far, temperature):
    """The log-reward of each completion that the parts mean."""
    return np.asarray(row_logp(far)) / temperature if parts["flows"] == "termination" else log_reward / temperature


@pytest.mark.parametrize("parts", EVERY, ids=str)
def test_every_balance_is_zero_and_flat_where_completions_are_drawn_in_proportion_to_their_reward(parts):
    log_reward, _, _, far = problem(1)
    temperature = 0.8
    logits, flow = map(jnp.asarray, optimum(rewards_of(parts, log_reward, far, temperature)))
    p = np.exp(row_logp(logits))
    goal = np.exp(rewards_of(parts, log_reward, far, temperature))
    np.testing.assert_allclose(p, goal / goal.sum(), rtol=1e-12)
    objective = get(reward_temperature=temperature, **parts)

    def total(logits, flow):
        return loss(objective, logits, flow, jnp.asarray(far), jnp.asarray(log_reward))[0]

    value, grads = jax.value_and_grad(total, (0, 1))(logits, flow)
    assert abs(value) < 1e-26 and all(np.abs(g).max() < 1e-13 for g in grads)


def by_hand(parts, log_reward, logits, value, far, temperature):
    """The loss as loops over rows and pieces."""
    def log_softmax(x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    lp, lq = log_softmax(logits + LEAF), log_softmax(far + LEAF)
    rows = []
    z = np.mean(log_reward / temperature - np.asarray(row_logp(logits)))
    for i, word in enumerate(PREFIXES):
        steps = [lp[STATE[i, t], TOKENS[i, t]] for t in range(len(word) + 1)]
        if parts["flows"] == "termination":
            told = [lq[STATE[i, t], TOKENS[i, t]] for t in range(len(word))]
            flow = [(sum(told[:t]) + lq[STATE[i, t], END]) / temperature - lp[STATE[i, t], END] for t in range(len(word) + 1)]
        else:
            flow = [value[STATE[i, t]] for t in range(len(word) + 1)] + [log_reward[i] / temperature]
            flow = [z, *[np.nan] * len(word), flow[-1]] if parts["flows"] == "group" else flow
        last = len(flow) - 1
        keep = {"trajectory": lambda a, b, n=last: (a, b) == (0, n), "detailed": lambda a, b: b == a + 1,
                "subtrajectory": lambda a, b: True}[parts.get("level", "trajectory")]
        pieces = [(parts.get("lam", 1.0) ** (b - a - 1), (flow[a] + sum(steps[a:b]) - flow[b]) ** 2)
                  for a in range(last + 1) for b in range(a + 1, last + 1) if keep(a, b)]
        rows += [pieces] if pieces else []
    if parts.get("aggregation") == "sequence_sum":
        return np.mean([sum(w * e for w, e in p) for p in rows]), len(rows)
    if parts.get("aggregation") == "sequence":
        return np.mean([sum(w * e for w, e in p) / sum(w for w, _ in p) for p in rows]), len(rows)
    return sum(w * e for p in rows for w, e in p) / (total := sum(w for p in rows for w, _ in p)), total


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("parts", EVERY, ids=str)
def test_away_from_the_optimum_against_loops(parts, seed):
    log_reward, logits, value, far = problem(seed)
    got = loss(get(reward_temperature=1.7, **parts), *map(jnp.asarray, (logits, value, far, log_reward)))
    expected = by_hand(parts, log_reward, logits, value, far, 1.7)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert got[0] > 0.01


@pytest.mark.parametrize("parts", EVERY, ids=str)
def test_the_gradient_against_finite_differences(parts):
    """In the policy's and the value head's tables; what `prepare` stops is held where it was."""
    log_reward, logits, value, far = map(jnp.asarray, problem(2))
    objective = get(**parts)
    batch = prepared(objective, seen(logits, value, far), log_reward)

    @jax.jit
    def total(x):
        s, count, _ = objective.loss(seen(x[:, :V], x[:, V], far), batch, {})
        return s / count

    x = jnp.concatenate([logits, value[:, None]], axis=1)
    g, h = np.asarray(jax.grad(total)(x)), 1e-5
    for i, j in np.ndindex(x.shape):
        slope = (total(x.at[i, j].add(h)) - total(x.at[i, j].add(-h))) / (2 * h)
        assert abs(g[i, j] - slope) <= 1e-8 * max(1.0, np.abs(g).max())
    assert np.any(g[:, :V]) and np.any(g[:, V]) == (parts["flows"] == "critic")


def test_the_stopped_partition_gives_the_gradient_of_the_variance():
    """Of log R - log pi over the rows, divided by their number: the deviations from the mean sum to 0."""
    log_reward, logits, _, _ = map(jnp.asarray, problem(3))
    ours = jax.value_and_grad(lambda x: loss(get(flows="group"), x, reward=log_reward)[0])(logits)
    variance = jax.value_and_grad(lambda x: jnp.var(log_reward - row_logp(x)))(logits)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-14), ours, variance)


@pytest.mark.parametrize("parts", [{"flows": "group"}, {"flows": "critic"},
                                   {"flows": "critic", "level": "subtrajectory", "lam": 0.9},
                                   {"flows": "termination", "level": "detailed"},
                                   {"flows": "termination", "level": "subtrajectory"}], ids=str)
def test_gradient_descent_reaches_the_optimum(parts):
    """4000 plain steps on the whole tree: every completion's probability within 1e-3 of its share of the reward."""
    log_reward, logits, value, far = map(jnp.asarray, problem(4))
    objective = get(**parts)
    slope = jax.grad(lambda x, v: loss(objective, x, v, far, log_reward)[0], (0, 1))

    @functools.partial(jax.jit, static_argnums=1)
    def descend(x, steps):
        return jax.lax.fori_loop(0, steps, lambda _, y: jax.tree.map(lambda a, g: a - 0.1 * g, y, slope(*y)), x)

    found = np.exp(row_logp(descend((logits, value), 4000)[0]))
    goal = np.exp(rewards_of(parts, np.asarray(log_reward), np.asarray(far), 1.0))
    before = np.abs(np.exp(row_logp(logits)) - goal / goal.sum()).max()
    assert np.abs(found - goal / goal.sum()).max() < 1e-3 < 0.02 < before


def test_a_row_without_a_reward_or_a_piece_does_not_count():
    """A missing reward leaves the group's mean and the count; a prompt that ends at once has no step of "termination"."""
    log_reward, logits, value, far = map(jnp.asarray, problem(5))
    gone = log_reward.at[3].set(jnp.nan)
    value_loss, count = loss(get(flows="group"), logits, reward=gone)
    excess = np.delete(np.asarray(log_reward - row_logp(logits)), 3)
    assert count == 6 and float(value_loss) == pytest.approx(excess.var(), rel=1e-12)
    slope = jax.grad(lambda x: loss(get(flows="group"), x, reward=gone)[0])(logits)
    assert np.isfinite(slope).all() and not np.any(slope[PREFIXES.index("11")])
    assert loss(get(flows="termination", level="detailed"), logits, value, far)[1] == 2 * 1 + 4 * 2
    assert loss(get(flows="termination", level="detailed", aggregation="sequence"), logits, value, far)[1] == 6


def test_an_empty_trajectory_counts_where_asked():
    """e = log Z - log R; log Z is the group's mean of log R - log pi, the empty row's log pi being 0."""
    rng = np.random.default_rng(1)
    mask = (np.arange(3)[None] < np.asarray([3, 0, 1, 2])[:, None]).astype(float)
    logp, reward = -rng.gamma(1.0, 1.0, (4, 3)), rng.normal(size=4)
    batch = objectives.Batch(None, jnp.zeros((4, 3), jnp.int32), jnp.asarray(mask), reward_N=jnp.asarray(reward),
                             proximal_NxT=jnp.asarray(logp))
    for rule, among in (("default", [0, 2, 3]), ("counted", [0, 1, 2, 3])):
        objective = get(flows="group", aggregation_empty=rule)
        total, count, _ = objective.loss(objectives.View(jnp.asarray(logp)), objective.prepare(batch, 4), {})
        excess = (reward - (logp * mask).sum(1))[among]
        assert count == len(among) and float(total / count) == pytest.approx(excess.var(), rel=1e-12)
    with pytest.raises(ValueError, match="only with flows='group'"):
        objectives.get("subtrajectory_balance", aggregation_empty="counted")


def test_a_plain_reward_has_a_floor():
    _, logits, _, _ = map(jnp.asarray, problem(6))
    plain = jnp.array([0.0, 0.5, 1.0, 1e-9, 2.0, 0.3, 1.0])
    got = loss(get(flows="group", reward="plain", reward_floor=0.01), logits, reward=plain)[0]
    assert got == loss(get(flows="group"), logits, reward=jnp.log(jnp.maximum(plain, 0.01)))[0]


@pytest.mark.parametrize("name, parts, message", [
    ("trajectory_balance", {"level": "detailed"}, "a group's mean estimates log Z"),
    ("trajectory_balance", {"lam": 0.5}, "has no effect with level='trajectory'"),
    ("trajectory_balance", {"aggregation": "sequence"}, "one piece a row"),
    ("trajectory_balance", {"reward_floor": 0.1}, "has no effect with reward='log'"),
    ("trajectory_balance", {"reward_temperature": 0.0}, "must be greater than 0"),
    ("trajectory_balance", {"end_token": 2}, "the others take None"),
    ("subtrajectory_balance", {"lam": 0.0}, "for 0 take level='detailed'"),
    ("subtrajectory_balance", {"aggregation": "constant", "aggregation_length": 4}, "choose one of token, sequence"),
    ("subtrajectory_balance", {"flows": "termination"}, "only 'reference' gives every prefix the reward"),
    ("modified_detailed_balance", {"end_token": None}, "needs the id of the end token"),
    ("modified_detailed_balance", {"end_token": 1.5}, "expected a whole number or None"),
])
def test_what_is_refused_when_built(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)


def test_what_is_refused_when_traced():
    _, batch = given.rows()
    with pytest.raises(ValueError, match="needs at least 2 rows a prompt"):
        objectives.get("trajectory_balance").prepare(batch, 1)
    with pytest.raises(ValueError, match="needs Batch.reward_N"):
        objectives.get("trajectory_balance").prepare(batch._replace(reward_N=None), 4)
    objective, view, ready = given.ready("modified_detailed_balance", end_token=given.V)
    with pytest.raises(ValueError, match="end_token=7 is not in the vocabulary; choose one of 0 to 6"):
        objective.loss(view, ready, {})
