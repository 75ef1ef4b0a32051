"""What preprocessing may do in training: change inputs, one by one, and nothing else."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import Preprocessor
from torch import Tensor, nn

from art_oat.attacks import borrowed_hosts
from art_oat.checks import Array
from art_oat.classifier import OATClassifier, PreprocessedNetwork

_NB_SAMPLES = 2


def preprocessing_faults(classifier: OATClassifier) -> list[str]:
    """Say which operations change labels or the number of samples: every sample has one label and one lam.

    Each one that applies in training is tried on random inputs within the clip values, without labels, as in training,
    and with them. Global generators are left as they were.
    """
    x, faults = _some_inputs(classifier), []
    y = np.eye(classifier.nb_classes, dtype=np.float32)[:_NB_SAMPLES]
    with borrowed_hosts(classifier.device, 0):
        for operation in classifier.preprocessing_operations:
            fault, x = _tried(operation, x, y) if operation.apply_fit else ("", x)
            if fault:
                faults.append(f"{type(operation).__name__} {fault}.")
    if not faults:
        return []
    return [
        "preprocessing must leave labels and the number of samples alone in training, but "
        f"{' '.join(faults)} For smooth labels, use CrossEntropyLoss(label_smoothing=...); for more varied samples, "
        "OATTrainer(augmentation=...); for mixed ones, batches with soft labels from a DataLoader."
    ]


def _some_inputs(classifier: OATClassifier) -> Tensor:
    low, high = (0.0, 1.0) if classifier.clip_values is None else classifier.clip_values
    shape = (_NB_SAMPLES, *classifier.input_shape)
    return torch.as_tensor(np.random.default_rng(0).uniform(low, high, shape)).to(classifier.model.encoding.table)


def _tried(operation: Preprocessor, x: Tensor, y: Array) -> tuple[str, Tensor]:
    """Return what an operation does that it must not, and what it makes of the inputs."""
    if getattr(operation, "augmentation", False) is True:  # a small share of two samples may be none
        return "adds samples", x
    labels = _labels_after(operation, x, y)
    try:
        with torch.no_grad():
            result = PreprocessedNetwork(nn.Identity(), [operation])(x)
    except Exception as error:  # noqa: BLE001 - whatever a preprocessor may raise
        return "needs labels" if labels is not None else f"fails on inputs of this shape ({str(error).rstrip('.')})", x
    if len(result) != len(x):
        return f"makes {len(result)} samples of {len(x)}", x
    return "" if labels is None or np.array_equal(labels, y) else "changes labels", result


def _labels_after(operation: Preprocessor, x: Tensor, y: Array) -> Array | None:
    """Return what an operation makes of labels; None where it takes or gives none."""
    with suppress(Exception):  # whatever a preprocessor may raise
        labels: Array | None = operation(x.cpu().numpy(), y.copy())[1]
        return labels
    return None
