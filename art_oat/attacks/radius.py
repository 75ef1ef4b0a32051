"""The radius of an attack: how people write it, and whether it can be meant in units of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from art_oat.attacks.protocol import ClipValues, Norm
from art_oat.checks import refuse, warn_caller
from art_oat.numbers import is_finite_number, is_name_in, number_faults, plain

_NB_LEVELS = 255
"""Steps of an image of bytes; radii are commonly counted in these."""

_ORDER: dict[Norm, float] = {"Linf": np.inf, "L2": 2, "L1": 1}

_ROUNDING = 1e-9
"""How far a radius may be from the number that it is written as, next to the 1e-17 or so of float64."""

_MARGIN = 1e-6
"""Share by which a radius may miss the largest: ART keeps clip values as float32."""

_WIDE = 100
"""Span from which on inputs are taken for bytes, so that a fraction of 1 is most likely meant for [0, 1]."""

_LEAST_LEVELS = 0.25
_LEAST_LEVELS_OF_BYTES: dict[Norm, float] = {"Linf": 0.5, "L2": 1.0, "L1": 1.0}


def format_eps(eps: Any) -> str:
    """Return a radius as people write it: ``0.2``, else ``8/255`` or ``0.5/255``, else with 3 significant digits.

    Example:
        >>> format_eps(8 / 255), format_eps(0.2), format_eps(0.5 / 255), format_eps(0.12345)
        ('8/255', '0.2', '0.5/255', '0.123')
    """
    if not is_finite_number(eps):
        return str(eps)
    eps = float(plain(eps))
    decimal = f"{eps:.3g}" if abs(eps) < 1000 else f"{eps:.0f}"  # noqa: PLR2004 - no exponent
    half_levels = round(2 * _NB_LEVELS * eps)
    is_fraction = half_levels != 0 and abs(eps - half_levels / (2 * _NB_LEVELS)) <= _ROUNDING
    if not is_fraction or abs(float(decimal) - eps) <= _ROUNDING:
        return decimal
    return f"{half_levels / 2:g}/{_NB_LEVELS}"


def format_apart(eps: Any, other: Any) -> tuple[str, str]:
    """Return two different radii as people write them, or in full where they would be written alike."""
    written = format_eps(eps), format_eps(other)
    return written if written[0] != written[1] else (repr(eps), repr(other))


def parse_eps(text: str, name: str = "eps") -> float:
    """Return what a number or a fraction of two numbers means, such as ``0.2`` or ``8/255``.

    Raises:
        ValueError: If it is neither; the message calls it by ``name``.
    """
    numerator, has_slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if has_slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{name} must be a number or a fraction, such as 0.2 or 8/255, got {text!r}.") from None


@dataclass(frozen=True)
class Radius:
    """How far an attack may go, and within which range.

    A radius of half the diameter of the range takes every input to the middle of it, where nothing can be robust. So a
    radius from there on is most likely in another unit:

    ``span / 2`` for Linf, ``span sqrt(d) / 2`` for L2, ``span d / 2`` for L1,

    for inputs of ``d`` numbers; where the range differs between them, the norm of their spans over two. So is a radius
    below a quarter of one of 255 levels, ``span / 1020``; of inputs that span 100 or more, such as bytes, one below
    half a level (for L2 and L1, below one).

    Args:
        eps: Radius, in the units of ``clip_values``.
        norm: Its norm.
        clip_values: Smallest and largest value of an input, numbers or arrays that fit one; None if not known.
        input_shape: Shape of one input; None if not known, then only Linf is checked.
        name: What the radius is called in messages.
        inputs: What messages say it is in units of.
    """

    eps: Any
    norm: Norm
    clip_values: ClipValues | None
    input_shape: tuple[int, ...] | None
    name: str = "eps"
    inputs: str = "x"

    def faults(self, *, allow_large_eps: bool = False) -> list[str]:
        """Say that the radius is too large to be meant."""
        spans = self._spans()
        if allow_large_eps or spans is None or (self.norm != "Linf" and self.input_shape is None):
            return []
        largest = float(np.linalg.norm(spans.ravel(), _ORDER[self.norm])) / 2
        if self.eps < largest * (1 - _MARGIN):
            return []
        return [
            f"{self.name} must be below {largest:.4g} ({self.norm}), half the range of {self.inputs}, from where every "
            f"input can be made the same, got {format_eps(self.eps)}. {self._unit()}"
            f"{self._advice(float(spans.max()))}If it is meant, say allow_large_eps=True."
        ]

    def doubts(self) -> list[str]:
        """Say that the radius is too small to be meant."""
        spans = self._spans()
        if spans is None:
            return []
        span = float(spans.max())
        levels = self.eps * _NB_LEVELS / span
        least = _LEAST_LEVELS_OF_BYTES[self.norm] if span >= _WIDE else _LEAST_LEVELS
        if levels >= least * (1 - _MARGIN):
            return []
        return [
            f"{self.name} = {format_eps(self.eps)} ({self.norm}) is {levels:.2g} of 255 levels, next to nothing. "
            + self._unit().rstrip()
            + ("" if span == 1 else f" What is {format_eps(self.eps)} in [0, 1] is {self.eps * span:.4g} there.")
        ]

    def _spans(self) -> Any:
        """Spans of the numbers of an input, as an array; None where nothing can be said of the radius."""
        is_known = self.clip_values is not None and self.norm in _ORDER and is_finite_number(self.eps)
        if not is_known or self.eps <= 0:
            return None
        low, high = (np.asarray(value, dtype=np.float64) for value in self.clip_values)  # type: ignore[union-attr]
        try:
            spans = np.broadcast_to(high - low, self.input_shape or (1,))
        except ValueError:  # clip values that fit no input, of which others tell
            return None
        return spans if spans.size and spans.max() > 0 else None

    def _unit(self) -> str:
        low, high = (np.asarray(value) for value in self.clip_values)  # type: ignore[union-attr]
        return f"{self.name} is in units of {self.inputs}, whose clip_values are [{low.min():g}, {high.max():g}]. "

    def _advice(self, span: float) -> str:
        """What to write in place of a number of levels."""
        if self.eps < 1 or span >= _WIDE:
            return ""
        factor = "" if span == 1 else f"{span:g} * "
        return f"For {format_eps(self.eps)} of 255 levels, write {factor}{format_eps(self.eps)} / {_NB_LEVELS}. "


def ball_faults(eps: Any, norm: Any, norms: tuple[Norm, ...] = get_args(Norm)) -> list[str]:
    """Say why nothing can be attacked in the ball of a radius and one of some norms."""
    faults = number_faults({"eps": eps}, "be a number above 0", lambda it: it > 0)
    if not is_name_in(norm, norms):
        faults.append(f"norm must be one of {norms}, got {norm!r}.")
    return faults


def step_faults(eps_step: Any) -> list[str]:
    """Say why nothing can step as far as that; None is the step of the attack's choice."""
    if eps_step is None:
        return []
    return number_faults({"eps_step": eps_step}, "be a number above 0, or None", lambda it: it > 0)


def check_radii(radii: Sequence[Radius], *, allow_large_eps: bool) -> None:
    """Refuse radii that are too large to be meant, all at once, and warn once of those that are too small.

    Raises:
        ValueError: If one is too large, and none is allowed to be.
    """
    refuse([fault for radius in radii for fault in radius.faults(allow_large_eps=allow_large_eps)])
    doubts = [doubt for radius in radii for doubt in radius.doubts()]
    if doubts:
        warn_caller(" ".join(dict.fromkeys(doubts)))
