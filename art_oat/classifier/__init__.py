"""Conditional and plain networks as estimators of ART."""

from art_oat.classifier.base import DarkLevelsWarning, NonFiniteWarning, data_tensors, kept_tensors
from art_oat.classifier.default_point import DefaultPointWarning
from art_oat.classifier.fit_data import data_faults
from art_oat.classifier.oat import OATClassifier
from art_oat.classifier.pinned import PinnedClassifier
from art_oat.classifier.preprocessing import PreprocessedNetwork

__all__ = [
    "DarkLevelsWarning",
    "DefaultPointWarning",
    "NonFiniteWarning",
    "OATClassifier",
    "PinnedClassifier",
    "PreprocessedNetwork",
    "data_faults",
    "data_tensors",
    "kept_tensors",
]
