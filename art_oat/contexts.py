"""What is changed for a while and comes back: evaluation mode, torch's global generators, and the arithmetic."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Set networks to evaluation mode within the block, and every part of them back to its own mode after it."""
    modes = {module: module.training for network in networks for module in network.modules()}
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the tensors, without a graph, whatever mode or transform the caller is in."""
    outside = torch._C._DisableFuncTorch()  # transforms of torch.func, which would wrap what is kept
    with outside, torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


_CPU = torch.device("cpu")


@contextmanager
def borrowed_generators(device: torch.device = _CPU, seed: int | None = None) -> Iterator[None]:
    """Restore the global generators of the CPU and of ``device`` after the block; others are never touched.

    Args:
        device: Where the block computes.
        seed: What both are seeded with first; None leaves that to the block.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
            for own in devices:
                with torch.cuda.device(own):
                    torch.cuda.manual_seed(seed)
        yield


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Keep what calls ``backward`` from adding to the gradients of a network that is being trained."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_()


@contextmanager
def traceless(network: nn.Module, device: torch.device = _CPU) -> Iterator[None]:
    """Restore a network's buffers, such as running statistics, and torch's generators after passes in training mode."""
    buffers = list(network.buffers())
    kept = [buffer.clone() for buffer in buffers]
    try:
        with borrowed_generators(device):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)


def recomputed(tensor: Tensor, compute: Callable[[], Tensor]) -> AbstractContextManager[None]:
    """Within the block, let autograd keep nothing of ``tensor``: the backward pass computes it again where it wants it.

    Args:
        tensor: What functions in the block may keep, in whatever shape.
        compute: Returns the same values once more, from what is kept anyway.
    """
    if not tensor.requires_grad or torch.compiler.is_compiling():
        return nullcontext()
    try:
        place, size, dtype = tensor.data_ptr(), tensor.numel(), tensor.dtype
    except RuntimeError:  # in a transform of torch.func, which keeps everything
        return nullcontext()

    def pack(kept: Tensor) -> Tensor | torch.Size:
        is_it = kept.data_ptr() == place and kept.numel() == size and kept.dtype == dtype
        return kept.shape if is_it else kept

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        return kept if isinstance(kept, Tensor) else compute().view(kept)

    hooks: AbstractContextManager[None] = torch.autograd.graph.saved_tensors_hooks(pack, unpack)
    return hooks


_recalled: ContextVar[weakref.ref[Any] | None] = ContextVar("art_oat_recalled", default=None)


@contextmanager
def recalled(value: Any) -> Iterator[None]:
    """Let :func:`recalled_value` return ``value`` where a backward pass computes again what the block computes.

    ``torch.utils.checkpoint`` keeps the arguments of what it will compute again. These are unpacked right before, in
    the thread that computes; unpacking anything that is kept of the block brings its value back.
    """
    reference = weakref.ref(value)

    def pack(tensor: Tensor) -> tuple[Tensor, Any]:
        return tensor.detach(), value  # to return the tensor itself would be a cycle where it is a result

    def unpack(kept: tuple[Tensor, Any]) -> Tensor:
        _recalled.set(reference)
        return kept[0]

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def recalled_value() -> Any:
    """Return the value of the block that is computed again in this thread; None if there is none."""
    reference = _recalled.get()
    return None if reference is None or not is_in_backward() else reference()


def is_in_backward() -> bool:
    """Whether this thread is in a backward pass."""
    return torch._C._current_graph_task_id() != -1
