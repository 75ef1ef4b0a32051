"""``art-oat robustbench``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from art_oat.cli.app import FILLED
from art_oat.cli.options import Device, Json, NbWorkers, TrustNetwork
from art_oat.cli.terminal import only_json, refusals, say, search_here, short_warnings, terminable


def robustbench() -> None:
    """Write one operating point as RobustBench takes it, attacked by AutoAttack: JSON, images, and a model function.

    The same command goes on where it was interrupted. An entry is one network, so each point has a folder of its own.
    """


def _robustbench(
    run: Annotated[Path, typer.Argument(help="Folder that art-oat train wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the model, model.py, NAME.json and NAME.pt.")],
    nb_workers: NbWorkers = None,
    trust_network: TrustNetwork = False,
    json: Json = False,
    device: Device = "auto",
    **given: Any,
) -> None:
    from art_oat.experiment.options import read
    from art_oat.experiment.robustbench import submit
    from art_oat.experiment.run import Run
    from art_oat.experiment.submission import Submission
    from art_oat.launch import check_alone

    if trust_network:
        search_here()
    with only_json(json) as told, refusals(), terminable(), short_warnings():
        check_alone("art-oat robustbench")
        submission = Submission(**read(Submission, given))
        trained = Run(run, say, trusts_network=trust_network, device_type=device)
        done = submit(trained, submission, out, nb_workers=nb_workers)
        clean, robust = done.entry["clean_acc"], done.entry["autoattack_acc"]
        say(f"Clean {clean}%, under AutoAttack {robust}%, on {done.nb_images} images. Written:")
        for path in done.files:
            say(f"  {path}")
        if done.reservations:
            typer.secho(f"RobustBench would not take this yet: {'; '.join(done.reservations)}.", fg="yellow")
        told.update(asdict(done))


FILLED["robustbench"] = _robustbench
