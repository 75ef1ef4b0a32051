"""Owns where batches come from: arrays, a torch ``DataLoader``, an ART ``DataGenerator``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from art_oat.classifier import OATClassifier
from art_oat.inputs import as_array, refuse


class Batches(Protocol):
    """One epoch of pairs ``(x, y)``: inputs ``[N, ...]`` and class indices ``[N]``, on the classifier's device."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through one epoch."""
        ...


def is_pair(value: Any) -> bool:
    """Whether a value is a list or tuple of two."""
    return isinstance(value, list | tuple) and len(value) == len(("x", "y"))


def _checked(batch: Any, classifier: OATClassifier) -> tuple[Tensor, Tensor]:
    if not is_pair(batch):
        raise ValueError(f"a batch must be a pair (x, y), got {type(batch).__name__}.")
    x, y = (as_array(part) for part in batch)
    refuse(classifier.data_faults(x, y))
    return classifier.as_tensors(x, y)


class ArrayBatches:
    """Shuffles tensors anew every epoch; the last batch may be smaller."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator) -> None:
        self.x = x
        self.y = y
        self.batch_size = batch_size
        self.generator = generator

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device)
        for index in order.split(self.batch_size):
            yield self.x[index], self.y[index]


class LoaderBatches:
    """Takes the batches of a ``DataLoader``, each checked as it comes."""

    def __init__(self, loader: DataLoader[Any], classifier: OATClassifier) -> None:
        self.loader = loader
        self.classifier = classifier

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            yield _checked(batch, self.classifier)


class GeneratorBatches:
    """Takes the batches of an ART ``DataGenerator``, each checked as it comes."""

    def __init__(self, generator: Any, classifier: OATClassifier) -> None:
        self.generator = generator
        self.classifier = classifier

    def __len__(self) -> int:
        nb_batches: int = math.ceil(self.generator.size / self.generator.batch_size)
        return nb_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(len(self)):
            yield _checked(self.generator.get_batch(), self.classifier)
