"""Loaders of arrays whose epochs hold as many images as is asked for, be there fewer or more."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from art_oat.data.dataset import Split


class Turns(Sampler[list[int]]):
    """Batches of image numbers: all images in a random order, then all again in another; an epoch is cut from that.

    Args:
        nb_images: How many there are.
        nb_per_epoch: How many an epoch has.
        batch_size: At most.
        seed: Of the orders.
    """

    def __init__(self, nb_images: int, nb_per_epoch: int, batch_size: int, seed: int) -> None:
        self.nb_images, self.nb_per_epoch, self.batch_size = nb_images, nb_per_epoch, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self._left = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return math.ceil(self.nb_per_epoch / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        return iter([batch.tolist() for batch in self.epoch().split(self.batch_size)])

    def epoch(self) -> Tensor:
        """Return the numbers of the next epoch, in order."""
        while len(self._left) < self.nb_per_epoch:
            self._left = torch.cat([self._left, torch.randperm(self.nb_images, generator=self.generator)])
        now, self._left = self._left[: self.nb_per_epoch], self._left[self.nb_per_epoch :]
        return now


def loader(split: Split, turns: Turns) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return a loader of the batches that a sampler numbers; a pass draws from no global generator."""
    images = TensorDataset(torch.from_numpy(split.x), torch.from_numpy(split.y))
    return DataLoader(images, batch_size=None, sampler=turns, generator=torch.Generator())
