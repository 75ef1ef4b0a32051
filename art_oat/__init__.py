"""One network, two dials: ``lam`` (robustness) and ``width`` (cost), chosen after training.

Once-for-all adversarial training (Wang et al. 2020, arXiv:2010.11828) for the Adversarial Robustness Toolbox.
Convert a network (:func:`to_conditional`), train it (:class:`OATTrainer`), measure it (:class:`TradeoffCurve`), use it
at any operating point (:class:`OATClassifier`), ship it (:func:`fold`).
"""

from art_oat.attacks import NFGSM, PGD, TensorAttack
from art_oat.classifier import DefaultPointWarning, OATClassifier, PinnedClassifier
from art_oat.condition import OperatingPoint
from art_oat.data.augmentation import RandomCropFlip
from art_oat.evaluation import (
    AutoAttack,
    AutoAttackWarning,
    RobustnessReport,
    TradeoffCurve,
    TransferMatrix,
    evaluate,
)
from art_oat.frontier import Frontier, MeasuredPoint
from art_oat.model import OATModel
from art_oat.pinned import PinnedNetwork
from art_oat.surgery import UnsupportedModuleError, fold, register_conversion, to_conditional, to_published
from art_oat.training import (
    Architecture,
    CatastrophicOverfittingWarning,
    Checkpoint,
    EpochRecord,
    MARTLoss,
    OATTrainer,
    OneCycle,
    Piecewise,
    SlowStart,
    SlowStartFastDecay,
    StatisticsWarning,
    StratifiedSampling,
    TRADESLoss,
    WarmupCosine,
    WeightPerturbation,
    hybrid_loss,
    load_model,
    parameter_groups,
    recalibrate,
    save_model,
)
from art_oat.transfer import LinearProbe, adapt, find_head, freeze_below, replace_head, unfreeze

__all__ = [
    "NFGSM",
    "PGD",
    "Architecture",
    "AutoAttack",
    "AutoAttackWarning",
    "CatastrophicOverfittingWarning",
    "Checkpoint",
    "DefaultPointWarning",
    "EpochRecord",
    "Frontier",
    "LinearProbe",
    "MARTLoss",
    "MeasuredPoint",
    "OATClassifier",
    "OATModel",
    "OATTrainer",
    "OneCycle",
    "OperatingPoint",
    "Piecewise",
    "PinnedClassifier",
    "PinnedNetwork",
    "RandomCropFlip",
    "RobustnessReport",
    "SlowStart",
    "SlowStartFastDecay",
    "StatisticsWarning",
    "StratifiedSampling",
    "TRADESLoss",
    "TensorAttack",
    "TradeoffCurve",
    "TransferMatrix",
    "UnsupportedModuleError",
    "WarmupCosine",
    "WeightPerturbation",
    "adapt",
    "evaluate",
    "find_head",
    "fold",
    "freeze_below",
    "hybrid_loss",
    "load_model",
    "parameter_groups",
    "recalibrate",
    "register_conversion",
    "replace_head",
    "save_model",
    "to_conditional",
    "to_published",
    "unfreeze",
]
