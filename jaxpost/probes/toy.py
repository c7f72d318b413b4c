"""A small model that needs no other room: what the catalogue is priced and documented on where no config is given.

Legend: V vocabulary, D width, F feed-forward width, E experts, L layers, T tokens, P modulus of the toy's addition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes import base, catalog, circuits, fourier, routing
from jaxpost.probes.policy import fisher, given_reasoning, in_context, interrupted, several_samples, table_fit
from jaxpost.probes.updates import ever_changed

P = 13  # modulus of the toy's addition
V, D, F, E, L, T, ROWS = 512, 256, 512, 8, 4, 32, 64
TARGETS = ("label",)
SAID = f"a toy of {L} layers of width {D}, {ROWS} rows of {T} tokens"
_LAYER = {"q": (D, D), "k": (D, D), "v": (D, D), "o": (D, D), "gate": (D, F), "up": (D, F), "down": (F, D), "router": (D, E)}


def _f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def shapes() -> dict[base.Need, object]:
    """Need -> ShapeDtypeStructs of the toy."""
    params = {"embed": _f32(V, D), "head": _f32(D, V), "layers": {name: _f32(L, *shape) for name, shape in _LAYER.items()}}
    matrices = {"embed": _f32(V, D), "head": _f32(D, V)} | {
        f"layers/{i}/{name}": _f32(*shape) for i in range(L) for name, shape in _LAYER.items()}
    tokens = jax.ShapeDtypeStruct((ROWS, T), jnp.int32)
    return {base.PARAMS0: params, base.PARAMS: params, base.WEIGHTS0: matrices, base.WEIGHTS: matrices,
            ever_changed.EVER: jax.eval_shape(ever_changed.start, params)[ever_changed.ITEM],
            base.PROBE_BATCH: {"tokens": tokens, "label": tokens}}


def logits(params: dict, tokens_T: jax.Array) -> jax.Array:
    """Logits of a residual stack; logits_TxV."""
    return _stack(params, tokens_T)[0] @ params["head"]


def _stack(params: dict, tokens_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x_TxD, router logits LxTxE) of linear attention over earlier tokens and a gated layer, weighed by its router."""
    return jax.lax.scan(_block, params["embed"][tokens_T], params["layers"])


def _block(x_TxD: jax.Array, w: dict) -> tuple[jax.Array, jax.Array]:
    q, k, v = (x_TxD @ w[name] for name in ("q", "k", "v"))
    x_TxD = x_TxD + jnp.tril(q @ k.T) @ v @ w["o"] / D
    routed_TxE = x_TxD @ w["router"]
    weight_Tx1 = jax.nn.softmax(routed_TxE).max(axis=-1, keepdims=True)
    return x_TxD + weight_Tx1 * ((jax.nn.silu(x_TxD @ w["gate"]) * (x_TxD @ w["up"])) @ w["down"]), routed_TxE


def loss(params: dict, example: dict) -> jax.Array:
    """Cross-entropy of one example, summed over its tokens."""
    logp_TxV = jax.nn.log_softmax(logits(params, example["tokens"]))
    return -jnp.take_along_axis(logp_TxV, example["label"][:, None], axis=1).sum()


def predict(params: dict, example: dict) -> fisher.Predictions:
    """What the model says at every position of an example."""
    return fisher.Predictions(logits(params, example["tokens"]), example["label"], jnp.ones(example["label"].shape))


def solved(params: dict, example: dict) -> jax.Array:
    """1 if the likeliest token is right everywhere."""
    return (logits(params, example["tokens"]).argmax(-1) == example["label"]).all().astype(jnp.float32)


def route(params: dict, examples: dict) -> routing.Routed:
    """Router logits and outcome of every example."""
    routed = jax.vmap(lambda tokens: _stack(params, tokens)[1])(examples["tokens"])
    losses, right = (jax.vmap(lambda example, of=of: of(params, example))(examples) for of in (loss, solved))
    return routing.Routed(routed, jnp.ones(examples["tokens"].shape), losses / T, right)


def _answers(params: dict, tokens_NxT: jax.Array) -> jax.Array:
    """Logits of the last position of every row, [N, V]."""
    return jax.vmap(lambda tokens: logits(params, tokens)[-1])(tokens_NxT)


def _reading(params: dict, tokens_NxT: jax.Array) -> fourier.Reading:
    """The toy on a + b modulo P: operands are tokens, answers too."""
    return fourier.Reading(_answers(params, tokens_NxT)[:, :P].reshape(P, P, P), params["embed"][:P], params["head"].T[:P])


_PAIRS = np.stack(np.meshgrid(np.arange(P), np.arange(P), indexing="ij"), axis=-1).reshape(-1, 2)
TABLES = (table_fit.Table("id", _answers, _PAIRS.sum(axis=1) % P, _PAIRS),)
ADDITION = fourier.Addition(_reading, fourier.Problems((_PAIRS.sum(axis=1) % P).reshape(P, P), np.ones((P, P), bool)),
                            fourier.Inputs(_PAIRS))


def residual(params: dict, tokens_NxT: jax.Array, edit: Callable | None) -> tuple[jax.Array, jax.Array]:
    """States of the residual stack and logits of the last position, with edits between the layers."""
    x_NxTxD, state_J = params["embed"][tokens_NxT], []
    for j in range(L + 1):
        if j:
            w = jax.tree.map(lambda leaf, j=j: leaf[j - 1], params["layers"])
            x_NxTxD = jax.vmap(lambda x, w=w: _block(x, w)[0])(x_NxTxD)
        x_NxTxD = x_NxTxD if edit is None else edit(x_NxTxD, j)
        state_J.append(x_NxTxD)
    return jnp.stack(state_J), x_NxTxD[:, -1] @ params["head"]


