import pytest
import torch

from art_oat.layers.channel_affine import channel_affine
from tests.pairs import parametrize_in_pairs

SHAPES = [(4, 3), (4, 3, 5), (4, 3, 5, 6), (4, 3, 2, 3, 2)]


def contiguous(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous()


def with_channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def with_samples_last(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


LAYOUTS = (contiguous, with_channels_last, with_samples_last)


def drawn(shape: tuple[int, ...], nb_scales: int, dtype=torch.float64) -> list[torch.Tensor]:
    """Features, scale near 1, shift, and a weight of every value of the result."""
    scale, shift = (
        1 + 0.3 * torch.randn(nb_scales, shape[1], dtype=dtype),
        torch.randn(nb_scales, shape[1], dtype=dtype),
    )
    return [torch.randn(shape, dtype=dtype), scale, shift, torch.randn(shape, dtype=dtype)]


def answer_and_gradients(x, scale, shift, upstream, *, is_learned: bool = True) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    scale, shift = (part.detach().requires_grad_(is_learned) for part in (scale, shift))
    answer = channel_affine(x, scale, shift)
    wanted = [x, scale, shift] if is_learned else [x]
    return [answer.detach(), *torch.autograd.grad(answer, wanted, upstream)]


@parametrize_in_pairs(
    shape=SHAPES, nb_scales=[1, 4], is_learned=[True, False], layout=LAYOUTS, layout_of_gradient=LAYOUTS
)
def test_the_affine_map_and_its_gradients_equal_their_formulas(
    shape, nb_scales, is_learned, layout, layout_of_gradient
):
    x, scale, shift, upstream = drawn(shape, nb_scales)
    given = layout(x), scale, shift, layout_of_gradient(upstream)
    answer, of_x, *learned = answer_and_gradients(*given, is_learned=is_learned)
    factor, term = (part.reshape(*part.shape, *[1] * (len(shape) - 2)) for part in (scale, shift))
    torch.testing.assert_close(answer, x * factor + term)
    torch.testing.assert_close(of_x, upstream * factor)
    for actual, products in zip(learned, (upstream * x, upstream)[: len(learned)], strict=True):
        each = products.flatten(2).sum(dim=2) if len(shape) > 2 else products
        torch.testing.assert_close(actual, each if nb_scales == 4 else each.sum(dim=0, keepdim=True))


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 2), (2, 2, 1, 2), (2, 2, 1, 1, 2)])
@pytest.mark.parametrize("nb_scales", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_first_and_second_derivatives_of_the_affine_map_are_those_of_finite_differences(shape, nb_scales, layout):
    x, scale, shift, _ = drawn(shape, nb_scales)
    inputs = [part.requires_grad_() for part in (layout(x), scale, shift)]
    assert torch.autograd.gradcheck(channel_affine, inputs)
    assert torch.autograd.gradgradcheck(channel_affine, inputs)


HALF = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""By how much of its size a number is rounded at most."""


@parametrize_in_pairs(
    dtype=[torch.float64, torch.float32, *HALF],
    shape=SHAPES,
    nb_scales=[1, 4],
    is_learned=[True, False],
    layout=[contiguous, with_channels_last],
)
def test_the_result_of_an_affine_map_has_dtype_and_layout_of_its_features(dtype, shape, nb_scales, is_learned, layout):
    x, scale, shift, _ = drawn(shape, nb_scales, torch.float32 if dtype in HALF else dtype)
    x = layout(x.to(dtype))
    answer = channel_affine(x, scale.requires_grad_(is_learned), shift)
    assert (answer.dtype, answer.stride()) == (x.dtype, x.stride())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize("nb_scales", [1, 0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_affine_map_of_no_samples_is_empty_and_teaches_nothing(dtype, nb_scales, layout):
    x, scale, shift, upstream = drawn((0, 3, 5, 6), nb_scales, torch.float32 if dtype in HALF else dtype)
    answer, of_x, *learned = answer_and_gradients(layout(x.to(dtype)), scale, shift, upstream.to(dtype))
    assert answer.shape == of_x.shape == (0, 3, 5, 6)
    assert all(torch.equal(part, torch.zeros(nb_scales, 3, dtype=scale.dtype)) for part in learned)


@parametrize_in_pairs(dtype=HALF, shape=SHAPES, nb_scales=[1, 4], is_learned=[True, False], layout=LAYOUTS)
def test_in_half_precision_the_affine_map_is_exact_to_a_rounding_of_each_of_its_parts(
    dtype, shape, nb_scales, is_learned, layout
):
    x, scale, shift, upstream = drawn(shape, nb_scales, torch.float32)
    x, upstream = layout(x.to(dtype)), upstream.to(dtype)
    actual = answer_and_gradients(x, scale, shift, upstream, is_learned=is_learned)[:2]
    exact = answer_and_gradients(*(part.double() for part in (x, scale, shift, upstream)))[:2]
    rounding = 1.01 * HALF[dtype]  # roundings of what is rounded are of second order
    factor, term = (part.abs().reshape(*part.shape, *[1] * (len(shape) - 2)) for part in (scale, shift))
    # shift, and what it is added to, are rounded before and after they are added; and scale, or its distance from 1
    sizes = 2 * (x.abs() * (1 + factor) + term), upstream.abs() * (1 + 2 * factor)
    for value, expected, size in zip(actual, exact, sizes, strict=True):
        assert ((value.double() - expected).abs() <= rounding * size).all()


@parametrize_in_pairs(dtype=HALF, shape=SHAPES, nb_scales=[1, 4], layout=LAYOUTS)
def test_in_half_precision_scale_and_shift_learn_in_float32(dtype, shape, nb_scales, layout):
    x, scale, shift, upstream = drawn(shape, nb_scales, torch.float32)
    given = layout(x.to(dtype)), scale, shift, upstream.to(dtype)
    *_, of_scale, of_shift = answer_and_gradients(*given)
    *_, exact_of_scale, exact_of_shift = answer_and_gradients(*(part.double() for part in given))
    *_, sizes_of_scale, sizes_of_shift = answer_and_gradients(*(part.double().abs() for part in given))
    assert of_scale.dtype == of_shift.dtype == torch.float32
    # every product may be rounded to half precision, by 2^-8 of its size in bfloat16, and then what a sample adds up to
    assert ((of_scale - exact_of_scale).abs() <= 2.01 * HALF[dtype] * sizes_of_scale).all()
    assert ((of_shift - exact_of_shift).abs() <= 1.01 * HALF[dtype] * sizes_of_shift).all()


def test_in_half_precision_the_gradient_of_shift_counts_small_values_also_beside_large_ones():
    x = with_channels_last(torch.zeros(2, 1, 16, 16).bfloat16())
    upstream = torch.full((2, 1, 16, 16), 2.0**-8).bfloat16()
    upstream[:, :, 0, 0] = 1
    *_, of_shift = answer_and_gradients(x, torch.ones(2, 1), torch.zeros(2, 1), upstream)
    # to one rounding; added up one by one in bfloat16, where 1 + 2^-8 is 1, it would be 1
    torch.testing.assert_close(of_shift, torch.full((2, 1), 1 + 255 / 256), rtol=2**-8, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_bf16_a_learned_scale_that_is_off_1_by_less_than_bf16_can_hold_counts_on_the_whole(layout):
    """Features and shifts of all sizes make rounding as good as random, so that it vanishes in a large sum."""
    change, x = 1e-3, layout(torch.randn(8, 2000, 5, 5).bfloat16())
    assert torch.tensor(1 + change).bfloat16() == 1
    scale, shift = torch.full((8, 2000), 1 + change).requires_grad_(), 0.1 * torch.randn(8, 2000)
    moved = channel_affine(x, scale, shift).double() - x.double() - shift.double()[..., None, None]
    slope = (moved * x.double()).sum() / x.double().square().sum()
    # the results are rounded by less than 2^-8 |x|, so that the slope has a standard error of at most
    # 2^-8 / sqrt(400000) = 6e-6, which is 0.006 of the change; five of them
    assert slope.item() == pytest.approx(change, rel=5 * 0.006)


@pytest.mark.parametrize("scale", [0.02, 0.3])  # published FiLM starts near 0.02
def test_in_bf16_a_learned_scale_near_0_is_as_exact_as_one_near_1(scale):
    x = with_channels_last(torch.randn(4, 8, 5, 5).bfloat16())
    scales = torch.full((4, 8), scale)
    answer, of_x, *_ = answer_and_gradients(x, scales, torch.zeros(4, 8), x)
    # two roundings by 2^-8 each: of scale, and of the result
    for value in (answer, of_x):
        assert ((value.double() - scale * x.double()).abs() <= 1.01 * 2 * 2**-8 * scale * x.abs()).all()


def test_in_bf16_a_learned_affine_map_has_second_derivatives():
    x = with_channels_last(torch.randn(4, 3, 5, 5).bfloat16()).requires_grad_()
    scale = torch.full((4, 3), 1.5).requires_grad_()
    (of_x,) = torch.autograd.grad(channel_affine(x, scale, torch.zeros(4, 3)).sum(), x, create_graph=True)
    (actual,) = torch.autograd.grad(of_x.sum(), scale)
    assert torch.equal(actual, torch.full((4, 3), 25.0))  # the sum of scale over 25 values, differentiated
