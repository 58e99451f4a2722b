"""The examples in the docstrings of the text views say what the functions return."""

from __future__ import annotations

import doctest

import pytest

from lens_recipes import terminal
from lens_recipes.arrays import text
from lens_recipes.views import words
from lens_recipes.views.tables import grids
from lens_recipes.views.tables.generation import numbers
from lens_recipes.views.tables.markdown import syntax
from lens_recipes.views.tables.programs import tsv


@pytest.mark.parametrize(
    "module", [terminal, text, words, grids, numbers, syntax, tsv], ids=lambda m: m.__name__
)
def test_the_examples_are_true(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0
