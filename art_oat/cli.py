"""Owns the command line, ``art-oat``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from art_oat.evaluation import TradeoffCurve

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


Out = Annotated[Path, typer.Option(help="Folder for weights, log, table and picture.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace weights of another training in --out.")]
_DEMO = Path("runs/demo")
Seed = Annotated[int, typer.Option(min=0, help="Seed of the split, the weights and the training.")]
AttackNames = Annotated[list[str] | None, typer.Option(help="pgd-K or autoattack; may be repeated.")]
NbRobust = Annotated[int | None, typer.Option(min=10, help="Test images to attack; all if not given.")]
NbWorkers = Annotated[int | None, typer.Option(min=1, help="Points to measure at once; one per core if not given.")]


@app.command()
def demo(
    out: Out = _DEMO,
    seed: Seed = 0,
    nb_epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    nb_robust: Annotated[int, typer.Option(min=10, max=450, help="Test images to attack.")] = 150,
    attack: AttackNames = None,
    overwrite: Overwrite = False,
) -> None:
    """Train on scikit-learn's digits, attack the result at every lam, show the trade-off."""
    from art_oat.demo import MEASUREMENT, RECIPE  # the library takes seconds to import; --help need not
    from art_oat.run import Run

    started = time.perf_counter()
    recipe = replace(RECIPE, seed=seed, nb_epochs=nb_epochs or RECIPE.nb_epochs)
    measurement = replace(MEASUREMENT, attacks=tuple(attack or MEASUREMENT.attacks), nb_robust=nb_robust)
    with _refusals():
        _check_attacks(measurement.attacks, recipe.eps, recipe.norm)
        run, data = Run(out, typer.echo), recipe.dataset()
        run.train(recipe, data, keeps_best=False, overwrites=overwrite or out == _DEMO)
        curve = run.measure(measurement, data)
    _show(curve)
    typer.echo(f"\nDone in {time.perf_counter() - started:.0f} s. Weights, table and picture are in {out}:")
    typer.echo(f"  {out / 'tradeoff.png'}")
    typer.echo(f"  model = art_oat.load_model({str(out)!r}); model.pinned(art_oat.OperatingPoint(lam=0.3))(images)")


# typer reads the options of a command off its arguments: this one is long, and does nothing but hand them on
@app.command()
def train(
    data: Annotated[str, typer.Option(help="cifar10, mnist, svhn, stl10, digits, or a path that ends in .npz.")],
    out: Out,
    data_folder: Annotated[
        str | None, typer.Option(help="Where the data set lies; ART's data folder if not given.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Download the data set where it is missing.")] = False,
    nb_train: Annotated[int | None, typer.Option(min=1, help="Training images to keep; all if not given.")] = None,
    network: Annotated[
        str, typer.Option(help="small, small-16-32-64 (channels), resnet18, resnet34, wrn-16-8.")
    ] = "resnet18",
    lambdas: Annotated[str, typer.Option(help="The lams to train, with commas between.")] = "0,0.1,0.2,0.3,0.4,1",
    eps: Annotated[float, typer.Option(help="Radius of the attack, images in [0, 1].")] = 8 / 255,
    eps_step: Annotated[float | None, typer.Option(help="Step of the attack; its default if not given.")] = None,
    norm: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    attack: Annotated[str, typer.Option(help="pgd-K, art:NAME or torchattacks:NAME.")] = "pgd-7",
    weight_of_one: Annotated[float, typer.Option(help="Weight of lam = 1 among the attacked samples.")] = 1.0,
    nb_epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 30,
    batch_size: Annotated[int, typer.Option(min=2, help="Samples per step.")] = 128,
    schedule: Annotated[str, typer.Option(help="one-cycle, cosine, piecewise or constant.")] = "one-cycle",
    learning_rate: Annotated[float, typer.Option(help="Largest learning rate of the schedule.")] = 0.1,
    weight_decay: Annotated[
        float, typer.Option(help="Of convolutions and linear layers, not of norms and FiLM.")
    ] = 5e-4,
    augmentation: Annotated[
        str, typer.Option(help="crop-flip, crop, none, or auto: what suits the data set.")
    ] = "auto",
    ema: Annotated[float | None, typer.Option(help="Decay of an average of weights, such as 0.999.")] = None,
    label_smoothing: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of every label spread over all.")
    ] = 0.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train one network for every lam on a data set; keep the best of five epochs on validation images.

    A training that is interrupted keeps the best so far.
    """
    from art_oat.recipe import Recipe
    from art_oat.run import Run

    started = time.perf_counter()
    with _refusals():
        recipe = Recipe(
            data=data,
            data_folder=data_folder,
            nb_train=nb_train,
            network=network,
            lambdas=_numbers(lambdas),
            attack=attack,
            eps=eps,
            eps_step=eps_step,
            norm=norm,  # type: ignore[arg-type]
            weight_of_one=weight_of_one,
            nb_epochs=nb_epochs,
            batch_size=batch_size,
            schedule=schedule,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            augmentation=augmentation,  # type: ignore[arg-type]
            ema=ema,
            label_smoothing=label_smoothing,
            seed=seed,
        )
        run = Run(out, typer.echo)
        images = recipe.dataset(download=download)
        run.train(recipe, images, overwrites=overwrite)
    typer.echo(f"Done in {time.perf_counter() - started:.0f} s. Weights and log are in {out}. Now measure them:")
    typer.echo(f"  art-oat evaluate {out} --nb-robust {min(1000, len(images.test.x))}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder that art-oat train wrote.")],
    attack: AttackNames = None,
    nb_robust: NbRobust = None,
    eps: Annotated[float | None, typer.Option(help="Radius of the attacks; that of the training if not given.")] = None,
    norm: Annotated[str | None, typer.Option(help="Linf or L2; that of the training if not given.")] = None,
    lambdas: Annotated[str | None, typer.Option(help="Where to measure; at the trained lams if not given.")] = None,
    nb_workers: NbWorkers = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the subset and the attacks.")] = 0,
) -> None:
    """Attack a trained network on the test images at every lam; write tradeoff.csv and tradeoff.png beside it."""
    from art_oat.run import Measurement, Run

    with _refusals():
        trained = Run(run, typer.echo)
        recipe = trained.recipe
        attacks = tuple(attack or Measurement.attacks)
        _check_attacks(attacks, recipe.eps if eps is None else eps, norm or recipe.norm)
        measurement = Measurement(attacks, nb_robust, eps, norm, _numbers(lambdas) if lambdas else None, seed)  # type: ignore[arg-type]
        images = recipe.dataset()
        curve = trained.measure(measurement, images, nb_workers=nb_workers)
    _show(curve)
    typer.echo(f"\nTable and picture are in {run}: {run / 'tradeoff.csv'}, {run / 'tradeoff.png'}")


@contextmanager
def _refusals() -> Iterator[None]:
    """Show what is refused as one message, without a traceback."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        raise typer.BadParameter(str(error)) from error


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"lambdas must be numbers with commas between, such as 0,0.5,1, got {text!r}.") from None


def _check_attacks(names: tuple[str, ...], eps: float, norm: str) -> None:
    from art_oat.evaluation.robustness import attack_by_name

    for name in names:
        attack_by_name(name, eps, norm)  # type: ignore[arg-type]


def _show(curve: TradeoffCurve) -> None:
    from art_oat.evaluation.report import table

    typer.echo(
        f"\nAccuracy in percent, +- one standard error; attacks: {curve.norm}, eps {curve.eps:.3g}, images in [0, 1].\n"
    )
    typer.echo(table(curve))
