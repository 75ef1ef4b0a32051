"""Files that torch reads: torch.export, TorchScript, and weights alone as safetensors."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import nn

from art_oat.export.format import Format, Run
from art_oat.export.shipment import DTYPES, Shipment, ShippedNetwork

ABOUT = "art_oat.json"
"""Under which name files of torch hold what they say of themselves."""

_NB_EXAMPLES = 2  # torch takes 0 and 1 for constants


def shipped(shipment: Shipment, precision: str) -> ShippedNetwork:
    """Return what is exported: a copy of the network in a precision, with its preprocessing, in evaluation mode."""
    network = copy.deepcopy(shipment.network).to(DTYPES[precision]).requires_grad_(False)
    return ShippedNetwork(network, shipment.preprocessing, DTYPES[precision]).eval()


def exported_program(shipment: Shipment, network: nn.Module) -> torch.export.ExportedProgram:
    """Return a network as ``torch.export`` has it, for batches of any size."""
    with torch.no_grad():
        return torch.export.export(network, shipment.samples(_NB_EXAMPLES), dynamic_shapes=batched(shipment))


def batched(shipment: Shipment) -> dict[str, dict[int, Any]]:
    """Return which axes of the inputs may have any size: the first, the same in all."""
    return {name: {0: torch.export.Dim("N")} for name in shipment.inputs}


class TorchExport(Format):
    """``torch.export``: run by torch of the same version or a later one, without this library, and compiled there."""

    name = "torch.export"
    suffixes: ClassVar[tuple[str, ...]] = (".pt2",)

    def write(self, shipment: Shipment, precision: str, path: Path) -> None:
        """Write a file; see :class:`~art_oat.export.format.Format`."""
        program = exported_program(shipment, shipped(shipment, precision))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names of folders on this machine
        about = json.dumps(shipment.about(precision))
        with path.open("wb") as file:
            torch.export.save(program, file, extra_files={ABOUT: about})

    def run(self, path: Path, shipment: Shipment) -> Run:
        """Return how a file answers; see :class:`~art_oat.export.format.Format`."""
        with path.open("rb") as file:
            return torch.export.load(file).module()


class TorchScript(Format):
    """TorchScript, traced: run by torch and by libtorch in C++."""

    name = "torchscript"
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".ts")

    def write(self, shipment: Shipment, precision: str, path: Path) -> None:
        """Write a file; see :class:`~art_oat.export.format.Format`."""
        about = json.dumps(shipment.about(precision))
        with torch.no_grad():
            script = torch.jit.trace(shipped(shipment, precision), shipment.samples(_NB_EXAMPLES), check_trace=False)
        torch.jit.save(script, path, _extra_files={ABOUT: about})

    def run(self, path: Path, shipment: Shipment) -> Run:
        """Return how a file answers; see :class:`~art_oat.export.format.Format`."""
        script: Run = torch.jit.load(path, map_location="cpu")
        return script


class Weights(Format):
    """The ``state_dict`` of a folded network as safetensors: for the network's own class, in whatever code has it."""

    name = "safetensors"
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)
    takes_dial = False
    takes_preprocessing = False

    def write(self, shipment: Shipment, precision: str, path: Path) -> None:
        """Write a file; see :class:`~art_oat.export.format.Format`."""
        state = shipped(shipment, precision).network.state_dict()
        tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}  # what is tied, twice
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt", **shipment.about(precision)})

    def run(self, path: Path, shipment: Shipment) -> Run:
        """Return how a file answers: a copy of the network gets its weights from it alone."""
        tensors = safetensors.torch.load_file(path)
        network = copy.deepcopy(shipment.network)
        dtype = next((it.dtype for it in tensors.values() if it.is_floating_point()), torch.float32)
        network.to(dtype).load_state_dict(tensors)
        return ShippedNetwork(network, shipment.preprocessing, dtype).eval()
