import itertools

import pytest

from tests.pairs import pairs, parametrize_in_pairs

SIZES = ((2, 2, 2), (3, 2, 4), (5, 3, 3, 2), (8, 2, 2, 2, 2), (3, 1, 3), (6, 4))


def parameters_of(sizes: tuple[int, ...]) -> list[list[str]]:
    """Values that tell which parameter they belong to."""
    return [[f"{letter}{index}" for index in range(size)] for letter, size in zip("abcdefgh", sizes, strict=False)]


@pytest.mark.parametrize("sizes", SIZES)
def test_every_pair_of_values_of_two_parameters_occurs_in_a_row_of_the_product(sizes):
    parameters = parameters_of(sizes)
    rows = pairs(*parameters)
    for (i, first), (j, second) in itertools.combinations(enumerate(parameters), 2):
        assert {(row[i], row[j]) for row in rows} == set(itertools.product(first, second))
    assert set(rows) <= set(itertools.product(*parameters))


@pytest.mark.parametrize("sizes", SIZES)
def test_there_are_at_most_a_third_more_rows_than_pairs_of_the_two_longest_parameters(sizes):
    first, second = sorted(sizes)[-2:]
    assert first * second <= len(pairs(*parameters_of(sizes))) <= 4 / 3 * first * second


@parametrize_in_pairs(size=(1, 2), name="ab", is_first=(True, False))
def test_each_parameter_reaches_the_test_under_its_name(size, name, is_first):
    assert size in {1, 2}
    assert name in {"a", "b"}
    assert is_first in {True, False}
