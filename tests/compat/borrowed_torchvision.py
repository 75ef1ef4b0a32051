"""The import of torchvision, whose wheel does not load beside a CPU build of torch; its networks are plain Python.

``import torchvision`` fails there in two of its modules, which register kernels for C++ operators that were not loaded.
With empty modules in their place the rest is imported; no network for classification calls such an operator.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_REGISTERS_KERNELS = ("torchvision._meta_registrations", "torchvision._autograd_registrations")


@contextmanager
def torchvision_importable() -> Iterator[None]:
    """Let torchvision, and what imports it, be imported within the block; it is as unknown as before afterwards.

    What was imported within the block stays usable by whoever holds it.
    """
    before = _loaded()
    for name in before:
        del sys.modules[name]
    sys.modules.update({name: ModuleType(name) for name in _REGISTERS_KERNELS})
    try:
        yield
    finally:
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(before)


def _loaded() -> dict[str, ModuleType]:
    return {name: part for name, part in sys.modules.items() if name.partition(".")[0] == "torchvision"}
