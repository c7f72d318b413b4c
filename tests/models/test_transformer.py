"""The decoder against an independent float64 numpy implementation, and its invariants."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models
from jaxpost.models import sampler
from tests import compiled

VARIANTS = {
    "llama": {},
    "qwen2": {"qkv_bias": True, "tied": True},
    "qwen3": {"qk_norm": True, "heads": 4, "kv_heads": 1},
    "olmoe": {"qk_norm": True, "qk_norm_joint": True, "experts": 5, "experts_per_token": 3},
    "qwen3_moe": {"qk_norm": True, "experts": 4, "renormalise": True, "shared_ff": 7},
}
every_part = pytest.mark.parametrize("variant", [  # the others have no part that none of these has
    name if name in ("qwen2", "olmoe", "qwen3_moe") else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS])


def config(**changes):
    return models.TransformerConfig(**{"vocab": 17, "width": 24, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 6,
                                       "ff": 20, **changes})


def random_params(c, seed=0):
    """Parameters without special values: gains and biases are random too."""
    params = models.init(c, jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return tree.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)])


def numpy_logits(c, params, tokens, valid):
    """A row at a time, loops over heads, float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x, g):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * g

    def rotate(x):
        half = c.head_dim // 2
        out = np.empty_like(x)
        for t in range(x.shape[0]):
            for i in range(half):
                angle = t * c.rope_theta ** (-i / half)
                out[t, i] = x[t, i] * np.cos(angle) - x[t, i + half] * np.sin(angle)
                out[t, i + half] = x[t, i + half] * np.cos(angle) + x[t, i] * np.sin(angle)
        return out

    def swiglu(h, gate, up, down):
        return (h @ gate / (1 + np.exp(-(h @ gate))) * (h @ up)) @ down

    def mixture(h, w):
        y = np.zeros_like(h)
        for n in range(len(h)):
            z = h[n] @ w["router"]
            share = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            chosen = sorted(range(c.experts), key=lambda e: (-z[e], e))[:c.experts_per_token]
            total = sum(share[e] for e in chosen) if c.renormalise else 1.0
            y[n] = sum(share[e] / total * swiglu(h[n], w["gate"][e], w["up"][e], w["down"][e]) for e in chosen)
        return y + (swiglu(h, w["shared_gate"], w["shared_up"], w["shared_down"]) if c.shared_ff else 0)

    rows = []
    for b in range(tokens.shape[0]):
        x = p["embed"][tokens[b]]
        T = len(x)
        for i in range(c.layers):
            w = {k: v[i] for k, v in p["layers"].items()}
            h = norm(x, w["attention_norm"])
            q, k, v = (h @ w[n] + (w[f"{n}_bias"] if c.qkv_bias else 0) for n in "qkv")
            if c.qk_norm_joint:
                q, k = norm(q, w["q_norm"]), norm(k, w["k_norm"])
            mixed = np.zeros((T, c.heads * c.head_dim))
            for head in range(c.heads):
                own = slice(head * c.head_dim, (head + 1) * c.head_dim)
                group = head // (c.heads // c.kv_heads)
                shared = slice(group * c.head_dim, (group + 1) * c.head_dim)
                qh, kh, vh = q[:, own], k[:, shared], v[:, shared]
                if c.qk_norm and not c.qk_norm_joint:
                    qh, kh = norm(qh, w["q_norm"]), norm(kh, w["k_norm"])
                score = rotate(qh) @ rotate(kh).T / np.sqrt(c.head_dim)
                keep = np.tril(np.ones((T, T), bool)) & valid[b][None]
                score = np.where(keep, score, -np.inf)
                for t in range(T):
                    if keep[t].any():
                        e = np.exp(score[t] - score[t].max())
                        mixed[t, own] = e / e.sum() @ vh
            x = x + mixed @ w["o"]
            h = norm(x, w["mlp_norm"])
            x = x + (mixture(h, w) if c.experts else swiglu(h, w["gate"], w["up"], w["down"]))
        head = p["embed"].T if c.tied else p["head"]
        rows.append(norm(x, p["final_norm"]) @ head)
    return np.stack(rows)


@every_part
def test_logits_against_numpy(variant):
    c = config(**VARIANTS[variant])
    params = random_params(c)
    tokens = np.random.default_rng(0).integers(0, 17, (3, 7))
    valid = np.ones((3, 7), bool)
    valid[0, :2] = False
    with jax.default_matmul_precision("highest"):
        got = compiled.apply(c, params, jnp.asarray(tokens), valid_BxS=jnp.asarray(valid)).logits
    expected = numpy_logits(c, params, tokens, valid)
    real = valid[..., None] & np.ones_like(expected, bool)
    error = np.linalg.norm((np.asarray(got) - expected)[real]) / np.linalg.norm(expected[real])
    assert error < 2e-6, error


