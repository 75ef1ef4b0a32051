from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from numpy import s_
from torch import Tensor, nn

from art_oat import layers
from art_oat.condition import Condition, conditioned
from art_oat.layers import Slimmable, Switch
from art_oat.layers.slim_rules import Channels, rule_of
from art_oat.layers.slimmable import channels_at, check_widths, sliced
from art_oat.rebuild import clone_tensor, same_tensor

C = Channels


@dataclass(frozen=True)
class Case:
    """One type of layer, the plain layer of half its width, and which part of each weight that one has.

    Attributes:
        full: Makes the layer.
        small: Makes the layer of half its width, by torch's own constructor.
        shape: Of what the small layer takes.
        parts: By name of a parameter or buffer.
        arguments: What the layer is called with beside its input.
    """

    full: Callable[[], nn.Module]
    small: Callable[[], nn.Module]
    shape: tuple[int, ...]
    parts: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)


def normal(outputs: int, inputs: int) -> dict[str, Any]:
    return {"weight": s_[:outputs, :inputs], "bias": s_[:outputs]}


def transposed(outputs: int, inputs: int) -> dict[str, Any]:
    return {"weight": s_[:inputs, :outputs], "bias": s_[:outputs]}


def grouped(outputs: int) -> dict[str, Any]:
    return {"weight": s_[:outputs], "bias": s_[:outputs]}


def grouped_transposed(outputs: int, inputs: int) -> dict[str, Any]:
    return {"weight": s_[:inputs], "bias": s_[:outputs]}


def convolution(kind: type[nn.Module], inputs: int, outputs: int, **options: Any) -> Callable[[], nn.Module]:
    return lambda: kind(inputs, outputs, 3, **options)


NORM = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), s_[:4])
CASES = {
    "conv 1d": Case(convolution(nn.Conv1d, 5, 7), convolution(nn.Conv1d, 3, 4), (2, 3, 8), normal(4, 3)),
    "conv 2d": Case(convolution(nn.Conv2d, 5, 7), convolution(nn.Conv2d, 3, 4), (2, 3, 6, 5), normal(4, 3)),
    "conv 3d": Case(convolution(nn.Conv3d, 5, 7), convolution(nn.Conv3d, 3, 4), (2, 3, 5, 4, 3), normal(4, 3)),
    "conv without bias": Case(
        convolution(nn.Conv2d, 5, 7, bias=False), convolution(nn.Conv2d, 3, 4, bias=False), (2, 3, 6, 5), normal(4, 3)
    ),
    "conv strided and dilated": Case(
        convolution(nn.Conv2d, 4, 6, stride=2, dilation=2), convolution(nn.Conv2d, 2, 3, stride=2, dilation=2),
        (2, 2, 9, 8), normal(3, 2),
    ),
    **{
        f"conv padded by {mode}": Case(
            convolution(nn.Conv2d, 4, 6, padding=1, padding_mode=mode),
            convolution(nn.Conv2d, 2, 3, padding=1, padding_mode=mode),
            (2, 2, 5, 5), normal(3, 2),
        )
        for mode in ("zeros", "reflect", "replicate", "circular")
    },
    "conv padded to the same size": Case(
        convolution(nn.Conv1d, 4, 6, padding="same"), convolution(nn.Conv1d, 2, 3, padding="same"), (2, 2, 7),
        normal(3, 2),
    ),
    "grouped conv": Case(
        convolution(nn.Conv2d, 12, 8, groups=4), convolution(nn.Conv2d, 6, 4, groups=2), (2, 6, 5, 5), grouped(4)
    ),
    "grouped conv, odd number of groups": Case(
        convolution(nn.Conv1d, 6, 9, groups=3), convolution(nn.Conv1d, 4, 6, groups=2), (2, 4, 6), grouped(6)
    ),
    "depthwise conv": Case(
        convolution(nn.Conv2d, 7, 7, groups=7), convolution(nn.Conv2d, 4, 4, groups=4), (2, 4, 5, 5), grouped(4)
    ),
    "depthwise conv with multiplier": Case(
        convolution(nn.Conv3d, 5, 10, groups=5, bias=False), convolution(nn.Conv3d, 3, 6, groups=3, bias=False),
        (2, 3, 4, 4, 4), grouped(6),
    ),
    "transposed conv 1d": Case(
        convolution(nn.ConvTranspose1d, 5, 7, stride=2), convolution(nn.ConvTranspose1d, 3, 4, stride=2), (2, 3, 4),
        transposed(4, 3), {"output_size": [10]},
    ),
    "transposed conv 2d": Case(
        convolution(nn.ConvTranspose2d, 5, 7, bias=False), convolution(nn.ConvTranspose2d, 3, 4, bias=False),
        (2, 3, 4, 4), transposed(4, 3),
    ),
    "transposed conv 2d to a size": Case(
        convolution(nn.ConvTranspose2d, 5, 7, stride=3), convolution(nn.ConvTranspose2d, 3, 4, stride=3), (2, 3, 3, 2),
        transposed(4, 3), {"output_size": (10, 8)},
    ),
    "transposed conv 3d": Case(
        convolution(nn.ConvTranspose3d, 5, 7, stride=2, output_padding=1),
        convolution(nn.ConvTranspose3d, 3, 4, stride=2, output_padding=1), (2, 3, 2, 3, 2), transposed(4, 3),
    ),
    "grouped transposed conv": Case(
        convolution(nn.ConvTranspose2d, 6, 9, groups=3, stride=2),
        convolution(nn.ConvTranspose2d, 4, 6, groups=2, stride=2), (2, 4, 3, 3), grouped_transposed(6, 4),
        {"output_size": (8, 8)},
    ),
    "depthwise transposed conv": Case(
        convolution(nn.ConvTranspose1d, 5, 5, groups=5), convolution(nn.ConvTranspose1d, 3, 3, groups=3), (2, 3, 4),
        grouped_transposed(3, 3),
    ),
    "linear": Case(lambda: nn.Linear(5, 7), lambda: nn.Linear(3, 4), (2, 3), normal(4, 3)),
    "linear without bias": Case(
        lambda: nn.Linear(5, 7, bias=False), lambda: nn.Linear(3, 4, bias=False), (2, 3), normal(4, 3)
    ),
    "linear on tokens": Case(lambda: nn.Linear(5, 7), lambda: nn.Linear(3, 4), (2, 6, 3), normal(4, 3)),
    "prelu per channel": Case(lambda: nn.PReLU(7), lambda: nn.PReLU(4), (2, 4, 3, 3), {"weight": s_[:4]}),
    "group norm": Case(lambda: nn.GroupNorm(4, 12), lambda: nn.GroupNorm(2, 6), (2, 6, 4, 4),
                       {"weight": s_[:6], "bias": s_[:6]}),
    "group norm without weights": Case(lambda: nn.GroupNorm(3, 6, affine=False),
                                       lambda: nn.GroupNorm(2, 4, affine=False), (2, 4, 4), {}),
    "batch norm": Case(lambda: nn.BatchNorm2d(7), lambda: nn.BatchNorm2d(4), (2, 4, 3, 3), NORM),
    "batch norm without weights": Case(lambda: nn.BatchNorm1d(7, affine=False), lambda: nn.BatchNorm1d(4, affine=False),
                                       (3, 4), NORM),
    "instance norm": Case(lambda: nn.InstanceNorm1d(7, affine=True), lambda: nn.InstanceNorm1d(4, affine=True),
                          (2, 4, 5), NORM),
}  # fmt: skip


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request) -> Case:
    return request.param


