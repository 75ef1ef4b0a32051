"""The formats that there are, and which one is meant. Another one is a class, and an entry here."""

from __future__ import annotations

from pathlib import Path

from art_oat.export.format import Format
from art_oat.export.onnx_file import ONNX
from art_oat.export.torch_files import TorchExport, TorchScript, Weights
from art_oat.numbers import is_name_in, shown

FORMATS: dict[str, Format] = {it.name: it for it in (ONNX(), TorchExport(), TorchScript(), Weights())}
"""By name."""


def named_format(name: str | None, path: Path) -> Format:
    """Return the format of a name, or, for None, of a suffix.

    Raises:
        ValueError: If there is none.
    """
    if name is not None:
        if not is_name_in(name, FORMATS):
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {shown(name)}.")
        return FORMATS[name]
    found = next((it for it in FORMATS.values() if path.suffix in it.suffixes), None)
    if found is None:
        known = ", ".join(f"{' or '.join(it.suffixes)} ({it.name})" for it in FORMATS.values())
        raise ValueError(f"path must end in {known}, or format name one, got {path.name}.")
    return found
