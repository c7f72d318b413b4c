"""Options of all families: whatever is given, what comes back is a task or one line."""

import functools
import inspect

import pytest

from jaxpost import tasks

DEFAULTS = {name: {option: p.default for option, p in inspect.signature(make).parameters.items()}
            for name, make in tasks.FAMILIES.items()}
ODD = (-1, 2.5, True, None, "x", "", b"x", 4j, float("nan"), 2**70, (), (1,), ("a",), (None,), (1, 2, 3), ((1,), 2),
       [[1, 2], [3]], {"a": 1}, {1}, [{}])


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_odd_value_is_taken_or_refused_in_one_line(name):
    for option in DEFAULTS[name]:
        for value in ODD:
            try:
                tasks.get(name, **{option: value})
            except ValueError as error:
                assert "\n" not in str(error), error


def test_whole_numbers_are_not_written_as_numbers_with_a_point_or_truth_values():
    """Also after the same task was made by whole numbers, to which those are equal."""
    whole = [(name, *option) for name, options in DEFAULTS.items() for option in options.items() if type(option[1]) is int]
    assert len(whole) > 60
    for name, option, value in whole:
        tasks.get(name)
        for found in (float(value), bool(value)):
            with pytest.raises(ValueError, match=f"task '{name}': option {option}={found}, expected whole numbers"):
                tasks.get(name, **{option: found})
    with pytest.raises(ValueError, match=r"option fleet=\(3.0, 2\), expected whole numbers, as in"):
        tasks.get("battleship", fleet=(3.0, 2))


def test_lists_within_lists_are_read_as_tuples_and_no_option_collides_with_an_argument():
    assert tasks.get("general_points", rules=[[10, 10, 11]]) is tasks.get("general_points", rules=((10, 10, 11),))
    for call in (tasks.get, functools.partial(tasks.closed, turns=3)):
        with pytest.raises(ValueError, match="option 'name' is not known"):
            call("tictactoe", name=3)