@every_part
def test_cached_decoding_equals_the_full_forward(variant):
    c = config(**VARIANTS[variant])
    params = random_params(c)
    tokens = jax.random.randint(jax.random.key(3), (2, 9), 1, 17)
    valid = jnp.ones((2, 9), bool)
    full = compiled.apply(c, params, tokens, valid_BxS=valid).logits
    out = compiled.apply(c, params, tokens[:, :4], valid_BxS=valid, cache=models.empty_cache(c, 2, 9), first=3)
    steps = [out.logits[:, 0]]
    for t in range(4, 9):
        out = compiled.apply(c, params, tokens[:, t:t + 1], valid_BxS=valid, cache=out.cache)
        steps.append(out.logits[:, 0])
    np.testing.assert_allclose(jnp.stack(steps, 1), full[:, 3:], atol=2e-5)


@pytest.mark.parametrize("variant", ["llama", "qwen3_moe"])
def test_left_padding_changes_nothing(variant):
    c = config(**VARIANTS[variant])
    params = random_params(c)
    prompt = jax.random.randint(jax.random.key(1), (2, 5), 1, 17)
    answer = jax.random.randint(jax.random.key(2), (2, 3), 1, 17)
    padded = jnp.pad(prompt, ((0, 0), (4, 0)))
    np.testing.assert_allclose(compiled.token_logits(c, params, padded, answer),
                               compiled.token_logits(c, params, prompt, answer), atol=2e-5)


@pytest.mark.parametrize("variant, early_stop", [("llama", False), ("llama", True), ("qwen3_moe", False)])
def test_sampled_log_probabilities_are_the_policys_own(variant, early_stop):
    c = config(**VARIANTS[variant])
    params = random_params(c)
    prompt = jax.random.randint(jax.random.key(1), (64, 5), 1, 17)
    made = compiled.sample(c, params, prompt, jax.random.key(2), length=6, temperature=0.7, eos=3, early_stop=early_stop)
    logp = jax.nn.log_softmax(compiled.token_logits(c, params, prompt, made.tokens_NxT) / 0.7)
    chosen = jnp.take_along_axis(logp, made.tokens_NxT[..., None], -1)[..., 0] * made.mask_NxT
    np.testing.assert_allclose(made.logp_NxT, chosen, atol=2e-5)
    tokens, mask = np.asarray(made.tokens_NxT), np.asarray(made.mask_NxT)
    for row, kept in zip(tokens, mask):
        end = list(row).index(3) + 1 if 3 in row else len(row)
        assert kept.sum() == end and (row[end:] == 0).all()


def test_any_of_several_end_tokens_ends_a_row():
    c = config()
    params, prompt = random_params(c), jax.random.randint(jax.random.key(1), (64, 5), 1, 17)
    free, one, several = (compiled.sample(c, params, prompt, jax.random.key(2), length=8, eos=eos)
                          for eos in (99, 3, (3, 5, 7)))
    tokens = np.asarray(free.tokens_NxT)
    for made, ends in ((one, {3}), (several, {3, 5, 7})):
        for row, got, kept in zip(tokens, np.asarray(made.tokens_NxT), np.asarray(made.mask_NxT)):
            end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
            assert list(got) == [*row[:end], *[0] * (len(row) - end)] and kept.sum() == end


def test_early_stop_samples_the_same_tokens():
    c = config()
    params = random_params(c)
    prompt = jax.random.randint(jax.random.key(1), (16, 5), 1, 17)
    a, b = (compiled.sample(c, params, prompt, jax.random.key(2), length=8, eos=3, early_stop=e) for e in (False, True))
    np.testing.assert_array_equal(a.tokens_NxT, b.tokens_NxT)


@pytest.mark.parametrize("early_stop", [False, True])
def test_a_cache_that_grows_while_decoding_keeps_every_position(early_stop, monkeypatch):
    """Loops over caches of 7, 14 and 21 positions against the teacher-forced pass, of a row with padding and one without."""
    monkeypatch.setattr(sampler, "_FIRST_SIZE", 7)
    c = config()
    params = random_params(c)
    prompt = jnp.asarray([[0, 0, 9, 4, 11], [5, 6, 7, 8, 9]])
    assert sampler._sizes(5, 21) == [7, 14, 21]
    made = compiled.sample(c, params, prompt, jax.random.key(2), length=17, eos=99, early_stop=early_stop)
    logp = jax.nn.log_softmax(compiled.token_logits(c, params, prompt, made.tokens_NxT))
    chosen = jnp.take_along_axis(logp, made.tokens_NxT[..., None], -1)[..., 0]
    np.testing.assert_allclose(made.logp_NxT, chosen, atol=2e-5)


