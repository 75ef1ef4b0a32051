import pytest
import torch
from torch import nn

from art_oat.export.dialed import Curve, Dial
from art_oat.layers import LinearFiLM

KNOTS = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)


def dial_of(*tables: torch.Tensor, **curves: Curve) -> Dial:
    pairs = [(table, -table) for table in tables]
    return Dial(KNOTS, pairs, {int(name[1:]): curve for name, curve in curves.items()}, torch.eye(3).double(), 0.2)


def test_tables_are_exact_at_knots_and_straight_between_them_whatever_lies_on_the_other_side():
    table = torch.tensor([[1e30, 3.0], [1.0, 5.0], [3.0, -1e30]], dtype=torch.float64)
    ((scale, shift, *_),) = dial_of(table)(torch.tensor([0.0, 0.2, 1.0, 0.6], dtype=torch.float64))
    torch.testing.assert_close(scale[:3], table, rtol=0, atol=0)
    torch.testing.assert_close(scale[3, 0], torch.tensor(2.0, dtype=torch.float64))
    assert torch.equal(shift, -scale)


@pytest.mark.parametrize("lam", [-3.0, 0.0, 0.05, 0.2, 0.9, 1.0, 5.0])
def test_the_shares_of_knots_are_positive_sum_to_1_and_average_to_lam_within_the_range(lam):
    shares = dial_of(KNOTS[:, None]).shares(torch.tensor([lam], dtype=torch.float64))
    assert bool((shares >= 0).all())
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(float(shares @ KNOTS), min(max(lam, 0.0), 1.0))


def test_a_curve_takes_over_where_the_slope_ends_and_leaves_other_layers_alone():
    film = LinearFiLM(3, 1).double()
    nn.init.constant_(film.output.weight, 1.0)
    curve = Curve(film, torch.full((1, 1), 3.0), torch.full((1, 1), 5.0), has_shift=True)
    first, second = dial_of(KNOTS[:, None], KNOTS[:, None], _1=curve)(torch.tensor([0.1, 0.2, 1.0]))
    torch.testing.assert_close(first[0][:, 0], torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64))
    # scale 3 * (1 + 1), shift 5 * (1 + 1) + 1
    torch.testing.assert_close(second[0][:, 0], torch.tensor([0.1, 6.0, 6.0], dtype=torch.float64))
    torch.testing.assert_close(second[1][:, 0], torch.tensor([-0.1, 11.0, 11.0], dtype=torch.float64))
