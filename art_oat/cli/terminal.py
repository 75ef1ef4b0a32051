"""What commands share on a terminal: messages, refusals, warnings, and an end by a signal."""

from __future__ import annotations

import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from art_oat.launch import is_follower

if TYPE_CHECKING:
    from art_oat.evaluation import TradeoffCurve

_PATIENCE = 3.0
_TERMINATED = 128 + signal.SIGTERM


@contextmanager
def refusals() -> Iterator[None]:
    """Show what is refused as one message, without a traceback."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        if is_follower():
            time.sleep(_PATIENCE)  # where all fail, the first one says why, and torchrun ends the others
        message = " ".join(str(error).split()) or type(error).__name__
        message = message.replace("allow_large_eps=True", "--allow-large-eps").replace("device_type", "--device")
        message = message.replace("on_nan='restore'", "--on-nan restore")
        raise typer.BadParameter(_printable(message)) from error


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
