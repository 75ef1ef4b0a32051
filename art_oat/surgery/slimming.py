"""Owns finding out how many channels every layer of a network has at a smaller width, and what cannot be slimmed."""

from __future__ import annotations

import itertools
import math
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from art_oat.layers.slimmable import (
    Channels,
    Slimmable,
    Switch,
    channel_axis,
    channels_at,
    chooses_width,
    clone_slice,
    cut,
    full_size,
    group_size,
    is_cuttable,
    sliced,
)
from art_oat.randomness import borrowed_generators
from art_oat.replica import clone_tensor, replicate, with_own_children, without_hooks
from art_oat.surgery.unsupported import UnsupportedModuleError, refuse_layers

_NB_SAMPLES = 2
_IMAGE_SIZES = (32, 28, 64, 96, 8, 16, 128, 224, 299)
_ROUNDING = 1e-8
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
        heads: Paths of the layers that give what the network returns; they keep all their outputs.
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


def slim(
    network: nn.Module,
    widths: Sequence[float],
    *,
    full_width: Collection[str] = (),
    input_shape: Sequence[int] | None = None,
) -> Slimming:
    """Find how a network is slimmed, and make sure that it equals the full one with the dropped channels masked.

    For each width the full network runs with NaN in every dropped channel, so what a layer gets shows which channels
    depend on dropped ones: those must be its last ones, and they are what the smaller layer leaves out. Then the cut
    network runs: every layer of it must get, and the network return, just the values that the masked one computed.
    All of this on a copy, in float64, with every weight moved a little.

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
        return Slimming(tuple(widths), {}, ())
    with borrowed_generators(seed=0), torch.inference_mode(False):
        subject = _shaken(network)
        x = _probe(subject, input_shape)
        layers = {path: part for path, part in subject.named_modules() if is_cuttable(part) and full_size(part)}
        first_path = {id(part): path for path, part in layers.items()}
        kept = {first_path[id(subject.get_submodule(path))] for path in full_width}
        structure = _structure(subject, layers, x)
        masked = [_Masked(subject, layers, width, structure, kept) for width in widths[:-1]]
        with torch.no_grad():
            faults = [part.faults_on(x) for part in masked]
    found = ChainMap(*faults)
    refuse_layers("slim", {path: found[path] for path, _ in network.named_modules() if path in found}, network, _ADVICE)
    channels = {
        path: {part.width: part.channels[path] for part in masked} | {1.0: cast("Channels", full_size(layers[path]))}
        for path in masked[0].channels
    }
    if not any(by_width[widths[0]].outputs < by_width[1.0].outputs for by_width in channels.values()):
        raise UnsupportedModuleError(f"cannot slim {type(network).__name__}: no layer of it gives fewer channels.")
    return Slimming(tuple(widths), channels, structure.heads)


def setting_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Every layer that sets a number of channels, by dotted path; one used in several places has several paths."""
    return {path: part for path, part in network.named_modules(remove_duplicate=False) if chooses_width(part)}


def make_slimmable(network: nn.Module, slimming: Slimming, *, has_own_heads: bool) -> nn.Module:
    """Return a network whose layers run at every width.

    Args:
        network: Its converted norms are switched by width already. It is used up.
        slimming: Of the network before its norms were converted.
        has_own_heads: Whether each width gets a last layer of its own.
    """
    paths = {
        id(part): path for path, part in network.named_modules() if path in slimming.channels and is_cuttable(part)
    }

    def substitute(layer: nn.Module) -> nn.Module | None:
        path = paths.get(id(layer))
        if path is None:
            return None
        bare, sizes = without_hooks(layer), slimming.channels[path]
        if isinstance(layer, _NormBase) or (has_own_heads and path in slimming.heads):
            return Switch({width: slimming.cut(path, bare, width) for width in slimming.widths})
        is_cut = any(size != full_size(layer) for size in sizes.values())
        return Slimmable(bare, sizes) if is_cut else None

    return replicate(network, substitute, lambda tensor: tensor)


