"""The operating point (lam, width), which points a network has, and the condition that layers read during a pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from art_oat.contexts import is_in_backward, recalled_value
from art_oat.numbers import is_number, plain, shown

_FARTHEST_LAM = 2.0
_ROUNDING = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class OperatingPoint:
    """One setting of both dials; unpacks as ``lam, width``.

    Args:
        lam: Weight of the adversarial loss in ``[0, 1]``: 0 asks for accuracy, 1 for robustness. Above 1, below
            2, the way from the last trained lams to 1 is continued, see :attr:`~art_oat.OATModel.farthest`.
        width: Fraction of channels kept, in ``(0, 1]``.

    Raises:
        TypeError: If either is not a real number.
        ValueError: If either lies outside its range, or is NaN.

    Example:
        >>> lam, width = OperatingPoint(0.3)
        >>> lam, width
        (0.3, 1.0)
    """

    lam: float
    width: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", _number(self.lam, "lam"))
        object.__setattr__(self, "width", _number(self.width, "width"))
        if not 0 <= self.lam < _FARTHEST_LAM:
            raise ValueError(f"lam must lie in [0, 1], or above 1 and below 2 to continue the dial, got {self.lam}.")
        if not 0 < self.width <= 1:
            raise ValueError(f"width must lie in (0, 1], got {self.width}.")

    def __iter__(self) -> Iterator[float]:
        return iter((self.lam, self.width))


def _number(value: object, name: str) -> float:
    if not is_number(value):
        raise TypeError(f"{name} must be one number, got {type(value).__name__} {shown(value)}.")
    try:
        return float(plain(value))  # type: ignore[arg-type]
    except OverflowError:
        return math.inf  # which is out of range, too


@dataclass(frozen=True)
class Dials:
    """Which points a network can be asked for.

    A lam or width within float32 rounding of a trained one counts as just that one.

    Args:
        lambdas: The trained lams, ascending. Every lam between them may be asked for.
        widths: The trained widths, ascending, the last is 1.
        farthest: The largest lam that may be asked for, the largest trained one or above 1.
    """

    lambdas: tuple[float, ...]
    widths: tuple[float, ...]
    farthest: float

    def point(self, lam: float, width: float) -> OperatingPoint:
        """Return a checked point.

        Raises:
            TypeError: If ``lam`` or ``width`` is not one number.
            ValueError: If ``lam`` lies below the trained range or above ``farthest``, or ``width`` was not trained.
        """
        point = OperatingPoint(lam, width)
        point = OperatingPoint(_snapped(point.lam, self.lambdas), _snapped(point.width, self.widths))
        if not self.lambdas[0] <= point.lam <= self.lambdas[-1] and not 1 < point.lam <= self.farthest:
            raise ValueError(self._range_message(point.lam))
        if point.width not in self.widths:
            raise ValueError(
                f"width must be one of {self.widths}, got {point.width}. "
                "Widths are fixed when the network is converted."
            )
        return point

    def lams(self, lam: Tensor, nb_samples: int) -> Tensor:
        """Return one checked lam per sample, in float64.

        Raises:
            TypeError: If ``lam`` holds truth values or complex numbers.
            ValueError: If ``lam`` is not ``[nb_samples]``, holds NaN, lies below the trained range or above
                ``farthest``.
        """
        if lam.is_complex() or lam.dtype == torch.bool:
            raise TypeError(f"lam must be one number, or hold one per sample, got values of {lam.dtype}.")
        if lam.shape != (nb_samples,):
            raise ValueError(f"lam must be one number, or hold {nb_samples}, one per sample, got {list(lam.shape)}.")
        trained, lam = torch.tensor(self.lambdas, dtype=torch.float64, device=lam.device), lam.to(torch.float64)
        nearest = trained[(lam.unsqueeze(1) - trained).abs().argmin(dim=1)]
        lam = torch.where((lam - nearest).abs() <= _ROUNDING * nearest, nearest, lam)
        outside = ~((lam >= self.lambdas[0]) & (lam <= self.farthest))  # NaN is outside too
        if bool(outside.any()):
            raise ValueError(self._range_message(float(lam[outside][0])))
        return lam

    def _range_message(self, lam: float) -> str:
        return (
            f"lam must lie in [{self.lambdas[0]}, {self.farthest:g}], the range it was converted for, got {lam:g}. "
            "Name the outermost values in to_conditional(lambdas=...)"
            + ("; beyond 1, the dial goes as far as from the last lam but one to 1." if lam > 1 else ".")
        )


def _snapped(value: float, trained: Sequence[float]) -> float:
    nearest = min(trained, key=lambda one: abs(value - one))
    return nearest if abs(value - nearest) <= _ROUNDING * nearest else value


Layout = Literal["side by side", "in turn"]
"""How a network lays out what it makes of ``N`` samples where it makes ``T`` of each, the frames of a clip, say:
``"side by side"``, all of the first sample first, or ``"in turn"``, one of each sample first."""


def repeated(values: Tensor, nb_samples: int, layout: Layout) -> Tensor:
    """Give each of the ``nb_samples`` rows that a layer sees the value of its sample.

    Values ``[1, ...]`` stay as they are; ``[N, ...]`` become ``[nb_samples, ...]``.

    Raises:
        RuntimeError: If ``nb_samples`` is no multiple of ``N``.
    """
    nb_values = values.shape[0]  # not len(), which an exporter takes for a constant
    if nb_values in (1, nb_samples):
        return values
    count = nb_samples // nb_values
    if count * nb_values != nb_samples or not count:
        raise RuntimeError(
            f"lam holds {nb_values} values, one per sample, but a batch of {nb_samples} reached a layer. A network "
            "may make several samples of each inside, always as many; else it takes one lam for the whole batch only."
        )
    if layout == "side by side":
        return values.repeat_interleave(count, dim=0)
    return values.repeat(count, *[1] * (values.dim() - 1))


class Slope(NamedTuple):
    """The way from lam = 0 to the smallest trained lam above it, on which the two sides of a norm are blended.

    Attributes:
        end: That lam.
        codes: Of 0 and of it, ``[2, D]``.
    """

    end: float
    codes: Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """What the converted layers of a network read during one pass.

    Args:
        lam: ``[1]`` where one value holds for the whole batch, else ``[N]``.
        code: The codes of ``lam``, ``[1, D]`` or ``[N, D]``.
        width: Fraction of channels kept, in ``(0, 1]``.
        layout: How the network lays out several samples that it makes of one.
        slope: Where lams lie between the two sides of a norm; None where none can.
        recomputes: Whether the network decides by itself what is kept for the backward pass.
    """

    lam: Tensor
    code: Tensor
    width: float = 1.0
    layout: Layout = "side by side"
    slope: Slope | None = None
    recomputes: bool = False

    @cached_property
    def _by_size(self) -> dict[int, Condition]:
        return {}

    def of(self, nb_samples: int) -> Condition:
        """Return the condition for a layer that sees ``nb_samples``, see :func:`repeated`."""
        if len(self.lam) in (1, nb_samples):
            return self
        if nb_samples not in self._by_size:
            lam, code = (repeated(values, nb_samples, self.layout) for values in (self.lam, self.code))
            self._by_size[nb_samples] = replace(self, lam=lam, code=code)
        return self._by_size[nb_samples]

    @cached_property
    def is_clean(self) -> Tensor:
        """Whether a sample belongs to the clean side of every norm (lam is exactly 0); bool, shaped as ``lam``."""
        return self.lam == 0

    @cached_property
    def nb_clean(self) -> int:
        """How many entries of ``lam`` are 0."""
        return int(self.is_clean.sum())

    @cached_property
    def is_on_slope(self) -> bool:
        """Whether some lam lies between the two sides of a norm."""
        return self.slope is not None and bool(((self.lam > 0) & (self.lam < self.slope.end)).any())

    @cached_property
    def climb(self) -> Tensor:
        """How far up the slope each lam is: 0 at lam = 0, 1 at its end and from there on; shaped as ``lam``."""
        assert self.slope is not None
        return (self.lam / self.slope.end).clamp_max(1)

    @cached_property
    def ends_of_slope(self) -> tuple[Condition, Condition]:
        """The conditions, each of one lam, at both ends of the slope."""
        assert self.slope is not None
        lams = self.lam.new_tensor([[0.0], [self.slope.end]])
        low, high = (
            replace(self, lam=lam, code=code) for lam, code in zip(lams, self.slope.codes.split(1), strict=True)
        )
        return low, high

    @cached_property
    def order(self) -> Tensor | None:
        """Indices that bring clean samples first, ``[N]``; None where they already stand first."""
        if bool(self.is_clean[: self.nb_clean].all()):
            return None
        return torch.argsort(self.is_clean, descending=True, stable=True)

    @cached_property
    def inverse_order(self) -> Tensor | None:
        """Indices that undo :attr:`order`."""
        return None if self.order is None else torch.argsort(self.order)


_current: ContextVar[Condition] = ContextVar("art_oat_condition")


class RecomputedError(RuntimeError):
    """A layer runs again in a backward pass, and nothing recalls the condition of the pass forth."""


def current_condition() -> Condition:
    """Return the condition of the pass under way in this thread, or of the pass that is computed again in backward.

    Raises:
        RecomputedError: If a converted layer runs again in a backward pass, without :func:`~art_oat.contexts.recalled`.
        RuntimeError: If a converted layer runs outside a pass of its ``OATModel``.
    """
    condition = _current.get(None)
    if condition is not None:
        return condition
    if not is_in_backward():
        raise RuntimeError(
            "a converted layer knows its lam only inside its OATModel. "
            "Call model(x, lam, width), or use model.pinned(lam=..., width=...), or fold(model, lam=..., width=...), "
            "which are plain networks."
        )
    condition = recalled_value()
    if not isinstance(condition, Condition):
        raise RecomputedError(
            "a converted layer runs again in the backward pass, and does not know its lam there. "
            "Switch gradient checkpointing on before to_conditional, or set recomputes = True on the OATModel."
        )
    return condition


def is_recomputing() -> bool:
    """Whether a layer that runs now computes again, in a backward pass, what its pass forth did not keep."""
    return _current.get(None) is None and is_in_backward()


@contextmanager
def conditioned(condition: Condition) -> Iterator[None]:
    """Let the converted layers that run inside the block, in this thread, read ``condition``."""
    token = _current.set(condition)
    try:
        yield
    finally:
        _current.reset(token)
