"""A package, so that no other distribution's `docs` is taken for this folder."""
