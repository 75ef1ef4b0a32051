"""Ships a network as a file: written, run again, compared, and only then there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from art_oat.checks import path_faults, refusals, refuse
from art_oat.export.format import ExportError, Format, Run, exporter
from art_oat.export.formats import named_format
from art_oat.export.shipment import DTYPES, Shipment
from art_oat.numbers import is_name_in, shown
from art_oat.storage import replaced, writing_fault

TOLERANCES = {"float32": 1e-3, "float16": 5e-2, "int8": math.inf}
"""How far the answers of a file may be from the network's, relative to the largest of them, by precision.

Rounding of 6e-8 (float32) or 5e-4 (float16), enlarged layer by layer: the largest seen in float32, over a hundred
networks, is 3e-4. int8 rounds activations to 256 levels, which some networks bear and others do not: its accuracy is
measured instead.
"""

_NB_TRIED = 7
_BATCHES = (1, 6)  # other sizes than that of the examples
_BATCH_SIZE = 128
NB_CALIBRATING = 512


@dataclass(frozen=True)
class Exported:
    """A file that was written, and what was found out about it by running it.

    Attributes:
        path: Of the file.
        format: By name.
        lam: That it answers at; None where it takes lam as an input.
        width: That it is cut to.
        precision: Of its weights.
        nb_bytes: Its size.
        difference: Largest difference of its scores from the network's, relative to the largest score, on random
            inputs.
        accuracy_before: Share of the given data that the network gets right; None without data.
        accuracy_after: Share that the file gets right.
    """

    path: Path
    format: str
    lam: float | None
    width: float
    precision: str
    nb_bytes: int
    difference: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    def __str__(self) -> str:
        lam = "every lam" if self.lam is None else f"lam {self.lam:g}"
        text = f"{self.path}: {self.format}, {lam}, width {self.width:g}, {self.precision}, {self.nb_bytes:,} bytes; "
        text += f"run again, its scores differ by {self.difference:.1e} of the largest"
        if self.accuracy_before is None or self.accuracy_after is None:
            return text
        return f"{text}; accuracy {self.accuracy_before:.2%} before, {self.accuracy_after:.2%} in the file"


def export_faults(
    path: str | PathLike[str],
    format: str | None,  # noqa: A002 - as it is called by users
    precision: str,
    *,
    has_data: bool = False,
    is_dial: bool = False,
    has_preprocessing: bool = False,
) -> list[str]:
    """Say why a network cannot be asked to be written so; writes nothing."""
    if faults := path_faults({"path": path}):
        return faults
    if not is_name_in(precision, DTYPES):
        faults.append(f"precision must be one of {', '.join(DTYPES)}, got {shown(precision)}.")
    if is_dial and (has_data or precision == "int8"):
        faults.append("a dial must be shipped without data, and not as int8: accuracy and ranges are those of a point.")
    elif precision == "int8" and not has_data:
        faults.append("data must be given for int8, as (x, y): it says the ranges of activations, and the accuracy.")
    if fault := writing_fault(Path(path)):
        faults.append(f"path must be a file that can be written, got {shown(str(path))}: {fault}.")
    if unknown := refusals(lambda: named_format(format, Path(path))):
        return [*faults, *unknown]
    found = named_format(format, Path(path))
    if is_name_in(precision, DTYPES) and precision not in found.precisions:
        known = ", ".join(found.precisions)
        faults.append(f"precision must be one of {known} for {found.name}, got {precision!r}.")
    if is_dial and not found.takes_dial:
        faults.append(f"format must be one with inputs for a dial, got {found.name}, which holds weights alone.")
    if has_preprocessing and not found.takes_preprocessing:
        faults.append(
            f"preprocessing must be False for {found.name}, which holds weights alone: preprocess inputs before."
        )
    return faults


def ship(
    shipment: Shipment,
    path: str | PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - as it is called by users
    precision: str = "float32",
    data: tuple[Tensor, Tensor] | None = None,
) -> Exported:
    """Write a network as a file, and run that, before it gets its name.

    Args:
        shipment: What to write.
        path: Of the file; an older one is replaced.
        format: One of :data:`~art_oat.export.formats.FORMATS`; None for that of the suffix.
        precision: ``"float32"``, ``"float16"`` or ``"int8"``.
        data: Inputs ``[N, ...]``, float32, and class indices ``[N]`` to measure accuracy on; needed for int8, which
            takes the ranges of activations from the first 512. None for a dial.

    Raises:
        ExportError: If the network cannot be written so, the file does not run, or it answers otherwise.
        ImportError: If a package for the format is missing.
        OSError: If it cannot be written.
        ValueError: If arguments are not as above; names every fault.
    """
    refuse(export_faults(path, format, precision, has_data=data is not None, is_dial=shipment.lam is None))
    path, kind = Path(path), named_format(format, Path(path))
    kind.check_packages()
    with replaced(path) as partial:
        run, difference = _written(kind, shipment, precision, partial)
        accuracies: tuple[float, ...] = ()
        if data is not None:
            if precision == "int8":
                run, difference = _quantized(kind, shipment, partial, data[0][:NB_CALIBRATING])
            accuracies = _accuracy(shipment.reference(), *data), _accuracy(run, *data)
        size = partial.stat().st_size
    return Exported(path, kind.name, shipment.lam, shipment.width, precision, size, difference, *accuracies)


def _written(kind: Format, shipment: Shipment, precision: str, path: Path) -> tuple[Run, float]:
    """Write a file, in float32 if it is to be int8; return how it answers, and how far from the network."""
    precision = "float32" if precision == "int8" else precision
    with exporter(kind.name, "hold this network"):
        kind.write(shipment, precision, path)
    return _checked(kind, shipment, precision, path)


def _quantized(kind: Format, shipment: Shipment, path: Path, calibration: Tensor) -> tuple[Run, float]:
    with exporter(kind.name, "hold this network in int8"):
        kind.quantize(shipment, path, calibration)
    return _checked(kind, shipment, "int8", path)


def _checked(kind: Format, shipment: Shipment, precision: str, path: Path) -> tuple[Run, float]:
    """Run a file; return how it answers, and how far from the network, unless that is too far."""
    with exporter(kind.name, "run what it holds of this network"):
        run = kind.run(path, shipment)
    difference, tolerance = _difference(kind, shipment, run), TOLERANCES[precision]
    if math.isfinite(difference) and difference <= tolerance:
        return run, difference
    raise ExportError(
        f"{kind.name} must answer as the network does, to {tolerance:g} of the largest score in {precision}, but its "
        f"file differs by {difference:.1e}. Nothing was written."
    )


def _difference(kind: Format, shipment: Shipment, run: Run) -> float:
    """Return how far a file answers from the network, batches of other sizes than that it was made with."""
    inputs = shipment.samples(_NB_TRIED)
    with torch.no_grad():
        expected = shipment.reference()(*inputs)
    with exporter(kind.name, "take batches of any size of this network"), torch.no_grad():
        batches = zip(*(it.split(list(_BATCHES)) for it in inputs), strict=True)
        found = torch.cat([run(*batch) for batch in batches])
    if found.shape != expected.shape:
        raise ExportError(
            f"{kind.name} must answer batches of any size, but its file gives scores {list(found.shape)} where "
            f"the network gives {list(expected.shape)}. Nothing was written."
        )
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    return difference if math.isfinite(difference) else math.inf


def _accuracy(run: Run, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        answers: Sequence[Any] = [run(batch).argmax(dim=1) for batch in x.split(_BATCH_SIZE)]
    return float((torch.cat(list(answers)) == y).double().mean())
