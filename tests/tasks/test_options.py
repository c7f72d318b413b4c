"""Options of all families: whatever is given, what comes back is a task or one line."""

import functools
import inspect
import itertools

import numpy as np
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


def fold(content_NxW):
    """The lowest bit of the hash that `jaxpost.tasks.base` describes, in plain numpy."""
    def mix(x):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return x ^ (x >> np.uint32(16))

    row = np.asarray(content_NxW).astype(np.uint32)
    place = np.arange(row.shape[1], dtype=np.uint32) * np.uint32(0x85EBCA77)
    return mix(mix(row * np.uint32(0x9E3779B1) + place).sum(axis=1, dtype=np.uint32)) % 2


def refused(name, **options):
    try:
        tasks.get(name, **options)
    except ValueError:
        return True
    return False


def test_no_setting_of_slabs_leaves_a_label_without_problems_in_one_fold():
    found = set()
    for d, simple, slabs in itertools.product((2, 3, 4), range(2, 6), range(3, 8)):
        if simple < slabs:
            levels = [[range(label, k, 2) for k in [simple] + [slabs] * (d - 1)] for label in (0, 1)]
            both = all(len(set(fold(list(itertools.product(*ranges))).tolist())) == 2 for ranges in levels)
            out = refused("slabs", coordinates=d, simple=simple, complex_slabs=slabs)
            found.add((both, out))
            assert both or out
    assert (True, False) in found and (False, True) in found


@pytest.mark.parametrize("problem, kinds", [("copy_repeats", 2), ("parity", 2), ("mode", 4)])
def test_no_length_of_short_sequences_leaves_an_answer_without_problems_in_one_fold(problem, kinds):
    found = set()
    for size, W in itertools.product((1, 2, 3, 4), range(5, 40)):
        row = np.asarray(list(itertools.product(range(kinds), repeat=size)))
        count = np.sort((row[:, None] == np.arange(kinds)[None, :, None]).sum(axis=2), axis=1)
        row = row[count[:, -1] > count[:, -2]] if problem == "mode" else row
        content = np.zeros((len(row), 2 * W + 1), int)
        content[:, :size], content[:, -1] = row, size
        folds = fold(content)
        each = [folds[row.sum(axis=1) % 2 == label] for label in (0, 1)] if problem == "parity" else [folds]
        both, out = all(len(set(x.tolist())) == 2 for x in each), refused("rasp", problem=problem, length=(size, size),
                                                                       ood_length=(W, W))
        found.add((both, out))
        assert both or out
    assert (True, False) in found and (False, True) in found


@pytest.mark.parametrize("name, options, message", [
    ("grid", {"size": 3}, "size=3, expected an integer from 4 to 6 with world='sokoban'"),
    ("grid", {"moves": 2}, "moves=2, expected an integer from 3 to 12 with world='sokoban'"),
    ("arithmetic", {"problem": "increasing", "size": (1, 1)}, r"size=\(1, 1\), expected .* high at least 2 for increasing"),
    ("jigsaw", {"columns": 1, "patterns": ("rings",)}, r"patterns=\('rings',\), expected 'rings' with another name"),
    ("jigsaw", {"rows": 1, "patterns": ("gradient", "diagonal", "counter")}, "among those left out of it"),
    ("battleship", {"fleet": (1,)}, r"fleet=\(1,\), expected at least two cells"),
    ("few_shot", {"flips": 0}, r"flips=0, expected an integer from 1 to \(attributes - 2\) // 2 = 2"),
    ("few_shot", {"classes": 8, "attributes": 4}, "classes=8, expected at most 7 with 4 attributes"),
    ("satisfiability", {"literals": 2, "variables": 3}, "clauses=10, expected at most 4 different ones of 2 literals over 3"),
])
def test_settings_without_enough_problems_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        tasks.get(name, **options)
