from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat.models import SmallCNN
from benchmarks import cost, scaling
from benchmarks.cost import Arithmetic, Memory, arithmetic_of, memory_of
from benchmarks.scaling import fit
from benchmarks.steps import batch, step_of

needs_processor = pytest.mark.skipif(cost.DEVICE.type != "cpu", reason="the allocator of a GPU rounds sizes up")


def gradients(x: torch.Tensor, weight: torch.Tensor, stride: int = 1) -> None:
    F.conv2d(x, weight, stride=stride, padding=1).sum().backward()


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(exponent):
    sizes = [16, 32, 64, 512]
    found = fit(sizes, [3 * size**exponent for size in sizes])
    assert float(found["exponent"]) == pytest.approx(exponent, abs=5e-4)  # written with three digits


def test_what_a_straight_line_starts_from_is_a_share_of_the_cost_at_the_smallest_size():
    found = fit([20, 5, 10], [4 + 2 * size for size in (20, 5, 10)])
    assert float(found["start"]) == pytest.approx(4 / (4 + 2 * 5), abs=5e-4)  # written with three digits
    assert abs(float(found["largest deviation"])) == 0


def test_the_line_has_the_least_relative_residuals_and_the_deviation_says_where_it_is_bent():
    # at sizes 1, 2, 3 whatever is no line goes along (1, -2, 1), so with costs c the relative residuals are
    # (c1, -2 c2, c3) (c1 - 2 c2 + c3) / (c1^2 + 4 c2^2 + c3^2) = (3, -12, 18) / 53, and the line is (50, 130, 210) / 53
    found = fit([1, 2, 3], [1, 2, 6])
    assert found["start"] == f"{-30 / 53:.3f}"
    assert (found["largest deviation"], found["at"]) == (f"{6 / (210 / 53) - 1:+.3f}", "3")


@pytest.mark.slow(seconds=1)
@needs_processor
def test_memory_is_the_most_that_is_alive_at_once():
    def action() -> None:
        first = torch.empty(1000)
        second = torch.empty(2000)  # 12 kB alive
        del first, second
        third = torch.empty(1500)
        del third
        torch.empty(2500)

    assert memory_of(lambda: action) == Memory(held=0, above=4 * 3000)


@pytest.mark.slow(seconds=1)
@needs_processor
def test_what_a_step_frees_of_what_it_found_makes_room_for_what_it_allocates():
    def build() -> cost.Action:
        held = [torch.empty(1000)]

        def action() -> None:
            held.clear()  # as gradients are
            torch.empty(1200)
            held.append(torch.empty(1000))

        return action

    assert memory_of(build) == Memory(held=4 * 1000, above=4 * 200)


@pytest.mark.slow
@needs_processor
def test_with_gradients_in_place_a_step_has_no_room_but_its_own():
    def build() -> cost.Action:
        weight = torch.zeros(1000, requires_grad=True)
        optimizer = torch.optim.SGD([weight], 0.1)
        weight.grad = torch.zeros(1000)

        def action() -> None:
            optimizer.zero_grad()
            torch.empty(1200)
            weight.grad = torch.zeros(1000) if weight.grad is None else weight.grad

        return action

    dropped = memory_of(build)
    with cost.gradients_in_place():
        kept = memory_of(build)
    assert (dropped, kept) == (Memory(4 * 2000, 4 * 200), Memory(4 * 2000, 4 * 1200))
    assert memory_of(build) == dropped


@pytest.mark.slow(seconds=1)
@needs_processor
def test_a_graph_holds_what_its_gradient_needs():
    # at the end of the way forward: the input, 9 results of tanh, and the last one's sum
    def action() -> None:
        x = torch.zeros(1000, requires_grad=True)
        for _ in range(9):
            x = x.tanh()
        x.sum()

    assert memory_of(lambda: action).above == 4 * (10 * 1000 + 1)


def test_a_convolution_and_each_of_its_gradients_have_the_flops_of_the_closed_form():
    x, weight = torch.randn(2, 3, 8, 6, requires_grad=True), torch.randn(5, 3, 3, 3, requires_grad=True)
    forward = 2 * 3 * 3 * 3 * 5 * 8 * 6 * 2  # 2 k k Cin Cout H W N
    assert arithmetic_of(lambda: F.conv2d(x, weight, padding=1)).flops == forward
    assert arithmetic_of(lambda: gradients(x, weight)).flops == 3 * forward
    assert arithmetic_of(lambda: gradients(x.detach(), weight)).flops == 2 * forward
    strided = 2 * 3 * 3 * 3 * 5 * 4 * 3 * 2
    assert arithmetic_of(lambda: gradients(x, weight, stride=2)).flops == 3 * strided


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("convolution", [nn.Conv2d, nn.ConvTranspose2d])
def test_each_gradient_of_a_convolution_has_the_flops_of_the_way_forward_whatever_its_groups(convolution, groups):
    layer, x = convolution(4, 8, 3, stride=2, groups=groups), torch.randn(2, 4, 9, 7, requires_grad=True)
    forward = arithmetic_of(lambda: layer(x)).flops
    nb_places = 9 * 7 if convolution is nn.ConvTranspose2d else 4 * 3
    assert forward == 2 * 9 * 4 * 8 // groups * nb_places * 2
    assert arithmetic_of(lambda: layer(x).sum().backward()).flops == 3 * forward


def test_a_step_has_the_flops_of_its_attack_and_of_a_clean_and_an_attacked_pass():
    # seven times forward and back to the inputs for what is attacked; the passes go back to all weights, and to all
    # inputs but the images: 5 of 6 samples are attacked; without FiLM nothing depends on a code of lam
    channels, nb_samples, nb_attacked = (3, 4, 5, 6), 6, 5
    convolutions = [
        2 * 9 * before * after * side**2 for (before, after), side in zip(pairwise(channels), (32, 16, 8), strict=True)
    ]
    once = sum(convolutions) + 2 * channels[-1] * 10
    passes = 3 * once - convolutions[0]
    settings = replace(scaling.LAST, has_film=False)
    step = step_of(SmallCNN(3, 10, channels[1:]), settings)
    found = arithmetic_of(partial(step, *batch(nb_samples, cost.DEVICE))).flops
    assert found == (nb_samples + nb_attacked) * passes + 7 * nb_attacked * 2 * once


def test_convolutions_taken_again_are_those_of_the_step_kind_by_kind():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten())
    x = torch.randn(2, 3, 6, 6)
    seen = arithmetic_of(lambda: body(x).sum().backward())
    first, second = (2 * 9 * before * 4 * 36 * 2 for before in (3, 4))
    again = {kind: arithmetic_of(seen.again(kind)).flops for kind in Arithmetic.KINDS}
    assert again == {
        "forward": first + second,
        "gradient to input": second,  # the images need none
        "gradient to weight": first + second,
    }
    assert sum(again.values()) == seen.flops


def test_convolutions_taken_again_have_tensors_of_the_same_shape_layout_and_type():
    x = torch.randn(2, 3, 6, 6, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(4, 3, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    seen = arithmetic_of(lambda: [gradients(x, weight) for _ in range(3)])
    for kind in Arithmetic.KINDS:
        assert list(arithmetic_of(seen.again(kind)).convolutions[kind].items()) == [
            (call, 3) for call in seen.convolutions[kind]
        ]
