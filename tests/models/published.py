"""What is known of the published networks: sizes, and how many multiplications they take."""

import json
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from art_oat import models


def rebuilt(name: str, **arguments: object) -> nn.Module:
    """Build a network from what JSON keeps of its public name and its arguments."""
    assert name in models.__all__
    return getattr(models, name)(**json.loads(json.dumps(arguments)))


def nb_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def norms_of(network: nn.Module) -> dict[str, int]:
    """Dotted paths of the norms, with their channels."""
    return {path: module.num_features for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


def nb_convolution_macs(network: nn.Module, x: Tensor) -> int:
    """Multiplications in the convolutions on one image: output values times the weights that each of them reads."""
    counts = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        counts.append(output[0].numel() * module.weight[0].numel())

    with ExitStack() as hooks, torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                hooks.enter_context(module.register_forward_hook(count))
        network.eval()(x)
    return sum(counts)
