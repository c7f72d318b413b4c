"""Tables of named things: one way to look a name up, one to add to them, and one message for a name that is not known."""

import difflib
from collections.abc import Iterable, Mapping, MutableMapping

_CLOSE = 0.4  # of difflib's ratio
_MOST = 120  # names that a message lists; of a longer table the closest


def nearest(name: object, valid: Iterable[str]) -> str:
    """`; did you mean 'x'? (valid: x, y)`; without the question where nothing is close.

    >>> nearest("grp", ("grpo", "dpo"))
    "; did you mean 'grpo'? (valid: dpo, grpo)"
    """
    valid = sorted(map(str, valid))
    close = difflib.get_close_matches(str(name), valid, 1, _CLOSE)
    listed = valid if len(valid) <= _MOST else difflib.get_close_matches(str(name), valid, 10, 0.0)
    more = f", and {len(valid) - len(listed)} more" if len(listed) < len(valid) else ""
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (valid: {', '.join(listed)}{more})"


def find(kind: str, name: str, table: Mapping):
    """`table[name]`. Raises: ValueError, `KIND 'nmae' is not known; did you mean 'name'? (valid: ...)`."""
    if name not in table:
        raise ValueError(f"{kind} {name!r} is not known{nearest(name, table)}")
    return table[name]


def register(kind: str, name: str, value: object, table: MutableMapping) -> None:
    """Add to a table of the package, or of a user. Raises: ValueError: the name is taken."""
    if name in table:
        raise ValueError(f"{kind} {name!r} is registered twice; choose another name")
    table[name] = value
