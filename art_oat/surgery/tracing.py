"""Networks watched while they run: on which inputs they do, and what their layers get and give."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from art_oat.checks import refuse
from art_oat.layers.slim_rules import chooses_width, is_cuttable, rule_of
from art_oat.numbers import plain_sizes, sizes_faults
from art_oat.rebuild import clone_tensor, rebuild

_NB_SAMPLES = 2
_IMAGE_SIZES = (32, 28, 64, 96, 8, 16, 128, 224, 299)
_AXES_OF_VOLUMES, _MAX_SIZE_OF_VOLUMES = 3, 32


def perturbed_copy(network: nn.Module, input_shape: Sequence[int] | None) -> tuple[nn.Module, Tensor]:
    """Return a copy of a network to try things on, and inputs on which it runs.

    The copy is in evaluation mode, on the CPU, in float64, or in float32 where it does not run otherwise. Every weight
    and statistic is moved a little: one that is 0 or 1 may hide what goes wrong. See :func:`running_inputs`.
    """
    faults: list[ValueError] = []
    for dtype in (torch.float64, torch.float32):
        subject = _perturbed(network, dtype)
        try:
            return subject, running_inputs(subject, input_shape, torch.empty(0, dtype=dtype))
        except ValueError as fault:
            faults.append(fault)
    raise faults[0]


def running_inputs(network: nn.Module, input_shape: Sequence[int] | None, like: Tensor) -> Tensor:
    """Return inputs ``[2, ...]`` of a shape on which a network gives finite answers; dtype and device as of ``like``.

    Without a shape, common image sizes are tried, with the channels that the first layer takes.

    Raises:
        TypeError: If the shape is none of whole numbers.
        ValueError: If it does not run on such inputs; gives the reason against the first shape.
    """
    if input_shape is not None:
        refuse(sizes_faults({"input_shape": input_shape}))
    reasons: list[str] = []
    for shape in _shapes(network) if input_shape is None else [plain_sizes(input_shape)]:
        x = torch.rand(_NB_SAMPLES, *shape, dtype=like.dtype, device=like.device)
        try:
            with torch.no_grad():
                answer = network(x)
        except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
            reasons.append(f"With {shape} of {like.dtype} it says: {error}")
            continue
        if all(bool(leaf.isfinite().all()) for leaf in real_tensors(answer)):
            return x
        reasons.append(f"With {shape} its scores are not finite.")
    raise ValueError(
        f"input_shape must be the shape of one sample that the network takes, got {input_shape}. "
        f"{next(iter(reasons), 'No layer of it tells how many channels it takes.')}"
    )


def _perturbed(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    subject = rebuild(network, lambda _: None, clone_tensor).cpu().to(dtype).eval()
    with torch.no_grad():
        for tensor in itertools.chain(subject.parameters(), subject.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.2 * torch.rand_like(tensor)).add_(0.02 * torch.rand_like(tensor))
    return subject.requires_grad_(requires_grad=False)


def _shapes(network: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes that a network may take, from its first layer that has a number of channels."""
    first = next(iter(cuttable_layers(network).values()), None)
    if first is None:
        return
    size = rule_of(first).size
    if isinstance(first, nn.Linear | nn.BatchNorm1d):
        yield (size.inputs,)
    nb_axes = len(first.kernel_size) if isinstance(first, _ConvNd) else 2
    for length in _IMAGE_SIZES:
        if nb_axes < _AXES_OF_VOLUMES or length <= _MAX_SIZE_OF_VOLUMES:
            yield (size.inputs, *(length,) * nb_axes)


