import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat.layers import FILMS, LinearFiLM, NarrowFiLM, PublishedFiLM, TwoLayerFiLM

FROM_THE_IDENTITY = [LinearFiLM, TwoLayerFiLM]


def randomized(film: nn.Module) -> nn.Module:
    for parameter in film.parameters():
        torch.nn.init.normal_(parameter)
    return film


@pytest.mark.parametrize("kind", FROM_THE_IDENTITY)
@pytest.mark.parametrize("nb_codes", [1, 4])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 5), (4, 3, 2, 2, 2)])
def test_film_starts_as_the_identity_and_learns_at_once(kind, nb_codes, shape):
    film, x = kind(8, 3), torch.randn(shape)
    answer = film(x, torch.randn(nb_codes, 8))
    assert torch.equal(answer, x)
    answer.square().sum().backward()
    assert film.output.weight.grad.abs().sum() > 0


def test_with_one_hot_codes_the_linear_form_is_a_table_of_one_affine_per_code():
    film, x = randomized(LinearFiLM(2, 3)), torch.randn(2, 3, 5, 5)
    scales, shifts = film.output.weight.T.split(3, dim=1)
    first, second = film(x, torch.eye(2))
    torch.testing.assert_close(first, x[0] * (1 + scales[0])[:, None, None] + shifts[0][:, None, None])
    torch.testing.assert_close(second, x[1] * (1 + scales[1])[:, None, None] + shifts[1][:, None, None])


def test_the_linear_form_is_linear_in_the_code():
    film, (first, second) = randomized(LinearFiLM(8, 3)), torch.randn(2, 1, 8)
    for between, left, right in zip(
        *(film.coefficients(code) for code in (torch.lerp(first, second, 0.25), first, second)), strict=True
    ):
        torch.testing.assert_close(between, torch.lerp(left, right, 0.25))


def test_the_published_form_equals_its_formula():
    film, x, code = PublishedFiLM(8, 3), torch.randn(4, 3, 5, 5), torch.randn(4, 8)
    hidden = F.leaky_relu(code @ film.hidden.weight.T + film.hidden.bias, 0.01)
    scale, shift = F.leaky_relu(hidden @ film.output.weight.T + film.output.bias, 0.01).split(3, dim=1)
    torch.testing.assert_close(film(x, code), x * scale[:, :, None, None] + shift[:, :, None, None])


def test_below_full_width_the_published_form_cuts_both_layers_before_it_halves_their_answer():
    film, x, code, width = PublishedFiLM(8, 6), torch.randn(4, 3, 5, 5), torch.randn(4, 8), 2 * 3
    hidden = F.leaky_relu(code @ film.hidden.weight[:width].T + film.hidden.bias[:width], 0.01)
    result = F.leaky_relu(hidden @ film.output.weight[:width, :width].T + film.output.bias[:width], 0.01)
    expected = x * result[:, :3, None, None] + result[:, 3:, None, None]
    torch.testing.assert_close(NarrowFiLM(film, 3)(x, code), expected)


@pytest.mark.parametrize("kind", FROM_THE_IDENTITY)
@pytest.mark.parametrize("narrowed", [lambda film: film, lambda film: NarrowFiLM(film, 3)])
def test_resetting_goes_back_to_the_identity_also_from_a_smaller_width(kind, narrowed):
    film, x = randomized(kind(8, 5)), torch.randn(2, 5, 4, 4)
    narrowed(film).reset_parameters()
    assert torch.equal(film(x, torch.randn(2, 8)), x)


def test_resetting_the_published_form_draws_it_anew():
    film = randomized(PublishedFiLM(128, 64))
    film.reset_parameters()
    assert film.hidden.weight.abs().max() <= 128**-0.5  # torch draws uniformly from +- 1 / sqrt(inputs)


@pytest.mark.parametrize(
    ("kind", "nb_parameters"),
    [
        ("linear", 2 * 64 * 128),  # D -> 2C without bias; D = 2C = 128
        ("two-layer", 2 * (128 + 1) * 128),  # D -> 2C -> 2C with biases
        ("published", 2 * (128 + 1) * 128),
    ],
)
def test_its_size_is_that_of_its_linear_layers(kind, nb_parameters):
    assert sum(parameter.numel() for parameter in FILMS[kind](128, 64).parameters()) == nb_parameters


@pytest.mark.parametrize("kind", FROM_THE_IDENTITY)
def test_in_lower_precision_scales_near_1_are_not_rounded_and_features_keep_their_dtype(kind):
    film, x, code = kind(1, 3), torch.randn(2, 3, 4, 4).bfloat16(), torch.ones(2, 1)
    for parameter in film.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(film.output.weight if film.output.bias is None else film.output.bias, 2**-10)
    with torch.autocast("cpu", torch.bfloat16):  # 1 + 2^-10 lies between two of its numbers
        scale, shift = film.coefficients(code)
        assert film(x, code).dtype == torch.bfloat16
    assert torch.equal(scale, torch.full((2, 3), 1 + 2**-10))
    assert torch.equal(shift, torch.full((2, 3), 2**-10))


@pytest.mark.parametrize("kind", FROM_THE_IDENTITY)
@pytest.mark.parametrize("nb_channels", [1, 3, 5])
def test_the_film_of_a_smaller_width_does_to_its_channels_what_the_whole_one_does_to_them(kind, nb_channels):
    film, x, code = randomized(kind(8, 5)), torch.randn(4, 5, 6, 6), torch.randn(4, 8)
    narrow = NarrowFiLM(film, nb_channels)
    torch.testing.assert_close(narrow(x[:, :nb_channels], code), film(x, code)[:, :nb_channels])


@pytest.mark.parametrize("kind", FROM_THE_IDENTITY)
def test_what_a_smaller_width_learns_of_its_channels_the_whole_film_learns_and_of_the_others_nothing(kind):
    film = randomized(kind(8, 5)).double()
    x, code = torch.randn(4, 5, 6, 6, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    film(x, code)[:, :3].square().sum().backward()
    expected = [parameter.grad for parameter in film.parameters()]
    film.zero_grad()
    NarrowFiLM(film, 3)(x[:, :3], code).square().sum().backward()
    for parameter, gradient in zip(film.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    for part in film.output.weight.grad.split(5):
        assert part[:3].any(dim=1).all()
        assert not part[3:].any()


def test_a_smaller_width_has_no_film_weights_of_its_own():
    film = LinearFiLM(8, 5)
    assert [id(parameter) for parameter in NarrowFiLM(film, 3).parameters()] == [id(p) for p in film.parameters()]
