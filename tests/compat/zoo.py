"""Networks that this project did not write (pytorchcv's, without downloads), and what conversion must keep of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves

from art_oat import OATModel, OperatingPoint, fold, to_conditional
from art_oat.contexts import borrowed_generators
from art_oat.surgery import UnsupportedModuleError

LAMBDAS = (0.0, 0.3, 1.0)


class Subject:
    """A network and images for it.

    Attributes:
        make: Returns a fresh network.
        options: What ``to_conditional`` is called with.
        input_shape: Shape of one image.
    """

    make: Callable[[], nn.Module]
    options: Mapping[str, Any]
    input_shape: tuple[int, ...]

    def build(self) -> nn.Module:
        """Return a fresh network, always with the same weights, in float64."""
        with borrowed_generators(seed=0):
            return self.make().double()

    def images(self, seed: int) -> Tensor:
        """Return a batch of four, float64."""
        generator = torch.Generator().manual_seed(seed)
        return torch.rand((4, *self.input_shape), dtype=torch.float64, generator=generator)


@dataclass(frozen=True)
class Own(Subject):
    """A network of this project's tests."""

    make: Callable[[], nn.Module]
    options: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] = (1, 6, 6)


@dataclass(frozen=True)
class Family(Subject):
    """One network of a third-party zoo: ``constructor`` of ``pytorchcv.models.module``, for images of a size."""

    module: str
    constructor: str
    size: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (3, self.size, self.size)

    def make(self) -> nn.Module:  # type: ignore[override]
        network: nn.Module = getattr(importlib.import_module(f"pytorchcv.models.{self.module}"), self.constructor)()
        features = getattr(network, "features", None)
        if hasattr(features, "final_pool"):
            features.final_pool = nn.AdaptiveAvgPool2d(1)  # one of fixed size asks for large images
        return network


@dataclass(frozen=True)
class Outcome:
    """Largest differences, each relative to the largest score (or gradient), of what should be equal.

    Attributes:
        converted: Of the converted network at every lam from the plain one, before training.
        pinned: Of the pinned network from the conditional one, with every weight and statistic changed.
        folded: Of the folded network from the conditional one.
        loaded: Of a fresh network of the original class, with the folded weights, from the conditional one.
        gradient: Of the pinned network's input gradient from the conditional one's.
        nb_norms: How many norms were converted.
        slimmed: Of the pinned, the folded and the masked network at half the width, and of the pinned one's input
            gradient, from the conditional one there; None where there is none.
        share: What is left of the parameters at half the width.
        refusal: Why the network cannot be slimmed; empty where it can.
    """

    converted: float
    pinned: float
    folded: float
    loaded: float
    gradient: float
    nb_norms: int
    slimmed: float | None
    share: float | None
    refusal: str

    @property
    def worst(self) -> float:
        """The largest of all differences."""
        return max(self.converted, self.pinned, self.folded, self.loaded, self.gradient, self.slimmed or 0.0)


def examine(subject: Subject) -> Outcome:
    """Convert a network, train it for a step, and compare all its forms."""
    with borrowed_generators(seed=0):
        network = _lived(subject)
        model = to_conditional(network, LAMBDAS, code_dim=4, **subject.options)
        x = subject.images(0)
        converted = max(_difference(model(x, lam=lam), network(x)) for lam in LAMBDAS)
        _change_everything(model, subject)
        pinned, folded, loaded, gradient = [], [], [], []
        for lam in (0.0, 0.6):
            expected = model(x, lam=lam)
            own = subject.build().eval()
            own.load_state_dict(fold(model, lam).state_dict())
            pinned.append(_difference(model.pinned(lam)(x), expected))
            folded.append(_difference(fold(model, lam)(x), expected))
            loaded.append(_difference(own(x), expected))
            gradients = [
                _input_gradient(answer, x) for answer in (lambda z, at=lam: model(z, lam=at), model.pinned(lam))
            ]
            gradient.append(_difference(*gradients))
        nb_norms = sum(hasattr(part, "film") for part in model.modules())
        try:
            slimmed, refusal = _examine_at_half(subject), ""
        except UnsupportedModuleError as error:
            slimmed, refusal = (None, None), str(error)
    return Outcome(converted, max(pinned), max(folded), max(loaded), max(gradient), nb_norms, *slimmed, refusal)


