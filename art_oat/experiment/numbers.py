"""How numbers are written on a command line: several to one option, and radii as fractions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import typer

SEVERAL = ("--lambdas", "--widths")
"""Options that take several numbers, in every command."""
_NUMBER = r"(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(,{_NUMBER})*,?", re.IGNORECASE)


def joined(arguments: Sequence[str], several: Sequence[str] = SEVERAL) -> list[str]:
    """Join the numbers that follow an option that takes several: ``--widths 0.5 1`` becomes ``--widths=0.5,1``.

    An option takes one value, so the others would pass for arguments. Only numbers are joined, and nothing that starts
    with a minus.
    """
    result: list[str] = []
    separator = ""
    for argument in arguments:
        if separator and _NUMBERS.fullmatch(argument):
            result[-1] = result[-1].rstrip(",") + separator + argument
            separator = ","
        else:
            result.append(argument)
            name, has_value, _ = argument.partition("=")
            separator = ("," if has_value else "=") if name in several else ""
    return result


def numbers(name: str, values: Sequence[str] | None) -> tuple[float, ...] | None:
    """Return what an option was given, in one value or in several; None where it was not given.

    Raises:
        ValueError: If a part of it is no number.
    """
    if not values:
        return None
    text = ",".join(values)
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be numbers, such as --{name} 0.5 1, got {text!r}.") from None


def whole_numbers(name: str, values: Sequence[str] | None) -> tuple[int, ...]:
    """Return likewise whole numbers; none where it was not given.

    Raises:
        ValueError: If a part of it is none.
    """
    found = numbers(name, values) or ()
    if not all(number.is_integer() for number in found):
        raise ValueError(f"{name} must be whole numbers, such as --{name} 0 1 2, got {','.join(values or ())!r}.")
    return tuple(map(int, found))


def radius(name: str) -> Callable[[Any], float]:
    """Return what reads a radius or a step, such as ``8/255``."""

    def read(value: Any) -> float:
        from art_oat.attacks import parse_eps  # takes seconds to import, which --help need not wait for

        try:
            return parse_eps(str(value), f"--{name.replace('_', '-')}")
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return read
