"""The classifier of a network pinned to one operating point."""

from __future__ import annotations

from typing import Any

import torch

from art_oat.checks import Array
from art_oat.classifier.base import PointClassifier, refuse_point
from art_oat.classifier.preprocessing import PreprocessedNetwork
from art_oat.condition import OperatingPoint
from art_oat.numbers import plain
from art_oat.pinned import PinnedNetwork


class PinnedClassifier(PointClassifier):
    """An ordinary ``PyTorchClassifier`` at one operating point; made by :meth:`OATClassifier.at`.

    Every ART attack, metric and defense takes it. It follows the training of its ``OATClassifier``, and is not
    trained itself. It takes over preprocessing, postprocessing, clip values and loss as they were when it was made.
    ART's attacks read uint8 images as numbers up to 255: give them ``x / 255``.
    """

    model: PinnedNetwork

    @property
    def point(self) -> OperatingPoint:
        """The operating point it answers at."""
        return self.model.point

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.model.encoding.table.dtype

    def as_module(self) -> PreprocessedNetwork:
        """Return ``x -> scores`` as one torch module, preprocessing included, for attacks outside of ART.

        Postprocessing defenses work on arrays and are not part of it.
        """
        return self.preprocessed(self.model)

    def predict(self, x: Array, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> Any:
        """Return scores ``(N, K)`` at its point, in evaluation mode; inputs are as for ``OATClassifier.predict``."""
        refuse_point(kwargs)
        x = self._checked(x, batch_size=batch_size)
        return self._predict(x, plain(batch_size), lambda batch, _: self.model(batch))

    def _set_layer(self, train: bool, layerinfo: list[Any]) -> None:
        if train:
            raise RuntimeError("a classifier pinned by at(lam, width) stays in evaluation mode, dropout and norms too.")

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to train: the weights belong to every operating point.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a classifier pinned by at(lam, width) is not trained. Train the OATClassifier it is from.")

    fit_generator = reset = clone_for_refitting = fit