def _examine_at_half(subject: Subject) -> tuple[float, float]:
    """Largest difference of what should be equal at half the width, and the share of the parameters that is left."""
    x, point = subject.images(0), OperatingPoint(0.6, 0.5)
    widths = (point.width, 1.0)
    model = to_conditional(
        _lived(subject), LAMBDAS, code_dim=4, widths=widths, input_shape=tuple(x.shape[1:]), **subject.options
    )
    _change_everything(model, subject)
    pinned, folded, expected = model.pinned(point), fold(model, point), model(x, *point)
    answers = [_difference(form(x), expected) for form in (pinned, folded, masked(model, point))]
    gradients = [_input_gradient(answer, x) for answer in (lambda z: model(z, *point), pinned)]
    nb_left, nb_all = (
        sum(parameter.numel() for parameter in fold(model, OperatingPoint(point.lam, width)).parameters())
        for width in widths
    )
    return max(*answers, _difference(*gradients)), nb_left / nb_all


_NB_INPUTS = ("in_channels", "in_features", "num_features", "num_channels")
_NB_OUTPUTS = ("out_channels", "out_features", "num_features", "num_channels")


def masked(model: OATModel, point: OperatingPoint) -> nn.Module:
    """The full network, with the norms of one width, in which the channels that the width drops are zeros.

    The slow way to say what slimming means: layers get zeros for them, and give zeros for them. Nothing but norms and
    the numbers of channels comes from the slimmed network.
    """
    full, narrow = fold(model, OperatingPoint(point.lam)), dict(fold(model, point).named_modules())
    for path, layer in full.named_modules():
        if isinstance(layer, _NormBase | nn.GroupNorm):
            _widen(layer, narrow[path])
        nb_inputs, nb_outputs = (
            next((getattr(narrow[path], name) for name in names if hasattr(layer, name)), None)
            for names in (_NB_INPUTS, _NB_OUTPUTS)
        )
        if nb_inputs is not None and nb_outputs is not None:
            _mask(layer, nb_inputs, nb_outputs)
    return full


def _widen(norm: nn.Module, narrow: nn.Module) -> None:
    """Write the tensors of a narrow norm over those of the first channels."""
    wide = dict((*norm.named_parameters(), *norm.named_buffers()))
    with torch.no_grad():
        for name, tensor in (*narrow.named_parameters(), *narrow.named_buffers()):
            wide[name][tuple(slice(length) for length in tensor.shape)] = tensor


def _mask(layer: nn.Module, nb_inputs: int, nb_outputs: int) -> None:
    """Zero all but the first channels of what a layer gets and gives."""

    def zeroed(x: Tensor, nb_kept: int) -> Tensor:
        axis = x.dim() - 1 if isinstance(layer, nn.Linear) else 1
        mask = torch.arange(x.shape[axis]) < nb_kept
        return x * mask.to(x).view(-1, *[1] * (x.dim() - 1 - axis))

    layer.register_forward_pre_hook(lambda _, inputs: (zeroed(inputs[0], nb_inputs), *inputs[1:]))
    layer.register_forward_hook(lambda _, __, output: zeroed(output, nb_outputs))


def _lived(subject: Subject) -> nn.Module:
    """A network with statistics of its own, in evaluation mode."""
    network = subject.build().train()
    with torch.no_grad():
        network(subject.images(1))
    return network.eval()


def _change_everything(model: nn.Module, subject: Subject) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.2 * torch.randn_like(parameter)).add_(0.02 * torch.randn_like(parameter))
        for width in model.widths:
            model.train()(subject.images(2), torch.tensor([0.0, 0.3, 0.0, 1.0], dtype=torch.float64), width)
        model.eval()


def _difference(actual: Any, expected: Any) -> float:
    pairs = list(zip(tree_leaves(actual), tree_leaves(expected), strict=True))
    scale = max(float(b.detach().abs().max()) for _, b in pairs)
    assert scale > 0, "an answer of zeros alone proves nothing"
    return max(float((a - b).detach().abs().max()) for a, b in pairs) / scale


