"""Experiments: each module names its arms, its measurements and its claims; `python -m experiments.run` runs a config."""

import os

# Small SVDs lose more to OpenBLAS's own threads than they gain, and XLA already uses every core. Set before numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
