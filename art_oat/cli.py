"""Owns the command line, ``art-oat``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from art_oat.evaluation import TradeoffCurve

app = typer.Typer(
    help="One network whose robustness and cost are dialed after training.", no_args_is_help=True, add_completion=False
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


_SEVERAL = ("--lambdas", "--widths")
_NUMBER = r"(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(,{_NUMBER})*,?", re.IGNORECASE)


def joined(arguments: Sequence[str]) -> list[str]:
    """Join the numbers that follow ``--lambdas`` or ``--widths``: ``--widths 0.5 1`` becomes ``--widths=0.5,1``.

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
            separator = ("," if has_value else "=") * (name in _SEVERAL)
    return result


class _Command(TyperCommand):
    """A command whose options may take several numbers."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, with what belongs to one option joined."""
        return super().parse_args(ctx, joined(args))


def _radius(name: str) -> Callable[[Any], float]:
    """Return what reads a radius or a step, such as ``8/255``."""

    def read(value: Any) -> float:
        from art_oat.attacks import parse_eps

        try:
            return parse_eps(str(value), name)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return read


Numbers = list[str] | None
_METAVAR = "NUMBERS"
Out = Annotated[Path, typer.Option(help="Folder for weights, log, table and picture.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace weights of another training in --out.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the split, the weights and the training.")]
AttackNames = Annotated[
    list[str] | None,
    typer.Option(
        help="autoattack, autoattack-plus, screen, pgd-K, pgd-KxR (R restarts), art:NAME or torchattacks:NAME; "
        "may be repeated."
    ),
]
AllowLargeEps = Annotated[
    bool, typer.Option("--allow-large-eps", help="Take an eps of half the range of the images, or more.")
]
NbRobust = Annotated[int | None, typer.Option(min=10, help="Test images to attack; all if not given.")]
NbWorkers = Annotated[
    int | None, typer.Option(min=1, help="Shards of images to attack at once; one per core if not given.")
]


@app.command(cls=_Command)
def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for weights, log, table and picture; runs/demo, or runs/demo-widths, if not given."),
    ] = None,
    widths: Annotated[
        Numbers,
        typer.Option(help="Widths to train and measure, such as 0.5 0.75 1; only 1 if not given.", metavar=_METAVAR),
    ] = None,
    seed: Seed = 0,
    nb_epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    nb_robust: Annotated[int, typer.Option(min=10, max=1800, help="Test images to attack.")] = 200,
    attack: AttackNames = None,
    overwrite: Overwrite = False,
) -> None:
    """Train on digits that lie on photographs, attack the result at every lam and width, show the trade-off."""
    from art_oat.experiment.demo import (  # the library takes seconds to import; --help need not
        MEASUREMENT,
        recipe_and_folder,
    )
    from art_oat.experiment.recipe import Recipe
    from art_oat.experiment.run import Run

    started = time.perf_counter()
    with _refusals():
        recipe, usual_folder = recipe_and_folder(_numbers("widths", widths) or Recipe.widths)
        recipe = replace(recipe, seed=seed, nb_epochs=nb_epochs or recipe.nb_epochs)
        measurement = replace(MEASUREMENT, attacks=tuple(attack or MEASUREMENT.attacks), nb_robust=nb_robust)
        _check_attacks(measurement.attacks, recipe.eps, recipe.norm)
        run, data = Run(out or usual_folder, typer.echo), recipe.dataset()
        run.train(recipe, data, keeps_best=False, overwrites=overwrite or out is None)
        curve = run.measure(measurement, data)
    _show(curve)
    typer.echo(f"\nDone in {time.perf_counter() - started:.0f} s. Weights, table and picture are in {run.folder}:")
    typer.echo(f"  {run.folder / 'tradeoff.png'}")
    _show_use(run.folder, min(recipe.widths))


