"""What a classifier is trained on or measured with: checked, and as ART takes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.utils import check_and_transform_label_format
from torch import Tensor

from art_oat.checks import Array, as_array, input_faults, label_faults, range_faults, refuse
from art_oat.levels import are_levels, as_floats, level_faults


class CheckedLoader:
    """The batches of a loader, each checked as it comes, with one-hot labels, which ART's loop over them takes."""

    def __init__(self, loader: Any, classifier: PyTorchClassifier) -> None:
        self.loader, self.classifier = loader, classifier

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.loader:
            labels = as_array(y, "y")
            refuse(fit_faults(as_array(x, "x"), labels, self.classifier))
            one_hot = check_and_transform_label_format(art_labels(labels), self.classifier.nb_classes)
            yield as_floats(torch.as_tensor(x), self.classifier.clip_values), torch.from_numpy(one_hot)


def fit_faults(x: Array, y: Array, classifier: PyTorchClassifier) -> list[str]:
    """Say what is wrong with data to train on, as ART does: in any range."""
    return data_faults(classifier, x, y, takes_soft=True, in_any_range=True)


def data_faults(
    classifier: PyTorchClassifier,
    x: Array,
    y: Array,
    names: tuple[str, str] = ("x", "y"),
    *,
    takes_soft: bool = False,
    in_any_range: bool = False,
) -> list[str]:
    """Say all that is wrong with inputs ``(N, *input_shape)`` and labels for a classifier, called by their ``names``.

    Labels are class indices ``(N,)`` or one-hot ``(N, K)``, or, where ``takes_soft``, probabilities ``(N, K)``. Inputs
    lie within the clip values, or ``in_any_range``; levels always do.
    """
    clip_values = classifier.clip_values
    bounds = None if in_any_range or are_levels(x, clip_values) else clip_values
    faults = input_faults(x, classifier.input_shape, names[0]) or range_faults(x, bounds, names[0])
    faults = faults or level_faults(x, clip_values, names[0])
    if x.ndim == 0 or y.ndim == 0:
        return faults or [f"{names[1]} must hold one label per sample, got a single value."]
    if not len(x):
        faults.append(f"{names[0]} must hold at least one sample, got none.")
    return faults + label_faults(y, len(x), classifier.nb_classes, names[1], takes_soft=takes_soft)


def art_labels(y: Array) -> Array:
    """Return checked labels as ART takes them: indices as int64, one-hot ones as numbers."""
    if y.ndim == 1 or y.shape[1] == 1:
        return y.astype(np.int64)
    return y.astype(np.float32) if y.dtype.kind == "b" else y
