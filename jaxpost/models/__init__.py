"""Policies: the declaration table, the decoder, its sampler."""

from jaxpost.models.declare import (
    MATRIX_KINDS,
    Parameter,
    TransformerConfig,
    count_parameters,
    parameter_table,
)
from jaxpost.models.reader import PLAIN, Reader
from jaxpost.models.sampler import Completions, real_tokens, sample, teacher_forced, token_logits
from jaxpost.models.transformer import Cache, Output, apply, empty_cache, init, matrices

__all__ = ["MATRIX_KINDS", "PLAIN", "Cache", "Completions", "Output", "Parameter", "Reader", "TransformerConfig", "apply",
           "count_parameters", "empty_cache", "init", "matrices", "parameter_table", "real_tokens", "sample",
           "teacher_forced", "token_logits"]
