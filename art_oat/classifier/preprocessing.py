"""A network behind the preprocessing of a classifier, as one torch module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from torch import Tensor, nn


class PreprocessedNetwork(nn.Module):
    """A network behind the preprocessing of a classifier, as one differentiable module.

    Args:
        network: What the preprocessed inputs go through.
        operations: ART preprocessors in order; one that works on arrays passes its own gradient estimate on.
        channels_first: Whether channels are the first axis of an input rather than the last, for attacks to read that
            cut patches.
    """

    def __init__(self, network: nn.Module, operations: list[Preprocessor], *, channels_first: bool = True) -> None:
        super().__init__()
        self.network = network
        self.channels_first = channels_first
        self.operations = [operation for operation in operations if not _is_identity(operation)]
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for raw inputs ``[N, ...]``, in the units that the classifier takes."""
        for operation in self.operations:
            if isinstance(operation, PreprocessorPyTorch):
                x, _ = operation.forward(x, None)
            else:
                x = _NumpyPreprocessing.apply(x, operation)  # type: ignore[no-untyped-call]
        scores: Tensor = self.network(x)
        return scores


def _is_identity(operation: Preprocessor) -> bool:
    is_standardization = isinstance(operation, StandardisationMeanStdPyTorch)
    return is_standardization and bool(np.all(operation.mean == 0) and np.all(operation.std == 1))


class _NumpyPreprocessing(torch.autograd.Function):
    """A preprocessor that works on arrays, as a step of a torch graph; backward is its own gradient estimate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Preprocessor) -> Tensor:
        ctx.operation = operation
        ctx.save_for_backward(x)
        result, _ = operation(x.detach().cpu().numpy())
        return torch.as_tensor(result, dtype=x.dtype, device=x.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        estimate = ctx.operation.estimate_gradient(x.cpu().numpy(), gradients[0].cpu().numpy())
        return torch.as_tensor(estimate, dtype=x.dtype, device=x.device), None
