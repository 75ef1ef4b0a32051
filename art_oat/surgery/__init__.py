"""Turns plain networks into conditional ones, and back."""

from art_oat.surgery.convert import UnsupportedModuleError, register_conversion, to_conditional
from art_oat.surgery.fold import fold

__all__ = ["UnsupportedModuleError", "fold", "register_conversion", "to_conditional"]
