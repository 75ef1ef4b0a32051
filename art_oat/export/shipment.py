"""What is shipped: an ordinary network with all that its file holds beside it, and the samples it is tried on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_oat.contexts import borrowed_generators

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.float32}
"""What a network computes in, by precision; it is quantized to int8 in its file."""

OUTPUT = "logits"


class ShippedNetwork(nn.Module):
    """A network that takes float32 in the units of its user, and gives float32, whatever it computes in.

    Args:
        network: Takes ``x``, or ``x`` and ``lam``; gives scores ``[N, K]``.
        preprocessing: What comes before it, in order.
        dtype: What the network computes in.
    """

    def __init__(self, network: nn.Module, preprocessing: Sequence[nn.Module], dtype: torch.dtype) -> None:
        super().__init__()
        self.preprocessing = nn.ModuleList(preprocessing)
        self.network = network
        self.dtype = dtype

    def forward(self, x: Tensor, lam: Tensor | None = None) -> Tensor:
        """Return scores ``[N, K]``, float32, for inputs ``[N, ...]`` and, of a dial, lams ``[N]``, both float32."""
        for step in self.preprocessing:
            x = step(x)
        x = x.to(self.dtype)
        scores: Tensor = self.network(x) if lam is None else self.network(x, lam)
        return scores.to(torch.float32)


@dataclass(frozen=True)
class Shipment:
    """What a file is made of.

    Args:
        network: In evaluation mode, on the CPU, in its own dtype; independent of what is trained. It takes ``x``, or
            ``x`` and ``lam``.
        lam: The lam that it answers at; None for one that takes it.
        width: The width that it is cut to.
        input_shape: Shape of one sample.
        lambdas: The trained lams, ascending.
        clip_values: Smallest and largest value of inputs, numbers or arrays that fit one sample; None for any.
        preprocessing: What comes before the network in the file, in order.
        facts: What else the file says of itself, as plain values.
    """

    network: nn.Module
    lam: float | None
    width: float
    input_shape: tuple[int, ...]
    lambdas: tuple[float, ...]
    clip_values: Any = None
    preprocessing: Sequence[nn.Module] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the network takes."""
        return ("x",) if self.lam is not None else ("x", "lam")

    def reference(self) -> nn.Module:
        """Return what a file must answer as: the network in its own dtype."""
        first = next((it for it in self.network.parameters() if it.is_floating_point()), torch.empty(0))
        return ShippedNetwork(self.network, self.preprocessing, first.dtype).eval()

    def about(self, precision: str) -> dict[str, str]:
        """Return what a file says of itself: values as JSON, but names as they are."""
        low, high = (None, None) if self.clip_values is None else (np.asarray(it).tolist() for it in self.clip_values)
        values = {
            "lam": "input" if self.lam is None else self.lam,
            "width": self.width,
            "lambdas": self.lambdas,
            "input_shape": self.input_shape,
            "clip_values": None if self.clip_values is None else [low, high],
            "precision": precision,
            "made_by": f"art_oat {version('art-oat')}",
            "torch": torch.__version__,
            **self.facts,
        }
        return {name: it if isinstance(it, str) else json.dumps(it) for name, it in values.items()}

    def samples(self, nb_samples: int) -> tuple[Tensor, ...]:
        """Return random inputs within the clip values, float32, and, of a dial, lams at trained points and between.

        Without clip values, or where one is infinite, inputs are normal ones, clipped to them. Always the same; global
        generators are left as they were.
        """
        bounds = (-np.inf, np.inf) if self.clip_values is None else self.clip_values
        low, high = (torch.as_tensor(np.asarray(it, dtype=np.float32)) for it in bounds)
        is_bounded, shape = bool((high - low).isfinite().all()), (nb_samples, *self.input_shape)
        with borrowed_generators(seed=0):
            x = torch.rand(shape) if is_bounded else torch.randn(shape)
        x = low + (high - low) * x if is_bounded else x.clamp(low, high)
        return (x,) if self.lam is not None else (x, self._lams(nb_samples))

    def _lams(self, nb_samples: int) -> Tensor:
        between = [(low + high) / 2 for low, high in itertools.pairwise(self.lambdas)]
        lams = [*self.lambdas, *between]
        return torch.tensor([lams[index % len(lams)] for index in range(nb_samples)], dtype=torch.float32)
