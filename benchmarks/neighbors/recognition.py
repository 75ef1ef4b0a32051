"""Which training images a batch holds, found by their bytes: what is remembered of an image can follow it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from art_oat import OATTrainer
from art_oat.checks import refuse
from art_oat.data import Dataset
from art_oat.data.augmentation import RandomCropFlip


def keys(x: Tensor) -> list[bytes]:
    """Return what tells images apart."""
    return [image.contiguous().numpy().tobytes() for image in x.cpu()]


@dataclass
class Recognition:
    """An augmentation that takes down which images it gives: it sees each batch before it is attacked.

    Equal images count as one. In one process; several widths and parts of a batch are no matter.

    Args:
        augmentation: What changes images; None for nothing.
        numbers: Of the training images, by their bytes.
    """

    augmentation: RandomCropFlip | None
    numbers: dict[bytes, int] = field(repr=False)
    _given: dict[bytes, int] = field(default_factory=dict, repr=False)
    _numbers: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    _places: Tensor | None = field(default=None, repr=False)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment training images ``[N, C, H, W]``."""
        self._numbers = torch.tensor([self.numbers[key] for key in keys(x)])
        if self.augmentation is not None:
            self._places, x = self._moved(x, self.augmentation, generator)
        self._given = {key: row for row, key in enumerate(keys(x))}
        return x

    @staticmethod
    def _moved(x: Tensor, augmentation: RandomCropFlip, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return where each pixel came from, as it happens to an image of numbers from 1, and the images."""
        state = generator.get_state()
        result = augmentation(x, generator)
        generator.set_state(state)
        pixels = torch.arange(1, x.shape[2] * x.shape[3] + 1).view(1, 1, *x.shape[2:])
        return augmentation(pixels.expand(len(x), -1, -1, -1), generator).flatten(1), result

    def of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Find images of the last batch.

        Returns:
            Which rows of ``x`` they are ``[M]``, their numbers ``[M]``, and where each of their pixels comes from,
            from 1 on, 0 for black that moved in ``[M, H * W]``; None for pixels that are where they were.
        """
        found = [self._given.get(key, -1) for key in keys(x)]
        rows = torch.tensor([row for row, given in enumerate(found) if given >= 0], dtype=torch.long)
        given = torch.tensor(found, dtype=torch.long)[rows]
        return rows, self._numbers[given], None if self._places is None else self._places[given]


class Memory:
    """Something for each pixel of each training image, which moves with its image.

    What lies under pixels that were cropped away stays; what lies on black that moved in is not kept.

    Args:
        recognition: Knows the images.
        start: Of every image, ``[N, C, H, W]``; not copied.
    """

    def __init__(self, recognition: Recognition, start: Tensor) -> None:
        self.recognition = recognition
        self.values = start

    def read(self, x: Tensor, otherwise: Tensor) -> Tensor:
        """Return what is remembered of images as they are augmented, ``otherwise`` of others and on moved-in black."""
        rows, numbers, places = self.recognition.of(x)
        kept = self.values[numbers].to(x).flatten(2)
        if places is not None:
            other = otherwise[rows].flatten(2)
            places = places.to(x.device)[:, None].expand_as(kept)
            kept = torch.where(places > 0, kept.gather(2, (places - 1).clamp_min(0)), other)
        result = otherwise.clone()
        result[rows.to(x.device)] = kept.view(-1, *x.shape[1:])
        return result

    def write(self, x: Tensor, values: Tensor) -> None:
        """Remember something of images that are augmented."""
        rows, numbers, places = self.recognition.of(x)
        new = values[rows.to(x.device)].to(self.values).flatten(2)
        if places is not None:
            old = torch.nn.functional.pad(self.values[numbers].flatten(2), (1, 0))  # black goes where nothing is
            new = old.scatter(2, places[:, None].expand_as(new), new)[..., 1:]
        self.values[numbers] = new.view(-1, *self.values.shape[1:])


def recognized(trainer: OATTrainer, data: Dataset) -> Recognition:
    """Return what recognizes training images ``[N, C, H, W]`` from here on, once it is the trainer's augmentation.

    Raises:
        ValueError: If the method's augmentation does more than to move pixels.
    """
    augmentation = trainer.method.augmentation
    if augmentation is not None and not isinstance(augmentation, RandomCropFlip):
        refuse([f"augmentation must be RandomCropFlip or None, got {type(augmentation).__name__}."])
    x, _ = trainer.classifier.as_tensors(*data.train)
    return Recognition(augmentation, {key: number for number, key in enumerate(keys(x))})
