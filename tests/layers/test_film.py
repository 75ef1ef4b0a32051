import pytest
import torch
from torch.nn import functional as F

from art_oat.layers import FiLM, NarrowFiLM


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


def test_in_lower_precision_scales_near_1_are_not_rounded_and_features_keep_their_dtype():
    film, x = FiLM(8, 3), torch.randn(2, 3, 4, 4).bfloat16()
    torch.nn.init.constant_(film.output.bias, 2**-10)  # 1 + 2^-10 lies between two numbers of bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        scale, shift = film.coefficients(torch.randn(2, 8))
        assert film(x, torch.randn(2, 8)).dtype == torch.bfloat16
    assert torch.equal(scale, torch.full((2, 3), 1 + 2**-10))
    assert torch.equal(shift, torch.full((2, 3), 2**-10))


def random_film(kind: str = "identity") -> FiLM:
    film = FiLM(8, 5, kind)
    torch.nn.init.normal_(film.output.weight)
    torch.nn.init.normal_(film.output.bias)
    return film


@pytest.mark.parametrize("kind", ["identity", "published"])
@pytest.mark.parametrize("nb_channels", [1, 3, 5])
def test_the_film_of_a_smaller_width_does_to_its_channels_what_the_whole_one_does_to_them(kind, nb_channels):
    film, x, code = random_film(kind), torch.randn(4, 5, 6, 6), torch.randn(4, 8)
    narrow = NarrowFiLM(film, nb_channels)
    torch.testing.assert_close(narrow(x[:, :nb_channels], code), film(x, code)[:, :nb_channels])


def test_what_a_smaller_width_learns_of_its_channels_the_whole_film_learns_and_of_the_others_nothing():
    film, whole = random_film().double(), random_film().double()
    whole.load_state_dict(film.state_dict())
    x, code = torch.randn(4, 5, 6, 6, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    NarrowFiLM(film, 3)(x[:, :3], code).square().sum().backward()
    whole(x, code)[:, :3].square().sum().backward()
    for parameter, expected in zip(film.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)
    scale, shift = film.output.bias.grad.split(5)
    assert scale[:3].all()
    assert not scale[3:].any()
    assert not shift[3:].any()


def test_a_smaller_width_has_no_film_weights_of_its_own():
    film = random_film()
    assert [id(parameter) for parameter in NarrowFiLM(film, 3).parameters()] == [id(p) for p in film.parameters()]


def test_resetting_a_smaller_width_resets_the_whole_film():
    film, x, code = random_film(), torch.randn(2, 5, 4, 4), torch.randn(2, 8)
    NarrowFiLM(film, 3).reset_parameters()
    assert torch.equal(film(x, code), x)
