"""Supervised losses of an implicit reward: how much more likely the demonstration is than under other models.

Shapes: N rows, T completion tokens.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxpost.objectives import aggregation
from jaxpost.objectives.base import Batch, View, masked, mean_over
from jaxpost.objectives.supervised import RowObjective

BEYOND = ("tangent", "clamp")
LEVELS = ("token", "sequence")

# Link -> below which x it is not used. The forward KL's is where float32 would overflow; the others end there.
EDGES = {"linear": None, "pearson": None, "hellinger": -1.0, "jensen_shannon": -math.log(2.0), "reverse_kl": 0.0,
         "forward_kl": -60.0}


LINK_FORMULAS = {"linear": "x", "pearson": "x - x^2 / 4", "hellinger": "x / (1 + x)", "jensen_shannon": "log(2 - exp(-x))",
                 "reverse_kl": "1 + log x", "forward_kl": "-exp(-x - 1)"}


def link(x: jax.Array, name: str, beyond: str = "tangent", margin: float = 0.1) -> jax.Array:
    """phi(x) = -f*(-x), where f* is the convex conjugate of an f-divergence's f:

      linear          x                  f = |t - 1| / 2, whose domain |x| <= 1/2 is ignored: maximum likelihood
      pearson         x - x^2 / 4        f = (t - 1)^2 on all t: falls again beyond x = 2
      hellinger       x / (1 + x)        f = (sqrt t - 1)^2, x > -1
      jensen_shannon  log(2 - exp(-x))   f = t log t - (1 + t) log((1 + t) / 2), x > -log 2
      reverse_kl      1 + log x          f = -log t, x > 0
      forward_kl      -exp(-x - 1)       f = t log t

    Args:
      x: any shape.
      name: a key of EDGES.
      beyond: what phi is below its edge (EDGES) + `margin`: "tangent", the straight line that continues it there with value and
        slope, so that a gradient leads back; "clamp", its value there, without gradient.
      margin: > 0.

    Returns:
      phi, finite wherever x is, with a finite gradient.
    """
    edge = EDGES[name]
    if edge is None:
        return _inside(x, name)
    start = jnp.asarray(edge + margin, x.dtype)
    value, slope = jax.jvp(lambda y: _inside(y, name), (start,), (jnp.ones_like(start),))
    below = value + slope * (x - start) if beyond == "tangent" else value
    return jnp.where(x > start, _inside(jnp.maximum(x, start), name), below)


def _inside(x, name):
    if name == "linear":
        return x
    if name == "pearson":
        return x - x * x / 4
    if name == "hellinger":
        return x / (1 + x)
    if name == "jensen_shannon":
        return jnp.log1p(-jnp.expm1(-x))
    return 1 + jnp.log(x) if name == "reverse_kl" else -jnp.exp(-x - 1)


@dataclasses.dataclass(frozen=True)
class ImplicitReward(RowObjective):
    """SFT as the fit of an implicit reward, in f-divergences (arXiv:2507.00018), *reconstructed*.

      loss = aggregate( -phi( beta (l - f) ) )           level "token"
             mean_rows( -phi( beta sum_t (l - f) ) )     level "sequence"

    l and f are the log-probabilities of the demonstrated tokens under the policy and the reference, phi is `link`.
    With "linear" the gradient is beta times that of maximum likelihood.

    *Reconstructed*: the paper's claims are known from its abstract; the formulas are a derivation in the style of
    IQ-Learn with the value terms dropped, and beta, its default, the level and what happens outside a link's domain
    are ours. With "reverse_kl", x = 0 at the reference lies outside the domain; "clamp" would then never learn.
    """

    divergence: str = "pearson"  # a key of EDGES
    beta: float = 1.0  # scale of a log-ratio
    level: str = "token"  # LEVELS
    beyond: str = "tangent"  # BEYOND: the link below its domain
    margin: float = 0.1  # kept from the end of the domain

    def __post_init__(self):
        super().__post_init__()
        self.choose(divergence=tuple(EDGES), level=LEVELS, beyond=BEYOND)
        self.require(self.beta > 0, f"beta={self.beta} must be greater than 0, e.g. 1")
        self.require(self.margin > 0, f"margin={self.margin} must be greater than 0, e.g. 0.1: phi is infinite at the edge")
        self.require(self.level == "token" or self.aggregation == "token",
                     f"aggregation={self.aggregation!r} with level='sequence': a row is one unit and the loss a mean over "
                     "rows; leave 'token'")
        if EDGES[self.divergence] is None:
            self.unread(f"with divergence={self.divergence!r}, whose link has no edge", "beyond", "margin")
        self.require(self.divergence != "reverse_kl" or self.beyond == "tangent",
                     "beyond='clamp' with divergence='reverse_kl': no gradient where policy and reference agree; use 'tangent'")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return frozenset({"reference"})

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        mean, x = (("mean_rows", "beta sum_t (l - f)") if self.level == "sequence"
                   else (aggregation.FORMULAS[self.aggregation], "beta (l - f)"))
        edge = EDGES[self.divergence]
        below = {"tangent": "its tangent there", "clamp": "constant"}[self.beyond]
        return [f"loss = {mean} [ -phi({x}) ]", f"phi(x) = {LINK_FORMULAS[self.divergence]}",
                *([] if edge is None else [f"below x = {edge:.3g} + margin phi is {below}"])]

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; the count is that of the aggregation, or of rows with a token at the level "sequence".

        aux: `reward`, the mean of x; `beyond`, how often x lies below the link's edge + margin (links that have one).
        """
        del state, kl_coef
        view, batch = masked(view, batch)
        x, unit = self.beta * (view.logp_NxT - batch.reference_NxT), batch.mask_NxT
        if self.level == "sequence":
            x, unit = x.sum(axis=1), (unit > 0).any(axis=1).astype(x.dtype)
        loss = -link(x, self.divergence, self.beyond, self.margin)
        aux = {"reward": mean_over(x, unit)}
        if (edge := EDGES[self.divergence]) is not None:
            aux["beyond"] = mean_over((x <= edge + self.margin).astype(x.dtype), unit)
        return *(mean_over(loss, unit) if self.level == "sequence" else self.aggregate(loss, batch)), aux


