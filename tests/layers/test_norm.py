import torch

from art_oat.condition import Condition
from art_oat.layers.norm import Affine, affine_of_side, of_side

CONDITION = Condition(torch.tensor([0.0, 0.3, 0.0]), torch.zeros(3, 1))


def test_each_lam_gets_the_values_of_its_side():
    clean, adversarial = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert of_side(CONDITION, clean, adversarial).tolist() == [[1, 2], [3, 4], [1, 2]]


def test_without_a_second_side_every_lam_gets_the_one_and_without_a_bias_no_shift():
    side = Affine(torch.nn.Parameter(torch.tensor([[1.0], [2.0]])), None, torch.zeros(2, 1), has_bias=False)
    weight, bias = affine_of_side(CONDITION, side, None)
    assert weight.tolist() == [[1, 2]] * 3
    assert bias.tolist() == [[0, 0]] * 3
    assert list(side.state_dict()) == ["weight"]


def test_a_reset_side_is_the_identity():
    side = Affine(torch.nn.Parameter(torch.tensor([3.0])), torch.nn.Parameter(torch.tensor([3.0])), torch.zeros(1))
    side.reset_parameters()
    assert (side.weight.item(), side.bias.item()) == (1, 0)
