"""``art-oat security``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from art_oat.cli.options import Device, TrustNetwork
from art_oat.cli.terminal import refusals, say, search_here, short_warnings, terminable


def security(
    run: Annotated[Path, typer.Argument(help="Folder that art-oat train or demo wrote.")],
    eps_max: Annotated[
        str | None, typer.Option(help="Largest radius, such as 16/255; twice that of the training if not given.")
    ] = None,
    attack: Annotated[
        str, typer.Option(help="What searches: fmn-K, fmn-KxR with R runs, ddn-K, or search:NAME.")
    ] = "fmn-100x10",
    check: Annotated[
        str, typer.Option(help="What attacks at the radius of the training, too, such as autoattack; none for nothing.")
    ] = "none",
    nb_images: Annotated[int, typer.Option(min=10, help="Test images to attack, in the shares of the classes.")] = 200,
    trust_network: TrustNetwork = False,
    device: Device = "auto",
) -> None:
    """Look for the nearest wrong answers to test images: accuracy at every radius, for every lam and width.

    Writes security.csv (the distance for each image) and security.png there. The same command goes on with a search
    that was interrupted.
    """
    from art_oat.attacks import parse_eps
    from art_oat.experiment.run import Run
    from art_oat.experiment.security import SecuritySearch
    from art_oat.launch import check_alone

    if trust_network:
        search_here()
    with refusals(), terminable(), short_warnings():
        check_alone("art-oat security")
        trained = Run(run, say, trusts_network=trust_network, device_type=device)
        recipe = trained.recipe  # first, so that a folder without a run is refused as such
        largest = None if eps_max is None else parse_eps(eps_max, "eps_max")
        asked = SecuritySearch(attack, largest, None if check == "none" else check, nb_images)
        with trained.held():
            curve = asked.of(trained, recipe.dataset(keeps_levels=True))
    typer.echo(f"{curve}\n\nTable and picture are in {run}: {run / 'security.csv'}, {run / 'security.png'}")
