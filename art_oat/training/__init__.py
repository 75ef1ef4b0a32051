"""Trains every operating point of a network at once."""

from art_oat.training.checkpoint import Architecture, Checkpoint, load_model, save_model
from art_oat.training.decay import parameter_groups
from art_oat.training.history import EpochRecord
from art_oat.training.loss import hybrid_loss
from art_oat.training.sampling import StratifiedSampling, WidthSampling
from art_oat.training.schedule import OneCycle, Piecewise, WarmupCosine, schedule_by_name
from art_oat.training.trainer import OATTrainer

__all__ = [
    "Architecture",
    "Checkpoint",
    "EpochRecord",
    "OATTrainer",
    "OneCycle",
    "Piecewise",
    "StratifiedSampling",
    "WarmupCosine",
    "WidthSampling",
    "hybrid_loss",
    "load_model",
    "parameter_groups",
    "save_model",
    "schedule_by_name",
]
