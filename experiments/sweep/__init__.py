"""Sweeps: many runs of one config, each in a directory of its own, resumed and retried, on this machine or a Ray cluster."""
