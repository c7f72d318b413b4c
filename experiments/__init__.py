"""Experiments: each module names its arms, its measurements and its claims; `python -m experiments.run` runs a config."""
