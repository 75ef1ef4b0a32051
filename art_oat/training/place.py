"""The place of a training within an epoch: how much of it is done, and how it began."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor


@dataclass
class Place:
    """How far an epoch is; the data themselves are not kept, as generators draw their order again.

    Attributes:
        begun: The states of all generators when the epoch began, from which the order of its batches is drawn.
        undo: The state of the whole training then; None for an epoch that is never undone.
        nb_batches: How many batches of the epoch were trained on.
        started: When the epoch began, by ``time.perf_counter``; earlier by what was done of it before a cut.
    """

    begun: Mapping[str, Tensor | None] = field(default_factory=dict)
    undo: Mapping[str, Any] | None = None
    nb_batches: int = 0
    started: float = field(default_factory=time.perf_counter)

    def state_dict(self) -> dict[str, Any] | None:
        """Return it with seconds in place of a time; None between two epochs."""
        if not self.nb_batches:
            return None
        seconds = time.perf_counter() - self.started
        return {"begun": dict(self.begun), "undo": self.undo, "nb_batches": self.nb_batches, "seconds": seconds}

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None) -> Self:
        """Return the place of which this is the :meth:`state_dict`."""
        if state is None:
            return cls()
        return cls(state["begun"], state["undo"], state["nb_batches"], time.perf_counter() - state["seconds"])
