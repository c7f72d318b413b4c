"""Does a decoder memorise the urns that it was trained on, or learn to infer any urn from its context?

Question: "In-Context Learning Strategies Emerge Rationally" (arXiv:2506.17859) finds that a transformer trained on D sources
acts like a mixture of two Bayes predictors: one that knows the D sources, and one that infers any. It weighs how well each
predicts against how long it takes to describe, so that few sources are memorised, and many only late. Here small decoders
predict the next ball from urns, and both predictors are read beside them, on the urns of training and on fresh ones, where the
two differ.

Command:   python -m experiments.run --config=in_context_strategies          (3 seeds, 4 arms)
           python -m experiments.run --config=in_context_strategies:smoke    (2 seeds, few steps)
Reads:     relative distance and weight: 1 is the memorising predictor. Unexplained says how far the nearest mixture is; the law
           of posterior odds (strategy.odds) whether the last fifth of the steps follows from those before.
Healthy:   unexplained falls below a tenth of its null in every arm; an arm where it does not follows no mixture yet.
Settings:  chosen before any run; no pilot was made.
Differs from the paper in: one ball is predicted after a whole context of 24, not at every position of 128 and more; the law of
           posterior odds is fitted to each number of urns by itself.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults
from experiments.harness.defaults import claim

RUN_TIME = "not measured in its default form (smoke 1 min)"

_DISTANCE, _FRESH = "strategy.relative_distance", "ood/fresh"


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    claim("few-are-memorised", "On fresh urns a decoder trained on 4 urns is nearer to the memorising predictor than one of "
          "1024.", _DISTANCE, ("urns-4", "urns-1024"), split=_FRESH, threshold=0.2),
    claim("in-between-is-between", "One trained on 4 is nearer to it than one trained on 64.", _DISTANCE, ("urns-4", "urns-64"),
          split=_FRESH, threshold=0.1, primary=False),
    claim("a-mixture-explains", "The nearest mixture of both is nearer to the decoder of 1024 urns than to its answers to "
          "other prompts.", "strategy.unexplained", ("urns-1024",), split=_FRESH, kind="excess_over_null", direction="less",
          threshold=-0.05),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.small_decoders()
    c.title, c.question, c.papers = "In-context strategies", __doc__.splitlines()[0], ("2506.17859",)
    c.seeds.first = 1000
    c.task = ConfigDict({"name": "urns", "colours": 6, "urns": 4, "length": 24})
    c.model.layers = 2
    c.train.update({"steps": 4000})  # of 128 rows
    c.arm = ConfigDict({"urns-4": {"start": "scratch"}} | {
        f"urns-{count}": {"like": "urns-4", "task_settings": {"urns": count}} for count in (16, 64, 1024)})
    c.arms = ("urns-4", "urns-16", "urns-64", "urns-1024")
    c.probe = ConfigDict()
    c.measure.update({"even_points": 20, "probes": ("strategies", "loss_tokens")})
    if argument == "smoke":
        defaults.smaller_decoders(c)
    return c
