"""Networks that are shipped, with a value of its own in every part."""

from functools import cache

import torch
from torch import nn

from art_oat import OATClassifier, OATModel, to_conditional
from art_oat.export import FORMATS, Shipment
from art_oat.surgery import fold
from tests.compat.foreign import QUICK, lived
from tests.compat.foreign_today import TODAY
from tests.networks import LAMBDAS, convnext, resnet, shaken, small_cnn, transformer

OURS = {"small": small_cnn, "resnet": resnet, "vit": transformer, "convnext": convnext}
SLIMMABLE = ("small", "resnet")
OTHERS = {
    it.name: it
    for it in (*QUICK, *TODAY)
    if it.name in ("seresnet18, narrow", "resnet20_cifar10", "ResNet, basic", "DeiT", "convnext_atto, narrow")
}
"""Of timm (two), pytorchcv and transformers (two); the last two with layer norms."""
SUFFIXES = {name: kind.suffixes[0] for name, kind in FORMATS.items()}


@cache
def model(name: str) -> OATModel:
    return shaken(OURS[name](), torch.float32, **({"widths": (0.5, 1.0)} if name in SLIMMABLE else {}))


def classifier(name: str = "small", **options: object) -> OATClassifier:
    return OATClassifier(model(name), nn.CrossEntropyLoss(), (1, 6, 6), 5, **{"clip_values": (0, 1), **options})


@cache
def foreign_classifier(name: str) -> OATClassifier:
    foreign = next(it for it in (*QUICK, *TODAY) if it.name == name)
    x = torch.rand(12, *foreign.input_shape, generator=torch.Generator().manual_seed(0))
    network = lived(foreign.build(torch.float32, torch.contiguous_format), x)
    converted = to_conditional(network.eval(), LAMBDAS, **foreign.options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in converted.parameters():  # so that no two lams are alike
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    return OATClassifier(converted.eval(), nn.CrossEntropyLoss(), foreign.input_shape, 10, clip_values=(0, 1))


def shipment(network: nn.Module, lam: float | None = 0.3, **options: object) -> Shipment:
    arguments = {"clip_values": (0, 1), "input_shape": (1, 6, 6), "lambdas": LAMBDAS, **options}
    return Shipment(network, lam, 1.0, **arguments)


def folded(name: str = "small", lam: float = 0.3) -> nn.Module:
    return fold(model(name), lam)
