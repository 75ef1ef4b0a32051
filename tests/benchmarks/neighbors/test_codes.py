import pytest
import torch
from torch import nn

from art_oat import to_conditional
from art_oat.layers import DEFAULT_LAMBDAS
from benchmarks.neighbors.codes import NEIGHBORS, cost, equal_share
from tests.networks import images, small_cnn


def test_six_lams_take_eight_passes_for_five_sixths_of_the_samples_beside_the_clean_ones():
    assert cost(DEFAULT_LAMBDAS) == pytest.approx((6 + 5 * 8) / 6)
    assert equal_share(DEFAULT_LAMBDAS) == 1


@pytest.mark.parametrize("clean_share", [0.0, 0.5])
@pytest.mark.parametrize("lambdas", [(0.0, 1.0), (0.0, 0.3, 1.0)])
def test_epochs_of_equal_cost_have_equally_many_passes(lambdas, clean_share):
    epochs = equal_share(lambdas, clean_share)
    passes = epochs * (clean_share + (1 - clean_share) * cost(lambdas))
    assert passes == pytest.approx(cost(DEFAULT_LAMBDAS))


def test_eleven_lams_are_tenths():
    assert NEIGHBORS["11 lams"].recipe["lambdas"] == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)


@pytest.mark.parametrize("encoding", ["dct", "random-orthogonal"])
def test_with_a_linear_film_orthonormal_codes_train_as_one_hot_ones_do(encoding):
    x, lam = images(6), torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 1.0])
    answers = []
    for kind in ("one-hot", encoding):
        torch.manual_seed(0)
        model = to_conditional(small_cnn(), encoding=kind).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x, lam), torch.arange(6) % 5).backward()
            optimizer.step()
        answers.append(model.eval()(x, lam).detach())
    torch.testing.assert_close(*answers, rtol=1e-9, atol=1e-9)