# typer reads the options of a command off its arguments: this one is long, and does nothing but hand them on
@app.command(cls=_Command)
def train(
    data: Annotated[
        str, typer.Option(help="cifar10, mnist, svhn, stl10, digits, textured-digits, or a path that ends in .npz.")
    ],
    out: Out,
    data_folder: Annotated[
        str | None, typer.Option(help="Where the data set lies; ART's data folder if not given.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Download the data set where it is missing.")] = False,
    nb_train: Annotated[int | None, typer.Option(min=1, help="Training images to keep; all if not given.")] = None,
    network: Annotated[
        str, typer.Option(help="small, small-16-32-64 (channels), resnet18, resnet34, wrn-16-8.")
    ] = "resnet18",
    lambdas: Annotated[
        Numbers, typer.Option(help="The lams to train; 0 0.1 0.2 0.3 0.4 1 if not given.", metavar=_METAVAR)
    ] = None,
    widths: Annotated[
        Numbers,
        typer.Option(help="Fractions of channels to train, such as 0.5 0.75 1; only 1 if not given.", metavar=_METAVAR),
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="shared: one last layer for all widths; per-width: one for each.")
    ] = None,
    width_sampling: Annotated[
        str | None, typer.Option(help="Widths a step trains: random (one), all, or sandwich (two ends, one between).")
    ] = None,
    distills: Annotated[
        bool | None, typer.Option(help="Whether narrower widths learn from the answers of the widest.")
    ] = None,
    eps: Annotated[
        float,
        typer.Option(
            help="Radius of the attack, images in [0, 1], such as 0.2 or 8/255.",
            metavar="NUMBER",
            parser=_radius("eps"),
            show_default="8/255",
        ),
    ] = 8 / 255,
    eps_step: Annotated[
        float | None,
        typer.Option(
            help="Step of the attack, likewise; its default if not given.",
            metavar="NUMBER",
            parser=_radius("eps_step"),
        ),
    ] = None,
    norm: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    allow_large_eps: AllowLargeEps = False,
    pretrained: Annotated[
        Path | None,
        typer.Option(help="Weights of the plain network to start from, .safetensors or .pt; best with slow-start."),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(help="dial, published, robust (with AWP and averaged weights) or fast (one step, guarded)."),
    ] = "dial",
    attack: Annotated[
        str | None, typer.Option(help="pgd-K, n-fgsm, art:NAME or torchattacks:NAME; the recipe's if not given.")
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(help="Attack to go on by where robustness collapses, '' for none; the recipe's if not given."),
    ] = None,
    loss: Annotated[str | None, typer.Option(help="oat, trades or mart; the recipe's if not given.")] = None,
    awp: Annotated[
        float | None,
        typer.Option(help="Size of a perturbation of weights, such as 0.01, 0 for none; the recipe's if not given."),
    ] = None,
    weight_of_one: Annotated[
        float | None,
        typer.Option(help="How often lam 1 is drawn for once of each other lam above 0; the recipe's if not given."),
    ] = None,
    clean_share: Annotated[
        float | None,
        typer.Option(
            help="Share of the epochs, the first, without attack; the recipe's if not given, 0 for pretrained weights."
        ),
    ] = None,
    nb_epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 30,
    batch_size: Annotated[int, typer.Option(min=2, help="Samples per step.")] = 128,
    schedule: Annotated[str, typer.Option(help="one-cycle, cosine, piecewise, slow-start or constant.")] = "one-cycle",
    learning_rate: Annotated[float, typer.Option(help="Largest learning rate of the schedule.")] = 0.1,
    weight_decay: Annotated[
        float, typer.Option(help="Of convolutions and linear layers, not of norms and FiLM.")
    ] = 5e-4,
    augmentation: Annotated[
        str, typer.Option(help="crop-flip, crop, none, or auto: what suits the data set.")
    ] = "auto",
    ema: Annotated[
        float | None,
        typer.Option(help="Decay of an average of weights, such as 0.999, 0 for none; the recipe's if not given."),
    ] = None,
    label_smoothing: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of every label spread over all.")
    ] = 0.0,
    precision: Annotated[
        str, typer.Option(help="float32, or bf16: passes in bfloat16, faster where the hardware has it.")
    ] = "float32",
    attack_precision: Annotated[
        str | None, typer.Option(help="That of the attack alone, float32 or bf16; as --precision if not given.")
    ] = None,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Lay weights and images out with channels last, which is faster.")
    ] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train one network for every lam and width on a data set; keep the best of five epochs on validation images.

    A training that is interrupted keeps the best so far; the same command again goes on with it.
    """
    from art_oat.experiment.recipe import Recipe, plain_parts
    from art_oat.experiment.run import Run
    from art_oat.training import Method, StratifiedSampling

    started = time.perf_counter()
    with _refusals():
        if not widths and any(choice is not None for choice in (heads, width_sampling, distills)):
            raise ValueError(
                "heads, width_sampling and distills are for several widths: name them, --widths 0.5 0.75 1."
            )
        if weight_of_one is not None and lambdas is not None and 1.0 not in (_numbers("lambdas", lambdas) or ()):
            raise ValueError("weight_of_one needs lam 1 among lambdas.")
        given = {"attack": attack, "fallback": fallback, "loss": loss, "weight_perturbation": awp, "ema": ema}
        chosen: dict[str, Any] = {name: value or None for name, value in given.items() if value is not None}
        if pretrained is not None:
            chosen["clean_share"] = 0.0
        if clean_share is not None:
            chosen["clean_share"] = clean_share
        if weight_of_one is not None:
            chosen["sampling"] = StratifiedSampling({1.0: weight_of_one})
        named = Method.named(recipe, eps=eps, eps_step=eps_step, norm=norm, **chosen)  # type: ignore[arg-type]
        settings = Recipe(
            data=data,
            data_folder=data_folder,
            nb_train=nb_train,
            network=network,
            pretrained=None if pretrained is None else str(pretrained),
            lambdas=_numbers("lambdas", lambdas) or Recipe.lambdas,
            widths=_numbers("widths", widths) or Recipe.widths,
            heads=heads or Recipe.heads,  # type: ignore[arg-type]
            width_sampling=width_sampling or Recipe.width_sampling,  # type: ignore[arg-type]
            distills=Recipe.distills if distills is None else distills,
            eps=eps,
            eps_step=eps_step,
            norm=norm,  # type: ignore[arg-type]
            allow_large_eps=allow_large_eps,
            nb_epochs=nb_epochs,
            batch_size=batch_size,
            schedule=schedule,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            augmentation=augmentation,  # type: ignore[arg-type]
            label_smoothing=label_smoothing,
            precision=precision,  # type: ignore[arg-type]
            attack_precision=attack_precision,  # type: ignore[arg-type]
            channels_last=channels_last,
            seed=seed,
            **plain_parts(named),
        )
        run = Run(out, typer.echo)
        images = settings.dataset(download=download)
        run.train(settings, images, overwrites=overwrite)
    typer.echo(f"Done in {time.perf_counter() - started:.0f} s. Weights and log are in {out}. Now measure them:")
    typer.echo(f"  art-oat evaluate {out} --nb-robust {min(1000, len(images.test.x))}")


@app.command(cls=_Command)
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder that art-oat train wrote.")],
    attack: AttackNames = None,
    nb_robust: NbRobust = None,
    eps: Annotated[
        float | None,
        typer.Option(
            help="Radius of the attacks, such as 8/255; that of the training if not given.",
            metavar="NUMBER",
            parser=_radius("eps"),
        ),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Linf, L2 or L1; that of the training if not given.")] = None,
    allow_large_eps: AllowLargeEps = False,
    lambdas: Annotated[
        Numbers, typer.Option(help="Where to measure; at the trained lams if not given.", metavar=_METAVAR)
    ] = None,
    widths: Annotated[
        Numbers, typer.Option(help="Where to measure; at the trained widths if not given.", metavar=_METAVAR)
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Test images to attack at once.")] = 250,
    nb_workers: NbWorkers = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the subset and the attacks.")] = 0,
) -> None:
    """Attack a trained network on the test images at every lam and width.

    Writes tradeoff.csv, tradeoff.png and samples.csv (what broke which image) there. The same command goes on with an
    evaluation that was interrupted.
    """
    from art_oat.experiment.run import Measurement, Run

    with _refusals():
        trained = Run(run, typer.echo)
        recipe = trained.recipe
        attacks = tuple(attack or (("autoattack",) if norm == "L1" else Measurement.attacks))  # PGD knows no L1
        _check_attacks(attacks, recipe.eps if eps is None else eps, norm or recipe.norm)
        measurement = Measurement(
            attacks,
            nb_robust,
            eps,
            norm,  # type: ignore[arg-type]
            _numbers("lambdas", lambdas),
            _numbers("widths", widths),
            shard_size,
            seed,
        )
        images = recipe.dataset()
        curve = trained.measure(measurement, images, nb_workers=nb_workers, allow_large_eps=allow_large_eps)
    _show(curve)
    typer.echo(f"\nTable and picture are in {run}: {run / 'tradeoff.csv'}, {run / 'tradeoff.png'}")


@contextmanager
def _refusals() -> Iterator[None]:
    """Show what is refused as one message, without a traceback."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        message = str(error).replace("allow_large_eps=True", "--allow-large-eps")
        raise typer.BadParameter(message) from error


