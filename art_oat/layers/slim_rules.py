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

    Unless a rule says otherwise, a layer gives as many channels as it takes, or in proportion to them, on axis 1.

    Args:
        layer: The layer in question.

    Attributes:
        has_statistics: Whether each width needs a layer of its own, since its channels have other statistics.
    """

    has_statistics: ClassVar[bool] = False

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    @property
    @abstractmethod
    def size(self) -> Channels:
        """What the layer takes and gives uncut."""

    @abstractmethod
    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""

    @property
    def has_channels(self) -> bool:
        """Whether the layer has a number of channels; another takes any number."""
        return True

    @property
    def chooses_width(self) -> bool:
        """Whether the layer gives a number of channels of its own choice."""
        return False

    @property
    def axis(self) -> int:
        """The axis of channels, of what the layer takes and of what it gives."""
        return 1

    @property
    def group(self) -> int:
        """The number of input channels that only come together."""
        return 1


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

    @property
    def size(self) -> Channels:
        """What the layer takes and gives uncut."""
        return Channels(self.layer.in_channels, self.layer.out_channels)

    @property
    def chooses_width(self) -> bool:
        """Whether there is one group."""
        return bool(self.layer.groups == 1)

    @property
    def axis(self) -> int:
        """The axis before those of the kernel."""
        return -1 - len(self.layer.kernel_size)

    @property
    def group(self) -> int:
        """The number of input channels of one group; 1 where there is one group."""
        return 1 if self.chooses_width else self.layer.in_channels // self.layer.groups

    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""
        groups = 1 if self.chooses_width else size.inputs // self.group
        attributes = {"in_channels": size.inputs, "out_channels": size.outputs, "groups": groups}
        return Cut(attributes, {"weight": self._kept(size), "bias": (slice(size.outputs),)})

    def _kept(self, size: Channels) -> tuple[slice, ...]:
        return (slice(size.outputs), slice(size.inputs)) if self.chooses_width else (slice(size.outputs),)


@slim_rule(_ConvTransposeNd)
class TransposedRule(ConvolutionRule):
    """The weight of a transposed convolution has its inputs first."""

    def _kept(self, size: Channels) -> tuple[slice, ...]:
        return (slice(size.inputs), slice(size.outputs)) if self.chooses_width else (slice(size.inputs),)


@slim_rule(nn.Linear)
class LinearRule(SlimRule):
    """Its channels are its features, on the last axis."""

    chooses_width = True
    axis = -1

    @property
    def size(self) -> Channels:
        """What the layer takes and gives uncut."""
        return Channels(self.layer.in_features, self.layer.out_features)

    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""
        slices = {"weight": (slice(size.outputs), slice(size.inputs)), "bias": (slice(size.outputs),)}
        return Cut({"in_features": size.inputs, "out_features": size.outputs}, slices)


class ChannelwiseRule(SlimRule):
    """A layer with one weight per channel in each of its tensors.

    Attributes:
        size_name: The attribute that holds the number of channels.
        tensors: Names of what has one value per channel.
    """

    size_name: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]]

    @property
    def size(self) -> Channels:
        """What the layer takes and gives uncut."""
        nb_channels = int(getattr(self.layer, self.size_name))
        return Channels(nb_channels, nb_channels)

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
    """It keeps whole groups."""

    size_name = "num_channels"
    tensors = ("weight", "bias")

    @property
    def group(self) -> int:
        """The number of channels of one group."""
        return int(self.layer.num_channels // self.layer.num_groups)

    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""
        attributes, slices = super().cut(size)
        return Cut({**attributes, "num_groups": size.inputs // self.group}, slices)


@slim_rule(nn.PReLU)
class PReLURule(ChannelwiseRule):
    """It has one slope per channel, or one for all."""

    size_name = "num_parameters"
    tensors = ("weight",)

    @property
    def has_channels(self) -> bool:
        """Whether every channel has a slope of its own."""
        return bool(self.layer.num_parameters > 1)

    def cut(self, size: Channels) -> Cut:
        """Return how the layer is cut to a size."""
        return super().cut(size) if self.has_channels else Cut({}, {})
