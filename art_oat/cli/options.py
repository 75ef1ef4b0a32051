"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


def _config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Let a file stand for the options that would otherwise have to be given."""
    if path is not None:
        ctx.default_map = {"data": "that of --config"}
    return path


def only_given(ctx: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with None for those that are not on the command line."""
    return {name: value if is_given(ctx, name) else None for name, value in options.items()}


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option is on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_config,
        is_eager=True,
        help="Settings as run.json of a run holds them; options on the command line come before it.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and all else on stderr.")]
Device = Annotated[str, typer.Option(help="cpu, gpu, or auto: a GPU where torch sees one.")]
NbWorkers = Annotated[
    int | None, typer.Option(min=1, help="Shards of images to attack at once; one per core if not given.")
]
TrustNetwork = Annotated[
    bool, typer.Option("--trust-network", help="Import the code that the folder names as its network.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace weights of another training in --out.")]
