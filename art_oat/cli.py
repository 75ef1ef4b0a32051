"""Owns the command line, ``art-oat``."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="One network whose robustness is dialed after training.", no_args_is_help=True, add_completion=False
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


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for weights, table and picture.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, the weights and the training.")] = 0,
    nb_epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    nb_robust: Annotated[int, typer.Option(min=10, max=450, help="Test images to attack.")] = 150,
    attack: Annotated[list[str] | None, typer.Option(help="pgd-K or autoattack; may be repeated.")] = None,
) -> None:
    """Train on scikit-learn's digits, attack the result at every lam, show the trade-off."""
    from art_oat.demo import Measurement, Recipe, run  # the library takes seconds to import; --help need not
    from art_oat.evaluation.report import table
    from art_oat.evaluation.robustness import attack_by_name

    started = time.perf_counter()
    recipe = Recipe(seed=seed, nb_epochs=nb_epochs or Recipe.nb_epochs)
    measurement = Measurement(tuple(attack or Measurement.attacks), nb_robust)
    try:
        for name in measurement.attacks:
            attack_by_name(name, recipe.eps, "Linf")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    curve = run(out, recipe, measurement, typer.echo)
    typer.echo(f"\nAccuracy in percent, +- one standard error; attacks: Linf, eps {recipe.eps:g}, images in [0, 1].\n")
    typer.echo(table(curve))
    typer.echo(f"\nDone in {time.perf_counter() - started:.0f} s. Weights, table and picture are in {out}:")
    typer.echo(f"  {out / 'tradeoff.png'}")
    typer.echo(f"  model = art_oat.load_model({str(out)!r}); model.pinned(art_oat.OperatingPoint(lam=0.3))(images)")
