"""Tensors on disk: where they lie, of what shape and dtype, read one at a time."""

from jaxpost.formats import safetensors
from jaxpost.formats.safetensors import FormatError, Stored

__all__ = ["FormatError", "Stored", "safetensors"]
