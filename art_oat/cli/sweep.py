"""``art-oat sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from art_oat.cli.app import FILLED
from art_oat.cli.options import Config, Device, Json, NbWorkers, Overwrite
from art_oat.cli.terminal import only_json, refusals, say, search_here, short_warnings, terminable
from art_oat.cli.train import settings_of
from art_oat.experiment.numbers import whole_numbers
from art_oat.launch import check_alone

if TYPE_CHECKING:
    from art_oat.data import Dataset
    from art_oat.evaluation import TradeoffCurve
    from art_oat.experiment.measurement import Measurement
    from art_oat.experiment.recipe import Recipe
    from art_oat.experiment.run import Run


def sweep() -> None:
    """Train and evaluate one recipe at several seeds, each in a folder of its own, and show mean and spread.

    Writes sweep.csv, sweep.md and sweep.png into --out, and the runs into seed-0 and so on. The same command goes on
    where it was interrupted, and does nothing twice. All options but these are those of art-oat train.
    """


def _sweep(  # noqa: PLR0913 - each is an option
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for a run per seed, table and picture.")],
    seed: Annotated[list[str], typer.Option(help="Seeds, such as 0 1 2; at least two.", metavar="NUMBERS")],
    recipe: Annotated[str, typer.Option(help="A method or a baseline, as for art-oat train.")] = "dial",
    judge: Annotated[
        list[str] | None,
        typer.Option(help="As art-oat evaluate --attack; may be repeated; pgd-20 and autoattack if not given."),
    ] = None,
    nb_robust: Annotated[int | None, typer.Option(min=10, help="Test images to attack; all if not given.")] = None,
    nb_workers: NbWorkers = None,
    config: Config = None,
    download: Annotated[bool, typer.Option("--download", help="Download the data set where it is missing.")] = False,
    json: Json = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    **given: Any,
) -> None:
    from art_oat.experiment.measurement import Measurement
    from art_oat.experiment.run import Run
    from art_oat.experiment.sweep import Sweep, refuse_others

    search_here()  # for a network of the caller's own
    with only_json(json) as told, refusals(), terminable(), short_warnings():
        check_alone("art-oat sweep")
        settings, seeds = settings_of(ctx, recipe, config, given), whole_numbers("seed", seed)
        measurement = Measurement(attacks=tuple(judge or Measurement().attacks), nb_robust=nb_robust)
        measurement.check(settings)
        if not overwrite:
            refuse_others(settings, seeds, out)

        def judged(folder: Path, own: Recipe) -> TradeoffCurve:
            say(f"Seed {own.seed} ({seeds.index(own.seed) + 1} of {len(seeds)}):")
            images = own.dataset(download=download, keeps_levels=True)
            run = Run(folder, say, trusts_network=True, device_type=device)  # a network that the caller named
            return _measured(run, own, images, measurement, overwrites=overwrite, nb_workers=nb_workers)

        found = Sweep.of(settings, seeds, out, judged)
        say(f"\n{found}\n\nWritten: {', '.join(map(str, found.write(out, subject=_subject(settings))))}")
        told.update({"run": str(out), "points": found.rows()})


def _subject(recipe: Recipe) -> str:
    return f"{recipe.network} on {Path(recipe.data).name}"


def _measured(
    run: Run, recipe: Recipe, images: Dataset, measurement: Measurement, *, overwrites: bool, nb_workers: int | None
) -> TradeoffCurve:
    """Train and judge one run."""
    with run.held():
        run.train(recipe, images, overwrites=overwrites)
        return run.measure(measurement, images, nb_workers=nb_workers)


FILLED["sweep"] = _sweep
