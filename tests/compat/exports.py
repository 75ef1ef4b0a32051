"""A folded network exported by torch and as ONNX, and how far what comes out of that is from it."""

from __future__ import annotations

import io

import onnxruntime
import torch
from torch import Tensor, nn

_ATTENTION = "attention with queries of other than four axes"
NO_ONNX = {
    "BiT": "its plain network differs by 6% as ONNX",
    "hiera, small": _ATTENTION,
    "nest, small": _ATTENTION,
    "samvit_base, small": _ATTENTION,
    "twins_svt_small, narrow": _ATTENTION,
}
"""What torch does not export right as ONNX, before conversion as little as after it, by the name of the network."""


def exported_differences(network: nn.Module, x: Tensor, *, has_onnx: bool) -> dict[str, float]:
    """Export a plain network in evaluation; return the largest differences, relative to the largest answer.

    Args:
        network: Folded.
        x: Inputs; onnxruntime gets them in float32 alone, as it lacks kernels of other dtypes.
        has_onnx: Whether torch exports it as ONNX, see ``NO_ONNX``.

    Returns:
        ``exported`` of ``torch.export``, and ``onnx`` of ONNX run by onnxruntime.
    """
    with torch.no_grad():
        expected = network(x)
        answers = {"exported": torch.export.export(network, (x,)).module()(x)}
        if has_onnx and x.dtype == torch.float32:
            answers["onnx"] = _by_onnxruntime(network, x)
    return {name: float((answer - expected).abs().max() / expected.abs().max()) for name, answer in answers.items()}


def _by_onnxruntime(network: nn.Module, x: Tensor) -> Tensor:
    program, file = torch.onnx.export(network, (x,), dynamo=True, verbose=False), io.BytesIO()
    assert program is not None
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    (scores,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.as_tensor(scores)
