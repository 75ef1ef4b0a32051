"""Networks as files that others run: one operating point of a conditional network, or its whole dial."""

from art_oat.export.dial import dial_network
from art_oat.export.format import ExportError, Format
from art_oat.export.formats import FORMATS
from art_oat.export.ship import TOLERANCES, Exported, export_faults, ship
from art_oat.export.shipment import Shipment

__all__ = [
    "FORMATS",
    "TOLERANCES",
    "ExportError",
    "Exported",
    "Format",
    "Shipment",
    "dial_network",
    "export_faults",
    "ship",
]
