"""Plain networks, without a trace of lam in them."""

from art_oat.models.convnext import ConvNeXt
from art_oat.models.external import Logits
from art_oat.models.registry import ImageTask, network_named, register_network
from art_oat.models.resnet import ResNet, resnet18, resnet34
from art_oat.models.small import SmallCNN
from art_oat.models.vit import ViT
from art_oat.models.wide_resnet import WideResNet, wrn_16_8, wrn_40_2

__all__ = [
    "ConvNeXt",
    "ImageTask",
    "Logits",
    "ResNet",
    "SmallCNN",
    "ViT",
    "WideResNet",
    "network_named",
    "register_network",
    "resnet18",
    "resnet34",
    "wrn_16_8",
    "wrn_40_2",
]
