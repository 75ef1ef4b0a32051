"""What commands share on a terminal: messages, refusals, warnings, and an end by a signal."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import typer

from art_oat.launch import is_follower

if TYPE_CHECKING:
    from art_oat.evaluation import TradeoffCurve

_PATIENCE = 3.0
_TERMINATED = 128 + signal.SIGTERM
_OPTIONS: ContextVar[Mapping[str, str]] = ContextVar("options")
_FURTHER = {"device_type": "--device", "trusts_network": "--trust-network", "trust_network": "--trust-network"}
"""Options that stand for arguments of another name."""

_MISPLACED = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_REFUSED = (ValueError, TypeError, ImportError, *_MISPLACED)
"""What an input is refused with; every other error is one of its moment, not of the input."""


@contextmanager
def options_named(options: Mapping[str, str]) -> Iterator[None]:
    """Let errors in the block name these options, given by the names of the arguments that they fill."""
    token = _OPTIONS.set(options)
    try:
        yield
    finally:
        _OPTIONS.reset(token)


@contextmanager
def refusals() -> Iterator[None]:
    """Show what is refused as one message, and an error of a wrong moment as another, without a traceback."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        if is_follower():
            time.sleep(_PATIENCE)  # where all fail, the first one says why, and torchrun ends the others
        message = _printable(as_on_command_line(" ".join(str(error).split()) or type(error).__name__))
        if isinstance(error, _REFUSED):
            raise typer.BadParameter(message) from error
        typer.secho(f"Error: {message}", fg="red", err=True)
        raise typer.Exit(1) from error


def as_on_command_line(message: str) -> str:
    """Write the names of arguments in a message as those of the options of the command that runs.

    A name of several words is replaced wherever it stands alone; one word, which may be one of the sentence, where a
    sentence begins that says what it must be; both where a value is given to them.
    """
    from art_oat.experiment.options import option_names

    options = dict(_OPTIONS.get({}))
    others = {field: option for field, option in option_names().items() if option in options.values()}
    options |= others | {name: it for name, it in _FURTHER.items() if it in options.values()}
    if not options:
        return message
    known = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    alone = rf"(?<![\w.'\"/\\-])(?P<name>{known})"

    def given(found: re.Match[str]) -> str:
        value = found["value"].strip("'\"")
        return options[found["name"]] + ("" if value == "True" else f" {value}")

    message = re.sub(alone + r"=(?P<value>'[^']*'|\"[^\"]*\"|[\w.]+)", given, message)
    names = rf"(?<![^.:;] )(?<![\w.'\"/\\(-])(?:(?:{known})(?:, | and ))*(?:{known})(?= (?:must|needs?|are) )"
    message = re.sub(names, lambda all_: re.sub(rf"\b({known})\b", lambda it: options[it[1]], all_[0]), message)
    return re.sub(
        alone + r"(?![\w('\"=/-]|\.\w)", lambda it: options[it["name"]] if "_" in it["name"] else it["name"], message
    )


@contextmanager
def only_json(is_asked: bool) -> Iterator[dict[str, Any]]:
    """Where it is asked, show what the block writes into the mapping as JSON, and all else that it shows on stderr."""
    result: dict[str, Any] = {}
    if not is_asked:
        yield result
        return
    with redirect_stdout(sys.stderr):
        yield result
    if not is_follower():
        typer.echo(json.dumps(result, indent=2, default=str))


def say(message: str) -> None:
    """Show a message, but in one process of several alone."""
    if not is_follower():
        typer.echo(_printable(message))


def _printable(message: str) -> str:
    """Escape what steers a terminal: names come from files, too."""
    return "".join(it if it.isprintable() or it == "\n" else repr(it)[1:-1] for it in message)


@contextmanager
def short_warnings() -> Iterator[None]:
    """Show warnings of this library as one line each, above a progress bar, without the place in the code."""
    from tqdm import tqdm

    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if category.__module__.startswith("art_oat."):
            if not is_follower():
                tqdm.write(typer.style(f"Warning: {message}", fg="yellow"), file=sys.stderr)
        else:
            usual(message, category, *place, **options)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl+C does: what was found so far is kept, and the folder is freed."""

    def end(*_: Any) -> None:
        raise SystemExit(_TERMINATED)

    if threading.current_thread() is not threading.main_thread():  # no other may say what a signal does
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show(curve: TradeoffCurve) -> None:
    """Show a trade-off as a table, with its warnings."""
    from art_oat.attacks import format_eps

    attacks = f"{curve.norm}, eps {format_eps(curve.eps)}, images in [0, 1]"
    typer.echo(f"\nAccuracy in percent, +- one standard error; attacks: {attacks}.\n")
    typer.echo(curve.table())
    for point in curve.points:
        for warning in point.warnings:
            typer.secho(f"Warning at lam {point.lam:g}, width {point.width:g}: {warning}", fg="yellow")


def search_here() -> None:
    """Let modules in the working directory be imported, as ``python -m`` does and a command does not."""
    if "" not in sys.path:
        sys.path.append("")
