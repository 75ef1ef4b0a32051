"""How layers are cut to fewer channels: one rule per type of layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any, ClassVar, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


class Channels(NamedTuple):
    """How many channels a layer takes and gives."""

    inputs: int
    outputs: int

    def proportion(self, inputs: int) -> int:
        """Return how many it gives of so many that it takes, in the proportion of all."""
        return self.outputs * inputs // self.inputs


class Cut(NamedTuple):
    """What makes a layer smaller.

    Attributes:
        attributes: New values of the attributes that hold sizes.
        slices: By name of a parameter or buffer, the part of it that stays.
    """

    attributes: Mapping[str, int]
    slices: Mapping[str, tuple[slice, ...]]


class SlimRule(ABC):
    """How a layer of one type is cut; :func:`slim_rule` registers it.

    Args:
        layer: The layer in question.

    Attributes:
        size: What the layer takes and gives uncut.
        has_channels: Whether it has a number of channels; another takes any number.
        chooses_width: Whether it gives a number of its own choice; another gives in proportion to what it takes.
        has_statistics: Whether each width needs a layer of its own, since its channels have other statistics.
        axis: The axis of channels, of what it takes and of what it gives.
        group: The number of input channels that only come together.
    """

    size: Channels
    has_channels: bool = True
    chooses_width: bool = False
    has_statistics: bool = False
    axis: int = 1
    group: int = 1

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    @abstractmethod
    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""


@singledispatch
def rule_of(layer: nn.Module) -> SlimRule:
    """Return the rule of a layer, which is that of the closest registered base class.

    Raises:
        TypeError: If layers of its type cannot be cut.
    """
    raise TypeError(f"a layer of type {type(layer).__name__} cannot be cut. Register how, by slim_rule.")


def slim_rule(kind: type[nn.Module]) -> Callable[[type[SlimRule]], type[SlimRule]]:
    """Register how layers of a type, and of its subclasses, are cut."""

    def register(rule: type[SlimRule]) -> type[SlimRule]:
        rule_of.register(kind, rule)
        return rule

    return register


def is_cuttable(layer: nn.Module) -> bool:
    """Whether layers of this type can be cut."""
    return rule_of.dispatch(type(layer)) is not rule_of.dispatch(nn.Module)


def chooses_width(layer: nn.Module) -> bool:
    """Whether a layer can be cut, and gives a number of channels of its own choice."""
    return is_cuttable(layer) and rule_of(layer).chooses_width


@slim_rule(_ConvNd)
class ConvolutionRule(SlimRule):
    """A grouped convolution keeps whole groups, and gives in proportion to what it takes."""

    def __init__(self, layer: _ConvNd) -> None:
        super().__init__(layer)
        self.size = Channels(layer.in_channels, layer.out_channels)
        self.axis = -1 - len(layer.kernel_size)
        self.chooses_width = layer.groups == 1
        self.group = 1 if self.chooses_width else layer.in_channels // layer.groups

    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""
        groups = 1 if self.chooses_width else size.inputs // self.group
        attributes = {"in_channels": size.inputs, "out_channels": size.outputs, "groups": groups}
        kept = self.first_axes(size) if self.chooses_width else self.first_axes(size)[:1]
        return Cut(attributes, {"weight": kept, "bias": (slice(size.outputs),)})

    def first_axes(self, size: Channels) -> tuple[slice, slice]:
        """Return what is kept along the first two axes of an ungrouped weight."""
        return slice(size.outputs), slice(size.inputs)


@slim_rule(_ConvTransposeNd)
class TransposedRule(ConvolutionRule):
    """The weight of a transposed convolution has its inputs first."""

    def first_axes(self, size: Channels) -> tuple[slice, slice]:
        """Return what is kept along the first two axes of an ungrouped weight."""
        return slice(size.inputs), slice(size.outputs)


@slim_rule(nn.Linear)
class LinearRule(SlimRule):
    """The channels of a linear layer are its features."""

    chooses_width = True
    axis = -1

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.size = Channels(layer.in_features, layer.out_features)

    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""
        slices = {"weight": (slice(size.outputs), slice(size.inputs)), "bias": (slice(size.outputs),)}
        return Cut({"in_features": size.inputs, "out_features": size.outputs}, slices)


class ChannelwiseRule(SlimRule):
    """A layer whose tensors hold one value per channel.

    Attributes:
        size_name: The attribute that holds the number of channels.
        tensors: The names of its tensors.
    """

    size_name: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]]

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.size = Channels(getattr(layer, self.size_name), getattr(layer, self.size_name))

    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""
        return Cut({self.size_name: size.inputs}, dict.fromkeys(self.tensors, (slice(size.inputs),)))


@slim_rule(_NormBase)
class BatchNormRule(ChannelwiseRule):
    """Batch norm and instance norm."""

    has_statistics = True
    size_name = "num_features"
    tensors = ("weight", "bias", "running_mean", "running_var")


@slim_rule(nn.GroupNorm)
class GroupNormRule(ChannelwiseRule):
    """Group norm keeps whole groups."""

    size_name = "num_channels"
    tensors = ("weight", "bias")

    def __init__(self, layer: nn.GroupNorm) -> None:
        super().__init__(layer)
        self.group = layer.num_channels // layer.num_groups

    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""
        attributes, slices = super().cut(size)
        return Cut({**attributes, "num_groups": size.inputs // self.group}, slices)


@slim_rule(nn.PReLU)
class PReLURule(ChannelwiseRule):
    """PReLU has one slope per channel, or one for all."""

    size_name = "num_parameters"
    tensors = ("weight",)

    def __init__(self, layer: nn.PReLU) -> None:
        super().__init__(layer)
        self.has_channels = layer.num_parameters > 1

    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""
        return super().cut(size) if self.has_channels else Cut({}, {})
