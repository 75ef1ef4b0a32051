"""ONNX files: written by torch, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from art_oat.export.format import Format, Run
from art_oat.export.quantization import quantize
from art_oat.export.shipment import OUTPUT, Shipment
from art_oat.export.torch_files import batched, exported_program, shipped


class ONNX(Format):
    """ONNX: run by onnxruntime and many others, without torch."""

    name = "onnx"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16", "int8")
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript")

    def write(self, shipment: Shipment, precision: str, path: Path) -> None:
        """Write a file; see :class:`~art_oat.export.format.Format`."""
        program = torch.onnx.export(
            exported_program(shipment, shipped(shipment, precision)),
            dynamo=True,
            verbose=False,
            input_names=list(shipment.inputs),
            output_names=[OUTPUT],
            dynamic_shapes=batched(shipment),
        )
        assert program is not None
        program.save(path, external_data=False)
        _tell(path, shipment.about(precision))

    def quantize(self, shipment: Shipment, path: Path, calibration: Tensor) -> None:
        """Make a file int8; see :class:`~art_oat.export.format.Format`."""
        quantize(path, shipment.inputs[0], calibration)
        _tell(path, shipment.about("int8"))

    def run(self, path: Path, shipment: Shipment) -> Run:
        """Return how onnxruntime answers, on the CPU; see :class:`~art_oat.export.format.Format`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it would warn of what it optimizes
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run(*inputs: Tensor) -> Tensor:
            given = {name: it.numpy() for name, it in zip(shipment.inputs, inputs, strict=True)}
            return torch.from_numpy(session.run([OUTPUT], given)[0])

        return run


def _tell(path: Path, about: Mapping[str, str]) -> None:
    """Write into a file what it says of itself, and take out what torch says of this machine."""
    import onnx

    model = onnx.load(path)
    for node in model.graph.node:
        del node.metadata_props[:]  # names of folders
    onnx.helper.set_model_props(model, dict(about))
    onnx.save(model, path)
