"""int8 for ONNX files: convolutions by ranges of activations that are known before, matrix products by those at hand.

Why both: a convolution whose ranges are found out while it runs (``ConvInteger``) took 1.8 to 11 times as long as in
float32 on a small CNN, one with known ranges 0.65 times; a transformer whose every operation has known ranges took 1.2
to 2.8 times as long, one with matrix products alone, whose ranges are found out, 0.7 to 0.8 (one thread of a CPU,
onnxruntime 1.31, batches of 32). Convolutions in groups stay in float32: depthwise ones make a ConvNeXt take twice as
long, and hold few weights.
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

    Args:
        path: Of the file.
        name: Of the one input that the network takes.
        calibration: Inputs ``[N, ...]``, float32, whose activations say the ranges of convolutions.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, static = Path(folder) / "plain.onnx", Path(folder) / "static.onnx"
        quant_pre_process(path, plain)
        nodes = onnx.load(plain).graph.node
        convolutions = [node.name for node in nodes if node.op_type == "Conv" and _nb_groups(node) == 1]
        if convolutions:
            quantize_static(
                plain,
                static,
                _Batches(name, calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                nodes_to_quantize=convolutions,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        source = static if convolutions else plain
        quantize_dynamic(source, path, op_types_to_quantize=list(_MATRIX_PRODUCTS), weight_type=QuantType.QInt8)


def _nb_groups(node: Any) -> int:
    return next((int(it.i) for it in node.attribute if it.name == "group"), 1)


class _Batches:
    """Inputs for calibration, batch by batch, as onnxruntime asks for them."""

    def __init__(self, name: str, x: Tensor) -> None:
        self._batches: Iterator[dict[str, Any]] = iter([{name: batch.numpy()} for batch in x.split(_BATCH_SIZE)])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by the name of the input; None after the last."""
        return next(self._batches, None)
