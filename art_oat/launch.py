"""What processes that were started together, by ``torchrun`` or another launcher, know of each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


class PeerError(RuntimeError):
    """Another process of a group has failed, or is gone."""


def communicate(function: Callable[..., Any], *args: Any) -> None:
    """Call a function of ``torch.distributed``.

    Raises:
        PeerError: If another process does not answer.
    """
    try:
        function(*args)
    except RuntimeError as error:
        raise PeerError("another process of this group has ended; its message or exit code says why.") from error


def nb_launched() -> int:
    """Return how many processes were started together with this one; 1 if none."""
    told = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")]
    return int(told[1]) if all(number.isdigit() for number in told) else 1


def nb_here() -> int:
    """Return how many of such processes run on this machine, as ``torchrun`` tells; 1 if none."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(told) if nb_launched() > 1 and told.isdigit() else 1


def is_follower() -> bool:
    """Whether this is one of several such processes, but not the first."""
    return nb_launched() > 1 and os.environ["RANK"] != "0"


def check_alone(command: str) -> None:
    """Refuse to run a command in several such processes.

    Raises:
        RuntimeError: If it is.
    """
    if nb_launched() > 1:
        raise RuntimeError(
            f"{command} must be started once, without torchrun, which started {nb_launched()} processes. It attacks in "
            "several by itself; art-oat train and art-oat evaluate take those of torchrun."
        )
