"""What ``torchrun``, or another launcher, tells each of the processes that it starts together."""

from __future__ import annotations

import os


def nb_launched() -> int:
    """Return how many processes were started together with this one; 1 if none."""
    told = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")]
    return int(told[1]) if all(number.isdigit() for number in told) else 1


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
            "several by itself (--nb-workers); art-oat train alone takes those of torchrun."
        )
