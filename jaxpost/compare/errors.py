"""The one error of a comparison that a user can cause."""


class CompareError(ValueError):
    """Two checkpoints, or a report directory, that cannot be compared as asked; one line that says what to do."""
