"""``art-oat report``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from art_oat.cli.options import Device, Json, TrustNetwork
from art_oat.cli.terminal import only_json, refusals, say, search_here, terminable
from art_oat.launch import check_alone


def report(
    run: Annotated[Path, typer.Argument(help="Folder that art-oat train, evaluate or demo wrote.")],
    out: Annotated[Path | None, typer.Option(help="The page to write; RUN/report.html if not given.")] = None,
    nb_images: Annotated[
        int, typer.Option(min=10, help="Test images to attack quickly, for robustness over the radius.")
    ] = 200,
    trust_network: TrustNetwork = False,
    json: Json = False,
    device: Device = "auto",
) -> None:
    """Write one page of a run for a browser, which needs no network: trade-off, a slider that turns lam, samples.

    What was not measured is left out, and the page says why.
    """
    from art_oat.checks import refuse
    from art_oat.experiment.run import Run
    from art_oat.report import collect, write_page
    from art_oat.storage import writing_fault

    if trust_network:
        search_here()
    with only_json(json) as told, refusals(), terminable():
        check_alone("art-oat report")
        trained = Run(run, say, trusts_network=trust_network, device_type=device)
        _ = trained.recipe  # first, so that a folder without a run is refused as such
        page = run / "report.html" if out is None else out
        refuse(
            [f"--out must be a file that can be written, got {page}: {why}."] if (why := writing_fault(page)) else []
        )
        found = collect(trained, nb_images=nb_images)
        write_page(found, page)
        typer.echo(f"The page is {page}. Open it in a browser.")
        points = [] if found.curve is None else found.curve.rows()
        radii = [asdict(line) for line in found.radii]
        told.update({"run": str(run), "page": str(page), "points": points, "radii": radii, "missing": found.missing})
