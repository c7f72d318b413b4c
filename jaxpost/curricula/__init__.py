"""What to train on next: curricula with `init / sample / observe`."""

from jaxpost.curricula.uniform import Uniform

__all__ = ["Uniform"]