def _shaken(network: nn.Module) -> nn.Module:
    """Copy a network, and make every weight and statistic count: one that is 0 or 1 may hide what goes wrong."""
    subject = replicate(network, lambda _: None, clone_tensor).cpu().double().eval()
    with torch.no_grad():
        for tensor in itertools.chain(subject.parameters(), subject.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.2 * torch.rand_like(tensor)).add_(0.02 * torch.rand_like(tensor))
    return subject.requires_grad_(requires_grad=False)


def _probe(network: nn.Module, input_shape: Sequence[int] | None) -> Tensor:
    """Return inputs on which a network runs."""
    shapes = list(_shapes(network)) if input_shape is None else [tuple(input_shape)]
    errors: dict[tuple[int, ...], Exception] = {}
    for shape in shapes:
        x = torch.rand(_NB_SAMPLES, *shape, dtype=torch.float64)
        try:
            with torch.no_grad():
                answer = network(x)
        except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
            errors[shape] = error
            continue
        if all(bool(leaf.isfinite().all()) for leaf in _tensors(answer)):
            return x
        errors[shape] = ValueError("its scores are not finite")
    shape, reason = next(iter(errors.items()), ((), ValueError("it has no layer that could tell")))
    raise ValueError(
        f"input_shape must be the shape of one sample that the network takes, got {input_shape}. "
        f"With {shape} it says: {reason}"
    )


