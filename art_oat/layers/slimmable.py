"""Owns layers whose width is dialed: slices of one weight, and one module per width where slices do not do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from art_oat.condition import current_condition, is_finite_number
from art_oat.rebuild import rebuild, shallow_copy, with_own_children


def check_widths(widths: Iterable[float]) -> tuple[float, ...]:
    """Return the trained widths in ascending order.

    Raises:
        ValueError: If one lies outside ``(0, 1]`` or is NaN, one occurs twice, or 1 is not among them.
    """
    values = tuple(widths) if isinstance(widths, Iterable) else ()
    faulty = [value for value in values if not (is_finite_number(value) and 0 < value <= 1)]
    if faulty or 1 not in values or len(set(values)) != len(values):
        raise ValueError(f"widths must hold distinct numbers in (0, 1], 1 among them, got {widths!r}.")
    return tuple(sorted(float(value) for value in values))


def channels_at(width: float, nb_channels: int) -> int:
    """Return ``ceil(width * C)``; a product that is whole up to rounding counts as whole."""
    return math.ceil(round(width * nb_channels, 9))


class Channels(NamedTuple):
    """How many channels a layer takes and gives."""

    inputs: int
    outputs: int

    def proportion(self, inputs: int) -> int:
        """Return how many it gives of so many that it takes, in the proportion of all."""
        return self.outputs * inputs // self.inputs


@dataclass(frozen=True)
class Cut:
    """What makes a layer smaller.

    Attributes:
        attributes: New values of the attributes that hold sizes.
        slices: By name of a parameter or buffer, the part of it that stays.
    """

    attributes: Mapping[str, int]
    slices: Mapping[str, tuple[slice, ...]]


@singledispatch
def cut(layer: nn.Module, size: Channels) -> Cut:
    """Return how a layer is cut to a size.

    Raises:
        TypeError: If layers of its type cannot be cut.
    """
    raise TypeError(f"a layer of type {type(layer).__name__} cannot be cut to {size}.")


@cut.register
def _cut_convolution(layer: _ConvNd, size: Channels) -> Cut:
    kept = (slice(size.outputs), slice(size.inputs)) if layer.groups == 1 else (slice(size.outputs),)
    return Cut(_convolution_sizes(layer, size), {"weight": kept, "bias": (slice(size.outputs),)})


@cut.register
def _cut_transposed(layer: _ConvTransposeNd, size: Channels) -> Cut:
    kept = (slice(size.inputs), slice(size.outputs)) if layer.groups == 1 else (slice(size.inputs),)
    return Cut(_convolution_sizes(layer, size), {"weight": kept, "bias": (slice(size.outputs),)})


def _convolution_sizes(layer: _ConvNd, size: Channels) -> dict[str, int]:
    groups = 1 if layer.groups == 1 else size.inputs // group_size(layer)
    return {"in_channels": size.inputs, "out_channels": size.outputs, "groups": groups}


@cut.register
def _cut_linear(_: nn.Linear, size: Channels) -> Cut:
    slices = {"weight": (slice(size.outputs), slice(size.inputs)), "bias": (slice(size.outputs),)}
    return Cut({"in_features": size.inputs, "out_features": size.outputs}, slices)


@cut.register
def _cut_norm(_: _NormBase, size: Channels) -> Cut:
    names = ("weight", "bias", "running_mean", "running_var")
    return Cut({"num_features": size.inputs}, {name: (slice(size.inputs),) for name in names})


@cut.register
def _cut_group_norm(layer: nn.GroupNorm, size: Channels) -> Cut:
    attributes = {"num_channels": size.inputs, "num_groups": size.inputs // group_size(layer)}
    return Cut(attributes, {name: (slice(size.inputs),) for name in ("weight", "bias")})


@cut.register
def _cut_prelu(layer: nn.PReLU, size: Channels) -> Cut:
    if layer.num_parameters == 1:
        return Cut({}, {})
    return Cut({"num_parameters": size.inputs}, {"weight": (slice(size.inputs),)})


def is_cuttable(layer: nn.Module) -> bool:
    """Whether layers of this type can be cut."""
    return cut.dispatch(type(layer)) is not cut.dispatch(nn.Module)


def chooses_width(layer: nn.Module) -> bool:
    """Whether a layer gives a number of channels of its own; others give as many as they get, or in proportion."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and layer.groups == 1)


