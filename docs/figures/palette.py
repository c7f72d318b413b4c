"""Colours of the example figures: what was planted, the null, what misleads, text."""

from jaxpost.records.drawing import style

FOUND, BLIND, WRONG, INK = "#0072b2", "#8a939c", "#d55e00", style.INK