def real_tensors(answer: Any) -> list[Tensor]:
    """Return the tensors of real numbers that a network's answer is made of."""
    return [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@dataclass(frozen=True)
class Structure:
    """Which layers set a number of channels, and for whom.

    Attributes:
        heads: Paths of the layers whose output reaches that of the network without passing another that sets a width.
        last: Those of them behind which no other layer with weights comes: where the answer comes from.
        called: Paths of the layers that were called.
        units: By path of a layer that sets a width, the number that its channels must be a multiple of: whole groups
            must arrive at the grouped layers behind it, and at those it shares a sum with.
    """

    heads: set[str]
    last: set[str]
    called: set[str]
    units: dict[str, int]


def structure(network: nn.Module, layers: Mapping[str, nn.Module], x: Tensor) -> Structure:
    """Find out how the layers that can be cut hang together in a network whose parameters ask for no gradients.

    Raises:
        ValueError: If what it returns has no gradient.
    """
    setting = {path: layer for path, layer in layers.items() if chooses_width(layer)}
    path_of: dict[Tensor, str] = {}
    meetings: list[tuple[set[str], int]] = []
    called: set[str] = set()

    def start_graph(path: str, output: Tensor) -> Tensor:
        called.add(path)
        leaf = output.detach().requires_grad_()
        path_of[leaf] = path
        return leaf.clone()

    def meet(path: str, got: Tensor) -> Tensor:
        meetings.append(({path_of[leaf] for leaf in graph_leaves(got)}, rule_of(layers[path]).group))
        return got

    def sources(started: Mapping[str, nn.Module]) -> set[str]:
        with hooked(started, after=start_graph):
            answer = network(x)
        return {path_of[leaf] for tensor in real_tensors(answer) for leaf in graph_leaves(tensor)}

    with torch.enable_grad():
        last = sources({path: part for path, part in network.named_modules() if path in layers or is_rigid(part)})
        with hooked(layers, before=meet):
            heads = sources(setting)
    if setting and not heads:
        raise ValueError("the network must return scores that have a gradient.")
    return Structure(heads, heads & last, called, _units(meetings))


def graph_leaves(tensor: Tensor) -> Iterator[Tensor]:
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
def hooked(
    modules: Mapping[str, nn.Module],
    *,
    before: Callable[[str, Tensor], Tensor] | None = None,
    after: Callable[[str, Tensor], Tensor] | None = None,
) -> Iterator[None]:
    """Within the block, exchange the first tensor that modules get, and what they give."""
    with ExitStack() as hooks:
        for path, module in modules.items():
            if before is not None:
                hooks.enter_context(module.register_forward_pre_hook(partial(_exchange_input, before, path)))
            if after is not None:
                hooks.enter_context(module.register_forward_hook(partial(_exchange_output, after, path)))
        yield


def _exchange_input(exchange: Callable[[str, Tensor], Tensor], path: str, _: nn.Module, args: Any) -> Any:
    return (exchange(path, args[0]), *args[1:]) if args and isinstance(args[0], Tensor) else None


def _exchange_output(exchange: Callable[[str, Tensor], Tensor], path: str, _: nn.Module, __: Any, output: Any) -> Any:
    return exchange(path, output) if isinstance(output, Tensor) else None


@contextmanager
def call_stack(modules: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """Within the block, keep a list of the modules whose forward is under way, the innermost last."""
    stack: list[str] = []

    def leave(*_: Any) -> None:
        stack.pop()

    with ExitStack() as hooks:
        for path, module in modules.items():
            hooks.enter_context(module.register_forward_pre_hook(lambda _, __, path=path: stack.append(path)))
            hooks.enter_context(module.register_forward_hook(leave))
        yield stack


def with_dropped(tensor: Tensor, layer: nn.Module, nb_kept: int, value: float) -> Tensor:
    """Return a copy of what a layer takes or gives, with a value in all channels but the first so many."""
    axis, copy = rule_of(layer).axis, tensor.clone()
    copy.narrow(axis, nb_kept, tensor.shape[axis] - nb_kept).fill_(value)
    return copy


def cuttable_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return every layer that can be cut, by dotted path; one that is used in several places by its first."""
    return {path: part for path, part in network.named_modules() if is_cuttable(part) and rule_of(part).has_channels}


def is_rigid(module: nn.Module) -> bool:
    """Whether a layer has tensors of its own, and is none that can be cut."""
    has_tensors = bool(module._parameters or module._buffers)
    return has_tensors and not is_cuttable(module) and not any(True for _ in module.children())
