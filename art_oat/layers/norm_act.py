"""Norms that do more than normalize: a batch norm of a user's own class, split from what follows in it."""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from art_oat.condition import Condition
from art_oat.contexts import borrowed_generators
from art_oat.layers.base import ConvertedLayer
from art_oat.layers.norm import NormLayer
from art_oat.rebuild import in_float64

_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_KINDS = {
    nn.BatchNorm1d: (4,), nn.BatchNorm2d: (4, 3, 3), nn.BatchNorm3d: (4, 2, 3, 3), nn.SyncBatchNorm: (4, 3, 3),
}  # fmt: skip
"""Number of samples, and shape of a channel, on which a norm of each kind is tried."""


class Rest(nn.Module):
    """What a subclass of batch norm does after normalizing: the subclass itself, with the identity as its norm.

    Args:
        norm: Is copied; what it holds beside the norm (an activation, a dropout) keeps its mode.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.module = copy.deepcopy(norm)
        identity = nn.BatchNorm1d(norm.num_features).to(norm.running_mean)
        for name in _TENSORS:
            self.module._parameters.pop(name, None)
            self.module.register_buffer(name, getattr(identity, name).detach(), persistent=False)
        self.module.eps = 0.0
        self.module.track_running_stats = False  # torch would look for its counter in what is loaded
        self.train(norm.training)

    def train(self, mode: bool = True) -> Rest:
        """Set the mode of the parts; the norm itself must not look at a batch."""
        super().train(mode)
        self.module.training = False
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return what the subclass makes of normalized features ``[N, C, ...]``."""
        result: Tensor = self.module(x)
        return result

    def restored(self, norm: nn.Module) -> nn.Module:
        """Return the subclass with the weights and statistics of ``norm``, in the mode of the latter."""
        assert isinstance(norm, _BatchNorm)
        module = copy.deepcopy(self.module)
        for name in _TENSORS:
            delattr(module, name)  # torch forgets with it that it was not to be saved; exports look that up
            value = getattr(norm, name)
            if value is None or isinstance(value, nn.Parameter):
                module.register_parameter(name, value)
            else:
                module.register_buffer(name, value)
        module.eps, module.affine, module.track_running_stats = norm.eps, norm.affine, norm.track_running_stats
        return module.train(norm.training)


class Remainder(Protocol):
    """What a norm does after normalizing."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return what is made of normalized features."""

    def restored(self, norm: nn.Module) -> nn.Module:
        """Return the original norm, with the weights of a plain one."""


class FollowedNorm(ConvertedLayer):
    """A conditional norm, and what its original class does after normalizing."""

    rest: Remainder

    def __init__(self, norm: NormLayer, rest: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.rest = rest  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and modulate ``x [N, C, ...]`` by the condition of the pass under way, and do the rest."""
        result: Tensor = self.rest(self.norm(x))
        return result

    def fold(self, condition: Condition) -> nn.Module:
        """Return a norm of the original class that answers alike for a condition of one lam, in evaluation."""
        return self.rest.restored(self.norm.fold(condition))


def split(norm: _BatchNorm) -> tuple[_BatchNorm, Rest]:
    """Split a subclass of batch norm into a plain one, which takes over its tensors, and what follows.

    Raises:
        ValueError: If the two together do not answer as the subclass does, with random weights on random features in
            either mode, or move other statistics.
    """
    kind = next(kind for kind in _KINDS if isinstance(norm, kind))
    plain = kind(norm.num_features, norm.eps, norm.momentum, norm.affine)
    for name in _TENSORS:
        setattr(plain, name, getattr(norm, name))
    plain.train(norm.training)
    rest = Rest(norm)
    if not _is_split(norm, plain, rest, _KINDS[kind]):
        raise ValueError(
            "it overrides forward with something else than batch norm and what follows it: register_conversion for "
            "its type"
        )
    return plain, rest


def _is_split(norm: _BatchNorm, plain: _BatchNorm, rest: Rest, shape: tuple[int, ...]) -> bool:
    """Whether norm and rest answer as the whole; in float64, where an equal answer is equal to rounding."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape[0], norm.num_features, *shape[1:], dtype=torch.float64, generator=generator)
    try:
        whole, parts = in_float64(norm), nn.Sequential(in_float64(plain), in_float64(rest))
        for name in _TENSORS[:-1]:  # as they are after conversion, weights and statistics may look like the identity
            if getattr(norm, name) is not None:
                value = torch.rand(norm.num_features, dtype=torch.float64, generator=generator)
                value = value + 0.5 if name == "running_var" else 2 * value - 1
                for holder in (whole, parts[0]):
                    getattr(holder, name).data.copy_(value)
        # once more after training: the statistics must have moved alike
        return all(_answers_alike(whole.train(mode), parts.train(mode), x) for mode in (False, True, False))
    except Exception:  # noqa: BLE001 - whatever a user's layer may raise: then it is not known to be split
        return False


def _answers_alike(first: nn.Module, second: nn.Module, x: Tensor) -> bool:
    answers = []
    for module in (first, second):
        with borrowed_generators(seed=0), torch.no_grad():
            answers.append(module(x))
    return torch.allclose(answers[0], answers[1], rtol=1e-9, atol=1e-9)
