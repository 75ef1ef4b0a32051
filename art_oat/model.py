"""The conditional network: one set of weights, answering at every operating point."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from art_oat.condition import Condition, Dials, Layout, OperatingPoint, Slope, conditioned
from art_oat.contexts import recalled
from art_oat.exporters import FoldedFirst
from art_oat.layers.batch_norm import steadied
from art_oat.layers.encoding import Encoding
from art_oat.layers.film import FiLM
from art_oat.pinned import LiveNetwork, PinnedNetwork

_MAX_PINNED = 64
_NOT_COPIED = ("_pinned", "_lock", "_strangers", "writing")


def _farthest(lambdas: tuple[float, ...], network: nn.Module) -> float:
    is_continued = lambdas[-1] == 1 and len(lambdas) > 1 and lambdas[-2] > 0
    is_linear = any(isinstance(part, FiLM) and part.is_linear for part in network.modules())
    return 2 - lambdas[-2] if is_continued and is_linear else lambdas[-1]


def _nb_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if not is_lazy(parameter))


class OATModel(FoldedFirst):
    """A network whose converted layers depend on lam; made by ``to_conditional``.

    Trained, it is called with one lam per sample; used, it hands out plain networks by :meth:`pinned`.

    Args:
        network: The converted network.
        encoding: Turns lam into a code; also says which lams are trained.
        widths: The widths that the converted layers run at, ascending, the last is 1.
        conversion: The arguments of ``to_conditional`` that made it, kept to rebuild the model.
        original: The network that was converted; not held on to, see :meth:`strangers`.

    Attributes:
        layout: How the network lays out several samples that it makes of one, see :data:`~art_oat.condition.Layout`.
        recomputes: Whether activations are computed again in the backward pass, by ``torch.utils.checkpoint``.
            Found out on conversion; to be set where that is switched on later.
        tried_shape: Shape of one sample on which the conversion was tried; None where it was not.
        is_lam_named: Whether someone has set ``default_point``, so that its lam is meant; travels with copies.
        writing: Held by a training while it writes weights and statistics; not copied.
    """

    is_lam_named = False

    def __init__(
        self,
        network: nn.Module,
        encoding: Encoding,
        widths: tuple[float, ...] = (1.0,),
        conversion: Mapping[str, Any] | None = None,
        original: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.encoding = encoding
        self.conversion = dict(conversion or {})
        self.dials = Dials(encoding.lambdas, widths, _farthest(encoding.lambdas, network))
        self.layout: Layout = "side by side"
        self.recomputes = False
        self.tried_shape: tuple[int, ...] | None = None
        self.revision = 0
        self.structure = 0
        self.training = network.training
        self._takes_indices = any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in network.modules())
        tensors = [] if original is None else [*original.named_parameters(), *original.named_buffers()]
        self._start_cache({name: weakref.ref(tensor) for name, tensor in tensors})
        self._nb_added = 0 if original is None else _nb_parameters(network) - _nb_parameters(original)
        self._default_point = OperatingPoint(self.lambdas[0])

    def _start_cache(self, strangers: Mapping[str, weakref.ref[Tensor]]) -> None:
        self._pinned: OrderedDict[OperatingPoint, PinnedNetwork] = OrderedDict()
        self._lock = threading.Lock()
        self.writing = threading.RLock()
        self._strangers = dict(strangers)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the plain networks out: a copy makes its own, which follow the copy."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._start_cache({})

    def strangers(self) -> dict[str, Tensor]:
        """Return by name the tensors of the network that was converted, as far as something still holds them."""
        held = {name: reference() for name, reference in self._strangers.items()}
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    @property
    def lambdas(self) -> tuple[float, ...]:
        """The trained lams, ascending."""
        return self.dials.lambdas

    @property
    def widths(self) -> tuple[float, ...]:
        """The trained widths, ascending; the last is 1."""
        return self.dials.widths

    @property
    def farthest(self) -> float:
        """The largest lam that can be asked for: the largest trained one, or beyond it.

        With linear FiLM, where lam = 1 and another lam ``l`` above 0 are trained, it is ``1 + (1 - l)``. Above 1, the
        affine map of every norm goes on changing as it does from ``l`` to 1. Nothing is trained there: measure first.
        """
        return self.dials.farthest

    @property
    def default_point(self) -> OperatingPoint:
        """The operating point of a call that names none; at first the smallest lam (0) at width 1."""
        return self._default_point

    @default_point.setter
    def default_point(self, point: OperatingPoint | float) -> None:
        self._default_point = self.resolve(point)
        self.is_lam_named = True

    def point(self, lam: float | None = None, width: float | None = None) -> OperatingPoint:
        """Check one operating point, see :meth:`~art_oat.condition.Dials.point`; None stands for the default."""
        default = self._default_point
        return self.dials.point(default.lam if lam is None else lam, default.width if width is None else width)

    def resolve(
        self, point: OperatingPoint | float | None = None, *, lam: float | None = None, width: float | None = None
    ) -> OperatingPoint:
        """Check an operating point, given as one or by ``lam`` and ``width``, of which None stands for the default's.

        Args:
            point: The point, or its lam alone, at the default width.
            lam: In place of it, one number in ``[0, 1]``, or beyond up to :attr:`farthest`.
            width: Likewise, one of the trained widths.

        Raises:
            TypeError: If ``lam`` or ``width`` is not one number.
            ValueError: If the point is not one of this model's, or given both ways.
        """
        if point is None:
            return self.point(lam, width)
        if lam is not None or width is not None:
            raise ValueError(
                f"give a point, or lam and width, got point={point!r} and lam={lam!r}, width={width!r}. "
                "Give lam=... and width=... alone."
            )
        return self.point(*point) if isinstance(point, OperatingPoint) else self.point(point)

    def lams(self, lam: Tensor, nb_samples: int) -> Tensor:
        """Check lams ``[nb_samples]``, see :meth:`~art_oat.condition.Dials.lams`, in the model's dtype and device."""
        return self.dials.lams(lam, nb_samples).to(self.encoding.table)

    def condition(self, lam: Tensor, width: float = 1.0) -> Condition:
        """Return what the converted layers read for lams ``[G]``, which are taken as checked."""
        has_slope = self.lambdas[0] == 0 and len(self.lambdas) > 1
        slope = Slope(self.lambdas[1], self.encoding.table[:2]) if has_slope else None
        return Condition(lam, self.encoding(lam), width, self.layout, slope, self.recomputes)

    def cast(self, x: Tensor) -> Tensor:
        """Bring inputs to the dtype of the network's first weight; indices that it looks something up by stay whole."""
        if self._takes_indices and not x.is_floating_point():
            return x
        first = next((weight for weight in self.network.parameters() if weight.is_floating_point()), None)
        return x.to(self.encoding.table.dtype if first is None else first.dtype)

    def forward(self, x: Tensor, lam: float | Tensor | None = None, width: float | None = None) -> Any:
        """Answer as the original network does, at an operating point, in the model's own mode.

        Called by ``torch.optim.swa_utils.update_bn``, it lets the statistics of every side and width take in ``x``.

        Args:
            x: Inputs, ``[N, ...]``; cast to the model's dtype.
            lam: One number in ``[0, 1]``, or beyond up to :attr:`farthest`; or a tensor ``[N]`` with one per sample.
                None for the default point's.
            width: One of the trained widths; None for the default point's.

        Raises:
            RuntimeError: If an exporter runs it.
            TypeError: If ``x`` is no tensor of a batch, or ``lam`` neither a number nor a tensor.
            ValueError: If ``lam`` or ``width`` is not as above.
        """
        self.refuse_exporters(x)
        if not isinstance(x, Tensor) or x.dim() == 0 or x.is_complex():
            got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x must be a tensor of real numbers, [N, ...], got {got}.")
        if lam is None and width is None and self._is_counted_anew():
            return self._count(x)
        if isinstance(lam, Tensor) and lam.dim() > 0:
            width = self.point(None, width).width
            lams = self.lams(lam, len(x))
        else:
            point = self.point(lam, width)  # type: ignore[arg-type]
            lams, width = self.encoding.table.new_full((1,), point.lam), point.width
        return self._pass(x, lams, width)

    def _pass(self, x: Tensor, lams: Tensor, width: float) -> Any:
        single = len(x) == 1 and self.training
        condition = self.condition(lams, width)
        recall = recalled(condition) if self.recomputes and torch.is_grad_enabled() else nullcontext()
        try:
            with conditioned(condition), recall, steadied(self.network) if single else nullcontext():
                return self.network(self.cast(x))
        finally:
            if self.training:
                self.revision += 1  # batch norm counts a pass before it writes the statistics

    def _is_counted_anew(self) -> bool:
        """Whether this is a pass for statistics alone, cumulative averages, as torch's ``update_bn`` makes them."""
        if not self.training or torch.is_grad_enabled():
            return False
        norms = [part for part in self.network.modules() if isinstance(part, _BatchNorm)]
        return bool(norms) and all(norm.momentum is None for norm in norms)

    def _count(self, x: Tensor) -> Any:
        """Let the statistics of every side and width take in a batch; answer at the smallest lam."""
        above = [lam for lam in self.lambdas if lam > 0]
        parts = [[0.0]] * (0 in self.lambdas) + [above] * bool(above)
        answers = [
            self._pass(x, self.encoding.table.new_tensor(lams).repeat(-(-len(x) // len(lams)))[: len(x)], width)
            for width in reversed(self.widths)
            for lams in parts
        ]
        return answers[0]

    def pinned(
        self, point: OperatingPoint | float | None = None, *, lam: float | None = None, width: float | None = None
    ) -> PinnedNetwork:
        """Return the plain network at one operating point; it shares the weights and follows their training.

        The network is of the original architecture, in evaluation mode for good, without gradients of its own.
        The same object is handed out again while it is among the last 64 points asked for.

        Args:
            point: The operating point, or its lam alone, at the default width; or see ``lam`` and ``width``.
            lam: In place of a point, its lam; None for the default's.
            width: In place of a point, its width; None for the default's.

        Raises:
            TypeError: If ``lam`` or ``width`` is not one number.
            ValueError: If the point is not one of this model's, or given both ways.
        """
        point = self.resolve(point, lam=lam, width=width)
        with self._lock:
            if point not in self._pinned:
                self._pinned[point] = PinnedNetwork(self, point)
            self._pinned.move_to_end(point)
            if len(self._pinned) > _MAX_PINNED:
                self._pinned.popitem(last=False)
            return self._pinned[point]

    def live_network(self, width: float | None = None, *, compiles: bool = False) -> LiveNetwork:
        """Return a plain network that its owner binds to any lams, one per sample; it follows training, too.

        Args:
            width: One of the widths; None for the default.
            compiles: Whether ``torch.compile`` compiles it.
        """
        point = self.point(None, width)
        return LiveNetwork(self, torch.tensor([point.lam], dtype=torch.float64), point.width, compiles=compiles)

    def refresh(self) -> None:
        """Tell the plain networks that something changed which they do not notice by themselves.

        That is a tensor written through ``.data``, and what a forward reads beside its module: globals, closures,
        attributes of classes.
        """
        self.structure += 1

    @property
    def overhead(self) -> float:
        """How many times as many parameters the conditional network has as the plain one; a cost of training alone."""
        nb_parameters = _nb_parameters(self.network)
        return nb_parameters / max(nb_parameters - self._nb_added, 1)

    def extra_repr(self) -> str:
        """Name the dials, and say what they cost in parameters."""
        dials = f"lambdas={self.lambdas}, widths={self.widths}, default={self.default_point}"
        return f"{dials}, parameters={_nb_parameters(self.network)} ({self.overhead:.2f} times the plain network's)"