@pytest.mark.parametrize("early_stop", [pytest.param(False, marks=pytest.mark.slow), True])
def test_decoding_updates_its_cache_in_place(early_stop):
    """XLA's own account: a longer completion costs its keys, values and results, and no second copy of them."""
    c, rows = config(layers=3), 16
    shapes = jax.eval_shape(lambda: (models.init(c, jax.random.key(0)), jax.random.key(0)))

    def temporaries(length):
        program = jax.jit(lambda params, prompt, key: models.sample(c, params, prompt, key, length=length, eos=3,
                                                                    early_stop=early_stop))
        lowered = program.lower(shapes[0], jax.ShapeDtypeStruct((rows, 5), jnp.int32), shapes[1])
        return lowered.compile().memory_analysis().temp_size_in_bytes

    position = 2 * c.layers * rows * c.kv_heads * c.head_dim * 4
    assert temporaries(1024) - temporaries(512) < 1.3 * 512 * position


def test_sampling_follows_the_distribution():
    c = config()
    params = random_params(c)
    prompt = jnp.tile(jax.random.randint(jax.random.key(1), (1, 5), 4, 17), (4000, 1))
    made = compiled.sample(c, params, prompt, jax.random.key(5), length=1, eos=3)
    p = np.asarray(jax.nn.softmax(compiled.token_logits(c, params, prompt[:1], made.tokens_NxT[:1]))[0, 0])
    counts = np.bincount(np.asarray(made.tokens_NxT[:, 0]), minlength=17)
    chi2 = ((counts - 4000 * p) ** 2 / (4000 * p)).sum()
    assert chi2 < 45, chi2  # 16 degrees of freedom: the 0.9998 quantile is 44


def test_tokens_of_neighbouring_positions_are_drawn_independently():
    c = config()
    nothing = jax.tree.map(jnp.zeros_like, random_params(c))  # every token is as likely as any other, whatever came before
    made = compiled.sample(c, nothing, jnp.ones((500, 2), jnp.int32), jax.random.key(5), length=4, eos=99)
    tokens = np.asarray(made.tokens_NxT)
    p = 1 / 17
    assert abs((tokens[:, 1:] == tokens[:, :-1]).mean() - p) < 5 * np.sqrt(p * (1 - p) / 1500)


@pytest.mark.parametrize("first", [0, 3])
def test_values_are_a_head_of_one_column_beside_the_logits(first):
    c, plain = config(value_head=True), config()
    params = random_params(c)
    tokens, valid = np.random.default_rng(0).integers(0, 17, (3, 7)), np.ones((3, 7), bool)
    with jax.default_matmul_precision("highest"):
        out = compiled.apply(c, params, jnp.asarray(tokens), valid_BxS=jnp.asarray(valid), first=first)
        bare = compiled.apply(plain, params, jnp.asarray(tokens), valid_BxS=jnp.asarray(valid), first=first)
    expected = numpy_logits(c, {**params, "head": params["value"]}, tokens, valid)[:, first:, 0]
    np.testing.assert_allclose(out.taps["value"], expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(out.logits, bare.logits)
    assert out.taps["value"].dtype == jnp.float32 and bare.taps == {}
    headless = {n: x for n, x in params.items() if n != "value"}
    assert compiled.apply(c, headless, jnp.asarray(tokens), valid_BxS=jnp.asarray(valid)).taps == {}


def test_values_are_float32_where_activations_are_not():
    c = config(value_head=True, compute_dtype="bfloat16")
    prompt, answer = jnp.ones((2, 3), jnp.int32), jnp.ones((2, 4), jnp.int32)
    value = models.teacher_forced(c, random_params(c), prompt, answer).taps["value"]
    assert value.dtype == jnp.float32 and value.shape == (2, 4)


def test_a_value_head_starts_at_zero_and_moves_no_other_parameter():
    c = config(value_head=True)
    params = models.init(c, jax.random.key(0))
    assert params["value"].shape == (24, 1) and not np.asarray(params["value"]).any()
    rest = {n: x for n, x in params.items() if n != "value"}
    chex.assert_trees_all_equal(rest, models.init(config(), jax.random.key(0)))
    assert set(models.matrices(params, c)) == set(models.matrices(rest, config()))


def test_the_declaration_table_is_the_parameter_tree():
    for changes in (*VARIANTS.values(), {"value_head": True}):
        c = config(**changes)
        params, table = models.init(c, jax.random.key(0)), models.parameter_table(c)
        shapes = jax.tree.map(lambda p: p.shape, table, is_leaf=lambda p: isinstance(p, models.Parameter))
        assert shapes == jax.tree.map(lambda x: x.shape, params)
        assert sum(x.size for x in jax.tree.leaves(params)) == models.count_parameters(c)
        names = models.matrices(params, c)
        assert ("head" in names) != c.tied and all(w.ndim == 2 for w in names.values())


def test_bad_architectures_are_refused_with_the_nearest_valid():
    with pytest.raises(ValueError, match="kv_heads=3 does not divide"):
        config(kv_heads=3)
    with pytest.raises(ValueError, match="odd"):
        config(head_dim=5)
