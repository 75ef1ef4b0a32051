"""Conditional and plain networks as estimators of ART."""

from art_oat.classifier.oat import (
    DefaultPointWarning,
    OATClassifier,
    PinnedClassifier,
    PreprocessedNetwork,
    data_faults,
    data_tensors,
)

__all__ = [
    "DefaultPointWarning",
    "OATClassifier",
    "PinnedClassifier",
    "PreprocessedNetwork",
    "data_faults",
    "data_tensors",
]
