"""Trains every operating point of a network at once."""

from art_oat.training.checkpoint import Architecture, load_model, save_model
from art_oat.training.history import EpochRecord
from art_oat.training.loss import hybrid_loss
from art_oat.training.sampling import StratifiedSampling
from art_oat.training.trainer import OATTrainer

__all__ = [
    "Architecture",
    "EpochRecord",
    "OATTrainer",
    "StratifiedSampling",
    "hybrid_loss",
    "load_model",
    "save_model",
]
