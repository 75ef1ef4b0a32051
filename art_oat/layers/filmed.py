"""Convolutions and linear layers followed by FiLM, for networks without norms."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from art_oat.condition import Condition, current_condition
from art_oat.layers.base import AffineLayer, ConvertedLayer
from art_oat.layers.channel_affine import ChannelAffine, channel_affine
from art_oat.layers.conversion import LayerBuilder, refuse_computed
from art_oat.layers.film import FiLM
from art_oat.rebuild import in_float64

_CANDIDATES = (("gain", 0), ("weight", 0), ("weight", 1))
"""Parameters that may scale the outputs of a layer, and the axis of its outputs in them."""
_ROUNDING = 1e-4


class Modulation(AffineLayer):
    """A FiLM of its own, which modulates what a layer gives.

    Args:
        film: Of as many channels as the layer gives.
        is_trailing: Whether these lie along the last axis, otherwise along the second.
        has_shift: Whether it shifts, too.
    """

    def __init__(self, film: FiLM, *, is_trailing: bool, has_shift: bool) -> None:
        super().__init__()
        self.film = film
        self.is_trailing = is_trailing
        self.has_shift = has_shift

    def affine(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[G, C]``."""
        scale, shift = self.film.coefficients(condition.code)
        return scale, shift if self.has_shift else torch.zeros_like(shift)

    def forward(self, x: Tensor) -> Tensor:
        """Modulate ``x [N, ...]`` by the condition of the pass under way."""
        return channel_affine(x, *self.affine(current_condition().of(len(x))), is_trailing=self.is_trailing)

    def pin(self) -> nn.Module:
        """Return an affine map per channel."""
        return ChannelAffine(is_trailing=self.is_trailing)

    def fold(self, condition: Condition) -> nn.Module:
        """Return an affine map per channel for one lam."""
        twin = self.pin()
        with torch.no_grad():
            self.update(twin, condition, torch.zeros(1, dtype=torch.long, device=condition.lam.device))
        return twin


class FilmedLayer(ConvertedLayer):
    """A convolution or linear layer and the FiLM after it; folded, its own weights hold both.

    A layer without a bias gets no shift.

    Args:
        layer: The plain layer, which this takes over.
        film: Of as many channels as it gives.

    Raises:
        ValueError: If no parameter of the layer scales what it gives.
    """

    def __init__(self, layer: nn.Module, film: FiLM) -> None:
        super().__init__()
        self.training = layer.training
        self.scaled = _scaled_parameter(layer)
        self.layer = layer
        is_trailing = isinstance(layer, nn.Linear)
        self.modulation = Modulation(film, is_trailing=is_trailing, has_shift=layer.bias is not None)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Answer as the layer does, modulated by the condition of the pass under way."""
        result: Tensor = self.modulation(self.layer(x, *args, **kwargs))
        return result

    def fold(self, condition: Condition) -> nn.Module:
        """Return a layer of the original class whose weights hold FiLM."""
        scale, shift = (values[0] for values in self.modulation.affine(condition))
        return _modulated(self.layer, self.scaled, scale.detach(), shift.detach())


class _Scaled(NamedTuple):
    """The parameter that scales what a layer gives, and the axis along which it does."""

    name: str
    axis: int


def can_be_filmed(layer: nn.Module) -> bool:
    """Whether FiLM may be asked for after a layer that is no norm."""
    return isinstance(layer, _ConvNd | nn.Linear)


def nb_outputs(layer: nn.Module) -> int:
    """Return how many channels a convolution or linear layer gives."""
    size = layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features
    assert isinstance(size, int)
    return size


def film_layer(layer: nn.Module, build: LayerBuilder) -> FilmedLayer:
    """Return a layer with FiLM after it, which takes it over.

    Raises:
        ValueError: If FiLM could not be folded into the weights of the layer; says why.
    """
    refuse_computed(layer)
    film = build.film(nb_outputs(layer))
    assert film is not None
    return FilmedLayer(layer, film)


def _scaled_parameter(layer: nn.Module) -> _Scaled:
    """Find out on random inputs which parameter scales the outputs; some layers standardize their weights."""
    subject = in_float64(layer)
    generator = torch.Generator().manual_seed(0)
    scale, shift = (torch.rand(nb_outputs(layer), dtype=torch.float64, generator=generator) + 0.5 for _ in range(2))
    shift = shift if layer.bias is not None else torch.zeros_like(shift)
    x = torch.randn(_input_shape(subject), dtype=torch.float64, generator=generator)
    is_trailing = isinstance(layer, nn.Linear)
    with torch.no_grad():
        expected = channel_affine(subject(x), scale[None], shift[None], is_trailing=is_trailing)
        for name, axis in _CANDIDATES:
            value = subject._parameters.get(name)
            if value is None or value.dim() <= axis or value.shape[axis] != len(scale):
                continue
            answer = _modulated(subject, _Scaled(name, axis), scale, shift)(x)
            if torch.allclose(answer, expected, rtol=_ROUNDING, atol=_ROUNDING):
                return _Scaled(name, axis)
    raise ValueError("no weight of it scales what it gives, so FiLM could not be folded into it")


def _input_shape(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, _ConvNd):
        lengths = (
            1 + dilation * (size - 1) + 2 for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)
        )
        return (2, layer.in_channels, *lengths)
    assert isinstance(layer, nn.Linear)
    return (2, layer.in_features)


def _modulated(layer: nn.Module, scaled: _Scaled, scale: Tensor, shift: Tensor) -> nn.Module:
    """Return a copy of a layer with its outputs scaled and shifted."""
    result = copy.deepcopy(layer)
    with torch.no_grad():
        weight = result.get_parameter(scaled.name)
        weight.mul_(scale.to(weight).view([-1 if axis == scaled.axis else 1 for axis in range(weight.dim())]))
        if result.bias is not None:
            bias = result.get_parameter("bias")
            bias.mul_(scale.to(bias)).add_(shift.to(bias))
    return result
