"""``art-oat evaluate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from art_oat.cli.app import FILLED
from art_oat.cli.options import Config, Device, Json, NbWorkers, TrustNetwork, only_given
from art_oat.cli.terminal import only_json, refusals, say, search_here, short_warnings, show, terminable


def evaluate() -> None:
    """Attack a trained network on the test images at every lam and width.

    Writes tradeoff.csv, tradeoff.png, samples.csv (what broke which image) and README.md (a model card, with which the
    folder can be shared as it is) there. The same command goes on with an evaluation that was interrupted. Several
    processes, one for each GPU, say, share the images: torchrun
    --nproc-per-node 2 -m art_oat evaluate ...
    """


def _evaluate(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder that art-oat train wrote.")],
    nb_workers: NbWorkers = None,
    trust_network: TrustNetwork = False,
    config: Config = None,
    json: Json = False,
    device: Device = "auto",
    **given: Any,
) -> None:
    from art_oat.experiment.config import measurement_in
    from art_oat.experiment.measurement import Measurement
    from art_oat.experiment.options import read
    from art_oat.experiment.run import Run
    from art_oat.group import in_group

    if trust_network:
        search_here()
    with only_json(json) as told, refusals(), in_group(device) as group, terminable(), short_warnings():
        base = Measurement() if config is None else measurement_in(config)
        chosen = read(Measurement, given if config is None else only_given(ctx, given))
        if chosen.get("norm") == "L1":
            chosen = {"attacks": ("autoattack",), **chosen}  # PGD knows no L1
        trained = Run(run, say, trusts_network=trust_network, device_type=device)
        measurement = replace(base, **chosen)
        with trained.held():  # first, as what another process is at work on may lack its weights for a while
            measurement.check(trained.recipe)
            curve = trained.measure(measurement, trained.recipe.dataset(keeps_levels=True), nb_workers=nb_workers)
        if group.is_first:
            show(curve)
            typer.echo(f"\nTable and picture are in {run}: {run / 'tradeoff.csv'}, {run / 'tradeoff.png'}")
        told.update({"run": str(run), "points": curve.rows()})


FILLED["evaluate"] = _evaluate
