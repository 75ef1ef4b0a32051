"""Owns slimming: how many channels every layer of a network has at a smaller width, and that this is right."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from art_oat.condition import Condition, conditioned
from art_oat.contexts import borrowed_generators
from art_oat.layers.slim_rules import Channels, chooses_width, is_cuttable, rule_of
from art_oat.layers.slimmable import Switch, channels_at, clone_slice, sliced, slimmable
from art_oat.rebuild import clone_tensor, rebuild, same_tensor, with_own_children, without_hooks
from art_oat.surgery.diagnosis import diagnose
from art_oat.surgery.errors import UnsupportedModuleError, refuse_layers
from art_oat.surgery.tracing import (
    Structure,
    call_stack,
    cuttable_layers,
    hooked,
    perturbed_copy,
    real_tensors,
    structure,
    with_dropped,
)

_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
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
        return with_own_children(sliced(layer, size, clone_slice), lambda _: None, clone_tensor)


UNCUT = Slimming((1.0,), {}, ())
"""Of a network that runs at width 1 alone."""


def slim(
    network: nn.Module,
    widths: Sequence[float],
    *,
    full_width: Collection[str] = (),
    input_shape: Sequence[int] | None = None,
) -> Slimming:
    """Find how a network is slimmed, and make sure that it equals the full one with the dropped channels masked.

    At each width the network runs twice: with its layers cut, each taking as many channels as it gets; and whole, with
    zeros in place of what the cut layers do not give, and each layer looking only at as many channels as the cut one
    took. At every layer, and in the end, both must have the same values.

    All of this on a copy, in float64 where possible, with every weight moved a little.

    Args:
        network: Left untouched.
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
        studies = [_Study(subject, layers, width, _outputs(layers, width, found, kept)) for width in widths[:-1]]
        faults: dict[str, str] = _unreached(layers, found, kept)
        for study in studies:
            faults = study.faults_on(x) | faults
    refuse_layers(
        "slim", {path: faults[path] for path, _ in network.named_modules() if path in faults}, network, _ADVICE
    )
    channels = {
        path: {study.width: study.channels[path] for study in studies} | {1.0: rule_of(layers[path]).size}
        for path in studies[0].channels
    }
    if not any(by_width[widths[0]].outputs < by_width[1.0].outputs for by_width in channels.values()):
        raise UnsupportedModuleError(
            f"cannot slim {type(network).__name__}: no layer of it gives fewer channels. Those that what it returns "
            f"comes from keep theirs: {', '.join(sorted(found.heads)) or 'none'}."
        )
    return Slimming(tuple(widths), channels, found.last)


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


