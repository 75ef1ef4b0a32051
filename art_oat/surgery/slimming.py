"""Slimming: how many channels every layer of a network has at a smaller width."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from art_oat.contexts import borrowed_generators
from art_oat.layers.slim_rules import Channels, chooses_width, is_cuttable, rule_of
from art_oat.layers.slimmable import Switch, channels_at, sliced, slimmable
from art_oat.rebuild import clone_tensor, rebuild, same_tensor, with_own_children, without_hooks
from art_oat.surgery.errors import UnsupportedModuleError, refuse_layers
from art_oat.surgery.slim_check import SlimCheck
from art_oat.surgery.tracing import Structure, cuttable_layers, perturbed_copy, structure

_ADVICE = (
    "What is cut must equal the full network with the dropped channels masked. Layers named in full_width keep all "
    "their channels: name those whose channels arrive there, or convert with widths=(1.0,)."
)


@dataclass(frozen=True)
class Slimming:
    """What a network is cut to.

    Attributes:
        widths: Ascending, the last is 1.
        channels: By dotted path of a layer and by width, what it takes and gives; layers that a pass does not reach,
            and are not cut, have no entry.
        heads: Paths of the layers that what the network returns comes from.
    """

    widths: tuple[float, ...]
    channels: Mapping[str, Mapping[float, Channels]]
    heads: Collection[str]

    def cut(self, path: str, layer: nn.Module, width: float) -> nn.Module:
        """Return the layer of one width, a smaller one with weights of its own; itself at width 1, or without entry.

        Raises:
            ValueError: If it has no entry of its own, but something in it is cut.
        """
        if path not in self.channels:
            inside = (by_width for inner, by_width in self.channels.items() if inner.startswith(f"{path}."))
            if any(by_width[width] != by_width[1.0] for by_width in inside):
                raise ValueError("what it holds is cut at smaller widths, and layers of its type cannot be")
            return layer
        size = self.channels[path][width]
        if width == 1:
            return layer
        return with_own_children(sliced(layer, size, clone_tensor), lambda _: None, clone_tensor)


UNCUT = Slimming((1.0,), {}, ())
"""Of a network that runs at width 1 alone."""


def slim(
    network: nn.Module,
    widths: Sequence[float],
    *,
    full_width: Collection[str] = (),
    input_shape: Sequence[int] | None = None,
) -> Slimming:
    """Find how a network is slimmed, and make sure of it by :class:`~art_oat.surgery.slim_check.SlimCheck`.

    Args:
        network: Left untouched: its copy has float64 where possible, and every weight moved a little.
        widths: In ``(0, 1]``, ascending, the last is 1. With that one alone there is nothing to find out.
        full_width: Dotted paths of layers that keep all their channels.
        input_shape: Shape of one sample; None to try common image sizes with the channels that the first layer takes.

    Raises:
        UnsupportedModuleError: If the network cannot be slimmed so; names every layer at which that shows.
        ValueError: If the network does not run on one tensor of this shape, or returns nothing that has a gradient.
    """
    if len(widths) == 1:
        return UNCUT
    with borrowed_generators(seed=0), torch.inference_mode(False):
        subject, x = perturbed_copy(network, input_shape)
        layers = cuttable_layers(subject)
        first_path = {id(part): path for path, part in layers.items()}
        kept = {first_path[id(subject.get_submodule(path))] for path in full_width}
        found = structure(subject, layers, x)
        checks = [SlimCheck(subject, layers, width, _outputs(layers, width, found, kept)) for width in widths[:-1]]
        faults = _unreached(layers, found, kept)
        for check in checks:
            faults = check.faults_on(x) | faults
    ordered = {path: faults[path] for path, _ in network.named_modules() if path in faults}
    refuse_layers("slim", ordered, network, _ADVICE)
    channels = {
        path: {check.width: check.channels[path] for check in checks} | {1.0: rule_of(layers[path]).size}
        for path in checks[0].channels
    }
    _refuse_uncut(network, channels, found)
    return Slimming(tuple(widths), channels, found.last)


def _refuse_uncut(network: nn.Module, channels: Mapping[str, Mapping[float, Channels]], found: Structure) -> None:
    if not any(min(size.outputs for size in sizes.values()) < sizes[1.0].outputs for sizes in channels.values()):
        raise UnsupportedModuleError(
            f"cannot slim {type(network).__name__}: no layer of it gives fewer channels. Those that what it returns "
            f"comes from keep theirs: {', '.join(sorted(found.heads)) or 'none'}."
        )


def _outputs(
    layers: Mapping[str, nn.Module], width: float, found: Structure, full_width: Collection[str]
) -> dict[str, int]:
    """How many channels the layers give that set it themselves: ``ceil(width * C)``, in whole groups."""
    outputs: dict[str, int] = {}
    for path, layer in layers.items():
        if chooses_width(layer):
            nb_channels = rule_of(layer).size.outputs
            unit = found.units.get(path, 1)
            is_kept = path in found.heads or path in full_width or nb_channels % unit
            outputs[path] = nb_channels if is_kept else unit * channels_at(width, nb_channels // unit)
    return outputs


def _unreached(layers: Mapping[str, nn.Module], found: Structure, full_width: Collection[str]) -> dict[str, str]:
    fault = "it was not called when the network ran in evaluation, so nothing is known of it: name it in full_width"
    unknown = layers.keys() - found.called - set(full_width)
    return {path: fault for path in unknown if chooses_width(layers[path])}


def setting_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Every layer that sets a number of channels, by dotted path; one used in several places has several paths."""
    return {path: part for path, part in network.named_modules(remove_duplicate=False) if chooses_width(part)}


def make_slimmable(network: nn.Module, slimming: Slimming, *, has_own_heads: bool) -> nn.Module:
    """Return a network whose layers run at every width.

    Args:
        network: Its converted norms are switched by width already. It is used up.
        slimming: Of the network before its norms were converted.
        has_own_heads: Whether each width gets a last layer of its own.

    Raises:
        ValueError: If it is to have heads of its own, and what it returns comes from something else than layers that
            can be cut.
    """
    if has_own_heads and slimming.channels and not slimming.heads:
        raise ValueError(
            "heads must be 'shared' where what the network returns comes from no convolution or linear layer, got "
            "'per-width'."
        )
    paths = {
        id(part): path for path, part in network.named_modules() if path in slimming.channels and is_cuttable(part)
    }

    def substitute(layer: nn.Module) -> nn.Module | None:
        path = paths.get(id(layer))
        if path is None:
            return None
        if rule_of(layer).has_statistics or (has_own_heads and path in slimming.heads):
            bare = without_hooks(layer)
            return Switch({width: slimming.cut(path, bare, width) for width in slimming.widths})
        sizes = slimming.channels[path]
        if all(size == rule_of(layer).size for size in sizes.values()):
            return None
        return with_own_children(slimmable(layer, sizes), substitute, same_tensor)

    return rebuild(network, substitute, same_tensor)
