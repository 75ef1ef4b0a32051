"""``art-oat info``."""

from __future__ import annotations

from typing import Annotated

import typer

from art_oat.cli.options import Json
from art_oat.cli.terminal import only_json, refusals, say


def info(
    run: Annotated[
        str, typer.Argument(help="Folder of art-oat train or of save_model, or the name of a pretrained network.")
    ],
    json: Json = False,
) -> None:
    """Show what a folder holds: network, lams, widths, how it was trained, what was measured. Nothing is changed."""
    with only_json(json) as told, refusals():
        from art_oat.experiment.info import Info

        found = Info.of(run)
        say(str(found))
        told.update(found.as_values())
