from benchmarks.configs import DIGITS_RECIPE
from benchmarks.neighbors.neighbor import Neighbor


def counted():
    """Two lines, and an empty one."""

    return


def test_the_lines_of_a_part_are_those_of_its_code_that_are_not_empty():
    assert Neighbor("nothing").nb_lines == 0
    assert Neighbor("twice", code=(counted, counted)).nb_lines == 6


def test_what_a_part_names_itself_is_stronger_than_its_share_of_the_epochs():
    part = Neighbor("", recipe={"ema": 0.9}, epochs=0.5)
    assert (part.changed(DIGITS_RECIPE, seed=3).nb_epochs, part.changed(DIGITS_RECIPE).method.ema) == (30, 0.9)
    assert Neighbor("", recipe={"nb_epochs": 7}, epochs=0.5).changed(DIGITS_RECIPE).nb_epochs == 7
