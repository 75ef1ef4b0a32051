"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="cpu, gpu, or auto: a GPU where torch sees one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace weights of another training in --out.")]