CIRCUIT = circuits.Circuit(residual, lambda params, state_JxNxD: state_JxNxD @ params["head"], (circuits.Asked(
    "train", ("a", "b"), (("sum", 1),), ("a",),
    circuits.Inputs(_PAIRS, _PAIRS.sum(axis=1)[None] % P, np.stack([(_PAIRS[:, 0] + 1) % P, _PAIRS[:, 1]], axis=1)[None])),))


def scores(params: dict, tokens_NxT: jax.Array) -> jax.Array:
    """One head that attends to earlier tokens like its own."""
    x_NxTxD = params["embed"][tokens_NxT]
    seen_TxT = jnp.tril(jnp.ones((tokens_NxT.shape[1],) * 2, bool))
    return jnp.where(seen_TxT[None], x_NxTxD @ x_NxTxD.swapaxes(1, 2), -1e30)[None, :, None]


HEADS = circuits.Heads(scores, tuple(range(V)), D)


@dataclass(frozen=True)
class Suite:
    """Fixed problems: agreement of the greedy tokens with the base's."""

    def measure(self, params: dict, base_params: dict, key: jax.Array) -> dict[str, jax.Array]:
        """Share of random prompts' tokens on which both are of one mind."""
        tokens = jax.random.randint(key, (ROWS, T), 0, V)
        ours, theirs = (jax.vmap(lambda t, p=p: logits(p, t).argmax(-1))(tokens) for p in (params, base_params))
        return {"success/id": (ours == theirs).mean()}

    def samples(self, params: dict, key: jax.Array, count: int, temperatures: tuple[float, ...]
                ) -> dict[str, several_samples.Sampled]:
        """Greedy tokens of `count` random prompts a row, likely as they are; a sample is solved if its first token is even."""
        def one(key):
            z_NxTxV = jax.vmap(lambda t: logits(params, t))(jax.random.randint(key, (ROWS, T), 0, V))
            token, logp = z_NxTxV.argmax(-1), jax.nn.log_softmax(z_NxTxV).max(-1)
            entropy = [-(jax.nn.softmax(z_NxTxV / t) * jax.nn.log_softmax(z_NxTxV / t)).sum((1, 2)) for t in temperatures]
            return several_samples.Sampled((token[:, 0] % 2 == 0).astype(jnp.float32), token, jnp.ones((ROWS, T), bool),
                                           logp.sum(1), jnp.full(ROWS, float(T)), jnp.stack(entropy, axis=-1))

        drawn = jax.lax.map(one, jax.random.split(key, count))
        return {"id": jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), drawn)}

    def interrupted(self, params: dict, key: jax.Array, budgets: tuple[int, ...], control: str) -> dict[str, interrupted.Cut]:
        """Whether the greedy tokens up to each budget hold an even one; none of the control's do."""
        del control
        even_NxT = jax.vmap(lambda t: logits(params, t).argmax(-1))(jax.random.randint(key, (ROWS, T), 0, V)) % 2 == 0
        reward_NxK = jnp.stack([even_NxT[:, :budget].any(1) for budget in budgets], axis=1).astype(jnp.float32)
        cut_NxK = ~even_NxT[:, :len(budgets)]
        return {"id": interrupted.Cut(even_NxT.any(1).astype(jnp.float32), reward_NxK, 0 * reward_NxK, cut_NxK)}

    def given_reasoning(self, params: dict, key: jax.Array, shares: tuple[float, ...]) -> dict[str, given_reasoning.Given]:
        """Whether the greedy tokens behind each share are even; of the other problem's, whether they are odd."""
        even_NxT = jax.vmap(lambda t: logits(params, t).argmax(-1))(jax.random.randint(key, (ROWS, T), 0, V)) % 2 == 0
        reward_NxK = even_NxT[:, [int(share * (T - 1)) for share in shares]].astype(jnp.float32)
        return {"id": given_reasoning.Given(reward_NxK, 1 - reward_NxK, 1 - reward_NxK[:, -1], reward_NxK[:, 0],
                                            jnp.arange(ROWS) % 2 == 0)}

    def first_answers(self, params: dict) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Logits of the last token of fixed prompts, each of which is to be answered by 0 or 1."""
        tokens_NxT = jax.random.randint(jax.random.key(0), (ROWS, T), 0, V)
        return {"id": (_answers(params, tokens_NxT), tokens_NxT[:, 0] % 2)}

    strategic = ("id",)

    def strategy_bits(self) -> tuple[float, float]:
        """Made up."""
        return 1000.0, 100.0

    def strategies(self, params: dict) -> dict[str, in_context.Answers]:
        """Two answers: one predictor is sure of the first, one of neither."""
        logits_NxC = self.first_answers(params)["id"][0][:, :2]
        sure_NxC, unsure_NxC = (jnp.broadcast_to(jnp.asarray(p), logits_NxC.shape) for p in ([0.9, 0.1], [0.5, 0.5]))
        return {"id": in_context.Answers(jax.nn.log_softmax(logits_NxC), sure_NxC, unsure_NxC, jnp.zeros(len(logits_NxC)))}

    def vocabularies(self) -> dict[str, int]:
        """{split: number of words}."""
        return {"id": V}


SUBJECT = catalog.Subject(loss=loss, predict=predict, solved=solved, targets=TARGETS, route=route, top=2, suite=Suite(),
                          guesses=(("id", 0.0),), tables=TABLES, addition=ADDITION, circuit=CIRCUIT, heads=HEADS)
