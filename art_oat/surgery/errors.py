"""How a network is refused: all layers that are at fault at once, by dotted path."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class UnsupportedModuleError(ValueError):
    """A network holds layers that cannot be converted or slimmed; the message names all of them by dotted path."""


def refuse_layers(verb: str, faults: Mapping[str, str], network: nn.Module, advice: str) -> None:
    """Raise one error for all layers of a network that are at fault, given by dotted path, if any is.

    ``verb`` is what cannot be done with them, and ``advice`` what to do.
    """
    if faults:
        named = [
            f"{path or 'the network itself'} ({type(network.get_submodule(path)).__name__}): {fault.rstrip('.')}."
            for path, fault in faults.items()
        ]
        raise UnsupportedModuleError(f"cannot {verb} {len(faults)} layer(s). {' '.join(named)} {advice}")
