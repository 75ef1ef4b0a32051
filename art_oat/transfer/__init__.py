"""Starts new networks from trained ones: another head, fixed features, a linear probe."""

from art_oat.transfer.adapt import Protocol, adapt, replace_head
from art_oat.transfer.freezing import freeze_below, unfreeze
from art_oat.transfer.head import find_head
from art_oat.transfer.linear_probe import LinearProbe

__all__ = ["LinearProbe", "Protocol", "adapt", "find_head", "freeze_below", "replace_head", "unfreeze"]