def _numbers(name: str, values: Numbers) -> tuple[float, ...] | None:
    """Return what an option was given, in one value or in several; None where it was not given."""
    if not values:
        return None
    text = ",".join(values)
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be numbers, such as --{name} 0.5 1, got {text!r}.") from None


def _check_attacks(names: tuple[str, ...], eps: float, norm: str) -> None:
    from art_oat.attacks.registry import name_faults
    from art_oat.checks import refuse

    refuse([fault for name in names for fault in name_faults(name, eps=eps, norm=norm, use="evaluation")])  # type: ignore[arg-type]


def _show(curve: TradeoffCurve) -> None:
    from art_oat.attacks import format_eps

    attacks = f"{curve.norm}, eps {format_eps(curve.eps)}, images in [0, 1]"
    typer.echo(f"\nAccuracy in percent, +- one standard error; attacks: {attacks}.\n")
    typer.echo(curve.table())
    for point in curve.points:
        for warning in point.warnings:
            typer.secho(f"Warning at lam {point.lam:g}, width {point.width:g}: {warning}", fg="yellow")


def _show_use(folder: Path, width: float) -> None:
    """Show how to use what a run trained, at a width."""
    if width == 1:
        typer.echo(
            f"  model = art_oat.load_model({str(folder)!r}); model.pinned(art_oat.OperatingPoint(lam=0.3))(images)"
        )
        return
    typer.echo(
        f"  model = art_oat.load_model({str(folder)!r}); point = art_oat.OperatingPoint(lam=0.3, width={width:g})"
    )
    typer.echo("  model.pinned(point)(images)  # answers with a part of the channels, at less cost")
    typer.echo("  art_oat.fold(model, point)  # an ordinary smaller network, to ship")
