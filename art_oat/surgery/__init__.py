"""Turns plain networks into conditional ones, and back."""

from art_oat.surgery.convert import LayerBuilder, register_conversion, to_conditional
from art_oat.surgery.fold import fold
from art_oat.surgery.freezing import freeze_below, unfreeze
from art_oat.surgery.head import find_head
from art_oat.surgery.published import to_published
from art_oat.surgery.transfer import Protocol, replace_head, transfer
from art_oat.surgery.unsupported import UnsupportedModuleError

__all__ = [
    "LayerBuilder",
    "Protocol",
    "UnsupportedModuleError",
    "find_head",
    "fold",
    "freeze_below",
    "register_conversion",
    "replace_head",
    "to_conditional",
    "to_published",
    "transfer",
    "unfreeze",
]
