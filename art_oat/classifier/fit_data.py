"""What a classifier is trained on as ART does it: checked, and as ART takes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.utils import check_and_transform_label_format
from torch import Tensor

from art_oat.checks import Array, as_array, input_faults, label_faults, refuse, shape_faults


class CheckedLoader:
    """The batches of a loader, each checked as it comes, with one-hot labels, which ART's loop over them takes."""

    def __init__(self, loader: Any, classifier: PyTorchClassifier) -> None:
        self.loader, self.classifier = loader, classifier

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.loader:
            labels = as_array(y, "y")
            refuse(fit_faults(as_array(x, "x"), labels, self.classifier))
            one_hot = check_and_transform_label_format(art_labels(labels), self.classifier.nb_classes)
            yield torch.as_tensor(x), torch.from_numpy(one_hot)


def fit_faults(x: Array, y: Array, classifier: PyTorchClassifier) -> list[str]:
    """Say what is wrong with data to train on, as ART does: in any range."""
    if not (x.ndim and y.ndim):
        return shape_faults(x, classifier.input_shape) or ["y must hold one label per sample, got a single value."]
    faults = [] if len(x) else ["x must hold at least one sample, got none."]
    faults += input_faults(x, classifier.input_shape)
    return faults + label_faults(y, len(x), classifier.nb_classes, takes_soft=True)


def art_labels(y: Array) -> Array:
    """Return checked labels as ART takes them: indices as int64, one-hot ones as numbers."""
    if y.ndim == 1 or y.shape[1] == 1:
        return y.astype(np.int64)
    return y.astype(np.float32) if y.dtype.kind == "b" else y
