"""Several processes that train one network together, for tests."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import start_processes


def in_processes(nb: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what a function returns in each of a group of processes; its tensors go by file."""
    place = folder / f"group{len(list(folder.iterdir()))}"
    place.mkdir()
    start_processes(_join, (nb, place, function, args), nprocs=nb, start_method="fork")
    return [torch.load(place / f"{rank}.pt", weights_only=False) for rank in range(nb)]


def _join(rank: int, nb: int, place: Path, function: Callable[..., Any], args: Any) -> None:
    os.environ.pop("WORLD_SIZE", None)
    torch.set_num_threads(1)  # threads of several processes that wait for each other spin on the same cores
    distributed.init_process_group("gloo", f"file://{place / 'meeting'}", rank=rank, world_size=nb)
    try:
        torch.save(function(*args), place / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()
