"""Plain networks, without a trace of lam in them."""

from art_oat.models.resnet import ResNet, resnet18, resnet34
from art_oat.models.small import SmallCNN
from art_oat.models.wide_resnet import WideResNet, wrn_16_8, wrn_40_2

__all__ = ["ResNet", "SmallCNN", "WideResNet", "resnet18", "resnet34", "wrn_16_8", "wrn_40_2"]
