"""Losses from shared parts; `get` picks a row of the recipe table."""

from jaxpost.objectives.base import Batch, Objective
from jaxpost.objectives.recipes import RECIPES, get, table

__all__ = ["RECIPES", "Batch", "Objective", "get", "table"]
