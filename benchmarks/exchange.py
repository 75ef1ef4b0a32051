"""What the processes of a training send each other in a step, counted where it is sent."""

from __future__ import annotations

import pickle
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed
from torch.multiprocessing import start_processes

from art_oat.storage import read_json, write_json

Train = Callable[[int], object]


class Message(NamedTuple):
    """An exchange of all processes: by which function, and of how many bytes in each."""

    function: str
    nb_bytes: int


@contextmanager
def watched() -> Iterator[list[Message]]:
    """Note what ``torch.distributed`` is given within the block."""
    found: list[Message] = []
    all_reduce, all_gather_object = distributed.all_reduce, distributed.all_gather_object

    def noted_reduce(tensor: torch.Tensor, *args: Any) -> Any:
        found.append(Message("all_reduce", tensor.numel() * tensor.element_size()))
        return all_reduce(tensor, *args)

    def noted_gather(parts: list[Any], own: Any) -> None:
        found.append(Message("all_gather_object", len(pickle.dumps(own))))
        all_gather_object(parts, own)

    try:
        distributed.all_reduce, distributed.all_gather_object = noted_reduce, noted_gather
        yield found
    finally:
        distributed.all_reduce, distributed.all_gather_object = all_reduce, all_gather_object


def exchanged(train: Train, *, nb: int = 2) -> Counter[Message]:
    """Return what each of ``nb`` processes sends in a step: what a training of two steps sends beyond that of one.

    Args:
        train: Takes the number of steps; trains the same in every process, and can be pickled.
        nb: Processes, of the backend gloo.
    """
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_join, (nb, folder, train), nprocs=nb, start_method="spawn")
        once, twice = (
            Counter(Message(*message) for message in read_json(Path(folder) / f"{nb_steps}.json"))
            for nb_steps in (1, 2)
        )
    return twice - once


def _join(rank: int, nb: int, folder: str, train: Train) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{Path(folder) / 'meeting'}", rank=rank, world_size=nb)
    for nb_steps in (1, 2):
        with watched() as found:
            train(nb_steps)
        if rank == 0:
            write_json(Path(folder) / f"{nb_steps}.json", found)
    distributed.barrier()  # who leaves first would abort the others
    distributed.destroy_process_group()
