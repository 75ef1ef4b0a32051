import pytest
import torch

from art_oat.draws import Rows, draw, drawing_for, drawing_for_some


@pytest.mark.parametrize("is_normal", [True, False])
def test_a_part_of_the_samples_gets_its_rows_of_what_all_would_get_and_leaves_the_generator_alike(is_normal):
    whole, part = (torch.Generator().manual_seed(1) for _ in range(2))
    x, index = torch.zeros(7, 2, 3), torch.tensor([5, 0, 2])
    expected = draw(x, whole, is_normal=is_normal)
    with drawing_for(Rows(index, 7)):
        found = draw(x[index], part, is_normal=is_normal)
    assert torch.equal(found, expected[index])
    assert torch.equal(whole.get_state(), part.get_state())


@pytest.mark.parametrize("rows", [None, Rows(torch.tensor([1, 4, 6]), 7)])
def test_some_samples_get_of_what_is_drawn_for_all_that_are_here_what_is_theirs(rows):
    like, group = torch.zeros(3, 2), torch.tensor([True, False, True])
    with drawing_for(rows):
        every = draw(like, torch.Generator().manual_seed(0))
        with drawing_for_some(group):
            some = draw(like[group], torch.Generator().manual_seed(0))
    assert torch.equal(some, every[group])
