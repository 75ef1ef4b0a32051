"""How the weights of the published networks are drawn."""

from __future__ import annotations

from torch import nn


def initialize(network: nn.Module) -> None:
    """Draw the weights of all convolutions as torch's own ResNets do; everything else keeps torch's defaults.

    Kaiming normal by fan-out: ``weight ~ N(0, 2 / (C_out * kernel area))``, which keeps the variance of gradients
    through ReLU (He et al. 2015, arXiv:1502.01852, eq. 14).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def initialize_linear(network: nn.Module) -> None:
    """Draw the weights of linear layers and convolutions so that values keep their size, and set biases to 0.

    Linear layers by Xavier uniform, ``|weight| <= sqrt(6 / (C_in + C_out))``, as in ViT's own code (arXiv:2010.11929);
    convolutions ``weight ~ N(0, 1 / (C_in kernel area / groups))``. The standard deviation of 0.02 that large networks
    and long trainings start with leaves small ones at chance for many epochs.
    """
    for module in network.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        else:
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
