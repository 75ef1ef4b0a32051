"""``art-oat train``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from art_oat.cli.app import FILLED
from art_oat.cli.options import Config, Device, Overwrite, is_given, only_given
from art_oat.cli.terminal import refusals, say, search_here, short_warnings, terminable

if TYPE_CHECKING:
    from art_oat.experiment.recipe import Recipe

Out = Annotated[Path, typer.Option(help="Folder for weights, log, table and picture.")]


def train() -> None:
    """Train one network for every lam and width on a data set; keep the best of five epochs on validation images.

    A training that is interrupted keeps the best so far; the same command again goes on with it. Several processes, one
    for each GPU, say, train one network together: torchrun --nproc-per-node 2 -m art_oat train ...
    """


def _train(  # noqa: PLR0913 - each is an option
    ctx: typer.Context,
    out: Out,
    recipe: Annotated[
        str,
        typer.Option(
            help="A method, such as dial, published, robust (logit pairing, AWP, averaged) or fast (one step, "
            "logit pairing, guarded); or a baseline, the plain network of one lam: natural, pgd-at, trades or awp."
        ),
    ] = "dial",
    config: Config = None,
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
    from art_oat.experiment.run import Run
    from art_oat.group import in_group
    from art_oat.models.registry import network_kind

    started = time.perf_counter()
    search_here()  # for a network of the caller's own
    with refusals(), in_group(device) as group, terminable(), short_warnings():  # who waits for others can be ended
        settings, run = settings_of(ctx, recipe, config, given), Run(out, say, device_type=device)
        images = group.first_then_all(lambda: settings.dataset(download=download, keeps_levels=True))
        every: dict[str, Any] = {"checkpoint_steps": checkpoint_steps, "checkpoint_minutes": checkpoint_minutes or None}
        run.train(settings, images, overwrites=overwrite, **every)
    if not group.is_first:
        return
    typer.echo(f"Done in {time.perf_counter() - started:.0f} s. Weights and log are in {out}. Now measure them:")
    trust = "" if network_kind(settings.network).is_trusted else " --trust-network"
    typer.echo(f"  art-oat evaluate {out} --nb-robust {min(1000, len(images.test.x))}{trust}")


def settings_of(ctx: typer.Context, recipe: str, config: Path | None, given: dict[str, Any]) -> Recipe:
    """Return what is trained by, from a file or from a named recipe, with the options that are given."""
    from art_oat.experiment.config import recipe_in
    from art_oat.experiment.options import recipe_from

    if config is None:
        return recipe_from(recipe, given)
    if is_given(ctx, "recipe"):
        raise ValueError("one of --config and --recipe must be given, got both: each is a whole method.")
    return recipe_from(recipe, only_given(ctx, given), recipe_in(config))


FILLED["train"] = _train
