"""Conditional batch norm: dual, or with dual affine weights alone, and FiLM after it."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from art_oat.condition import Condition, current_condition, is_recomputing
from art_oat.contexts import recomputed
from art_oat.layers.base import AffineLayer
from art_oat.layers.channel_affine import channel_affine
from art_oat.layers.film import FiLM
from art_oat.layers.joint_norm import is_joint, normalize_jointly
from art_oat.layers.norm import Affine, NormLayer, affine_of_side, of_side, side_of


class BatchNormLayer(NormLayer, AffineLayer):
    """What the forms of a conditional batch norm share.

    A norm without affine weights that has a FiLM gets some by folding.

    Args:
        norm: A batch norm of any number of dimensions, which the layer takes over.
        film: Modulation after the norm, or None.
    """

    def __init__(self, norm: _BatchNorm, film: FiLM | None = None) -> None:
        super().__init__()
        self.nb_channels = norm.num_features
        self.training = norm.training
        self._take_over(norm)
        self.film = film

    @abstractmethod
    def _take_over(self, norm: _BatchNorm) -> None:
        """Register the parts of the layer that the norm is made to."""

    def _with_film(self, norm: _BatchNorm, condition: Condition) -> _BatchNorm:
        """Write FiLM into the affine weights of ``norm``, and on the slope also what makes up for its statistics."""
        if condition.is_on_slope:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale, shift = (coefficient.squeeze(0) for coefficient in self.affine(condition))
            _set_affine(norm, scale * (norm.running_var + norm.eps).sqrt(), shift + norm.running_mean * scale)
        elif self.film is not None:
            scale, shift = (coefficient.squeeze(0) for coefficient in self.film.coefficients(condition.code))
            weight = scale if norm.weight is None else norm.weight * scale
            bias = shift if norm.bias is None else norm.bias * scale + shift
            _set_affine(norm, weight, bias)
        return norm


class DualBatchNorm(BatchNormLayer):
    """Two batch norms, one for lam = 0 and one for lam > 0, and one FiLM after both (arXiv:2010.11828).

    Each side has statistics and affine weights of its own; a training pass moves only the sides that occur in its
    batch. A side that would see one value per channel, whose variance is not defined, normalizes by its running
    statistics and leaves them as they are.
    """

    clean: _BatchNorm
    adversarial: _BatchNorm

    def _take_over(self, norm: _BatchNorm) -> None:
        self.clean = norm
        self.adversarial = copy.deepcopy(norm)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and modulate ``x [N, C, ...]`` by the condition of the pass under way."""
        condition = current_condition().of(len(x))
        if not (self.clean.training or self.adversarial.training) and condition.is_on_slope:
            return channel_affine(x, *self.affine(condition))
        order, inverse = condition.order, condition.inverse_order
        x = x if order is None else x[order]
        nb_clean, nb_samples = condition.nb_clean, len(condition.lam)
        if nb_clean in (0, nb_samples) and not is_joint():  # another process may have samples of the other side
            parts = [(self.clean if nb_clean else self.adversarial, x)]
        else:
            clean, adversarial = x.split([nb_clean, nb_samples - nb_clean])  # its gradient is one copy
            parts = [(self.clean, clean), (self.adversarial, adversarial)]
        result = _joined([_normalize(*part) for part in parts])
        if self.film is not None:
            with nullcontext() if condition.recomputes else _not_kept(result, parts):
                result = self.film(result, condition.code if order is None else condition.code[order])
        return result if inverse is None else result[inverse]

    def normalization(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the side that each lam belongs to, each ``[G, C]``."""
        sides = zip(_affine(self.clean), _affine(self.adversarial), strict=True)
        scale, shift = (of_side(condition, *side) for side in sides)
        return scale, shift

    def fold(self, condition: Condition) -> nn.Module:
        """Return the side of ``lam`` as an ordinary batch norm of its class whose weight and bias hold FiLM too."""
        return self._with_film(copy.deepcopy(self.clean if condition.nb_clean else self.adversarial), condition)


class DualAffineBatchNorm(BatchNormLayer):
    """One batch norm for all lams, with affine weights of their own for lam = 0 and for lam > 0, and one FiLM after.

    All samples of a batch are normalized together, and the running statistics see every lam, clean and attacked. In
    later analyses of adversarial training it is the affine weights of dual batch norm that carry its effect.
    """

    clean: Affine
    adversarial: Affine | None
    is_dual: ClassVar[bool] = True

    def _take_over(self, norm: _BatchNorm) -> None:
        assert norm.running_mean is not None
        self.clean = Affine(norm.weight, norm.bias, norm.running_mean)
        self.register_module("adversarial", copy.deepcopy(self.clean) if self.is_dual else None)
        norm.affine = False
        norm.weight = norm.bias = None  # type: ignore[assignment]
        self.statistics = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and modulate ``x [N, C, ...]`` by the condition of the pass under way."""
        condition = current_condition().of(len(x))
        if not self.statistics.training and condition.is_on_slope:
            return channel_affine(x, *self.affine(condition))
        sides = affine_of_side(condition, self.clean, self.adversarial)
        scale, shift = self._modulated(sides, condition)
        result = _normalize(self.statistics, x)
        with nullcontext() if condition.recomputes else _not_kept(result, [(self.statistics, x)]):
            return channel_affine(result, scale, shift)

    def normalization(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the side that each lam belongs to, each ``[G, C]``."""
        (scale, shift), (weight, bias) = (
            _affine(self.statistics),
            affine_of_side(condition, self.clean, self.adversarial),
        )
        return scale * weight, shift * weight + bias

    def fold(self, condition: Condition) -> nn.Module:
        """Return the statistics with the weights of the side of ``lam`` as an ordinary batch norm of its class."""
        norm = copy.deepcopy(self.statistics)
        side = side_of(condition, self.clean, self.adversarial)
        assert side.bias is not None
        _set_affine(norm, side.weight, side.bias)
        return self._with_film(norm, condition)


class SingleBatchNorm(DualAffineBatchNorm):
    """One batch norm for all lams, its affine weights included; FiLM alone depends on lam."""

    is_dual = False


def _set_affine(norm: _BatchNorm, weight: Tensor, bias: Tensor) -> None:
    """Give a norm affine weights of its own; those that it has stay trainable or frozen as they are."""
    norm.affine = True
    for name, value in (("weight", weight), ("bias", bias)):
        old = getattr(norm, name)
        setattr(norm, name, nn.Parameter(value.detach().clone(), True if old is None else old.requires_grad))


def _normalize(norm: _BatchNorm, x: Tensor) -> Tensor:
    if is_joint() and norm.training:
        return normalize_jointly(norm, x)
    if not len(x):  # a side that is frozen, in a process that has no sample of it
        return x
    if norm.training and x.numel() == x.shape[1]:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    with _unmoved(norm) if norm.training and is_recomputing() else nullcontext():
        result: Tensor = norm(x)
    return result


@contextmanager
def _unmoved(norm: _BatchNorm) -> Iterator[None]:
    """Within the block, let the running statistics stay: they have taken the batch in when it first came."""
    momentum, count = norm.momentum, norm.num_batches_tracked
    norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        norm.momentum, norm.num_batches_tracked = momentum, count


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def _not_kept(result: Tensor, parts: Sequence[tuple[_BatchNorm, Tensor]]) -> AbstractContextManager[Any]:
    """Let FiLM not keep what norms gave, where that can be computed again from what they got, which they keep."""
    can_be = not is_joint() and all(
        norm.training
        and x.numel() > x.shape[1]
        and type(norm).forward is _BatchNorm.forward
        and not (norm._forward_hooks or norm._forward_pre_hooks)
        for norm, x in parts
    )
    return recomputed(result, lambda: _normalized_again(parts)) if can_be else nullcontext()


@torch.no_grad()
def _normalized_again(parts: Sequence[tuple[_BatchNorm, Tensor]]) -> Tensor:
    """Normalize by the statistics of the batch, and leave the running ones as they are."""
    return _joined(
        [F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps) for norm, x in parts]
    )


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` as one scale and shift, each ``[C]``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else norm.weight * scale
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else norm.bias + shift


@contextmanager
def observed_norms(network: nn.Module, before: Callable[[str, _BatchNorm, Tensor], None]) -> Iterator[None]:
    """Within the block, tell of every batch norm that is about to run: its dotted path, itself, and what it gets."""

    def tell(path: str, norm: _BatchNorm, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        before(path, norm, next(iter((*args, *kwargs.values()))))

    with ExitStack() as hooks:
        for path, part in network.named_modules():
            if isinstance(part, _BatchNorm):
                hooks.enter_context(part.register_forward_pre_hook(partial(tell, path), with_kwargs=True))
        yield


@contextmanager
def steadied(network: nn.Module) -> Iterator[None]:
    """Within the block, let batch norms that get one value per channel use their running statistics.

    Its variance is not defined. Converted norms do so by themselves; this is for a batch of one sample and the norms
    that were kept as they are.
    """
    steady: list[nn.Module] = []

    def enter(_: str, norm: _BatchNorm, x: Tensor) -> None:
        if norm.training and x.numel() == x.shape[1] and norm.running_mean is not None:
            norm.training = False
            steady.append(norm)

    def leave(*_: object) -> None:
        while steady:
            steady.pop().training = True

    with ExitStack() as hooks:
        hooks.callback(leave)
        for part in network.modules():
            if isinstance(part, _BatchNorm):
                hooks.enter_context(part.register_forward_hook(leave))
        hooks.enter_context(observed_norms(network, enter))
        yield
