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
