import pytest
import torch

from art_oat.group import Group
from art_oat.training.dealer import Shuffle


class Pretended(Group):
    """A process that knows what the others have."""

    def each(self, own):
        return [*OTHERS[: self.rank], own, *OTHERS[self.rank + 1 :]]


OTHERS = [torch.tensor([0, 3, 6]), torch.tensor([1, 4]), torch.tensor([2, 5, 7, 8])]  # in turn, 0 to 8


@pytest.mark.parametrize("rank", range(3))
def test_every_process_knows_where_its_samples_come_in_the_order_drawn_for_all(rank):
    shuffle = Shuffle.of(OTHERS[rank], 9, Pretended(rank, 3), torch.Generator().manual_seed(2))
    assert torch.equal(shuffle.y, torch.randperm(9, generator=torch.Generator().manual_seed(2)))
    for rows, labels in zip(shuffle.rows, OTHERS, strict=True):
        assert torch.equal(shuffle.y[rows], labels)


def test_labels_that_are_probabilities_in_one_process_are_so_in_all():
    soft = torch.tensor([[0.5, 0.5, *[0.0] * 7]] * 2)
    shuffle = Shuffle.of(soft, 9, Pretended(1, 3), torch.Generator())
    assert torch.equal(shuffle.y[shuffle.rows[1]], soft)
    assert torch.equal(shuffle.y[shuffle.rows[2]].argmax(dim=1), OTHERS[2])


def test_how_many_are_attacked_is_counted_by_process():
    shuffle = Shuffle.of(OTHERS[0], 9, Pretended(0, 3), torch.Generator())
    weight = (shuffle.y >= 4).double()
    assert shuffle.whole(weight).nb_attacked == [1, 1, 3]
    assert shuffle.whole(weight).nb_samples == [3, 2, 4]
