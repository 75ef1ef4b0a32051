"""Owns the plain networks that share the weights of a conditional one and follow its training."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from art_oat.condition import OperatingPoint
from art_oat.layers import ConditionalLayer, Slimmable, Switch
from art_oat.layers.batch_norm import ChannelAffine
from art_oat.layers.slimmable import slice_tensor
from art_oat.rebuild import rebuild, with_own_children
from art_oat.watch import Watch

if TYPE_CHECKING:
    from art_oat.model import OATModel


class _OptimizerSteps:
    """Counts the steps of every optimizer in the process.

    Fused optimizers write weights without raising tensor versions, so versions alone would miss them.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._is_counting = False

    def start(self) -> None:
        with self._lock:
            if not self._is_counting:
                register_optimizer_step_post_hook(self._step)
                self._is_counting = True

    def _step(self, *_: Any) -> None:
        with self._lock:
            self.count += 1


_STEPS = _OptimizerSteps()
_ANEW = itertools.count(-1, -1)


class _Slot(NamedTuple):
    """One place in a module where a tensor is registered; reads whatever stands there now."""

    owner: dict[str, Tensor]
    name: str

    def read(self) -> Tensor:
        """Return the tensor that stands there."""
        return self.owner[self.name]


def _slots(module: nn.Module) -> Iterator[_Slot]:
    """Every place in one module, not below it, that holds a tensor; a shared tensor has several."""
    for owner in (module._parameters, module._buffers):
        yield from (_Slot(owner, name) for name, tensor in owner.items() if tensor is not None)  # type: ignore[arg-type]


class _Alias(NamedTuple):
    """A tensor of a plain network, and the part of a trained one that it is a view of."""

    slot: _Slot
    view: Tensor
    part: tuple[slice, ...] = ()

    def follow(self) -> None:
        """Look at what stands in the slot now."""
        self.view.data = slice_tensor(self.slot.read().detach(), self.part)


class _Links(NamedTuple):
    """What ties a plain network to the conditional one beneath which it lies."""

    affines: list[tuple[ConditionalLayer, ChannelAffine]]
    aliases: list[_Alias]
    merged_from: list[_Slot]
    structure: int
    watch: Watch


def _link(model: OATModel, width: float) -> tuple[nn.Module, _Links]:
    """Make a plain network whose tensors are views of the trained ones, and say what is tied to what."""
    affines: list[tuple[ConditionalLayer, ChannelAffine]] = []
    aliases: list[_Alias] = []
    plain: list[nn.Module] = []
    views: dict[int, Tensor] = {}

    def substitute(module: nn.Module) -> nn.Module | None:
        if isinstance(module, Switch):
            return rebuild(module.at(width), substitute, view)
        if isinstance(module, Slimmable):
            return with_own_children(_sliced_views(module, width, aliases), substitute, view)
        if isinstance(module, ConditionalLayer):
            affines.append((module, ChannelAffine(model.layout)))
            return affines[-1][1]
        plain.append(module)
        return None

    def view(tensor: Tensor) -> Tensor:
        views[id(tensor)] = _alias_of(tensor, ())
        return views[id(tensor)]

    watch = Watch(model.network, model.encoding)
    with exact_arithmetic(model):
        network = rebuild(model.network, substitute, view).eval()
    aliases += [_Alias(slot, views[id(slot.read())]) for module in plain for slot in _slots(module)]
    converted = [part for layer, _ in affines for part in layer.modules()]
    merged_from = [slot for module in (*converted, *model.encoding.modules()) for slot in _slots(module)]
    return network, _Links(affines, aliases, merged_from, model.structure, watch)


def _alias_of(tensor: Tensor, index: tuple[slice, ...]) -> Tensor:
    alias = slice_tensor(tensor.detach(), index)
    return nn.Parameter(alias, False) if isinstance(tensor, nn.Parameter) else alias


def _sliced_views(layer: Slimmable, width: float, aliases: list[_Alias]) -> nn.Module:
    """Return the plain layer of one width, and add what its tensors are views of."""
    slots = {id(slot.read()): slot for slot in _slots(layer)}

    def carry(tensor: Tensor, index: tuple[slice, ...]) -> Tensor:
        aliases.append(_Alias(slots[id(tensor)], _alias_of(tensor, index), index))
        return aliases[-1].view

    return layer.at(width, carry)


@contextmanager
def exact_arithmetic(model: OATModel) -> Iterator[None]:
    """Compute in the model's own precision, without a graph, whatever mode the caller is in."""
    device_type = model.encoding.table.device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device_type, enabled=False):
        yield


