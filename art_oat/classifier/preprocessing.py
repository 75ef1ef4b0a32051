"""A network behind the preprocessing of a classifier, as one torch module."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from art.preprocessing.standardisation_mean_std.utils import broadcastable_mean_std
from torch import Tensor, nn

from art_oat.exporters import FoldedFirst
from art_oat.rebuild import has_channels_last, laid_out


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
        self.operations = effective(operations)
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for raw inputs ``[N, ...]``, in the units that the classifier takes.

        What is preprocessed lies in memory as the inputs do, whatever an operation makes of it.
        """
        if isinstance(self.network, FoldedFirst):
            self.network.refuse_exporters(x)
        is_behind = has_channels_last(x)
        for operation in self.operations:
            if isinstance(operation, PreprocessorPyTorch):
                x, _ = operation.forward(x, None)
            else:
                x = _NumpyPreprocessing.apply(x, operation)  # type: ignore[no-untyped-call]
            x = laid_out(x, channels_last=is_behind)
        scores: Tensor = self.network(x)
        return scores


class Standardized(nn.Module):
    """Subtracts a mean and divides by a deviation, both kept as buffers, as ART's standardization does.

    Args:
        operation: That of ART.
        input_shape: Shape of one sample.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, operation: StandardisationMeanStdPyTorch, input_shape: Sequence[int]) -> None:
        super().__init__()
        sample = torch.empty(1, *input_shape)
        mean, std = broadcastable_mean_std(sample, np.asarray(operation.mean), np.asarray(operation.std))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return standardized inputs ``[N, ...]``."""
        return (x - self.mean) / self.std


class TorchOperation(nn.Module):
    """A preprocessor of ART's that works on tensors, as a module on the CPU."""

    def __init__(self, operation: PreprocessorPyTorch) -> None:
        super().__init__()
        self.operation = copy.deepcopy(operation)
        self.operation._device = torch.device("cpu")

    def forward(self, x: Tensor) -> Tensor:
        """Return preprocessed inputs ``[N, ...]``."""
        result: Tensor = self.operation.forward(x, None)[0]
        return result


def as_modules(operations: Sequence[Preprocessor], input_shape: Sequence[int]) -> list[nn.Module]:
    """Return operations that work on tensors, each as a module that exporters take.

    Raises:
        ValueError: If some work on arrays; names them.
    """
    on_arrays = [type(it).__name__ for it in operations if not isinstance(it, PreprocessorPyTorch)]
    if on_arrays:
        raise ValueError(
            f"preprocessing must work on tensors to be exported, but {', '.join(on_arrays)} works on arrays. "
            "Export with preprocessing=False, and preprocess inputs before."
        )
    return [
        Standardized(it, input_shape) if isinstance(it, StandardisationMeanStdPyTorch) else TorchOperation(it)
        for it in operations
    ]


def effective(operations: Sequence[Preprocessor]) -> list[Preprocessor]:
    """Return the operations without standardizations that change nothing."""
    return [operation for operation in operations if not _is_identity(operation)]


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
