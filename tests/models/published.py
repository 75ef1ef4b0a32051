"""What is known of the published networks: sizes, and how many multiplications they take."""

import json
from collections.abc import Callable

import torch
from torch import Tensor, nn

from art_oat import models

CODE_LENGTH = 128


def rebuilt(name: str, **arguments: object) -> nn.Module:
    """Build a network from what JSON keeps of its public name and its arguments."""
    assert name in models.__all__
    return getattr(models, name)(**json.loads(json.dumps(arguments)))


def nb_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def norms_of(network: nn.Module) -> dict[str, int]:
    """Dotted paths of the norms, with their channels."""
    return {path: module.num_features for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


def nb_film_parameters(nb_channels: int) -> int:
    """Sizes of Linear(D, 2 C) and Linear(2 C, 2 C), both with bias."""
    hidden = 2 * nb_channels
    return (CODE_LENGTH * hidden + hidden) + (hidden * hidden + hidden)


def nb_conditional_parameters(network: nn.Module, without_film: Callable[[str], bool]) -> int:
    """Size of the published conditional version: all norms have two pairs of scale and shift, most have a FiLM."""
    norms = norms_of(network)
    second_side = sum(2 * nb_channels for nb_channels in norms.values())
    film = sum(nb_film_parameters(nb_channels) for path, nb_channels in norms.items() if not without_film(path))
    return nb_parameters(network) + second_side + film


def nb_convolution_macs(network: nn.Module, x: Tensor) -> int:
    """Multiplications in the convolutions on one image: output values times the weights that each of them reads."""
    counts = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        counts.append(output[0].numel() * module.weight[0].numel())

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        network.eval()(x)
    for handle in handles:
        handle.remove()
    return sum(counts)
