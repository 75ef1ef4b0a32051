"""One network, two dials: ``lam`` (robustness) and ``width`` (cost), chosen after training.

Once-for-all adversarial training (Wang et al. 2020, arXiv:2010.11828) for the Adversarial Robustness Toolbox::

    from torch import nn, optim
    from art_oat import Method, OATClassifier, OATTrainer, TradeoffCurve, fold, to_conditional
    from art_oat.data import digits
    from art_oat.models import SmallCNN

    data, model = digits(), to_conditional(SmallCNN())  # or a network of your own
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))
    OATTrainer(classifier, Method.dial(eps=0.2, eps_step=0.05)).fit(*data.train, nb_epochs=20)
    logits = classifier.predict(data.test.x, lam=0.3)  # any lam from 0 to 1, or one per sample
    curve = TradeoffCurve.measure(classifier, *data.test, eps=0.2, attack="pgd-20")
    network = fold(model, curve.select(min_robust=0.3))  # an ordinary SmallCNN, to ship

Convert, train, use, ship::

    to_conditional      a network as one whose norms depend on lam, and whose width can be chosen
    OATModel            what it returns: a torch module with forward(x, lam, width)
    OATClassifier       an estimator of ART around it: predict(x, lam=...), at(lam), export("file.onnx")
    OATTrainer          trains a classifier: fit(x, y, nb_epochs=...)
    fold                an ordinary network of one's own class at one lam and width
    OperatingPoint      a lam and a width
    pretrained          "digits", "cifar10", or a folder of art-oat train: classifier, curve and recipe in a line
    save_model          a model as a folder of safetensors and JSON; load_model reads it
    load_model          a model from such a folder, checked before it is used

How to train::

    Method              attack, loss, draws of lam, schedule, precision and all else of a training; it has presets
    PGD                 projected gradient descent, the usual attack of a training
    NFGSM               one step from much noise, at a fraction of the cost
    TRADESLoss          trains by a divergence of clean and attacked scores
    MARTLoss            weighs misclassified samples more
    ALPLoss             lets no attack move the scores (logit pairing)
    WeightPerturbation  adversarial weight perturbation (AWP)
    StratifiedSampling  how the lams of a batch are drawn
    OneCycle            a schedule of the learning rate, up and down once
    SlowStart           a schedule that rises slowly and falls fast, to fine-tune by
    RandomCropFlip      augmentation of images
    parameter_groups    parameters with weight decay and without

Measure and choose::

    evaluate            attacks one point: a RobustnessReport, by AutoAttack unless told otherwise
    AutoAttack          the standard of attacks, whole or in parts
    RobustnessReport    accuracies, and what broke which sample
    TradeoffCurve       the accuracies of all points: print, plot, select, CSV
    TransferMatrix      whether attacks on one point break another
    Frontier            points that were measured, and which to take: select(min_robust=...)
    AdaptivePolicy      takes a point for each batch from threat and latency

Packages hold the rest: attacks, classifier, data, evaluation, export, layers, models, surgery, training, transfer.
``help(art_oat.Method)`` and the like say more; ``art-oat --help`` shows the commands. All is loaded on first use.
"""

import sys
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
        ALPLoss,
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

    # For type checkers and the reference; at run time, __getattr__ answers.
    __all__ = [
        "NFGSM",
        "PGD",
        "ALPLoss",
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
        *("ALPLoss", "MARTLoss", "Method", "OATTrainer", "OneCycle", "SlowStart", "StratifiedSampling", "TRADESLoss"),
        *("WeightPerturbation", "parameter_groups"),
    ),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__all__" and sys._getframe(1).f_globals.get("__name__") != "pydoc":
            return sorted(_HOMES)  # pydoc would print every class in full, thousands of lines
        if name in _PACKAGES:
            return import_module(f"art_oat.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'art_oat' has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(f"art_oat.{_HOMES[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES, *_PACKAGES})
