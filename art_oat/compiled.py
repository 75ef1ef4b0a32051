"""Networks compiled by ``torch.compile``, for those that run one network very often."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib.util import find_spec
from types import FunctionType
from typing import Any

import torch
from torch import nn

BACKEND = "inductor"
_NUMBERS = itertools.count()


def compiled(network: nn.Module) -> Callable[..., Any]:
    """Return what answers as a network does, compiled when it is first called.

    torch counts by code how often it has compiled, and guesses from one call to the next which sizes vary: a second
    network of the same class, narrower, would be taken for a batch of varying shape, and after some more nothing would
    be compiled. So each network is called by code of its own.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return network(*args, **kwargs)

    code = call.__code__.replace(co_name=f"call_{next(_NUMBERS)}")
    own = FunctionType(code, call.__globals__, code.co_name, call.__defaults__, call.__closure__)
    compiled_call: Callable[..., Any] = torch.compile(own, backend=BACKEND)
    return compiled_call


def compiler_faults(device: torch.device) -> list[str]:
    """Say what :func:`compiled` lacks on this machine for networks on a device."""
    if BACKEND != "inductor":
        return []
    if device.type == "cuda":
        return [] if find_spec("triton") else ["torch.compile needs triton, which is not installed."]
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # noqa: BLE001 - of a class of torch's own, which differs between releases
        line = str(error).strip().partition("\n")[0]
        return [f"torch.compile needs a C++ compiler, such as g++ in PATH or named by CXX: {line}"]
    return []
