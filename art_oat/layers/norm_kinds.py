"""Which modules are norms of one sample, and along which axes their weight lies: found by running them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from art_oat.contexts import borrowed_generators
from art_oat.layers.base import ConvertedLayer
from art_oat.layers.channel_affine import channel_affine
from art_oat.layers.conversion import LayerBuilder, refuse_computed, refuse_inner_norms, register_conversion
from art_oat.layers.norm_act import FollowedNorm
from art_oat.layers.sample_norm import SampleNorm, affine_of, affine_shape, with_affine
from art_oat.rebuild import in_float64, shallow_copy

_TRAILING_FORWARDS = (nn.LayerNorm.forward, nn.RMSNorm.forward)
_LEADING_FORWARDS = (nn.GroupNorm.forward, _InstanceNorm.forward)
_LENGTHS = (2, 3, 5, 7)
_ROUNDING = 1e-4
"""Some norms compute in float32 whatever they get. What is another map is off by its own size."""


class Held(nn.Sequential):
    """What a norm does after normalizing: the modules it holds, one after the other, such as an activation."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__(*norm.children())
        self.names = [name for name, child in norm._modules.items() if child is not None]

    def restored(self, norm: nn.Module) -> nn.Module:
        """Return a norm that holds them again."""
        norm._modules.update(zip(self.names, copy.deepcopy(self), strict=True))
        return norm.train(norm.training)


def is_sample_norm(module: nn.Module) -> bool:
    """Whether a module of a class that nobody registered is a norm of one sample that can be converted.

    Its class says so by name, it has a weight and perhaps a bias, and it applies them last, but for what it holds.
    """
    own = module._parameters.keys()
    is_named = "norm" in type(module).__name__.lower() and not isinstance(module, ConvertedLayer)
    if not is_named or module._buffers or not {"weight"} <= own <= {"weight", "bias"} or module.weight is None:
        return False
    try:
        weight_is_trailing(_bare(module))
    except ValueError:
        return False
    return True


@register_conversion(nn.LayerNorm)
@register_conversion(nn.RMSNorm)
@register_conversion(nn.GroupNorm)
@register_conversion(_InstanceNorm)
def convert_sample_norm(norm: nn.Module, build: LayerBuilder) -> ConvertedLayer:
    """Return the conditional form of a norm of one sample, which it takes over.

    Raises:
        ValueError: If it is none, or its weights are computed from others.
    """
    refuse_computed(norm)
    refuse_inner_norms(norm)
    bare = _bare(norm)
    is_trailing = weight_is_trailing(bare)
    film = build.film(affine_shape(norm).numel())
    layer = SampleNorm(bare, film, build.like, is_trailing=is_trailing, is_dual=build.statistics != "single")
    return layer if bare is norm else FollowedNorm(layer, Held(norm))


def weight_is_trailing(norm: nn.Module) -> bool:
    """Whether the weight of a norm lies along the last axes of its features; otherwise it lies along the second.

    Raises:
        ValueError: If the norm does not look at every sample alone, or does not apply weight and bias last.
    """
    if "forward" not in vars(norm) and type(norm).forward in _TRAILING_FORWARDS + _LEADING_FORWARDS:
        return type(norm).forward in _TRAILING_FORWARDS
    for is_trailing in (True, False):
        if _lies(norm, is_trailing=is_trailing):
            return is_trailing
    raise ValueError(
        "it is no norm of each sample alone that applies its weight and bias last: register_conversion for its type"
    )


def _lies(norm: nn.Module, *, is_trailing: bool) -> bool:
    """Whether a norm, in either mode, answers alike where weight and bias are applied by hand along these axes."""
    generator = torch.Generator().manual_seed(0)
    shape = affine_shape(norm)
    subject = in_float64(norm)
    weight, bias = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    has_bias = affine_of(norm)[1] is not None
    bias = bias if has_bias else torch.zeros_like(bias)
    whole = with_affine(subject, weight, bias if has_bias else None)
    unit = with_affine(subject, torch.ones_like(weight), torch.zeros_like(bias) if has_bias else None)
    answers = []
    for is_training, size in itertools.product((False, True), _shapes(shape, is_trailing=is_trailing)):
        whole.training = unit.training = is_training
        x = torch.randn(size, dtype=torch.float64, generator=generator)
        try:
            with torch.no_grad():
                got, alone, plain = whole(x), whole(x[:1]), unit(x)
        except Exception:  # noqa: BLE001 - whatever a user's layer may raise: then it takes no features of this shape
            got = None
        if got is not None:
            expected = channel_affine(plain, weight[None], bias[None], is_trailing=is_trailing)
            answers.append(_are_alike(got, expected) and _are_alike(got[:1], alone))
    return bool(answers) and all(answers)


def _shapes(shape: torch.Size, *, is_trailing: bool) -> Iterator[tuple[int, ...]]:
    """Shapes of features of which no other axis is as long as one of the weight."""
    samples, height, width = [length for length in _LENGTHS if length not in shape][:3]
    if is_trailing:
        yield from ((samples, height, *shape), (samples, height, width, *shape))
    elif len(shape) == 1:
        yield from ((samples, *shape, height), (samples, *shape, height, width))


def _bare(norm: nn.Module) -> nn.Module:
    """Return a norm with the identity in place of what it holds; the norm itself where it holds nothing.

    Raises:
        ValueError: If it does not apply what it holds after normalizing, one after the other.
    """
    if not any(True for _ in norm.children()):
        return norm
    bare = shallow_copy(norm)
    bare._modules = {name: None if child is None else nn.Identity() for name, child in norm._modules.items()}
    whole, parts = in_float64(norm), nn.Sequential(in_float64(bare), Held(in_float64(norm)))
    for is_trailing in (True, False):
        for size in _shapes(affine_shape(norm), is_trailing=is_trailing):
            x = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            if _comes_after(whole, parts, x):
                return bare
    raise ValueError(
        "it does more with what it holds than to call it after normalizing: register_conversion for its type"
    )


def _comes_after(whole: nn.Module, parts: nn.Module, x: Tensor) -> bool:
    answers = []
    for module in (whole, parts):
        try:
            with borrowed_generators(seed=0), torch.no_grad():
                answers.append(module(x.clone()))  # some work in place
        except Exception:  # noqa: BLE001 - as above
            return False
    return _are_alike(*answers)


def _are_alike(got: Tensor, expected: Tensor) -> bool:
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=_ROUNDING, atol=_ROUNDING)
