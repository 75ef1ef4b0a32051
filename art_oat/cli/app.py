"""The command line itself: what every command of ``art-oat`` is an entry of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from art_oat.cli.terminal import options_named
from art_oat.experiment.numbers import SEVERAL, joined

# The library takes seconds to import, which --help need not wait for: commands import what they need.

app = typer.Typer(
    help="One network whose robustness and cost are dialed after training.",
    epilog="Exit codes: 0 done, 2 refused with the reason, 130 stopped by Ctrl+C, 143 by SIGTERM, 1 any other error.",
    no_args_is_help=True,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"art-oat {version('art-oat')}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Name a command."""


class Command(TyperCommand):
    """A command whose options may take several numbers."""

    several: tuple[str, ...] = SEVERAL

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, with what belongs to one option joined."""
        return super().parse_args(ctx, joined(args, self.several))

    def invoke(self, ctx: Any) -> Any:
        """Run the command, with errors that name its options."""
        with options_named({param.name: param.opts[0] for param in self.get_params(ctx) if param.opts[0][0] == "-"}):
            return super().invoke(ctx)


FILLED: dict[str, Callable[..., None]] = {}
"""What runs by name, of the commands that have an option for every field of what they fill."""


class FilledCommand(Command):
    """A command with an option for every field of what it fills, read off when they are asked for."""

    @cached_property
    def _whole(self) -> Any:
        from art_oat.experiment.options import with_options

        assert self.name is not None
        whole = typer.Typer(add_completion=False)
        whole.command(cls=Command)(with_options(self.name, FILLED[self.name]))
        return typer.main.get_command(whole)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options."""
        return list(self._whole.get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        return self._whole.invoke(ctx)


class SeedsCommand(FilledCommand):
    """Such a command that takes several seeds."""

    several = (*SEVERAL, "--seed")
