"""Batches of arrays, of a torch ``DataLoader``, and of an ART ``DataGenerator``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from art_oat.checks import Array, as_array, is_soft, refuse
from art_oat.classifier import OATClassifier
from art_oat.levels import Inputs, Levels
from art_oat.numbers import count_faults, plain


def is_pair(value: Any) -> bool:
    """Whether a value is a list or tuple of two."""
    return isinstance(value, list | tuple) and len(value) == 2  # noqa: PLR2004 - x and y


def is_generator(source: Any) -> bool:
    """Whether a value gives batches as ART's ``DataGenerator`` does."""
    return all(hasattr(source, name) for name in ("get_batch", "size", "batch_size"))


def source_faults(x: Any, y: Any, batch_size: Any, classifier: OATClassifier) -> list[str]:
    """Say what is wrong with the data of a training, as far as it is known before the first batch."""
    if isinstance(x, DataLoader) or is_generator(x):
        faults = [] if y is None else [f"y must be None with a {type(x).__name__}, which yields the labels itself."]
        is_endless = is_generator(x) and x.size is None
        return [*faults, "generator must know its size, got None."] if is_endless else faults
    faults = count_faults({"batch_size": batch_size})
    lambdas = classifier.model.lambdas
    if not faults and plain(batch_size) == 1 and 0 in lambdas and len(lambdas) > 1:
        faults.append("batch_size must be at least 2, got 1: lam = 0 would get every batch.")
    if y is None:
        return [*faults, "y must hold the labels of x, got None."]
    return faults + classifier.data_faults(as_array(x, "x"), as_array(y, "y"), takes_soft=True)


def as_batches(x: Any, y: Any, batch_size: int, classifier: OATClassifier, generator: torch.Generator) -> Batches:
    """Return the batches of a checked source; arrays are shuffled by ``generator``."""
    if isinstance(x, DataLoader) or is_generator(x):
        return CheckedBatches(x, classifier)
    return ArrayBatches(*_kept_tensors(as_array(x, "x"), as_array(y, "y"), classifier), plain(batch_size), generator)


def samplers_of(loader: DataLoader[Any]) -> tuple[Any, Any]:
    """Return where a loader may have its sampler: there, or within one of batches."""
    return loader.sampler, getattr(loader.batch_sampler, "sampler", None)


def nb_batches(source: Any) -> int | None:
    """Return the batches of an epoch; None where they cannot be counted (a loader of an iterable data set)."""
    try:
        return len(source)
    except TypeError:
        return None


def size_of(batches: Batches) -> dict[str, int | None]:
    """Return how many batches an epoch has, and for arrays also what they are cut from."""
    sizes = {"number of batches": nb_batches(batches)}
    if isinstance(batches, ArrayBatches):
        sizes |= {"batch_size": batches.batch_size, "number of samples": len(batches.x)}
    else:
        sizes |= batches.settings()
    return sizes


def _kept_tensors(x: Array, y: Array, classifier: OATClassifier) -> tuple[Inputs, Tensor]:
    if not is_soft(y, classifier.nb_classes):
        return classifier.kept_tensors(x, y)
    inputs, _ = classifier.kept_tensors(x, y.argmax(axis=1))
    return inputs, torch.from_numpy(y).to(classifier.model.encoding.table)


def _checked(batch: Any, classifier: OATClassifier) -> tuple[Tensor, Tensor]:
    if not is_pair(batch):
        raise ValueError(f"a batch must be a pair (x, y), got {type(batch).__name__}.")
    x, y = as_array(batch[0], "x"), as_array(batch[1], "y")
    refuse(classifier.data_faults(x, y, takes_soft=True))
    inputs, targets = _kept_tensors(x, y, classifier)
    return inputs[:], targets


class ArrayBatches:
    """Shuffles tensors anew every epoch; the last batch may be smaller.

    Inputs that are all whole 255ths, as images are, are kept as :class:`Levels`, and each batch comes back exactly.
    """

    are_own: ClassVar[bool] = False

    def __init__(self, x: Inputs, y: Tensor, batch_size: int, generator: torch.Generator) -> None:
        packed = Levels.packed(x) if isinstance(x, Tensor) else x
        self.x: Inputs = x if packed is None else packed
        self.y = y
        self.batch_size = batch_size
        self.generator = generator

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device)
        for index in order.split(self.batch_size):
            yield self.x[index], self.y[index]


class CheckedBatches:
    """Takes the batches of a ``DataLoader`` or an ART ``DataGenerator``, each checked as it comes.

    Attributes:
        are_own: Whether they hold samples of this process alone.
    """

    are_own: ClassVar[bool] = False

    def __init__(self, source: Any, classifier: OATClassifier) -> None:
        self.source = source
        self.classifier = classifier

    def __len__(self) -> int:
        source = self.source
        return math.ceil(source.size / source.batch_size) if is_generator(source) else len(source)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        is_asked = is_generator(self.source)
        for batch in (self.source.get_batch() for _ in range(len(self))) if is_asked else self.source:
            yield _checked(batch, self.classifier)

    def set_epoch(self, number: int) -> None:
        """Tell a loader's samplers and data set which pass comes, from 0, if they want to know: orders depend on it."""
        if is_generator(self.source):
            return
        for part in (*samplers_of(self.source), self.source.batch_sampler, self.source.dataset):
            if callable(getattr(part, "set_epoch", None)):
                part.set_epoch(number)

    def settings(self) -> dict[str, Any]:
        """Return what is known of the batches beside their number."""
        return {}


Batches = ArrayBatches | CheckedBatches
"""One epoch of pairs ``(x, y)``, on the classifier's device: inputs ``[N, ...]`` and labels.

Labels are class indices ``[N]``, or probabilities ``[N, K]`` where they were given as such.
"""
