"""Layers whose width is dialed: slices of one weight, and one module per width where slices do not do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from art_oat.condition import current_condition
from art_oat.layers.slim_rules import Channels, rule_of
from art_oat.numbers import is_finite_number, plain
from art_oat.rebuild import rebuild, same_tensor, shallow_copy, with_own_children


def check_widths(widths: Iterable[float]) -> tuple[float, ...]:
    """Return the trained widths in ascending order.

    Raises:
        ValueError: If one lies outside ``(0, 1]`` or is NaN, one occurs twice, or 1 is not among them.
    """
    values = tuple(plain(width) for width in widths) if isinstance(widths, Iterable) else ()
    faulty = [value for value in values if not (is_finite_number(value) and 0 < value <= 1)]
    if faulty or 1 not in values or len(set(values)) != len(values):
        raise ValueError(f"widths must hold distinct numbers in (0, 1], 1 among them, got {widths!r}.")
    return tuple(sorted(float(value) for value in values))


def channels_at(width: float, nb_channels: int) -> int:
    """Return ``ceil(width * C)``; a product that is whole up to rounding counts as whole."""
    return math.ceil(round(width * nb_channels, 9))


def sliced(layer: nn.Module, size: Channels, carry: Callable[[Tensor, tuple[slice, ...]], Tensor]) -> nn.Module:
    """Return the smaller layer of the same class that consists of the first channels of a layer.

    Args:
        layer: Of a type that can be cut; left untouched.
        size: What the smaller one takes and gives.
        carry: Maps a parameter or buffer, and the part of it that stays (all for ``()``), to its counterpart.

    Raises:
        TypeError: If its weights are computed from others, so that none can be cut.
    """
    how = rule_of(layer).cut(size)
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


class Slimmable(nn.Module):
    """A layer that runs on the first channels of its weight (Yu et al. 2018, arXiv:1812.08928).

    Made by :func:`slimmable`, it is of the layer's own class, too, and holds what that holds. It gives as many channels
    as the width of the pass asks for, and reads from the tensor it gets how many it takes.
    """

    plain_type: ClassVar[type[nn.Module]]
    _slim_channels: Mapping[float, Channels]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Answer as the smaller layer does; ``x`` holds its channels where the plain layer expects them."""
        rule = rule_of(self)
        inputs = x.shape[rule.axis]
        if rule.chooses_width:
            size = Channels(inputs, self._slim_channels[current_condition().width].outputs)
        else:
            size = Channels(inputs, rule.size.proportion(inputs))
        run = super().forward if size == rule.size else sliced(self, size, same_tensor).forward
        return cast("Tensor", run(x, *args, **kwargs))

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
    """Return what a copy or a pickle of a slimmable layer is filled into; its class cannot be found by name."""
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
        return cast("Tensor", self.at(current_condition().width)(x, *args, **kwargs))

    def extra_repr(self) -> str:
        """Name the widths."""
        return f"widths={self.widths}"


def at_width(
    network: nn.Module,
    width: float,
    substitute: Callable[[nn.Module], nn.Module | None],
    carry: Callable[..., Tensor],
) -> nn.Module:
    """Rebuild a network as it is at one width, with plain layers in place of slimmable ones.

    Args:
        network: Left untouched.
        width: One of its widths.
        substitute: As for :func:`~art_oat.rebuild.rebuild`; it is asked first.
        carry: Likewise; takes a tensor, and the part of it that stays where that is not all.
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
