"""Owns how a network is refused: all layers that are at fault at once, by dotted path."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class UnsupportedModuleError(ValueError):
    """A network holds layers that cannot be converted or slimmed; the message names all of them by dotted path."""


def refuse_layers(verb: str, faults: Mapping[str, str], network: nn.Module, advice: str) -> None:
    """Raise one error for all layers of a network that are at fault, if any is.

    Args:
        verb: What cannot be done with them.
        faults: What is wrong with each, by dotted path.
        network: Holds them.
        advice: What to do; one or more sentences.

    Raises:
        UnsupportedModuleError: If there are faults.
    """
    if faults:
        named = [
            f"{path or 'the network itself'} ({type(network.get_submodule(path)).__name__}): {fault.rstrip('.')}."
            for path, fault in faults.items()
        ]
        raise UnsupportedModuleError(f"cannot {verb} {len(faults)} layer(s). {' '.join(named)} {advice}")
