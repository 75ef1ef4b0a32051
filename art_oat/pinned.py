"""Plain networks that share the weights of a conditional one and follow its training."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from art_oat.compiled import compiled
from art_oat.condition import Condition, OperatingPoint
from art_oat.contexts import exact_arithmetic
from art_oat.exporters import FoldedFirst
from art_oat.layers import ConditionalLayer, Encoding
from art_oat.layers.slimmable import at_width
from art_oat.rebuild import same_tensor
from art_oat.watch import Watch


class Source(Protocol):
    """The conditional network that a live network follows.

    Attributes:
        network: The converted network.
        encoding: Of its lams.
        revision: Rises with every training pass.
        structure: Rises when something changed that cannot be noticed.
    """

    network: nn.Module
    encoding: Encoding
    revision: int
    structure: int

    def condition(self, lam: Tensor, width: float) -> Condition:
        """Return what converted layers read for lams ``[G]``."""

    def cast(self, x: Tensor) -> Tensor:
        """Bring inputs to the dtype of the network."""

    def pinned(self, point: OperatingPoint) -> PinnedNetwork:
        """Return the plain network at one operating point."""

    def state_dict(self) -> dict[str, Any]:
        """Return every weight and statistic by name."""


_LAST_STEP: list[object] = [None]


@functools.cache
def _watch_optimizers() -> None:
    """Give every step of every optimizer in the process an object of its own.

    Fused optimizers write weights without raising tensor versions, so versions alone would miss them.
    """

    def note(*_: Any) -> None:
        _LAST_STEP[0] = object()

    register_optimizer_step_post_hook(note)


class _Slot(NamedTuple):
    """One place in a module where a tensor is registered."""

    owner: dict[str, Tensor]
    name: str

    def read(self) -> Tensor:
        """Return the tensor that is registered now."""
        return self.owner[self.name]


def _slots(module: nn.Module) -> Iterator[_Slot]:
    """Every place in one module, not below it, that holds a tensor; a shared tensor has several."""
    for owner in (module._parameters, module._buffers):
        yield from (_Slot(owner, name) for name, tensor in owner.items() if tensor is not None)  # type: ignore[arg-type]


class _Alias(NamedTuple):
    """A tensor of a plain network, and the part of a trained one that it is a view of."""

    slot: _Slot
    view: Tensor
    part: tuple[slice, ...]

    def follow(self) -> None:
        """Look at what is registered now."""
        self.view.data = same_tensor(self.slot.read().detach(), self.part)


class _Links(NamedTuple):
    """What ties a plain network to the conditional one."""

    layers: list[tuple[ConditionalLayer, nn.Module]]
    aliases: list[_Alias]
    merged_from: list[_Slot]
    structure: int
    watch: Watch


def _link(source: Source, width: float) -> tuple[nn.Module, _Links]:
    """Make a plain network whose tensors are views of the trained ones, and say what is tied to what."""
    layers: list[tuple[ConditionalLayer, nn.Module]] = []
    views: list[tuple[Tensor, Tensor, tuple[slice, ...]]] = []
    copied: list[nn.Module] = []

    def substitute(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, ConditionalLayer):
            copied.append(module)
            return None
        layers.append((module, module.pin()))
        return layers[-1][1]

    def view(tensor: Tensor, part: tuple[slice, ...] = ()) -> Tensor:
        alias = same_tensor(tensor.detach(), part)
        alias = nn.Parameter(alias, False) if isinstance(tensor, nn.Parameter) else alias
        views.append((tensor, alias, part))
        return alias

    watch = Watch(source.network, source.encoding)
    with exact_arithmetic(source.encoding.table.device):
        network = at_width(source.network, width, substitute, view).eval()
    places: dict[int, list[_Slot]] = {}
    for slot in (slot for module in copied for slot in _slots(module)):
        places.setdefault(id(slot.read()), []).append(slot)
    aliases = [_Alias(slot, alias, part) for tensor, alias, part in views for slot in places.get(id(tensor), ())]
    converted = [part for layer, _ in layers for part in layer.modules()]
    merged_from = [slot for module in (*converted, *source.encoding.modules()) for slot in _slots(module)]
    return network, _Links(layers, aliases, merged_from, source.structure, watch)


class LiveNetwork(FoldedFirst):
    """The network of the original architecture, in evaluation mode, at lams of choice.

    Weights and buffers are views of the trained ones and need no gradient. Every conditional layer has a twin, updated
    when trained tensors have changed. So a live network costs what the original network costs, gives gradients to its
    input only, and never lags behind training. Only its owner sets its lams; a :class:`PinnedNetwork` may be shared.

    Args:
        model: The conditional network to follow.
        lam: Its lams, as :meth:`set_lam` takes them.
        width: Fraction of channels kept.
        compiles: Whether ``torch.compile`` compiles it, when it is first called. What has been compiled serves all
            weights and lams; for other sizes of batches it is compiled once or twice more.
    """

    model: Source

    def __init__(self, model: Source, lam: Tensor, width: float, *, compiles: bool = False) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not registered: its weights are not this module's own
        self._width, self._compiles = width, compiles
        self._lock = threading.RLock()
        _watch_optimizers()
        self._take(*_link(model, width))
        super().train(False)
        self.set_lam(lam)

    def set_lam(self, lam: Tensor) -> None:
        """Set the operating point.

        Args:
            lam: ``[1]`` for one value, or ``[N]`` for one per sample of the next batches; taken as checked.
        """
        self._lam = lam
        self._stamp: tuple[object, ...] = ()

    def follow(self) -> None:
        """Catch up with the trained tensors where one has been written, moved or replaced since the last call."""
        stamp = self._read_stamp()
        if stamp and stamp == self._stamp:
            return
        with self._lock, exact_arithmetic(self.model.encoding.table.device):
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
        self._take(network, links)

    def _take(self, network: nn.Module, links: _Links) -> None:
        self.network, self._links = network, links
        self._compiled = compiled(network) if self._compiles else None

    def _read_stamp(self) -> tuple[object, ...]:
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
            versions: list[object] = [tensor._version for tensor in merged]
        except RuntimeError:  # tensors made in inference mode count no writes: read them anew every time
            versions = [object()]
        return (_LAST_STEP[0], model.revision, *versions, *addresses)

    def _merge(self, links: _Links) -> None:
        lams, rows = self._lam.to(self.model.encoding.table).unique(return_inverse=True)
        condition = self.model.condition(lams, self._width)
        for layer, twin in links.layers:
            layer.update(twin, condition, rows)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Answer as the original network does; ``x [N, ...]`` is cast to its dtype.

        Raises:
            RuntimeError: If several lams are set, but not at ``N``; or if an exporter runs it.
        """
        self.refuse_exporters(x)
        if len(self._lam) not in (1, len(x)):
            raise RuntimeError(
                f"the live network is set to {len(self._lam)} lams, one per sample, got {len(x)} samples."
            )
        self.follow()
        return (self._compiled or self.network)(self.model.cast(x), *args, **kwargs)

    def train(self, mode: bool = True) -> LiveNetwork:
        """Stay in evaluation mode, whatever is asked: hosts toggle the mode of every network they are given."""
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> LiveNetwork:
        """Accept moves that change nothing; refuse others, since the weights are the model's."""
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

    def __init__(self, model: Source, point: OperatingPoint) -> None:
        super().__init__(model, torch.tensor([point.lam], dtype=torch.float64), point.width)
        self.point = point

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.model).pinned, (self.model, self.point)

    def extra_repr(self) -> str:
        """Name the operating point."""
        return f"lam={self.point.lam}, width={self.point.width}"
