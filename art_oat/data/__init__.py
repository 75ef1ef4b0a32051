"""Data sets, as arrays that ART takes."""

from art_oat.data.bundled import digits, textured_digits
from art_oat.data.dataset import Dataset, Split
from art_oat.data.loader import load

__all__ = ["Dataset", "Split", "digits", "load", "textured_digits"]