class LiveNetwork(nn.Module):
    """The network of the original architecture, in evaluation mode, at lams of choice.

    Weights and buffers are views of the trained ones and need no gradient; every converted layer is one affine map
    per channel, merged from the trained tensors and merged again when those have changed. So a live network costs what
    the original network costs, gives gradients to its input only, and never lags behind training.

    Only the owner of a live network sets its lams; :class:`PinnedNetwork` is the one to share.

    Args:
        model: The conditional network to follow.
        lam: Its lams, as :meth:`set_lam` takes them.
        width: Fraction of channels kept.
    """

    model: OATModel

    def __init__(self, model: OATModel, lam: Tensor, width: float) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not registered: its weights are not this module's own
        self._width = width
        self._lock = threading.RLock()
        _STEPS.start()
        self.network, self._links = _link(model, width)
        super().train(False)
        self.set_lam(lam)

    def set_lam(self, lam: Tensor) -> None:
        """Set the operating point.

        Args:
            lam: ``[1]`` for one value, or ``[N]`` for one per sample of the next batches; taken as checked.
        """
        self._lam = lam
        self._stamp: tuple[int, ...] = ()

    def follow(self) -> None:
        """Catch up with the trained tensors where one has been written, moved or replaced since the last call."""
        stamp = self._read_stamp()
        if stamp and stamp == self._stamp:
            return
        with self._lock, exact_arithmetic(self.model):
            stamp = self._read_stamp()
            if not stamp:
                self._relink()
                stamp = self._read_stamp()
            for alias in self._links.aliases:
                alias.follow()
            # holding what was merged keeps its memory from being given to another tensor at the same address
            self._held = [slot.read().detach() for slot in self._links.merged_from]
            self._merge(self._links)
            self._stamp = stamp

    def _relink(self) -> None:
        network, links = _link(self.model, self._width)
        self._merge(links)  # a thread that comes in between finds the new network complete
        self.network, self._links = network, links

    def _read_stamp(self) -> tuple[int, ...]:
        """Tell states of the trained tensors apart; empty where something else has changed: then link anew."""
        links, model = self._links, self.model
        if links.structure != model.structure or links.watch.has_changed():
            return ()
        try:
            merged = [owner[name] for owner, name in links.merged_from]
            addresses = [tensor.data_ptr() for tensor in merged]
            addresses += [owner[name].data_ptr() for (owner, name), _, _ in links.aliases]
        except (KeyError, AttributeError):  # a tensor was pruned or taken out
            return ()
        try:
            versions = [tensor._version for tensor in merged]
        except RuntimeError:  # tensors made in inference mode count no writes: read them anew every time
            versions = [next(_ANEW)]
        return (_STEPS.count, model.revision, *versions, *addresses)

    def _merge(self, links: _Links) -> None:
        values, position = self._lam.to(self.model.encoding.table).unique(return_inverse=True)
        condition = self.model.condition(values, self._width)
        for layer, affine in links.affines:
            scale, shift = layer.affine(condition)
            affine.coefficients = (scale[position], shift[position])

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Answer as the original network does; ``x [N, ...]`` is cast to its dtype.

        Raises:
            RuntimeError: If several lams are set, but not at ``N``.
        """
        if len(self._lam) not in (1, len(x)):
            raise RuntimeError(
                f"the live network is set to {len(self._lam)} lams, one per sample, got {len(x)} samples."
            )
        self.follow()
        return self.network(self.model.cast(x), *args, **kwargs)

    def train(self, mode: bool = True) -> LiveNetwork:
        """Stay in evaluation mode, whatever is asked: hosts toggle the mode of every network they are given."""
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> LiveNetwork:
        """Accept moves that change nothing (hosts make them); refuse others, since the weights are the model's."""
        probe = self.model.encoding.table
        moved = fn(probe)
        if (moved.device, moved.dtype) != (probe.device, probe.dtype):
            raise RuntimeError(
                f"a pinned network lies where its model lies ({probe.dtype} on {probe.device}), and cannot be moved "
                f"to {moved.dtype} on {moved.device} alone. Move the model, or fold it and move the folded network."
            )
        return self


class PinnedNetwork(LiveNetwork):
    """A live network at one fixed operating point; any number of threads may call it, also during training.

    Made by :meth:`OATModel.pinned`. A copy or a pickle of it holds its model, and follows that copy.
    """

    def __init__(self, model: OATModel, point: OperatingPoint) -> None:
        super().__init__(model, torch.tensor([point.lam], dtype=torch.float64), point.width)
        self.point = point

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.model).pinned, (self.model, self.point)

    def extra_repr(self) -> str:
        """Name the operating point."""
        return f"lam={self.point.lam}, width={self.point.width}"
