"""Plain networks, without a trace of lam in them."""

from art_oat.models.small import SmallCNN

__all__ = ["SmallCNN"]
