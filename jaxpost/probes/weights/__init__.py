"""Geometry of a weight update against its base: the panel, its references, nulls, values and rows."""

from jaxpost.probes.weights.geometry import (
    Panel,
    TensorInfo,
    WeightGeometry,
    finalize,
    finalize_jaccard,
    jaccard,
    measure,
    prepare,
)

__all__ = ["Panel", "TensorInfo", "WeightGeometry", "finalize", "finalize_jaccard", "jaccard", "measure", "prepare"]
