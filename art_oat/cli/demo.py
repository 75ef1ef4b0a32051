"""``art-oat demo``: the whole way on a small data set."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from art_oat.cli.options import Device, Json, Overwrite
from art_oat.cli.terminal import only_json, refusals, say, short_warnings, show, terminable
from art_oat.experiment.numbers import numbers
from art_oat.launch import check_alone


def demo(  # noqa: PLR0913 - each is an option
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
    json: Json = False,
) -> None:
    """Train on digits that lie on photographs, attack the result at every lam and width, show the trade-off."""
    from art_oat.experiment.demo import MEASUREMENT, how_to_use, recipe_and_folder
    from art_oat.experiment.run import Run

    started = time.perf_counter()
    with only_json(json) as told, refusals(), terminable(), short_warnings():
        check_alone("art-oat demo")
        recipe, usual_folder = recipe_and_folder(numbers("widths", widths) or (1.0,))
        recipe = replace(recipe, seed=seed, nb_epochs=nb_epochs or recipe.nb_epochs)
        measurement = replace(MEASUREMENT, attacks=tuple(attack or MEASUREMENT.attacks), nb_robust=nb_robust)
        measurement.check(recipe)
        run = Run(out or usual_folder, say, device_type=device)
        data = recipe.dataset(keeps_levels=True)
        with run.held():
            run.train(recipe, data, keeps_best=False, overwrites=overwrite or out is None)
            curve = run.measure(measurement, data)
        show(curve)
        typer.echo(f"\nDone in {time.perf_counter() - started:.0f} s. Weights, table and picture are in {run.folder}:")
        typer.echo(f"  {run.folder / 'tradeoff.png'}")
        typer.echo(how_to_use(run.folder, min(recipe.widths)))
        told.update({"run": str(run.folder), "points": curve.rows()})
