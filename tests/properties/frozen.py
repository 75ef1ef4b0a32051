"""What a call leaves as it was, to the bit: networks, optimizers, arrays and the three generators."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_oat import OATModel, OATTrainer

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state_of(part: Any) -> Any:  # noqa: PLR0911
    """Return plain values that differ wherever a bit of a part does."""
    if isinstance(part, Tensor):
        data = part.detach().contiguous().reshape(-1)
        bits = data.view(torch.uint8).numpy().tobytes() if data.numel() else b""
        return (
            str(part.dtype),
            tuple(part.shape),
            part.requires_grad,
            state_of(part.grad) if part.is_leaf else None,
            bits,
        )
    if isinstance(part, np.ndarray):
        return str(part.dtype), part.shape, repr(part) if part.dtype.hasobject else part.tobytes()
    if isinstance(part, OATTrainer):
        return state_of(part.get_classifier()), state_of(part._generator.get_state()), len(part.history)
    if isinstance(part, PyTorchClassifier):
        own = part.loss.reduction, part.input_shape, part.nb_classes, repr(part.clip_values)
        return own, state_of(part.model), state_of(part.optimizer)
    if isinstance(part, nn.Module):
        return _state_of_network(part)
    if isinstance(part, torch.optim.Optimizer):
        return state_of(part.state_dict())
    if isinstance(part, dict):
        return {name: state_of(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [state_of(value) for value in part]
    return repr(part)


def _state_of_network(network: nn.Module) -> Any:
    point = (*network.default_point, network.is_lam_named) if isinstance(network, OATModel) else None
    tensors = [(name, state_of(it)) for name, it in (*network.named_parameters(), *network.named_buffers())]
    modes = [(part.training, [len(getattr(part, name)) for name in _HOOKS]) for part in network.modules()]
    return point, tensors, modes


def generators() -> Any:
    """Return the state of the generators of torch, NumPy and Python."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - what is watched
    parts = [torch.get_rng_state().numpy().tobytes(), keys.tobytes(), repr((kind, rest, random.getstate())).encode()]
    return [hashlib.sha256(part).hexdigest() for part in parts]


@contextmanager
def untouched(*parts: Any) -> Iterator[None]:
    """Refuse that the block, however it ends, changes a bit of some parts or of the generators."""
    before, drawn = [state_of(part) for part in parts], generators()
    try:
        yield
    finally:
        assert generators() == drawn, "a global generator was drawn from"
        for part, state in zip(parts, before, strict=True):
            assert state_of(part) == state, f"a {type(part).__name__} was changed"
