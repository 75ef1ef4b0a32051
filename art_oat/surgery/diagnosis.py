"""Why a network cannot be slimmed: NaN in its dropped channels show where they go."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from art_oat.layers.slim_rules import Channels, rule_of
from art_oat.surgery.tracing import hooked, is_rigid, with_dropped

_NORMALIZES = (
    "the mean and the size of fewer are not those of all with the rest masked: only layers whose channels arrive at no "
    "such norm can be cut, as those inside of a block"
)


def diagnose(
    network: nn.Module, layers: Mapping[str, nn.Module], outputs: Mapping[str, int], x: Tensor
) -> dict[str, str]:
    """Run a network with NaN in every dropped channel, and say by path of a layer what is wrong with what it gets.

    ``outputs`` is how many channels the layers keep that set it themselves. Only the last ones may depend on NaN.
    """
    poisoned = _Poisoned(network, layers, outputs)
    rigid = {path: part for path, part in network.named_modules() if is_rigid(part)}
    with (
        torch.no_grad(),
        hooked(layers, before=poisoned.take, after=poisoned.give),
        hooked(rigid, before=poisoned.take_rigid),
    ):
        network(x)
    return poisoned.faults


class _Poisoned:
    """What happens at the layers of a network whose dropped channels hold NaN."""

    def __init__(self, network: nn.Module, layers: Mapping[str, nn.Module], outputs: Mapping[str, int]) -> None:
        self.network = network
        self.layers = layers
        self.outputs = outputs
        self.channels: dict[str, Channels] = {}
        self.faults: dict[str, str] = {}

    def take(self, path: str, x: Tensor) -> Tensor:
        layer = self.layers[path]
        rule = rule_of(layer)
        is_kept = ~x.isnan().movedim(rule.axis, 0).reshape(x.shape[rule.axis], -1).any(dim=1)
        inputs = int(is_kept.sum())
        outputs = self.outputs[path] if rule.chooses_width else rule.size.proportion(inputs)
        size = Channels(inputs, outputs)
        fault = _input_fault(layer, is_kept) or _size_fault(layer, size, self.channels.get(path, size))
        if fault:
            self.faults.setdefault(path, fault)
            size = Channels(rule.size.inputs, outputs)
        self.channels[path] = size
        return torch.where(x.isnan(), 0, x)

    def give(self, path: str, output: Tensor) -> Tensor:
        if path not in self.channels:
            self.faults.setdefault(path, "it gets its input by keyword, which cannot be looked at: pass it by position")
            return output
        return with_dropped(output, self.layers[path], self.channels[path].outputs, torch.nan)

    def take_rigid(self, path: str, x: Tensor) -> Tensor:
        if bool(x.isnan().any()):
            is_over_channels = isinstance(self.network.get_submodule(path), nn.LayerNorm | nn.RMSNorm)
            why = _NORMALIZES if is_over_channels else "layers of its type cannot be cut"
            self.faults.setdefault(path, f"it gets fewer channels, and {why}")
        return torch.where(x.isnan(), 0, x)


def _input_fault(layer: nn.Module, is_kept: Tensor) -> str:
    """Say what is wrong with the channels that a layer gets; ``is_kept`` is true where nothing dropped is mixed in."""
    nb_kept = int(is_kept.sum())
    if not nb_kept:
        return "each channel it gets depends on dropped ones: something before it mixes channels"
    if not bool(is_kept[:nb_kept].all()):
        return (
            f"it gets channels {_ranges(is_kept)} of {len(is_kept)}, which are not the first {nb_kept}: something "
            "before it concatenates or reorders channels"
        )
    if nb_kept % (size := rule_of(layer).group):
        return f"it gets {nb_kept} channels, which are no whole groups of {size}"
    return ""


def _ranges(is_kept: Tensor) -> str:
    indices = is_kept.nonzero().flatten().tolist()
    runs = [[index for _, index in run] for _, run in itertools.groupby(enumerate(indices), lambda at: at[1] - at[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _size_fault(layer: nn.Module, size: Channels, before: Channels) -> str:
    if size != before:
        return f"it gets {before.inputs} channels in one call and {size.inputs} in another"
    computed = rule_of(layer).cut(size).slices.keys() - layer._parameters.keys() - layer._buffers.keys()
    if size != rule_of(layer).size and any(getattr(layer, name, None) is not None for name in computed):
        return "its weights are computed from others, so they cannot be cut"
    return ""
