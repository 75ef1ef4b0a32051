"""int8 for ONNX files: convolutions by ranges of activations that are known before, matrix products by those at hand.

Why both: a convolution whose ranges are found out while it runs (``ConvInteger``) takes longer than in float32, and so
does a transformer of known ranges, in which everything is quantized and back between matrix products. Convolutions in
groups stay in float32: depthwise ones are slow in int8, and hold few weights. ``python -m benchmarks.ship`` times all
three ways.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

_BATCH_SIZE = 64
_MATRIX_PRODUCTS = ("MatMul", "Gemm")


def quantize(path: Path, name: str, calibration: Tensor) -> None:
    """Replace a float32 ONNX file by one whose large weights are int8.

    Weights have 7 bits in their byte: on processors without VNNI, sums of two products of 8 bits saturate silently.

    Args:
        path: Of the file.
        name: Of the one input that the network takes.
        calibration: Inputs ``[N, ...]``, float32, whose activations say the ranges of convolutions.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, static = Path(folder) / "plain.onnx", Path(folder) / "static.onnx"
        quant_pre_process(path, plain)
        graph = _untied(plain)
        convolutions = [node.name for node in graph.node if node.op_type == "Conv" and _nb_groups(node) == 1]
        if convolutions:
            quantize_static(
                plain,
                static,
                Batches(name, calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                nodes_to_quantize=convolutions,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,
            )
        source = static if convolutions else plain
        kinds = list(_MATRIX_PRODUCTS)
        quantize_dynamic(source, path, op_types_to_quantize=kinds, weight_type=QuantType.QInt8, reduce_range=True)


def _untied(path: Path) -> Any:
    """Give every matrix product of a file weights of its own, and return its graph.

    onnxruntime transposes weights in place, layer by layer: those that two layers share, twice.
    """
    import onnx

    model = onnx.load(path)
    weights, seen = {it.name: it for it in model.graph.initializer}, set[str]()
    for number, node in enumerate(model.graph.node):
        for place, name in enumerate(node.input if node.op_type in _MATRIX_PRODUCTS else []):
            if name in weights and name in seen:
                own = model.graph.initializer.add()
                own.CopyFrom(weights[name])
                own.name = node.input[place] = f"{name}_{number}_{place}"
            seen.add(name)
    onnx.save(model, path)
    return model.graph


def _nb_groups(node: Any) -> int:
    return next((int(it.i) for it in node.attribute if it.name == "group"), 1)


class Batches:
    """Inputs for calibration, batch by batch, as onnxruntime asks for them."""

    def __init__(self, name: str, x: Tensor) -> None:
        self._batches: Iterator[dict[str, Any]] = iter([{name: batch.numpy()} for batch in x.split(_BATCH_SIZE)])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by the name of the input; None after the last."""
        return next(self._batches, None)
