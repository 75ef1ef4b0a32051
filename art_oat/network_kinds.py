"""What kind of network something is, and what to give in its place."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from art_oat.model import OATModel


def advice_for(value: object) -> str | None:
    """Say what to give in place of a network that was wrapped, compiled or scripted; None for any other value."""
    if isinstance(value, DistributedDataParallel):
        return "give what it holds, its .module: OATTrainer itself trains in all processes of a group"
    if isinstance(value, nn.DataParallel):
        return "give what it holds, its .module, and start a process for each GPU, by torchrun"
    if isinstance(value, AveragedModel):
        return "give what it holds, its .module"
    if type(value).__name__ == "OptimizedModule":
        return "give what was compiled, its ._orig_mod"
    if isinstance(value, torch.jit.ScriptModule):
        return "give the network before it is scripted or traced"
    return None


def check_model(value: object, name: str = "model") -> None:
    """Refuse what is no conditional network.

    Raises:
        TypeError: Saying what to give instead.
    """
    if not isinstance(value, OATModel):
        is_classifier = isinstance(getattr(value, "model", None), OATModel)
        advice = "a classifier's is classifier.model" if is_classifier else advice_for(value)
        if advice is None:
            advice = "convert it: to_conditional(network)" if isinstance(value, nn.Module) else "see to_conditional"
        raise TypeError(f"{name} must be an OATModel, got {type(value).__name__}: {advice}.")
