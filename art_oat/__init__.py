"""One network, two dials: ``lam`` (robustness) and ``width`` (cost), chosen after training.

Once-for-all adversarial training (Wang et al. 2020, arXiv:2010.11828) for the Adversarial Robustness Toolbox.
Convert a network (:func:`to_conditional`), train it (:class:`OATTrainer`), measure it (:class:`TradeoffCurve`), use it
at any operating point (:class:`OATClassifier`), ship it (:func:`fold`). What is here is what most programs need;
the packages hold the rest, such as :mod:`art_oat.transfer`. Everything is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from art_oat import attacks as attacks
    from art_oat import classifier as classifier
    from art_oat import data as data
    from art_oat import evaluation as evaluation
    from art_oat import layers as layers
    from art_oat import models as models
    from art_oat import surgery as surgery
    from art_oat import training as training
    from art_oat import transfer as transfer
    from art_oat.attacks import NFGSM, PGD
    from art_oat.classifier import OATClassifier
    from art_oat.condition import OperatingPoint
    from art_oat.data.augmentation import RandomCropFlip
    from art_oat.evaluation import AutoAttack, RobustnessReport, TradeoffCurve, TransferMatrix, evaluate
    from art_oat.experiment.pretrained import pretrained
    from art_oat.frontier import AdaptivePolicy, Frontier
    from art_oat.model import OATModel
    from art_oat.model_io import load_model, save_model
    from art_oat.surgery import fold, to_conditional
    from art_oat.training import (
        MARTLoss,
        Method,
        OATTrainer,
        OneCycle,
        SlowStart,
        StratifiedSampling,
        TRADESLoss,
        WeightPerturbation,
        parameter_groups,
    )

__all__ = [
    "NFGSM",
    "PGD",
    "AdaptivePolicy",
    "AutoAttack",
    "Frontier",
    "MARTLoss",
    "Method",
    "OATClassifier",
    "OATModel",
    "OATTrainer",
    "OneCycle",
    "OperatingPoint",
    "RandomCropFlip",
    "RobustnessReport",
    "SlowStart",
    "StratifiedSampling",
    "TRADESLoss",
    "TradeoffCurve",
    "TransferMatrix",
    "WeightPerturbation",
    "evaluate",
    "fold",
    "load_model",
    "parameter_groups",
    "pretrained",
    "save_model",
    "to_conditional",
]

_PACKAGES = (
    *("attacks", "classifier", "data", "evaluation", "export", "layers", "models", "surgery", "training", "transfer"),
)
_NAMES = {
    "attacks": ("NFGSM", "PGD"),
    "classifier": ("OATClassifier",),
    "condition": ("OperatingPoint",),
    "data.augmentation": ("RandomCropFlip",),
    "evaluation": ("AutoAttack", "RobustnessReport", "TradeoffCurve", "TransferMatrix", "evaluate"),
    "experiment.pretrained": ("pretrained",),
    "frontier": ("AdaptivePolicy", "Frontier"),
    "model": ("OATModel",),
    "model_io": ("load_model", "save_model"),
    "surgery": ("fold", "to_conditional"),
    "training": (
        *("MARTLoss", "Method", "OATTrainer", "OneCycle", "SlowStart", "StratifiedSampling", "TRADESLoss"),
        *("WeightPerturbation", "parameter_groups"),
    ),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _PACKAGES:
            return import_module(f"art_oat.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'art_oat' has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(f"art_oat.{_HOMES[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_PACKAGES})
