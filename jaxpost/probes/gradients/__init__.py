"""Gradients of single examples: their sums, how much they agree, how noisy they are."""
