"""Trains every operating point of a network at once."""

from art_oat.training.awp import WeightPerturbation
from art_oat.training.checkpoint import Architecture, Checkpoint, load_model, save_model
from art_oat.training.guard import CatastrophicOverfittingWarning
from art_oat.training.loss import MARTLoss, TRADESLoss, hybrid_loss, loss_by_name
from art_oat.training.method import METHODS, Method
from art_oat.training.param_groups import parameter_groups
from art_oat.training.recalibration import recalibrate
from art_oat.training.records import EpochRecord
from art_oat.training.sampling import StratifiedSampling, WidthSampling
from art_oat.training.schedule import (
    OneCycle,
    Piecewise,
    SlowStart,
    SlowStartFastDecay,
    WarmupCosine,
    schedule_by_name,
)
from art_oat.training.step import StatisticsWarning
from art_oat.training.trainer import OATTrainer

__all__ = [
    "METHODS",
    "Architecture",
    "CatastrophicOverfittingWarning",
    "Checkpoint",
    "EpochRecord",
    "MARTLoss",
    "Method",
    "OATTrainer",
    "OneCycle",
    "Piecewise",
    "SlowStart",
    "SlowStartFastDecay",
    "StatisticsWarning",
    "StratifiedSampling",
    "TRADESLoss",
    "WarmupCosine",
    "WeightPerturbation",
    "WidthSampling",
    "hybrid_loss",
    "load_model",
    "loss_by_name",
    "parameter_groups",
    "recalibrate",
    "save_model",
    "schedule_by_name",
]
