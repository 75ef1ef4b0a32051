"""Turns plain networks into conditional ones, and back."""

from art_oat.layers.conversion import LayerBuilder, register_conversion
from art_oat.surgery.builder import Conditioning
from art_oat.surgery.convert import to_conditional
from art_oat.surgery.errors import UnsupportedModuleError
from art_oat.surgery.fold import fold
from art_oat.surgery.published import to_published

__all__ = [
    "Conditioning",
    "LayerBuilder",
    "UnsupportedModuleError",
    "fold",
    "register_conversion",
    "to_conditional",
    "to_published",
]
