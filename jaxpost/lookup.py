"""The one error message of a name that is not known: what is near, and what there is."""

import difflib
from collections.abc import Iterable

_CLOSE = 0.4  # of difflib's ratio


def nearest(found: object, valid: Iterable[str]) -> str:
    """`; did you mean 'x'? (valid: x, y)`; without the question where nothing is close.

    >>> nearest("grp", ("grpo", "dpo"))
    "; did you mean 'grpo'? (valid: dpo, grpo)"
    """
    valid = sorted(map(str, valid))
    close = difflib.get_close_matches(str(found), valid, 1, _CLOSE)
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (valid: {', '.join(valid)})"
