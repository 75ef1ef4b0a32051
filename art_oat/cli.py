"""The command line, ``art-oat``."""

from __future__ import annotations

import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from art_oat.experiment.numbers import joined, numbers
from art_oat.launch import check_alone, is_follower

if TYPE_CHECKING:
    from art_oat.evaluation import TradeoffCurve

# The library takes seconds to import, which --help need not wait for: commands import what they need.

_PATIENCE = 3.0
_TERMINATED = 128 + signal.SIGTERM

app = typer.Typer(
    help="One network whose robustness and cost are dialed after training.",
    epilog="Exit codes: 0 done, 2 refused with the reason, 130 stopped by Ctrl+C, 143 by SIGTERM, 1 any other error.",
    no_args_is_help=True,
    add_completion=False,
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


class _Command(TyperCommand):
    """A command whose options may take several numbers."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, with what belongs to one option joined."""
        return super().parse_args(ctx, joined(args))


class _FilledCommand(_Command):
    """A command with an option for every field of what it fills, read off when they are asked for."""

    @cached_property
    def _whole(self) -> Any:
        from art_oat.experiment.options import with_options

        assert self.name is not None
        whole = typer.Typer(add_completion=False)
        whole.command(cls=_Command)(with_options(self.name, _FILLED[self.name]))
        return typer.main.get_command(whole)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options."""
        return list(self._whole.get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        return self._whole.invoke(ctx)


Out = Annotated[Path, typer.Option(help="Folder for weights, log, table and picture.")]
Device = Annotated[str, typer.Option(help="cpu, gpu, or auto: a GPU where torch sees one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace weights of another training in --out.")]


@app.command(cls=_Command)
def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for weights, log, table and picture; runs/demo, or runs/demo-widths, if not given."),
    ] = None,
    widths: Annotated[
        list[str] | None,
        typer.Option(help="Widths to train and measure, such as 0.5 0.75 1; only 1 if not given.", metavar="NUMBERS"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, the weights and the training.")] = 0,
    nb_epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    nb_robust: Annotated[int, typer.Option(min=10, max=1800, help="Test images to attack.")] = 200,
    attack: Annotated[list[str] | None, typer.Option(help="As for art-oat evaluate; may be repeated.")] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Train on digits that lie on photographs, attack the result at every lam and width, show the trade-off."""
    from art_oat.experiment.demo import MEASUREMENT, how_to_use, recipe_and_folder
    from art_oat.experiment.run import Run

    started = time.perf_counter()
    with _refusals(), _terminable(), _short_warnings():
        check_alone("art-oat demo")
        recipe, usual_folder = recipe_and_folder(numbers("widths", widths) or (1.0,))
        recipe = replace(recipe, seed=seed, nb_epochs=nb_epochs or recipe.nb_epochs)
        measurement = replace(MEASUREMENT, attacks=tuple(attack or MEASUREMENT.attacks), nb_robust=nb_robust)
        measurement.check(recipe)
        run = Run(out or usual_folder, _say, device_type=device)
        data = recipe.dataset(keeps_levels=True)
        with run.held():
            run.train(recipe, data, keeps_best=False, overwrites=overwrite or out is None)
            curve = run.measure(measurement, data)
    _show(curve)
    typer.echo(f"\nDone in {time.perf_counter() - started:.0f} s. Weights, table and picture are in {run.folder}:")
    typer.echo(f"  {run.folder / 'tradeoff.png'}")
    typer.echo(how_to_use(run.folder, min(recipe.widths)))


@app.command(cls=_FilledCommand)
def train() -> None:
    """Train one network for every lam and width on a data set; keep the best of five epochs on validation images.

    A training that is interrupted keeps the best so far; the same command again goes on with it. Several processes, one
    for each GPU, say, train one network together: torchrun --nproc-per-node 2 -m art_oat train ...
    """


def _train(
    out: Out,
    recipe: Annotated[
        str,
        typer.Option(help="A method, such as dial, published, robust (AWP, averaged) or fast (one step, guarded)."),
    ] = "dial",
    download: Annotated[bool, typer.Option("--download", help="Download the data set where it is missing.")] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    checkpoint_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Write what to go on from after so many steps, too; else after every epoch."),
    ] = None,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Likewise, after so many minutes; 0 for after epochs alone.")
    ] = 10.0,
    **given: Any,
) -> None:
    from art_oat.experiment.options import recipe_from
    from art_oat.experiment.run import Run
    from art_oat.group import in_group
    from art_oat.models.registry import network_kind

    started = time.perf_counter()
    _search_here()  # for a network of the caller's own
    with _refusals(), in_group(device) as group, _terminable(), _short_warnings():  # who waits for others can be ended
        settings, run = recipe_from(recipe, given), Run(out, _say, device_type=device)
        images = group.first_then_all(lambda: settings.dataset(download=download, keeps_levels=True))
        run.train(
            settings,
            images,
            overwrites=overwrite,
            checkpoint_steps=checkpoint_steps,
            checkpoint_minutes=checkpoint_minutes or None,
        )
    if not group.is_first:
        return
    typer.echo(f"Done in {time.perf_counter() - started:.0f} s. Weights and log are in {out}. Now measure them:")
    trust = "" if network_kind(settings.network).is_trusted else " --trust-network"
    typer.echo(f"  art-oat evaluate {out} --nb-robust {min(1000, len(images.test.x))}{trust}")