@dataclasses.dataclass(frozen=True)
class PreferenceOriented(RowObjective):
    """PoFT (arXiv:2412.12865): the policy should like a demonstration better than aligned models do.

      loss = mean_rows( -log sigma( beta (s - s_a) + gamma ) ),   s = mean over the row's tokens of l

    s_a = `Batch.outside_N`: the mean over the aligned models of the same mean log-probability of the text, each with its own
    tokenizer, a constant of the data; a row where it is NaN does not count. grad = -beta (1 - sigma(.)) grad s: demonstrations
    that the aligned models find likely, and the policy does not yet, weigh more.
    """

    beta: float = 1.0  # scale of a mean log-probability
    gamma: float = 0.0  # margin

    def __post_init__(self):
        super().__post_init__()
        self.require(self.aggregation == "token",
                     f"aggregation={self.aggregation!r}: a row is one unit and the loss a mean over rows; leave 'token'")
        self.require(self.beta > 0, f"beta={self.beta} must be greater than 0, e.g. 1")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return frozenset({"outside"})

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        return ["loss = mean_rows [ -log sigma(beta (mean_t l - Batch.outside_N) + gamma) ]"]

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; the count is the number of rows with a token and a known `outside_N`.

        aux: `preference`, the mean of sigma(.), and `nll`, the mean over rows of -s.
        """
        del state, kl_coef
        view, batch = masked(view, batch)
        tokens_N = (batch.mask_NxT > 0).sum(axis=1)
        known_N = (tokens_N > 0) & ~jnp.isnan(batch.outside_N)
        s_N = view.logp_NxT.sum(axis=1) / jnp.maximum(tokens_N, 1)
        u_N = self.beta * (s_N - jnp.where(known_N, batch.outside_N, 0.0)) + self.gamma
        rows_N = known_N.astype(s_N.dtype)
        aux = {"preference": mean_over(jax.nn.sigmoid(u_N), rows_N), "nll": mean_over(-s_N, rows_N)}
        return *mean_over(-jax.nn.log_sigmoid(u_N), rows_N), aux


ROWS = (
    PreferenceOriented("poft", "sft", "arXiv:2412.12865", "rows"),
    ImplicitReward("sft_pearson", "sft", "arXiv:2507.00018", "rows", divergence="pearson"),
    ImplicitReward("sft_hellinger", "sft", "arXiv:2507.00018", "rows", divergence="hellinger"),
    ImplicitReward("sft_jensen_shannon", "sft", "arXiv:2507.00018", "rows", divergence="jensen_shannon"),
)
