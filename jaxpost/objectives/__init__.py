"""Losses from shared parts; `get` picks a row of the recipe table."""

from jaxpost.objectives.base import NEEDS, Batch, Objective, View
from jaxpost.objectives.recipes import RECIPES, get, register, table

__all__ = ["NEEDS", "RECIPES", "Batch", "Objective", "View", "get", "register", "table"]
