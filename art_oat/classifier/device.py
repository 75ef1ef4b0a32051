"""On which processor a classifier computes, said rather than guessed."""

from __future__ import annotations

import torch

from art_oat.checks import warn_caller

DEVICE_TYPES = ("auto", "cpu", "gpu")


def device_fault(device_type: str) -> str:
    """Say what is wrong with a type of device on this machine; ``""`` where nothing is."""
    if device_type not in DEVICE_TYPES:
        return f"device_type must be one of {DEVICE_TYPES}, got {device_type!r}."
    if device_type == "gpu" and not torch.cuda.is_available():
        return "device_type must be 'cpu' or 'auto' where torch sees no GPU, got 'gpu'."
    return ""


def check_device(device_type: str) -> None:
    """Refuse an unknown type of device; warn where ``"gpu"`` would be the CPU, as ART takes it.

    Raises:
        ValueError: If ``device_type`` is none of :data:`DEVICE_TYPES`.
    """
    fault = device_fault(device_type)
    if device_type not in DEVICE_TYPES:
        raise ValueError(fault)
    if fault:
        warn_caller(f"{fault} The classifier computes on the CPU.", UserWarning)


def named_device(device: torch.device) -> str:
    """Return what a device is called by people, such as ``"the CPU (2 threads)"``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
