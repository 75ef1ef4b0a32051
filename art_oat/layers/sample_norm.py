"""Conditional norms that look at one sample alone: layer, group, instance and RMS norm, of whatever class."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from art_oat.condition import Condition, Layout, current_condition, repeated
from art_oat.contexts import recomputed
from art_oat.layers.channel_affine import channel_affine
from art_oat.layers.film import FiLM
from art_oat.layers.norm import Affine, NormLayer, affine_of_side, side_of
from art_oat.rebuild import shallow_copy

_FLAGS = ("elementwise_affine", "affine")
_NO_EPS = math.nan
"""What stands for the ``eps`` of a norm: torch's encoder layers compare those of both of their norms before they take a
path that reads weights without calling the norms. NaN equals nothing, so they call them."""


class SampleNorm(NormLayer):
    """A norm of every sample alone, with a weight and a bias for lam = 0 and for lam > 0, and a FiLM after.

    To normalize is the same for every lam, so there are no statistics to keep apart. Analyses of dual batch norm find
    that its affine weights carry the effect (arXiv:2403.19150). A norm with a weight but no bias gets no shift. One
    with neither gets by folding what norms of its class can have.

    Args:
        norm: Applies its weight and bias last, if it has them. The layer takes it over.
        film: Modulation after the norm, or None.
        like: Gives new weights their dtype and device.
        is_trailing: Whether the weight lies along the last axes of the features, otherwise along the second.
        is_dual: Whether lam = 0 has a weight and a bias of its own.
    """

    clean: Affine
    adversarial: Affine | None
    eps = _NO_EPS

    def __init__(
        self, norm: nn.Module, film: FiLM | None, like: Tensor, *, is_trailing: bool, is_dual: bool = True
    ) -> None:
        super().__init__()
        self.training = norm.training
        self.is_trailing = is_trailing
        self.shape = affine_shape(norm)
        self.nb_channels = self.shape.numel()
        weight, bias = affine_of(norm)
        self.has_bias = bias is not None or (weight is None and not isinstance(norm, nn.RMSNorm))
        ones = like.detach().new_ones(self.shape) if weight is None else torch.ones_like(weight.detach())
        self.clean = Affine(weight, bias, ones, has_bias=self.has_bias)
        self.register_module("adversarial", copy.deepcopy(self.clean) if is_dual else None)
        self.norm = with_affine(
            norm, None if weight is None else ones, None if bias is None else torch.zeros_like(ones)
        )
        self.film = film

    def reset_parameters(self) -> None:
        """Reset weights and FiLM; statistics, if an instance norm has them, stay."""
        for part in (self.clean, self.adversarial, self.film):
            if part is not None:
                part.reset_parameters()

    def normalization(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the side that each lam belongs to, flat, each ``[G, C]``."""
        return affine_of_side(condition, self.clean, self.adversarial)

    def merge(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Merge weight, bias and FiLM; without a bias, there is no shift."""
        scale, shift = super().merge(condition)
        return scale, shift if self.has_bias else torch.zeros_like(shift)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x [N, ...]`` and modulate it by the condition of the pass under way."""
        condition = current_condition().of(len(x))
        scale, shift = self.affine(condition)
        if len(scale) == 1:
            result: Tensor = self._at_once(scale, shift)(x)
            return result
        result = self.norm(x)
        moves = self.training and hasattr(self.norm, "running_mean")  # which it would once more
        is_same_again = not (moves or condition.recomputes)
        with recomputed(result, lambda: self.norm(x.detach())) if is_same_again else nullcontext():
            return channel_affine(result, *self._shaped(scale, shift), is_trailing=self.is_trailing)

    def _shaped(self, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return scale.view(-1, *self.shape), shift.view(-1, *self.shape)

    def _at_once(self, scale: Tensor, shift: Tensor) -> nn.Module:
        """Return the norm with coefficients ``[1, C]`` as its weight and bias."""
        weight, bias = self._shaped(scale, shift)
        return with_affine(self.norm, weight[0], bias[0] if self.has_bias else None)

    def pin(self) -> nn.Module:
        """Return a norm that is told its coefficients."""
        return ToldNorm(is_trailing=self.is_trailing)

    def update(self, twin: nn.Module, condition: Condition, rows: Tensor) -> None:
        """Tell weight and bias for one lam; for several, a scale and a shift for every sample."""
        assert isinstance(twin, ToldNorm)
        scale, shift = self.affine(condition)
        if len(scale) == 1:
            norm, coefficients = self._at_once(scale, shift), None
        else:
            norm, coefficients = shallow_copy(self.norm), self._shaped(scale[rows], shift[rows])
        norm.training = False
        twin.told = norm, coefficients, condition.layout

    def fold(self, condition: Condition) -> nn.Module:
        """Return a norm of the original class whose weight and bias hold FiLM, too."""
        side = side_of(condition, self.clean, self.adversarial)
        with torch.no_grad():
            at_once = self._at_once(*self.affine(condition))
        norm = copy.deepcopy(self.norm)
        for name in ("weight", "bias") if self.has_bias else ("weight",):
            norm._buffers.pop(name, None)
            norm._non_persistent_buffers_set.discard(name)
            parameter = nn.Parameter(getattr(at_once, name).clone(), getattr(side, name).requires_grad)
            norm.register_parameter(name, parameter)
        vars(norm).update({flag: True for flag in _FLAGS if flag in vars(norm)})
        return norm

    def extra_repr(self) -> str:
        """Name the shape of the weight, and where it lies."""
        return f"{tuple(self.shape)}, is_trailing={self.is_trailing}"


class ToldNorm(nn.Module):
    """A norm in a pinned network, which is told its coefficients.

    Args:
        is_trailing: Whether coefficients lie along the last axes.

    Attributes:
        told: The norm; the scale and shift of every sample after it, or None; and the layout of samples. They are
            replaced together: a thread in the middle of a pass sees either all old ones or all new ones.
    """

    told: tuple[nn.Module, tuple[Tensor, Tensor] | None, Layout]
    eps = _NO_EPS

    def __init__(self, *, is_trailing: bool) -> None:
        super().__init__()
        self.is_trailing = is_trailing

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x [N, ...]``."""
        norm, coefficients, layout = self.told
        result: Tensor = norm(x)
        if coefficients is None:
            return result
        scale, shift = (repeated(values, len(x), layout) for values in coefficients)
        return channel_affine(result, scale, shift, is_trailing=self.is_trailing)


def with_affine(norm: nn.Module, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    """Return a shallow copy of a norm with a weight and a bias that are no parameters; None leaves one as it is."""
    twin = shallow_copy(norm)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            twin._parameters.pop(name, None)
            twin._buffers[name] = value
            twin._non_persistent_buffers_set.add(name)
    return twin


def affine_of(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return weight and bias of a norm; None for what it does not have."""
    weight, bias = (getattr(norm, name, None) for name in ("weight", "bias"))
    return weight, bias


def affine_shape(norm: nn.Module) -> torch.Size:
    """Return the shape of the weight that a norm has, or could have."""
    weight, _ = affine_of(norm)
    if weight is not None:
        return weight.shape
    if isinstance(norm, nn.GroupNorm):
        return torch.Size([norm.num_channels])
    return torch.Size([norm.num_features] if isinstance(norm, _InstanceNorm) else norm.normalized_shape)  # type: ignore[arg-type]
