"""Owns the operating point (lam, width) and the condition that converted layers read during one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Literal, NamedTuple

import torch
from torch import Tensor

_FARTHEST_LAM = 2.0


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
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be one number, got {type(value).__name__} {value!r}.")
    return float(value)


Layout = Literal["side by side", "in turn"]
"""How a network lays out what it makes of ``N`` samples where it makes ``T`` of each, the frames of a clip, say:
``"side by side"``, all of the first sample first, or ``"in turn"``, one of each sample first."""


def repeated(values: Tensor, nb_samples: int, layout: Layout) -> Tensor:
    """Give each of the ``nb_samples`` rows that a layer sees the value of its sample.

    Args:
        values: ``[1, ...]``, which goes for all, or ``[N, ...]``.
        nb_samples: A multiple of ``N``.
        layout: How the rows of one sample lie.

    Returns:
        ``[1, ...]`` or ``[nb_samples, ...]``.

    Raises:
        RuntimeError: If ``nb_samples`` is no multiple of ``N``.
    """
    if len(values) in (1, nb_samples):
        return values
    count, rest = divmod(nb_samples, len(values))
    if rest or not count:
        raise RuntimeError(
            f"lam holds {len(values)} values, one per sample, but a batch of {nb_samples} reached a layer. A network "
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
    """

    lam: Tensor
    code: Tensor
    width: float = 1.0
    layout: Layout = "side by side"
    slope: Slope | None = None

    @cached_property
    def _by_size(self) -> dict[int, Condition]:
        return {}

    def of(self, nb_samples: int) -> Condition:
        """Return the condition for a layer that sees ``nb_samples``, with the lam of each.

        Raises:
            RuntimeError: If ``lam`` holds several values, and ``nb_samples`` is no multiple of their number.
        """
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


def current_condition() -> Condition:
    """Return the condition of the pass under way in this thread.

    Raises:
        RuntimeError: If a converted layer runs outside a pass of its ``OATModel``.
    """
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError(
            "a converted layer knows its lam only inside its OATModel. "
            "Call model(x, lam, width), or use model.pinned(point) or fold(model, point), which are plain networks. "
            "Gradient checkpointing runs layers again after the pass, and is not supported in training."
        ) from None


@contextmanager
def conditioned(condition: Condition) -> Iterator[None]:
    """Let the converted layers that run inside the block, in this thread, read ``condition``."""
    token = _current.set(condition)
    try:
        yield
    finally:
        _current.reset(token)


def is_finite_number(value: object) -> bool:
    """Whether ``value`` is one real number that is neither NaN nor infinite."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
