"""jaxpost: training-dynamics measurements of post-training, each with its null, noise floor, dtype, seeds and interval."""

__version__ = "0.1.0"
