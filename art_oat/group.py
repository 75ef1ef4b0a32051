"""The processes that train one network together, each on its share of every batch, or that share an evaluation.

They are those of the default group of ``torch.distributed``, as ``torchrun`` starts them; a process without one is a
group by itself, to which all that is here does nothing. Every process gets the same batches and draws the same for
them, from one seed, and then takes its rows: so the number of processes does not change what is trained.

Gradients are summed by one all-reduce after all backward passes of a step, in place of torch's
``DistributedDataParallel``. A step has up to two passes backward for each of its widths, through parts of the network
that differ from step to step, which that wrapper would take one forward pass to foresee. Its gain is to communicate
during the backward pass, and next to the attack, which communicates nothing and is most of a step, that is little.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from art_oat.contexts import borrowed_generators
from art_oat.launch import PeerError, communicate, nb_launched

if distributed.is_available():
    # whoever imports this in a group, as every optimizer does, keeps it, and its threads then abort the process's end
    import torch.distributed.nn.functional

Value = TypeVar("Value")

_PATIENCE = timedelta(days=30)
"""Who is gone is noticed by its connection; who is slow, at an attack on other samples, say, is waited for."""


@dataclass(frozen=True)
class Group:
    """Processes that work together, and which of them this is.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Group:
        """Return the group of this process.

        Raises:
            RuntimeError: If it was started with others, but none of them knows the others.
        """
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        if nb_launched() > 1:
            raise RuntimeError(
                f"the {nb_launched()} processes that were started must form a group to work together: call "
                "torch.distributed.init_process_group() in each of them first."
            )
        return cls()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, logs and tells callbacks."""
        return self.rank == 0

    # what each process does

    def share(self, nb: int) -> slice:
        """Return this process's part of ``nb`` things: every ``size``-th, so that all have alike much to do.

        The lams of a batch ascend, and so each process gets as many samples of each, up to one.
        """
        return slice(self.rank, nb, self.size)

    def portion(self, own: float, joint: float) -> float:
        """Return which portion of a joint mean the mean over this process's part is, by their weights."""
        return 1.0 if self.size == 1 else own / joint

    def own_generator(self, generator: torch.Generator) -> torch.Generator:
        """Return what this process may draw from as it likes; the generator stays the same in all of them."""
        if self.size == 1:
            return generator
        seed = int(torch.randint(2**31, (), generator=generator))
        return torch.Generator().manual_seed(seed + self.rank)

    def drawing_apart(self, device: torch.device) -> AbstractContextManager[None]:
        """Let what the block draws from torch's global generators be another thing in each process.

        The generators are the same in all of them before and after.
        """
        if self.size == 1:
            return nullcontext()
        return borrowed_generators(device, int(torch.randint(2**31, ())) + self.rank)

    # what they do together

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return sums of numbers over all processes, the same in each."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=_device())
        communicate(distributed.all_reduce, total)
        return [float(value) for value in total]

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Leave in parameters the sum of their gradients; those that have one in no process keep None."""
        if self.size == 1 or not parameters:
            return
        has = torch.tensor([it.grad is not None for it in parameters], dtype=torch.int32, device=_device())
        communicate(distributed.all_reduce, has, distributed.ReduceOp.MAX)
        moved = [it for it, is_there in zip(parameters, has.tolist(), strict=True) if is_there]
        for it in moved:
            it.grad = torch.zeros_like(it) if it.grad is None else it.grad
        self.sum_tensors([it.grad for it in moved if it.grad is not None])

    @torch.no_grad()
    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, those of one kind in one go."""
        if self.size > 1:
            _reduce(tensors)

    @contextmanager
    def averaging(self, buffers: Sequence[Tensor]) -> Iterator[None]:
        """Let buffers move in each process by the mean of what the block moves them by; counts by the most."""
        if self.size == 1:
            yield
            return
        before = [buffer.detach().clone() for buffer in buffers]
        yield
        with torch.no_grad():
            moves = [buffer - start for buffer, start in zip(buffers, before, strict=True)]
            real = [move for move in moves if move.is_floating_point()]
            self.sum_tensors(real)
            torch._foreach_div_(real, self.size)
            _reduce([move for move in moves if not move.is_floating_point()], distributed.ReduceOp.MAX)
            for buffer, start, move in zip(buffers, before, moves, strict=True):
                buffer.copy_(start + move)

    @torch.no_grad()
    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Give tensors in all processes the values they have in the first."""
        if self.size == 1:
            return
        for alike in _by_kind(tensors):
            flat = torch.cat([it.flatten() for it in alike])
            communicate(distributed.broadcast, flat, 0)
            _write(alike, flat)

    def first(self, function: Callable[[], Value]) -> Value:
        """Return what a function returns in the first process, the only one to call it.

        Raises:
            PeerError: In the other processes, if it fails there.
        """
        if self.size == 1:
            return function()
        answer: list[Any] = [None, "it ended"]
        if self.is_first:
            try:
                answer = [function(), ""]
            except Exception as error:
                communicate(distributed.broadcast_object_list, [None, str(error) or type(error).__name__])
                raise
        communicate(distributed.broadcast_object_list, answer)
        if answer[1]:
            raise PeerError(f"the first of {self.size} processes failed: {answer[1]}")
        result: Value = answer[0]
        return result

    def first_then_all(self, function: Callable[[], Value]) -> Value:
        """Return what a function returns here, which the first process calls first: it may fetch what is missing.

        Raises:
            PeerError: In the other processes, if it fails there.
        """
        found: list[Value] = []
        self.first(lambda: found.append(function()))
        return found[0] if found else function()

    def each(self, own: Value) -> list[Value]:
        """Return what every process has, in the order of their ranks."""
        if self.size == 1:
            return [own]
        values: list[Any] = [None] * self.size
        communicate(distributed.all_gather_object, values, own)
        return values

    def follow(self, generator: torch.Generator, rank: int) -> None:
        """Let a generator be in every process what it is in one."""
        generator.set_state(self.each(generator.get_state())[rank])

    def gathered(self, own: Sequence[Value]) -> list[Value]:
        """Return the things whose :meth:`share` each process has, in their order."""
        parts = self.each(list(own))
        nb = sum(map(len, parts))
        return [parts[number % self.size][number // self.size] for number in range(nb)]

    def check_same(self, what: str, read: Callable[[], Any], advice: str = "") -> None:
        """Refuse what is not read as the same in all processes, with advice.

        Raises:
            ValueError: If it is not, in all of them.
        """
        if self.size == 1:
            return
        values = self.each(read())
        if different := [rank for rank in range(self.size) if values[rank] != values[0]]:
            raise ValueError(
                f"{what} must be the same in all {self.size} processes, which take their shares themselves, but differ "
                f"between process 0 and {different[0]}.{advice}"
            )


ALONE = Group()
"""The group of a process by itself."""


@contextmanager
def in_group(device_type: str) -> Iterator[Group]:
    """Have the processes that were started together form a group within the block, if they do not yet.

    Each has the GPU of its number on its machine, where there is one and ``device_type`` is not ``"cpu"``.
    """
    if nb_launched() == 1 or distributed.is_initialized():
        yield Group.here()
        return
    has_gpu = device_type != "cpu" and torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", os.environ["RANK"])))
    backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    yield Group.here()
    distributed.barrier()  # who leaves first would abort those that are still at it
    distributed.destroy_process_group()  # not after an error, as the others may be waiting, and it would for them


def _device() -> torch.device:
    """Where numbers lie that processes exchange."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")


def _reduce(tensors: Sequence[Tensor], *operation: Any) -> None:
    """Reduce tensors over all processes, by their sum where nothing else is said, those of one kind in one go."""
    for alike in _by_kind(tensors):
        flat = torch.cat([it.flatten() for it in alike])
        communicate(distributed.all_reduce, flat, *operation)
        _write(alike, flat)


def _by_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return tensors by dtype and device, in their order."""
    found: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(found.values())


def _write(tensors: Sequence[Tensor], flat: Tensor) -> None:
    for tensor, part in zip(tensors, flat.split([it.numel() for it in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))