class _Study:
    """One width of a network: what its layers take and give there, and whether that is right.

    Args:
        network: Full.
        layers: What can be cut, by dotted path.
        width: In ``(0, 1)``.
        outputs: How many channels the layers give that set it themselves.
    """

    def __init__(
        self, network: nn.Module, layers: Mapping[str, nn.Module], width: float, outputs: Mapping[str, int]
    ) -> None:
        self.network = network
        self.layers = layers
        self.width = width
        self.outputs = outputs
        self.channels: dict[str, Channels] = {}
        self._paths = {id(layer): path for path, layer in layers.items()}
        self._taken: dict[str, list[Tensor]] = {}
        self._faults: dict[str, str] = {}
        self._is_cut_short = False

    def faults_on(self, x: Tensor) -> dict[str, str]:
        """Say at which layers it shows that the network cannot be slimmed, and why."""
        with torch.no_grad():
            self._compare(x)
        if not self._faults:
            return {}
        named = diagnose(self.network, self.layers, self.outputs, x)
        faults = self._faults | {path: named[path] for path in named if path in self._faults or self._is_cut_short}
        return {path: f"at width {self.width:g} {fault}" for path, fault in faults.items()}

    def _compare(self, x: Tensor) -> None:
        """Run the network cut and masked; again, as long as modules fail when cut, with what they give uncut."""
        given: dict[str, list[Any]] = {}
        while True:
            self.channels, self._taken = {}, {}
            answer, failed = self._run_cut(x, given)
            expected, outputs = self._run_masked(x, failed)
            if failed is None or failed in given or not outputs:
                break
            given[failed] = outputs
        self._is_cut_short = failed is not None
        answers, wanted = real_tensors(answer), real_tensors(expected)
        if not self._faults and not (len(answers) == len(wanted) and all(map(_is_close, answers, wanted))):
            self._faults[""] = "it does not return what it returns with the dropped channels masked"

    def _run_cut(self, x: Tensor, given: Mapping[str, list[Any]]) -> tuple[Any, str | None]:
        """Answer with every layer cut; note what each takes, and return the path of the module that fails, if one does.

        Modules in ``given`` are not run: they give what stands there.
        """
        network = rebuild(self.network, self._cut, same_tensor)
        parts = dict(network.named_modules())
        for path, outputs in given.items():
            parts[path].forward = _replayed(outputs)
        condition = Condition(x.new_zeros(1), x.new_zeros(1, 1), self.width)
        called = {path: parts[path] for path in self.layers}
        with conditioned(condition), hooked(called, before=self._note), call_stack(parts) as under_way:
            try:
                return network(x), None
            except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
                failed = under_way[-1] if under_way else ""
                self._faults.setdefault(failed, f"its forward fails, as if it counted on all channels: {error}")
        return None, failed

    def _cut(self, module: nn.Module) -> nn.Module | None:
        path = self._paths.get(id(module))
        if path is None:
            return None
        full = rule_of(module).size
        sizes = {self.width: Channels(full.inputs, self.outputs.get(path, full.outputs))}
        return with_own_children(slimmable(module, sizes), self._cut, same_tensor)

    def _note(self, path: str, got: Tensor) -> Tensor:
        rule = rule_of(self.layers[path])
        inputs = got.shape[rule.axis]
        size = Channels(inputs, self.outputs.get(path, rule.size.proportion(inputs)))
        if size != self.channels.setdefault(path, size):
            self._faults.setdefault(
                path, f"it gets {self.channels[path].inputs} channels in one call and {inputs} in another"
            )
        self._taken.setdefault(path, []).append(got.clone())  # what follows may work in place
        return got

    def _run_masked(self, x: Tensor, watched: str | None) -> tuple[Any, list[Any]]:
        """Answer with all channels, dropped ones masked; compare what each layer gets with what the cut one took.

        Returns:
            The answer, and what the module of the path ``watched`` gave, call by call.
        """
        outputs: list[Any] = []
        taken: dict[str, Iterator[Tensor]] = {path: iter(tensors) for path, tensors in self._taken.items()}

        def compare(path: str, got: Tensor) -> Tensor:
            wanted = next(taken.get(path, iter(())), None)
            if wanted is None:
                return got
            first = tuple(slice(length) for length in wanted.shape)  # channels may lie along another axis, too
            if not _is_close(got[first], wanted):
                fault = f"it gets {list(wanted.shape[1:])}, and not what it gets with the dropped channels masked"
                self._faults.setdefault(path, f"{fault}: something before it counts on all channels")
            if got[first].shape != wanted.shape:
                return got
            layer = self.layers[path]
            merged = with_dropped(got, layer, wanted.shape[rule_of(layer).axis], 0)
            merged[first] = wanted  # also where they differ: what comes behind is not to be blamed for it
            return merged

        def mask(path: str, output: Tensor) -> Tensor:
            size = self.channels.get(path)
            return output if size is None else with_dropped(output, self.layers[path], size.outputs, 0)

        def keep(_: str, output: Tensor) -> Tensor:
            outputs.append(output.clone())
            return output

        observed = {watched: self.network.get_submodule(watched)} if watched else {}
        with hooked(self.layers, before=compare, after=mask), hooked(observed, after=keep):
            return self.network(x), outputs


def _replayed(outputs: list[Any]) -> Callable[..., Any]:
    remaining = iter(outputs)
    return lambda *_, **__: next(remaining)


def _is_close(got: Tensor, wanted: Tensor) -> bool:
    if got.shape != wanted.shape:
        return False
    if not wanted.numel():
        return True
    rounding = _ROUNDING[wanted.dtype] * (1 + float(wanted.abs().max()))
    return bool((got - wanted).abs().max() <= rounding)
