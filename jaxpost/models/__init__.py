"""Policies: the declaration table, the decoder, its sampler."""

from jaxpost.models.declare import (
    MATRIX_KINDS,
    REMAT,
    Parameter,
    TransformerConfig,
    count_parameters,
    parameter_table,
)
from jaxpost.models.reader import PLAIN, MixedInputs, Reader
from jaxpost.models.residual import Residual, logit_lens, residual_stream
from jaxpost.models.sampler import (
    DRAW,
    Completions,
    prompt_forced,
    prompt_tokens,
    real_tokens,
    sample,
    teacher_forced,
    token_logits,
)
from jaxpost.models.transformer import Cache, Output, apply, empty_cache, head_logits, init, matrices
from jaxpost.models.vocabulary import TokenStatistics, token_statistics

__all__ = ["DRAW", "MATRIX_KINDS", "PLAIN", "REMAT", "Cache", "Completions", "MixedInputs", "Output", "Parameter", "Reader",
           "Residual", "TokenStatistics", "TransformerConfig", "apply", "count_parameters", "empty_cache", "head_logits",
           "init", "logit_lens", "matrices", "parameter_table", "prompt_forced", "prompt_tokens", "real_tokens",
           "residual_stream", "sample", "teacher_forced", "token_logits", "token_statistics"]
