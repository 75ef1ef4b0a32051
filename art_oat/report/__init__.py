"""One page of a run that a browser shows without a network: its trade-off, a dial to turn, what broke which image."""

from art_oat.report.collect import Report, collect
from art_oat.report.page import write_page

__all__ = ["Report", "collect", "write_page"]
