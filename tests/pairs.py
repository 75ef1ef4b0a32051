"""A few rows of a product of parameters in which every pair of values still meets."""

import itertools
from collections.abc import Iterable

import pytest


def pairs(*parameters: Iterable[object]) -> list[tuple[object, ...]]:
    """Rows of the product, in the order of discovery, in which every two values of two parameters occur together.

    Greedy: the next row is the one that brings together the most values that have not met; of equals, the first one
    of the product. So the rows depend on nothing but the lengths, and the first row has every first value.

    Example:
        >>> pairs("ab", (0, 1), (True, False))
        [('a', 0, True), ('a', 1, False), ('b', 0, False), ('b', 1, True)]
    """
    values = [list(parameter) for parameter in parameters]
    candidates = {row: meetings(row) for row in itertools.product(*(range(len(each)) for each in values))}
    missing = set().union(*candidates.values())
    rows = []
    while missing:
        row = max(candidates, key=lambda row: len(candidates[row] & missing))
        missing -= candidates.pop(row)
        rows.append(tuple(each[index] for each, index in zip(values, row, strict=True)))
    return rows


def meetings(row: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
    """Which value of one parameter meets which value of another; of a lone parameter, its value."""
    return set(itertools.combinations(enumerate(row), min(2, len(row))))


def parametrize_in_pairs(**parameters: Iterable[object]) -> pytest.MarkDecorator:
    """As ``pytest.mark.parametrize`` once per parameter, thinned to ``pairs``."""
    return pytest.mark.parametrize(",".join(parameters), pairs(*parameters.values()))