def _shapes(network: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes that a network may take, from its first layer that has a number of channels."""
    first = next((part for part in network.modules() if is_cuttable(part) and full_size(part)), None)
    size = None if first is None else full_size(first)
    if size is None:
        return
    if isinstance(first, nn.Linear | nn.BatchNorm1d):
        yield (size.inputs,)
    nb_axes = len(first.kernel_size) if isinstance(first, _ConvNd) else 2
    for length in _IMAGE_SIZES:
        yield (size.inputs, *(length,) * nb_axes)


def _tensors(answer: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@dataclass(frozen=True)
class _Structure:
    """Which layers set a number of channels, and for whom.

    Attributes:
        heads: Paths of the layers whose output reaches that of the network without passing another that sets a width.
        units: By path of a layer that sets a width, the number that its channels must be a multiple of: whole groups
            must arrive at the grouped layers behind it, and at those it shares a sum with.
    """

    heads: set[str]
    units: dict[str, int]


def _structure(network: nn.Module, layers: dict[str, nn.Module], x: Tensor) -> _Structure:
    setting = {path: layer for path, layer in layers.items() if chooses_width(layer)}
    path_of: dict[Tensor, str] = {}
    meetings: list[tuple[set[str], int]] = []

    def start_graph(path: str, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        path_of[leaf] = path
        return leaf.clone()

    def meet(path: str, got: Tensor) -> Tensor:
        meetings.append(({path_of[leaf] for leaf in _leaves(got)}, group_size(layers[path])))
        return got

    with torch.enable_grad(), _hooked(layers, before=meet), _hooked(setting, after=start_graph):
        answer = network(x)
    heads = {path_of[leaf] for tensor in _tensors(answer) for leaf in _leaves(tensor)}
    if setting and not heads:
        raise ValueError("the network must return scores that have a gradient, to be slimmed.")
    return _Structure(heads, _units(meetings))


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that another one was computed from, where its graph starts."""
    pending, seen = [tensor.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            yield leaf
        pending += [before for before, _ in node.next_functions]


def _units(meetings: list[tuple[set[str], int]]) -> dict[str, int]:
    """Let layers that meet in one input have one unit: the least common multiple of what is asked of any of them."""
    groups: list[tuple[set[str], int]] = []
    for paths, unit in meetings:
        met = [group for group in groups if group[0] & paths]
        merged = (paths.union(*(group[0] for group in met)), math.lcm(unit, *(group[1] for group in met)))
        groups = [group for group in groups if group not in met] + [merged]
    return {path: unit for paths, unit in groups for path in paths}


@contextmanager
def _hooked(
    modules: dict[str, nn.Module],
    *,
    before: Callable[[str, Tensor], Tensor] | None = None,
    after: Callable[[str, Tensor], Tensor] | None = None,
) -> Iterator[None]:
    """Within the block, exchange what modules get and what they give."""
    handles = []
    for path, module in modules.items():
        if before is not None:

            def enter(_: nn.Module, args: Any, path: str = path) -> Any:
                return (before(path, args[0]), *args[1:]) if args and isinstance(args[0], Tensor) else None

            handles.append(module.register_forward_pre_hook(enter))
        if after is not None:

            def leave(_: nn.Module, __: Any, output: Any, path: str = path) -> Any:
                return after(path, output) if isinstance(output, Tensor) else None

            handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Masked:
    """The full network, in which the channels that a width drops hold NaN wherever a layer gives some.

    Args:
        network: Of which it is made.
        layers: What can be cut, by dotted path.
        width: In ``(0, 1]``.
        structure: Of the network.
        full_width: Paths of layers that keep all they give, beside the heads.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: dict[str, nn.Module],
        width: float,
        structure: _Structure,
        full_width: Collection[str],
    ) -> None:
        self.network = network
        self.layers = layers
        self.width = width
        self.structure = structure
        self.kept = structure.heads | set(full_width)
        self.channels: dict[str, Channels] = {}
        self.inputs: dict[str, list[Tensor]] = {}
        self.faults: dict[str, str] = {}

    def faults_on(self, x: Tensor) -> dict[str, str]:
        """Say at which layers it shows that the network cannot be slimmed, and why."""
        answer = self._run(x)
        return _faults_of_cut(self, x, answer) | self.faults

    def _run(self, x: Tensor) -> Any:
        """Answer, and note what every layer gets, what it is to take and to give, and what is wrong with it."""
        rigid = {path: part for path, part in self.network.named_modules() if _is_rigid(part)}
        with _hooked(self.layers, before=self._take, after=self._give), _hooked(rigid, before=self._take_rigid):
            answer = self.network(x)
        if not self.faults and any(bool(leaf.isnan().any()) for leaf in _tensors(answer)):
            self._blame("", "what it returns depends on channels that are dropped")
        return answer

    def _blame(self, path: str, fault: str) -> None:
        self.faults.setdefault(path, f"at width {self.width:g} {fault}")

    def _take(self, path: str, x: Tensor) -> Tensor:
        layer = self.layers[path]
        full, axis = full_size(layer), channel_axis(layer)
        assert full is not None
        is_kept = ~x.isnan().movedim(axis, 0).reshape(x.shape[axis], -1).any(dim=1)
        inputs = int(is_kept.sum())
        size = Channels(inputs, self._outputs(path, inputs))
        fault = _input_fault(layer, is_kept) or _size_fault(layer, size, self.channels.get(path, size))
        if fault:
            self._blame(path, fault)
            size = Channels(full.inputs, size.outputs)
        self.channels[path] = size
        x = torch.where(x.isnan(), 0, x)
        self.inputs.setdefault(path, []).append(x.narrow(axis, 0, size.inputs))
        return x

    def _outputs(self, path: str, inputs: int) -> int:
        layer = self.layers[path]
        full = full_size(layer)
        assert full is not None
        if not chooses_width(layer):
            return full.outputs * inputs // full.inputs
        unit = self.structure.units.get(path, 1)
        is_kept = path in self.kept or full.outputs % unit
        return full.outputs if is_kept else unit * channels_at(self.width, full.outputs // unit)

    def _give(self, path: str, output: Tensor) -> Tensor:
        if path not in self.channels:
            self._blame(path, "it gets its input by keyword, which nothing can look at: name it first")
            return output
        axis, nb_kept = channel_axis(self.layers[path]), self.channels[path].outputs
        output = output.clone()
        output.narrow(axis, nb_kept, output.shape[axis] - nb_kept).fill_(torch.nan)
        return output

    def _take_rigid(self, path: str, x: Tensor) -> Tensor:
        if bool(x.isnan().any()):
            self._blame(path, "it gets fewer channels, and layers of its type cannot be cut")
        x = torch.where(x.isnan(), 0, x)
        self.inputs.setdefault(path, []).append(x)
        return x


def _is_rigid(module: nn.Module) -> bool:
    """Whether a layer has tensors of its own, and is none that can be cut."""
    has_tensors = bool(module._parameters or module._buffers)
    return has_tensors and not is_cuttable(module) and not any(True for _ in module.children())


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
    if nb_kept % (size := group_size(layer)):
        return f"it gets {nb_kept} channels, which are no whole groups of {size}"
    return ""


def _ranges(is_kept: Tensor) -> str:
    indices = is_kept.nonzero().flatten().tolist()
    runs = [[index for _, index in run] for _, run in itertools.groupby(enumerate(indices), lambda at: at[1] - at[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _size_fault(layer: nn.Module, size: Channels, before: Channels) -> str:
    if size != before:
        return f"it gets {before.inputs} channels in one call and {size.inputs} in another"
    names = cut(layer, size).slices
    if size != full_size(layer) and any(
        getattr(layer, name, None) is not None for name in names if not _has(layer, name)
    ):
        return "its weights are computed from others, so they cannot be cut"
    return ""


def _has(layer: nn.Module, name: str) -> bool:
    return name in layer._parameters or name in layer._buffers


def _faults_of_cut(masked: _Masked, x: Tensor, expected: Any) -> dict[str, str]:
    """Run the cut network, and compare; every layer goes on with what it should have got.

    A layer that is at fault already gives as many channels as the masked one, so that none behind it is blamed for it.
    """
    network = _cut_network(masked)
    parts = dict(network.named_modules())
    inputs = {path: iter(tensors) for path, tensors in masked.inputs.items()}
    faults: dict[str, str] = {}

    def compare(path: str, got: Tensor) -> Tensor:
        wanted = next(inputs[path], None)
        if wanted is None or not _is_close(got, wanted):
            faults.setdefault(path, f"at width {masked.width:g} it does not get {_shape_fault(got, wanted)}")
        return got if wanted is None else wanted

    def narrow(path: str, output: Tensor) -> Tensor:
        return output.narrow(channel_axis(parts[path]), 0, masked.channels[path].outputs)

    called = {path: parts[path] for path in inputs}
    blamed = {path: parts[path] for path in masked.channels if path in masked.faults}
    with _hooked(called, before=compare), _hooked(blamed, after=narrow), _followed(parts) as under_way:
        try:
            answer = network(x)
        except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
            fault = f"at width {masked.width:g} its forward fails, as if it counted on all channels: {error}"
            return {under_way[-1] if under_way else "": fault} | faults
    answers, wanted = _tensors(answer), _tensors(expected)
    if not faults and not (len(answers) == len(wanted) and all(map(_is_close, answers, wanted))):
        faults[""] = f"at width {masked.width:g} it does not return what it returns with the dropped channels masked"
    return faults


@contextmanager
def _followed(parts: dict[str, nn.Module]) -> Iterator[list[str]]:
    """Within the block, keep a list of the modules whose forward is under way, the innermost last."""
    under_way: list[str] = []

    def leave(*_: Any) -> None:
        under_way.pop()

    handles = []
    for path, part in parts.items():
        handles.append(part.register_forward_pre_hook(lambda _, __, path=path: under_way.append(path)))
        handles.append(part.register_forward_hook(leave))
    try:
        yield under_way
    finally:
        for handle in handles:
            handle.remove()


def _cut_network(masked: _Masked) -> nn.Module:
    sizes = {id(masked.layers[path]): size for path, size in masked.channels.items()}

    def substitute(module: nn.Module) -> nn.Module | None:
        size = sizes.get(id(module))
        return None if size is None or size == full_size(module) else sliced(module, size, clone_slice)

    return replicate(masked.network, substitute, lambda tensor: tensor)


def _is_close(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and bool((got - wanted).abs().max() <= _ROUNDING * (1 + wanted.abs().max()))


def _shape_fault(got: Tensor, wanted: Tensor | None) -> str:
    same = "what it gets with the dropped channels masked: something before it counts on all channels"
    if wanted is None or got.shape == wanted.shape:
        return same
    return f"{list(wanted.shape[1:])} but {list(got.shape[1:])}, so not {same}"