def group_size(layer: nn.Module) -> int:
    """Return the number of input channels that only come together: those of one group."""
    if isinstance(layer, _ConvNd) and layer.groups > 1:
        return layer.in_channels // layer.groups
    return layer.num_channels // layer.num_groups if isinstance(layer, nn.GroupNorm) else 1


def full_size(layer: nn.Module) -> Channels | None:
    """Return what a layer takes and gives uncut; None for one that takes any number of channels."""
    if isinstance(layer, _ConvNd):
        return Channels(layer.in_channels, layer.out_channels)
    if isinstance(layer, nn.Linear):
        return Channels(layer.in_features, layer.out_features)
    names = {_NormBase: "num_features", nn.GroupNorm: "num_channels", nn.PReLU: "num_parameters"}
    name = next((name for kind, name in names.items() if isinstance(layer, kind)), None)
    if name is None:
        raise TypeError(f"the size of a {type(layer).__name__}, which can be cut, must be known here.")
    nb_channels = int(getattr(layer, name))
    return None if isinstance(layer, nn.PReLU) and nb_channels == 1 else Channels(nb_channels, nb_channels)


def channel_axis(layer: nn.Module) -> int:
    """Return the axis that holds channels, of what a layer takes and of what it gives."""
    if isinstance(layer, nn.Linear):
        return -1
    return -1 - len(layer.kernel_size) if isinstance(layer, _ConvNd) else 1


def sliced(layer: nn.Module, size: Channels, carry: Callable[[Tensor, tuple[slice, ...]], Tensor]) -> nn.Module:
    """Return the smaller layer of the same class that consists of the first channels of a layer.

    Args:
        layer: Of a type that can be cut; left untouched.
        size: What the smaller one takes and gives.
        carry: Maps a parameter or buffer, and the part of it that stays (all for ``()``), to its counterpart.

    Raises:
        TypeError: If its weights are computed from others, so that none can be cut.
    """
    how = cut(layer, size)
    own = layer._parameters.keys() | layer._buffers.keys()
    if computed := [name for name in how.slices if name not in own and getattr(layer, name, None) is not None]:
        raise TypeError(f"{' and '.join(computed)} of a {type(layer).__name__} cannot be cut: computed from others.")
    smaller = shallow_copy(layer, getattr(type(layer), "plain_type", type(layer)))
    vars(smaller).pop("_slim_channels", None)
    vars(smaller).update(how.attributes)
    for kind in ("_parameters", "_buffers"):
        tensors = {
            name: None if tensor is None else carry(tensor, how.slices.get(name, ()))
            for name, tensor in vars(layer)[kind].items()
        }
        vars(smaller)[kind] = tensors
    return smaller


def slice_tensor(tensor: Tensor, index: tuple[slice, ...]) -> Tensor:
    """Return a part of a tensor, as a view of it that carries gradient."""
    return tensor[index] if index else tensor


