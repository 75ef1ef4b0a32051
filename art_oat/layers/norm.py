"""Owns dual batch norm, FiLM included, and the plain affine map that it becomes at a fixed lam."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from art_oat.condition import Condition, current_condition
from art_oat.layers.film import FiLM, channel_affine


class ConditionalLayer(nn.Module, ABC):
    """A layer that reads the condition in training, and is an affine map per channel at a fixed lam in evaluation.

    Whoever registers a conversion for a norm of their own returns a subclass of this.
    """

    @abstractmethod
    def merge(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[G, C]``, of the layer in evaluation for a condition of ``G`` lams."""

    @abstractmethod
    def fold(self, condition: Condition) -> nn.Module:
        """Return an ordinary, independent layer that answers alike for a condition of one lam, in evaluation."""


class DualBatchNorm(ConditionalLayer):
    """Two batch norms, one for lam = 0 and one for lam > 0, and one FiLM after both (arXiv:2010.11828).

    The side is chosen by **lam**, not by whether the input is attacked. Each side has statistics and affine weights
    of its own; a training pass moves only the sides that occur in its batch. A side that would see one value per
    channel, whose variance is not defined, normalizes by its running statistics and leaves them as they are.

    Args:
        norm: A batch norm of any number of dimensions; becomes the clean side, and its copy the adversarial one.
        film: Modulation after the norm, or None.
    """

    def __init__(self, norm: _BatchNorm, film: FiLM | None = None) -> None:
        super().__init__()
        self.clean = norm
        self.adversarial = copy.deepcopy(norm)
        self.film = film
        self.training = norm.training

    def reset_parameters(self) -> None:
        """Reset weights and statistics of both sides, and FiLM."""
        self.clean.reset_parameters()
        self.adversarial.reset_parameters()
        if self.film is not None:
            self.film.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and modulate ``x [N, C, ...]`` by the condition of the pass under way."""
        condition = current_condition()
        condition.check_batch(len(x))
        normalized = self._normalize(x, condition)
        return normalized if self.film is None else self.film(normalized, condition.code)

    def _normalize(self, x: Tensor, condition: Condition) -> Tensor:
        if condition.nb_clean in (0, len(condition.lam)):
            return _normalize_side(self.clean if condition.nb_clean else self.adversarial, x)
        order, nb_clean = condition.order, condition.nb_clean
        x = x if order is None else x[order]
        parts = [_normalize_side(self.clean, x[:nb_clean]), _normalize_side(self.adversarial, x[nb_clean:])]
        normalized = torch.cat(parts)
        return normalized if order is None else normalized[condition.inverse_order]

    def merge(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Merge norm and FiLM: ``scale, shift`` with ``y = scale * x + shift``, each ``[G, C]``."""
        is_clean = condition.is_clean.unsqueeze(1)
        sides = zip(_affine(self.clean), _affine(self.adversarial), strict=True)
        scale, shift = (torch.where(is_clean, clean, adversarial) for clean, adversarial in sides)
        if self.film is None:
            return scale, shift
        film_scale, film_shift = self.film.coefficients(condition.code)
        return scale * film_scale, shift * film_scale + film_shift

    def fold(self, condition: Condition) -> nn.Module:
        """Return the side of ``lam`` as an ordinary batch norm of its class whose weight and bias hold FiLM too."""
        norm = copy.deepcopy(self.clean if condition.nb_clean else self.adversarial)
        if self.film is not None:
            scale, shift = (coefficient.squeeze(0) for coefficient in self.film.coefficients(condition.code))
            with torch.no_grad():
                norm.weight.mul_(scale)
                norm.bias.mul_(scale).add_(shift)
        return norm


def _normalize_side(norm: _BatchNorm, x: Tensor) -> Tensor:
    if norm.training and x.numel() == x.shape[1]:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    result: Tensor = norm(x)
    return result


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` as one scale and shift, each ``[C]``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class ChannelAffine(nn.Module):
    """The affine map per channel that stands in a pinned network where a converted layer stood.

    ``coefficients`` holds scale and shift, each ``[1, C]`` or ``[N, C]``, as one tuple that is replaced whole: a
    thread in the middle of a pass sees either the old pair or the new one.
    """

    coefficients: tuple[Tensor, Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``scale * x + shift`` for ``x [N, C, ...]``."""
        return channel_affine(x, *self.coefficients)
