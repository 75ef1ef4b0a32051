"""Data sets, as arrays that ART takes."""

from art_oat.data.dataset import Dataset, Split
from art_oat.data.loader import digits, load

__all__ = ["Dataset", "Split", "digits", "load"]