def built(case: Case) -> tuple[nn.Module, nn.Module]:
    """The layer with random weights and statistics, and the one built small with the parts copied in."""
    full, small = case.full().double().eval(), case.small().double().eval()
    with torch.no_grad():
        for name, tensor in tensors_of(full).items():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
            tensors_of(small)[name].copy_(tensor[case.parts[name]])
    return full, small


def tensors_of(layer: nn.Module) -> dict[str, Tensor]:
    named = (*layer.named_parameters(), *layer.named_buffers())
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


def at_width(width: float):
    return conditioned(Condition(torch.zeros(1), torch.zeros(1, 1), width))


def slimmable(full: nn.Module, small: nn.Module) -> Slimmable:
    return layers.slimmable(full, {0.5: rule_of(small).size, 1.0: rule_of(full).size})


def answer(layer: nn.Module, case: Case) -> tuple[Tensor, Tensor]:
    """What a layer gives, and the gradient of a weighted sum of that to its input; fills the gradients of weights."""
    x = torch.randn(case.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = layer(x, **case.arguments)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return y.detach(), x.grad


def test_a_layer_gives_what_the_plain_layer_of_its_width_gives_also_to_the_gradients(case):
    full, small = built(case)
    expected = answer(small, case)
    with at_width(0.5):
        actual = answer(slimmable(full, small), case)
    torch.testing.assert_close(actual, expected)
    for name, parameter in full.named_parameters():
        part = case.parts[name]
        torch.testing.assert_close(parameter.grad[part], getattr(small, name).grad)
        assert getattr(small, name).grad.abs().min() > 0
        parameter.grad[part] = 0
        assert not parameter.grad.any(), "a dropped part has a gradient"


def test_a_layer_of_one_width_is_the_plain_layer_that_torch_builds(case):
    full, small = built(case)
    layer = slimmable(full, small).at(0.5, clone_tensor)
    assert type(layer) is type(small)
    assert repr(layer) == repr(small)
    assert vars(layer).keys() == vars(small).keys()
    torch.testing.assert_close(layer.state_dict(), small.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(answer(layer, case), answer(small, case), rtol=0, atol=0)
    assert all(tensor.is_contiguous() for tensor in tensors_of(layer).values())


def test_a_copied_slice_stands_alone_a_view_does_not_and_the_layer_is_left_as_it_was(case):
    full, small = built(case)
    before = {name: (tensor.clone(), tensor) for name, tensor in tensors_of(full).items()}
    description = repr(full)
    copied, viewed = (sliced(full, rule_of(small).size, carry) for carry in (clone_tensor, same_tensor))
    with at_width(0.5):
        answer(slimmable(full, small), case)
    assert repr(full) == description
    for name, (values, tensor) in before.items():
        assert getattr(full, name) is tensor
        assert torch.equal(tensor, values)
        with torch.no_grad():
            tensor.mul_(2)
        part = tensor[case.parts[name]]
        assert torch.equal(getattr(viewed, name), part)
        assert torch.equal(getattr(copied, name), part / 2)


def test_at_full_width_a_layer_is_the_one_it_was_made_from(case):
    full, small = built(case)
    shape = list(case.shape)
    shape[-1 if isinstance(full, nn.Linear) else 1] = rule_of(full).size.inputs
    x = torch.randn(shape, dtype=torch.float64)
    with at_width(1.0):
        assert torch.equal(slimmable(full, small)(x, **case.arguments), full(x, **case.arguments))


@pytest.mark.parametrize("inputs", [1, 3, 5, 6])
def test_a_layer_reads_from_what_it_gets_how_many_channels_it_takes(inputs):
    full = nn.Conv2d(6, 8, 3).double()
    x = torch.randn(2, inputs, 5, 5, dtype=torch.float64)
    expected = nn.functional.conv2d(x, full.weight[:4, :inputs], full.bias[:4])
    with at_width(0.5):
        torch.testing.assert_close(layers.slimmable(full, {0.5: C(3, 4)})(x), expected)


def test_a_frozen_weight_stays_frozen_in_a_copied_slice():
    full = nn.Linear(4, 6)
    full.weight.requires_grad_(requires_grad=False)
    layer = sliced(full, C(2, 3), clone_tensor)
    assert isinstance(layer.weight, nn.Parameter)
    assert not layer.weight.requires_grad
    assert layer.bias.requires_grad


@pytest.mark.parametrize("twentieths", range(1, 21))
def test_a_width_keeps_the_share_of_channels_rounded_up(twentieths):
    for nb_channels in range(1, 130):
        expected = -(-twentieths * nb_channels // 20)  # in whole numbers, which do not round
        assert channels_at(twentieths / 20, nb_channels) == expected


@pytest.mark.parametrize("width", [1 / 3, 0.1 + 0.2, 0.7, 1 - 1e-12])
def test_rounding_of_a_width_adds_no_channel(width):
    assert channels_at(width, 30) == round(width * 30)


def test_widths_come_in_ascending_order():
    assert check_widths([1, 0.5, 0.75]) == (0.5, 0.75, 1.0)
    assert check_widths(iter([1])) == (1.0,)


@pytest.mark.parametrize(
    "widths",
    [(), (0.5,), (0.5, 0.75), (0, 1), (-0.5, 1), (0.5, 1, 1.5), (0.5, 0.5, 1), (float("nan"), 1), (True,), 1.0, None,
     "1", [[0.5], 1], ("0.5", 1)],
)  # fmt: skip
def test_widths_that_are_no_fractions_with_1_among_them_are_refused(widths):
    with pytest.raises(ValueError, match=r"widths must hold distinct numbers in \(0, 1\], 1 among them, got"):
        check_widths(widths)


def test_a_switch_runs_the_module_of_the_width_alone():
    modules = {width: nn.Linear(2, 2) for width in (0.5, 0.75, 1.0)}
    switch, x = Switch(modules), torch.randn(3, 2)
    for width, module in modules.items():
        assert switch.at(width) is module
        with at_width(width):
            y = switch(x)
        assert torch.equal(y, module(x))
        switch.zero_grad()
        y.sum().backward()
        assert [width for width, part in modules.items() if part.weight.grad is not None] == [width]


def test_outside_of_a_pass_no_width_is_known():
    for layer in (layers.slimmable(nn.Linear(2, 2), {1.0: C(2, 2)}), Switch({1.0: nn.Linear(2, 2)})):
        with pytest.raises(RuntimeError, match="a converted layer knows its lam only inside its OATModel"):
            layer(torch.zeros(1, 2))
