"""Kinds of values: whether an option is what its declared type asks for, and a message for one that is not.

A truth value is no number, a number no truth value, 2.0 no whole number; numbers are finite.
"""

import collections.abc
import math
import numbers
import types
import typing

import numpy as np

_NAMES = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a text", types.NoneType: "None",
          dict: "a table", collections.abc.Mapping: "a table"}
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def refusal(value: object, kind: object) -> str:
    """`expected a whole number or None; nearest valid: 2`; empty where the value is of the kind.

    Args:
      kind: bool, int, float, str, None, tuples and mappings of any of these, classes, unions; anything else is not checked.

    >>> refusal(2.5, int)
    'expected a whole number; nearest valid: 2'
    """
    if _is(value, kind):
        return ""
    nearest = next((near for one in _choices(kind) if (near := _nearest(value, one)) is not None), None)
    return f"expected {_name(kind)}" + ("" if nearest is None else f"; nearest valid: {nearest!r}")


def _choices(kind) -> tuple:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _is(value, kind) -> bool:
    if len(_choices(kind)) > 1:
        return any(_is(value, one) for one in _choices(kind))
    if kind is bool:
        return isinstance(value, (bool, np.bool_))
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    base, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
    if base is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        parts = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return not parts or len(value) == len(parts) and all(map(_is, value, parts))
    if base in (dict, collections.abc.Mapping):
        return isinstance(value, collections.abc.Mapping)
    return not isinstance(base, type) or base is collections.abc.Callable or isinstance(value, base)


def _name(kind) -> str:
    if len(_choices(kind)) > 1:
        return " or ".join(map(_name, _choices(kind)))
    parts = typing.get_args(kind)
    if (typing.get_origin(kind) or kind) is tuple:
        listed = f"each {_name(parts[0])}" if parts[1:] == (...,) else ", ".join(map(_name, parts))
        return f"a list ({listed})" if parts else "a list"
    return _NAMES.get(typing.get_origin(kind) or kind) or getattr(kind, "__name__", str(kind))


def _nearest(value, kind) -> object:
    """The value of a kind that was probably meant, or None."""
    if kind is bool:
        return _WORDS.get(str(value).lower())
    if kind not in (int, float):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    return round(number) if kind is int else number
