import pytest
import torch
from torch import nn

from art_oat.attack import UnitRange, unit_range_faults


@pytest.mark.parametrize("clip_values", [(0, 1), (-1, 1), (0.5, 3.0)])
def test_scores_are_those_of_the_same_inputs_in_their_own_units(clip_values):
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).double()
    low, high = clip_values
    x = low + (high - low) * torch.rand(5, 2, 2, 2, dtype=torch.float64)
    unit = UnitRange(network, clip_values)
    assert unit.to_unit(x).min() >= 0
    assert unit.to_unit(x).max() <= 1
    torch.testing.assert_close(unit.from_unit(unit.to_unit(x)), x)
    torch.testing.assert_close(unit(unit.to_unit(x)), network(x))


def test_a_range_that_differs_between_features_or_is_missing_is_a_fault():
    assert unit_range_faults((0, 1), "it") == []
    assert "it needs the same clip_values for every feature" in unit_range_faults(([0, 0], [1, 2]), "it")[0]
    assert "it needs the classifier's clip_values, got None" in unit_range_faults(None, "it")[0]
