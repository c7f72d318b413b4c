"""Roles of tokens between two marks."""

import doctest

import jax.numpy as jnp
import pytest

from jaxpost import roles


def test_doctests():
    assert doctest.testmod(roles).failed == 0


@pytest.mark.parametrize("tokens, expected", [
    ([3, 8, 4, 4, 9, 5, 2], [0, 1, 1, 1, 1, 0, 0]),  # before, inside with both marks, after
    ([8, 4, 8, 9, 8, 9, 2], [1, 1, 1, 1, 0, 0, 0]),  # only the first stretch counts
    ([8, 4, 5, 2], [1, 1, 1, 1]),  # never ended
    ([9, 4, 2], [0, 0, 0]),  # never begun
])
def test_roles_between_marks(tokens, expected):
    assert roles.between(jnp.asarray(tokens), 8, 9).tolist() == expected


def test_an_unknown_role_names_the_nearest():
    with pytest.raises(ValueError, match="unknown token role 'plann'; did you mean 'plan'"):
        roles.code("plann")
