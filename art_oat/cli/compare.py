"""``art-oat compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from art_oat.cli.options import Json
from art_oat.cli.terminal import only_json, refusals, say
from art_oat.launch import check_alone


def compare(
    runs: Annotated[list[str], typer.Argument(help="Folders that art-oat evaluate has measured.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for comparison.csv, .md and .png; none if not given."),
    ] = None,
    json: Json = False,
) -> None:
    """Show runs beside each other, in one table and one figure; baselines are runs of one lam.

    Runs that were judged on other images, by other attacks or in another ball are refused, with what to do.
    """
    with only_json(json) as told, refusals():
        check_alone("art-oat compare")
        from art_oat.experiment.comparison import Comparison

        found = Comparison.of(runs)
        say(str(found))
        if out is not None:
            say(f"\nWritten: {', '.join(map(str, found.write(out)))}")
        told.update({"runs": [run.name for run in found.runs], "points": found.rows()})
