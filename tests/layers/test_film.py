import pytest
import torch
from torch.nn import functional as F

from art_oat.layers import FiLM


@pytest.mark.parametrize("nb_codes", [1, 4])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 5), (4, 3, 2, 2, 2)])
def test_film_starts_as_the_identity(nb_codes, shape):
    x = torch.randn(shape)
    assert torch.equal(FiLM(8, 3)(x, torch.randn(nb_codes, 8)), x)


def test_the_published_form_equals_its_formula():
    film, x, code = FiLM(8, 3, "published"), torch.randn(4, 3, 5, 5), torch.randn(4, 8)
    hidden = F.leaky_relu(code @ film.hidden.weight.T + film.hidden.bias, 0.01)
    scale, shift = F.leaky_relu(hidden @ film.output.weight.T + film.output.bias, 0.01).split(3, dim=1)
    torch.testing.assert_close(film(x, code), x * scale[:, :, None, None] + shift[:, :, None, None])


def test_the_identity_form_learns_at_once():
    film = FiLM(8, 3)
    film(torch.randn(2, 3, 4, 4), torch.randn(2, 8)).square().sum().backward()
    assert film.output.weight.grad.abs().sum() > 0


def test_resetting_goes_back_to_the_identity():
    film, x = FiLM(8, 3), torch.randn(2, 3, 4, 4)
    torch.nn.init.normal_(film.output.weight)
    film.reset_parameters()
    assert torch.equal(film(x, torch.randn(2, 8)), x)


def test_its_size_is_that_of_two_linear_layers():
    nb_parameters = sum(parameter.numel() for parameter in FiLM(128, 64).parameters())
    assert nb_parameters == (128 + 1) * 128 + (128 + 1) * 128  # D -> 2C -> 2C with biases; D = 2C = 128


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="film must be one of"):
        FiLM(8, 3, "affine")