@app.command(cls=_FilledCommand)
def evaluate() -> None:
    """Attack a trained network on the test images at every lam and width.

    Writes tradeoff.csv, tradeoff.png and samples.csv (what broke which image) there. The same command goes on with an
    evaluation that was interrupted. Several processes, one for each GPU, say, share the images: torchrun
    --nproc-per-node 2 -m art_oat evaluate ...
    """


def _evaluate(
    run: Annotated[Path, typer.Argument(help="Folder that art-oat train wrote.")],
    nb_workers: Annotated[
        int | None, typer.Option(min=1, help="Shards of images to attack at once; one per core if not given.")
    ] = None,
    trust_network: Annotated[
        bool, typer.Option("--trust-network", help="Import the code that the folder names as its network.")
    ] = False,
    device: Device = "auto",
    **given: Any,
) -> None:
    from art_oat.experiment.measurement import Measurement
    from art_oat.experiment.options import read
    from art_oat.experiment.run import Run
    from art_oat.group import in_group

    if trust_network:
        _search_here()
    with _refusals(), in_group(device) as group, _terminable(), _short_warnings():
        chosen = read(Measurement, given)
        if chosen.get("norm") == "L1":
            chosen = {"attacks": ("autoattack",), **chosen}  # PGD knows no L1
        trained = Run(run, _say, trusts_network=trust_network, device_type=device)
        measurement = Measurement(**chosen)
        with trained.held():  # first, as what another process is at work on may lack its weights for a while
            measurement.check(trained.recipe)
            curve = trained.measure(measurement, trained.recipe.dataset(keeps_levels=True), nb_workers=nb_workers)
    if group.is_first:
        _show(curve)
        typer.echo(f"\nTable and picture are in {run}: {run / 'tradeoff.csv'}, {run / 'tradeoff.png'}")


_FILLED: dict[str, Callable[..., None]] = {"train": _train, "evaluate": _evaluate}


def _search_here() -> None:
    """Let modules in the working directory be imported, as ``python -m`` does and a command does not."""
    if "" not in sys.path:
        sys.path.append("")


@contextmanager
def _refusals() -> Iterator[None]:
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


def _say(message: str) -> None:
    if not is_follower():
        typer.echo(_printable(message))


def _printable(message: str) -> str:
    """Escape what steers a terminal: names come from files, too."""
    return "".join(it if it.isprintable() or it == "\n" else repr(it)[1:-1] for it in message)


@contextmanager
def _short_warnings() -> Iterator[None]:
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
def _terminable() -> Iterator[None]:
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


def _show(curve: TradeoffCurve) -> None:
    from art_oat.attacks import format_eps

    attacks = f"{curve.norm}, eps {format_eps(curve.eps)}, images in [0, 1]"
    typer.echo(f"\nAccuracy in percent, +- one standard error; attacks: {attacks}.\n")
    typer.echo(curve.table())
    for point in curve.points:
        for warning in point.warnings:
            typer.secho(f"Warning at lam {point.lam:g}, width {point.width:g}: {warning}", fg="yellow")
