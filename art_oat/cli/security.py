"""``art-oat security``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from art_oat.cli.options import Device, TrustNetwork
from art_oat.cli.terminal import refusals, say, search_here, short_warnings, terminable

if TYPE_CHECKING:
    from art_oat.evaluation import SecurityCurve
    from art_oat.experiment.run import Run


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

    Writes security.csv (the distance for each image) and security.png there.
    """
    from art_oat.experiment.run import Run
    from art_oat.launch import check_alone

    if trust_network:
        search_here()
    with refusals(), terminable(), short_warnings():
        check_alone("art-oat security")
        trained = Run(run, say, trusts_network=trust_network, device_type=device)
        _ = trained.recipe  # first, so that a folder without a run is refused as such
        with trained.held():
            curve = _measured(trained, eps_max, attack, check, nb_images)
    typer.echo(f"{curve}\n\nTable and picture are in {run}: {run / 'security.csv'}, {run / 'security.png'}")


def _measured(run: Run, eps_max: str | None, attack: str, check: str, nb_images: int) -> SecurityCurve:
    from art_oat.attacks import parse_eps
    from art_oat.evaluation import EvaluationOptions, SecurityCurve, ThreatModel
    from art_oat.experiment.pretrained import pretrained

    recipe = run.recipe
    eps = recipe.method.eps
    ball = ThreatModel(2 * eps if eps_max is None else parse_eps(eps_max, "eps_max"), recipe.method.norm)
    checked = () if check == "none" else (eps,)
    test = recipe.dataset(keeps_levels=True).test
    options = EvaluationOptions(nb_robust=min(nb_images, len(test.x)))
    dial = pretrained(run.folder, device_type=run.device_type, trusts_network=run.trusts_network)
    curve = SecurityCurve.measure(
        dial.classifier, *test, eps_max=ball, attack=attack, check_eps=checked, check=check, options=options
    )
    curve.to_csv(run.folder / "security.csv")
    curve.plot(run.folder / "security.png", subject=f"{recipe.network} on {Path(recipe.data).name}", eps=eps)
    return curve