def clone_slice(tensor: Tensor, index: tuple[slice, ...]) -> Tensor:
    """Return an independent copy of a part, a parameter where the whole was one, with ``requires_grad`` as it was."""
    clone = slice_tensor(tensor.detach(), index).clone()
    return nn.Parameter(clone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone


class Slimmable(nn.Module):
    """A layer that runs on the first channels of its weight (Yu et al. 2018, arXiv:1812.08928).

    Made by :func:`slimmable`, it is of the layer's own class, too, and holds what that holds. It gives as many channels
    as the width of the pass asks for, and reads from the tensor it gets how many it takes.
    """

    plain_type: ClassVar[type[nn.Module]]
    _slim_channels: Mapping[float, Channels]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Answer as the smaller layer does; ``x`` holds its channels where the plain layer expects them."""
        inputs = x.shape[channel_axis(self)]
        size = Channels(inputs, self._outputs(inputs))
        result: Tensor
        if size == full_size(self):
            result = super().forward(x, *args, **kwargs)
        else:
            result = sliced(self, size, slice_tensor).forward(x, *args, **kwargs)
        return result

    def _outputs(self, inputs: int) -> int:
        """As many as the width asks for, or in proportion to those it gets."""
        full = full_size(self)
        if full is None:
            return inputs
        if chooses_width(self):
            return self._slim_channels[current_condition().width].outputs
        return full.proportion(inputs)

    def at(self, width: float, carry: Callable[[Tensor, tuple[slice, ...]], Tensor]) -> nn.Module:
        """Return the plain layer of one width; see :func:`sliced`."""
        return sliced(self, self._slim_channels[width], carry)

    def extra_repr(self) -> str:
        """Describe the layer, and say how many channels it takes and gives at each width."""
        sizes = (f"{width:g}: {size.inputs}->{size.outputs}" for width, size in self._slim_channels.items())
        return f"{super().extra_repr()}, {', '.join(sizes)}"

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return _blank, (self.plain_type,), vars(self)


_SLIMMABLE_TYPES: dict[type[nn.Module], type[nn.Module]] = {}


def _slimmable_type(kind: type[nn.Module]) -> type[nn.Module]:
    if kind not in _SLIMMABLE_TYPES:
        body = {"plain_type": kind, "__doc__": Slimmable.__doc__}
        _SLIMMABLE_TYPES[kind] = type(f"Slimmable{kind.__name__}", (Slimmable, kind), body)
    return _SLIMMABLE_TYPES[kind]


def _blank(kind: type[nn.Module]) -> nn.Module:
    """What a copy or a pickle of a slimmable layer is filled into; its class cannot be found by name."""
    blank: nn.Module = object.__new__(_slimmable_type(kind))
    return blank


def slimmable(layer: nn.Module, channels: Mapping[float, Channels]) -> nn.Module:
    """Return a layer that runs at several widths, with the tensors and children of a plain one.

    Args:
        layer: Of a type that can be cut; it is left untouched.
        channels: What it takes and gives at each width.
    """
    twin = shallow_copy(layer, _slimmable_type(type(layer)))
    vars(twin)["_slim_channels"] = dict(channels)
    return twin


class Switch(nn.Module):
    """One module per width, of which that of the pass under way runs: norms, and heads that do not share a weight.

    Args:
        modules: By width.
    """

    def __init__(self, modules: Mapping[float, nn.Module]) -> None:
        super().__init__()
        self.widths = tuple(modules)
        self.by_width = nn.ModuleList(modules.values())
        self.training = self.by_width.training = self.by_width[-1].training

    def at(self, width: float) -> nn.Module:
        """Return the module of one width."""
        return self.by_width[self.widths.index(width)]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Answer as the module of the width does."""
        result: Tensor = self.at(current_condition().width)(x, *args, **kwargs)
        return result

    def extra_repr(self) -> str:
        """Name the widths."""
        return f"widths={self.widths}"


class Carry(Protocol):
    """Maps a tensor of a network, and the part of it that stays (all for ``()``), to its counterpart."""

    def __call__(self, tensor: Tensor, index: tuple[slice, ...] = (), /) -> Tensor:
        """Return the counterpart."""


def at_width(
    network: nn.Module, width: float, substitute: Callable[[nn.Module], nn.Module | None], carry: Carry
) -> nn.Module:
    """Rebuild a network as it is at one width, with plain layers in place of slimmable ones.

    Args:
        network: Left untouched.
        width: One of its widths.
        substitute: As for :func:`~art_oat.rebuild.rebuild`; it is asked first.
        carry: Likewise, for tensors and parts of them.
    """

    def replace(module: nn.Module) -> nn.Module | None:
        if (replacement := substitute(module)) is not None:
            return replacement
        if isinstance(module, Switch):
            return rebuild(module.at(width), replace, carry)
        if isinstance(module, Slimmable):
            return with_own_children(module.at(width, carry), replace, carry)
        return None

    return rebuild(network, replace, carry)
