"""A package, so that no other distribution's `notebooks` is taken for this folder."""
