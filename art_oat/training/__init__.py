"""Trains every operating point of a network at once."""

from art_oat.training.awp import WeightPerturbation
from art_oat.training.callbacks import Callback, Checkpoint, CSVLogger, EarlyStopping, RestoreBest
from art_oat.training.guard import CatastrophicOverfittingWarning
from art_oat.training.loggers import MetricLogger, MLflowLogger, TensorBoardLogger, WandbLogger
from art_oat.training.loss import ALPLoss, MARTLoss, TRADESLoss, hybrid_loss, loss_by_name
from art_oat.training.lr_stepper import PerStep
from art_oat.training.method import METHODS, Method
from art_oat.training.options import Validation
from art_oat.training.param_groups import parameter_groups
from art_oat.training.per_process import PerProcess
from art_oat.training.per_sample import per_sample_loss
from art_oat.training.recalibration import recalibrate
from art_oat.training.records import EpochMetrics, EpochRecord, TrainingHistory
from art_oat.training.resume_file import ResumeFile
from art_oat.training.safeguard import DivergenceWarning
from art_oat.training.sampling import StratifiedSampling, WidthSampling
from art_oat.training.schedule import OneCycle, Piecewise, SlowStart, WarmUp, WarmupCosine, schedule_by_name
from art_oat.training.statistics import StatisticsWarning
from art_oat.training.trainer import OATTrainer

__all__ = [
    "METHODS",
    "ALPLoss",
    "CSVLogger",
    "Callback",
    "CatastrophicOverfittingWarning",
    "Checkpoint",
    "DivergenceWarning",
    "EarlyStopping",
    "EpochMetrics",
    "EpochRecord",
    "MARTLoss",
    "MLflowLogger",
    "Method",
    "MetricLogger",
    "OATTrainer",
    "OneCycle",
    "PerProcess",
    "PerStep",
    "Piecewise",
    "RestoreBest",
    "ResumeFile",
    "SlowStart",
    "StatisticsWarning",
    "StratifiedSampling",
    "TRADESLoss",
    "TensorBoardLogger",
    "TrainingHistory",
    "Validation",
    "WandbLogger",
    "WarmUp",
    "WarmupCosine",
    "WeightPerturbation",
    "WidthSampling",
    "hybrid_loss",
    "loss_by_name",
    "parameter_groups",
    "per_sample_loss",
    "recalibrate",
    "schedule_by_name",
]