def _input_gradient(answer: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    scores = torch.cat([leaf.flatten() for leaf in tree_leaves(answer(x))])
    weights = torch.linspace(-1, 1, len(scores), dtype=x.dtype)
    return torch.autograd.grad((scores * weights).sum(), x)[0]


def _families(names: str, size: int, **options: Any) -> tuple[Family, ...]:
    """Read ``module:constructor`` pairs."""
    pairs = [name.split(":") for name in names.split()]
    return tuple(Family(module, constructor, size, options=options) for module, constructor in pairs)


INSTANCE_NORM = {"keep": lambda _, norm: "Instance" in type(norm).__name__}

QUICK = (
    *_families(
        """resnet_cifar:resnet20_cifar10 preresnet_cifar:preresnet20_cifar10 seresnet_cifar:seresnet20_cifar10
        sepreresnet_cifar:sepreresnet20_cifar10 shakeshakeresnet_cifar:shakeshakeresnet20_2x16d_cifar10
        shakedropresnet_cifar:shakedropresnet20_cifar10 diaresnet_cifar:diaresnet20_cifar10
        diapreresnet_cifar:diapreresnet20_cifar10 resdropresnet_cifar:resdropresnet20_cifar10
        ror_cifar:ror3_56_cifar10""",
        32,
    ),
    *_families(
        """mobilenet:mobilenet_wd4 fdmobilenet:fdmobilenet_wd4 mobilenetv2:mobilenetv2_wd4
        mobilenetv3:mobilenetv3_small_w7d20 shufflenet:shufflenet_g1_wd4 shufflenetv2:shufflenetv2_wd2
        resneta:resneta10 regnet:regnetx002 vovnet:vovnet27s squeezenext:sqnxt23_w1 menet:menet108_8x1_g3
        igcv3:igcv3_wd4 sparsenet:sparsenet121 peleenet:peleenet octresnet:octresnet10_ad2 dicenet:dicenet_wd5
        enet:enet_cityscapes erfnet:erfnet_cityscapes edanet:edanet_cityscapes""",
        64,
    ),
)
"""Families that take a few seconds each."""

SLOW = (
    *_families(
        """densenet_cifar:densenet40_k12_cifar10 wrn_cifar:wrn16_10_cifar10 rir_cifar:rir_cifar10
        fractalnet_cifar:fractalnet_cifar10 msdnet_cifar10:msdnet22_cifar10 unet:unet_cityscapes
        pyramidnet_cifar:pyramidnet110_a48_cifar10 xdensenet_cifar:xdensenet40_2_k24_bc_cifar10""",
        32,
    ),
    *_families("wrn1bit_cifar:wrn20_10_1bit_cifar10", 32, film_on=()),
    *_families(
        """resnet:resnet10 seresnet:seresnet10 senet:senet16 bamresnet:bam_resnet18 cbamresnet:cbam_resnet18
        shufflenetv2b:shufflenetv2b_wd2 mnasnet:mnasnet_small ghostnet:ghostnet dla:dla34 drn:drnc26
        hrnet:hrnet_w18_small_v1 selecsls:selecsls42b mixnet:mixnet_s airnet:airnet50_1x64d_r16 sknet:sknet50
        fbnet:fbnet_cb proxylessnas:proxylessnas_cpu spnasnet:spnasnet darts:darts hardnet:hardnet39ds
        fishnet:fishnet99 resattnet:resattnet56 sharesnet:sharesnet18 resnesta:resnestabc14 tresnet:tresnet_m
        irevnet:irevnet301 simplepose_coco:simplepose_resnet18_coco nasnet:nasnet_4a1056 bagnet:bagnet9
        fastseresnet:fastseresnet101b lwopenpose_cmupan:lwopenpose2d_mobilenet_cmupan_coco""",
        64,
    ),
    *_families("ibnresnet:ibn_resnet50 ibndensenet:ibn_densenet121", 64, **INSTANCE_NORM),
    *_families("inceptionresnetv1:inceptionresnetv1 inceptionv4:inceptionv4", 128),
    *_families("bninception:bninception efficientnet:efficientnet_b0 dpn:dpn68", 224),
)
"""Families that take longer, for ``python -m tests.compat zoo``."""

_REASONS = {
    "concatenates maps, whose first channels are not the first of the result": """
        bninception darts densenet_cifar dla dpn edanet enet erfnet fishnet ghostnet hardnet ibndensenet
        inceptionresnetv1 inceptionv4 irevnet mixnet msdnet_cifar10 nasnet peleenet rir_cifar selecsls
        shakeshakeresnet_cifar sparsenet unet vovnet xdensenet_cifar""",
    "shuffles channels": "shufflenet shufflenetv2 shufflenetv2b",
    "computes gates from all channels": "cbamresnet diapreresnet_cifar diaresnet_cifar resnesta sknet",
    "has numbers of channels in its forward": "ibnresnet octresnet pyramidnet_cifar",
    "scales the signs of weights by a number computed from all of them": "wrn1bit_cifar",
}
NOT_SLIMMABLE = {module: reason for reason, modules in _REASONS.items() for module in modules.split()}
"""Families that do not equal the full network with the dropped channels masked, by module, and why."""
