"""Loaders that give each of several processes its own samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from art_oat.checks import refuse
from art_oat.classifier import OATClassifier
from art_oat.contexts import borrowed_generators
from art_oat.group import Group
from art_oat.training.batches import CheckedBatches, nb_batches, samplers_of

Value = TypeVar("Value")


class PerProcess:
    """Says that a loader gives each process samples of its own, where several train one network together.

    That is known of a loader with torch's ``DistributedSampler``. An ``IterableDataset`` whose shards are cut by
    process, as WebDataset's are by ``split_by_node``, or a sampler of another make, needs this: any other loader is
    taken to give the same batches in every process, which then takes its rows of each.

    A joint batch of ``N`` processes holds what each of them has next. Its row ``k * N + r`` is the ``k``-th sample of
    process ``r``, as a ``DistributedSampler`` deals them. All that is drawn is drawn for the joint batch: with that
    sampler, ``N`` processes with batches of ``B`` train what one process does with batches of ``N * B``. An epoch ends
    in all of them when the first has no more. In a lone process, the loader is an ordinary one.

    Of any loader, ``fit`` calls ``set_epoch(n)`` of samplers and data set, where they have it, before every pass; ``n``
    counts from 0, over all calls and also the passes that were undone. Nobody else needs to.

    Args:
        loader: Gives batches of this process alone.

    Raises:
        TypeError: If that is no ``DataLoader``.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> loader = DataLoader(TensorDataset(torch.zeros(8, 1, 6, 6), torch.arange(8)), batch_size=4)
        >>> PerProcess(loader).loader is loader  # to be given to fit
        True
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        if not isinstance(loader, DataLoader):
            raise TypeError(f"loader must be a DataLoader, got {type(loader).__name__}.")
        self.loader = loader


def unwrapped(source: Any) -> Any:
    """Return what batches are taken from."""
    return source.loader if isinstance(source, PerProcess) else source


def is_per_process(source: Any) -> bool:
    """Whether what is trained on gives each process its own samples."""
    return isinstance(source, PerProcess) or _sampler_of(source) is not None


def sampler_faults(source: Any, group: Group) -> list[str]:
    """Say why the sampler of a loader gives the processes that train other parts than theirs."""
    sampler = _sampler_of(unwrapped(source))
    if sampler is None or (sampler.num_replicas, sampler.rank) == (group.size, group.rank):
        return []
    return [
        f"the loader's DistributedSampler must have num_replicas={group.size} and rank={group.rank} in this process of "
        f"the training, got {sampler.num_replicas} and {sampler.rank}."
    ]


def _sampler_of(source: Any) -> DistributedSampler[Any] | None:
    """Return the sampler that deals samples to processes, if a loader has one."""
    if not isinstance(source, DataLoader):
        return None
    return next((it for it in samplers_of(source) if isinstance(it, DistributedSampler)), None)


class OwnBatches(CheckedBatches):
    """Takes the batches that a loader has for this process, as long as every process has one.

    Whatever the loader draws from torch's global generator is another thing in each process; the generator is the same
    in all of them before and after.

    Raises:
        ValueError: If the loader's sampler is of other processes.
    """

    are_own: ClassVar[bool] = True

    def __init__(self, loader: DataLoader[Any], classifier: OATClassifier, group: Group) -> None:
        super().__init__(loader, classifier)
        refuse(sampler_faults(loader, group))
        self.group = group
        counts = group.each(nb_batches(loader))
        self._nb_batches = None if None in counts else min(count for count in counts if count is not None)

    def __len__(self) -> int:
        if self._nb_batches is None:
            raise TypeError("a loader has no length.")
        return self._nb_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.group.size == 1:
            yield from super().__iter__()
            return
        batches = _drawn_apart(super().__iter__(), int(torch.randint(2**31, ())) + self.group.rank)
        while True:
            batch = next(batches, None)
            if self.group.sums([batch is None])[0] or batch is None:
                return
            yield batch

    def settings(self) -> dict[str, Any]:
        """Return what decides which samples meet in a joint batch."""
        sampler, size = _sampler_of(self.source), self.source.batch_size
        settings: dict[str, Any] = {"joint batch size": None if size is None else size * self.group.size}
        if sampler is not None:
            names = ("seed", "shuffle", "drop_last")
            settings |= {f"{name} of the DistributedSampler": getattr(sampler, name) for name in names}
        return settings


def _drawn_apart(values: Iterable[Value], seed: int) -> Iterator[Value]:
    """Give values, drawn from a global generator of their own."""
    iterator, state = iter(values), torch.Generator().manual_seed(seed).get_state()
    while True:
        with borrowed_generators():
            torch.set_rng_state(state)
            try:
                value = next(iterator)
            except StopIteration:
                return
            state = torch.get_rng_state()
        yield value
