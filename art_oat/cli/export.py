"""``art-oat export``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from art_oat.cli.options import Json, TrustNetwork
from art_oat.cli.terminal import only_json, refusals, say, search_here, short_warnings, terminable

if TYPE_CHECKING:
    from art_oat.experiment.recipe import Recipe


def export(  # noqa: PLR0913 - each is an option
    run: Annotated[Path, typer.Argument(help="Folder of art-oat train, or the name of a network that comes along.")],
    out: Annotated[Path, typer.Option(help="The file; its suffix tells the format: .onnx, .pt2, .pt, .safetensors.")],
    lam: Annotated[
        float | None, typer.Option(help="Which point: 0 asks for accuracy, 1 for robustness. Or --dial.")
    ] = None,
    width: Annotated[float | None, typer.Option(help="One of the trained widths; 1 if not given.")] = None,
    dial: Annotated[bool, typer.Option("--dial", help="Every lam in one file, which takes lam as an input.")] = False,
    file_format: Annotated[
        str | None, typer.Option("--format", help="onnx, torch.export, torchscript or safetensors.")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32, float16, or int8 (ONNX alone).")] = "float32",
    nb_test: Annotated[
        int, typer.Option(min=0, help="Test images to measure the accuracy of a point on; 0 for none.")
    ] = 1000,
    trust_network: TrustNetwork = False,
    json: Json = False,
) -> None:
    """Write a point of a trained network, or its whole dial, as a file that others run.

    The file is run and compared with the network before it is there.
    """
    from art_oat.experiment.pretrained import pretrained

    if trust_network:
        search_here()
    with only_json(json) as told, refusals(), terminable(), short_warnings():
        _check_asked(lam, precision, is_dial=dial)
        trained = pretrained(run, device_type="cpu", trusts_network=trust_network)
        settings: dict[str, Any] = {"width": width, "format": file_format}
        if dial:
            exported = trained.classifier.export_dial(out, **settings)
        else:
            data = _samples(trained.recipe, nb_test, is_needed=precision == "int8") if nb_test else None
            exported = trained.classifier.export(out, lam=lam, precision=precision, data=data, **settings)
        say(str(exported))
        told.update(asdict(exported))


def _check_asked(lam: float | None, precision: str, *, is_dial: bool) -> None:
    """Refuse what no file could be before anything is loaded."""
    if (lam is None) != is_dial:
        given = "both" if is_dial else "neither"
        raise ValueError(f"one of --lam and --dial must be given, got {given}: one point, or all of them in one file.")
    if is_dial and precision != "float32":
        raise ValueError(f"--precision must be float32 for --dial, got {precision}.")


def _samples(recipe: Recipe, nb_test: int, *, is_needed: bool) -> tuple[Any, Any] | None:
    """Return test images; of a network that comes along, say, they need not be on this machine."""
    try:
        data = recipe.dataset(keeps_levels=True)
    except FileNotFoundError as error:
        if is_needed:
            raise
        say(f"Its accuracy is not measured: {error}")
        return None
    return data.test.x[:nb_test], data.test.y[:nb_test]
