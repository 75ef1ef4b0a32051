"""What ART does with a plain classifier, it does with ``at(lam)`` and with the classifier itself at its default point.

How that is compared is in ``comparison.py``, the attacks are in ``attack_cases.py``.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from art import metrics
from art.attacks import extraction, poisoning
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.attacks.inference import attribute_inference, membership_inference, model_inversion
from art.attacks.poisoning.perturbations import add_pattern_bd
from art.defences import postprocessor, preprocessor, trainer
from art.defences.detector import evasion as evasion_detector
from art.defences.detector import poison as poison_detector
from art.defences.transformer.poisoning import STRIP
from art.estimators import classification
from art.estimators.certification.randomized_smoothing import NumpyRandomizedSmoothing, PyTorchRandomizedSmoothing
from art.estimators.classification import PyTorchClassifier
from art.evaluations.security_curve import SecurityCurve
from art.preprocessing import expectation_over_transformation as eot
from pyautoattack import AutoAttack
from torch import nn

from art_oat import OATClassifier, OperatingPoint, fold, to_conditional
from art_oat.classifier import PinnedClassifier
from art_oat.models import SmallCNN
from tests.compat.attack_cases import ART_ATTACKS, LIBRARIES, TORCH_ATTACKS
from tests.compat.comparison import (
    LAM,
    NB_CLASSES,
    Comparison,
    PlainClassifier,
    Trial,
    answer,
    changed,
    compare,
    compare_modules,
    data,
    is_same,
    left_behind,
    plain,
    state,
    trained,
)


def one_hot(y: np.ndarray) -> np.ndarray:
    return np.eye(NB_CLASSES, dtype=np.float32)[y]


def detector(*shape: int, nb_scores: int = 2) -> PyTorchClassifier:
    """A small plain network that tells attacked images (or activations) from clean ones, or tries to."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), nb_scores))
    network.register_forward_pre_hook(lambda _, inputs: inputs[0].float())
    root = nn.Sequential(network)  # ART calls the parts of a Sequential, and would miss its hooks
    return PyTorchClassifier(root, nn.CrossEntropyLoss(), shape, 2, torch.optim.SGD(root.parameters(), lr=0.1))


# --- metrics ---------------------------------------------------------------------------------------------------------


METRICS = {
    "empirical_robustness": Trial(
        lambda c, x, y: metrics.empirical_robustness(c, x, "fgsm", {"eps": 0.3, "eps_step": 0.05})
    ),
    "loss_sensitivity": Trial(lambda c, x, y: metrics.loss_sensitivity(c, x, one_hot(y))),
    "clever_u": Trial(lambda c, x, y: metrics.clever_u(c, x[0], 2, 3, 0.3, 2, pool_factor=2, verbose=False)),
    "clever_t": Trial(lambda c, x, y: metrics.clever_t(c, x[0], 1, 2, 3, 0.3, np.inf, pool_factor=2)),
    "adversarial_accuracy": Trial(
        lambda c, x, y: metrics.adversarial_accuracy(c, x, y, "fgsm", {"eps": 0.1}), nb_samples=20
    ),
    "wasserstein_distance": Trial(lambda c, x, y: metrics.wasserstein_distance(c.predict(x), one_hot(y))),
    "loss_gradient_check": Trial(lambda c, x, y: metrics.loss_gradient_check(c, x, one_hot(y), verbose=False)),
    "SHAPr": Trial(lambda c, x, y: metrics.SHAPr(c, x[:6], one_hot(y[:6]), x[6:], one_hot(y[6:])), nb_samples=10),
}

# --- detectors -------------------------------------------------------------------------------------------------------


def binary_input_detector(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    x_adv = FastGradientMethod(estimator, eps=0.3).generate(x, y)
    defence = evasion_detector.BinaryInputDetector(detector(*x.shape[1:]))
    defence.fit(np.vstack([x, x_adv]), np.repeat([0, 1], len(x)), nb_epochs=2)
    return defence.detect(x_adv)[0]["predictions"]


def binary_activation_detector(layer: int | str) -> Any:
    def case(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
        defence = evasion_detector.BinaryActivationDetector(estimator, detector(NB_CLASSES), layer)
        defence.fit(x, y % 2, nb_epochs=2)
        return defence.detect(x)[0]["predictions"]

    return case


def subset_scanning_detector(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    defence = evasion_detector.SubsetScanningDetector(estimator, x[:10], "head", verbose=False)
    return defence.scan(x[10:20], x[20:])[:2]


def beyond_detector(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    flat = nn.Sequential(nn.Flatten(), nn.LazyLinear(8))
    network = nn.Module()
    network.backbone, network.classifier, network.projector = flat, nn.Linear(8, NB_CLASSES), nn.Linear(8, 4)
    flat(torch.from_numpy(x))
    defence = evasion_detector.BeyondDetectorPyTorch(
        estimator, SimpleNamespace(model=network), lambda image: image + 0.1 * torch.randn_like(image), aug_num=25
    )
    defence.fit(x, None)
    return defence.detect(x)[1]


def activation_defence(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    return poison_detector.ActivationDefence(estimator, x, one_hot(y)).detect_poison(
        nb_clusters=2, nb_dims=2, reduce="PCA"
    )[1]


def spectral_signature(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    return poison_detector.SpectralSignatureDefense(estimator, x, one_hot(y)).detect_poison()[1]


DETECTORS = {
    "BinaryInputDetector": Trial(binary_input_detector, nb_samples=12),
    "BinaryActivationDetector by index": Trial(binary_activation_detector(1), nb_samples=12),
    "BinaryActivationDetector by name": Trial(binary_activation_detector("head"), nb_samples=12),
    "SubsetScanningDetector": Trial(subset_scanning_detector, nb_samples=30),
    "BeyondDetectorPyTorch": Trial(beyond_detector, nb_samples=8),
    "ActivationDefence": Trial(activation_defence, nb_samples=100),
    "SpectralSignatureDefense": Trial(spectral_signature, nb_samples=60),
}

# --- preprocessors and postprocessors --------------------------------------------------------------------------------

CLIP = (0.0, 1.0)
FIRST = {"channels_first": True}
BOTH = {"apply_fit": True, "apply_predict": True}

PREPROCESSORS = {
    "CutMix": lambda: preprocessor.CutMix(NB_CLASSES, **FIRST),
    "CutMixPyTorch": lambda: preprocessor.CutMixPyTorch(NB_CLASSES, **FIRST),
    "Cutout": lambda: preprocessor.Cutout(4, **FIRST, **BOTH),
    "CutoutPyTorch": lambda: preprocessor.CutoutPyTorch(4, **FIRST, **BOTH),
    "FeatureSqueezing": lambda: preprocessor.FeatureSqueezing(CLIP, bit_depth=3),
    "GaussianAugmentation": lambda: preprocessor.GaussianAugmentation(0.1, augmentation=False, **BOTH),
    "JpegCompression": lambda: preprocessor.JpegCompression(CLIP, quality=50, **FIRST),
    "LabelSmoothing": preprocessor.LabelSmoothing,
    "Mixup": lambda: preprocessor.Mixup(NB_CLASSES),
    "MixupPyTorch": lambda: preprocessor.MixupPyTorch(NB_CLASSES),
    "SpatialSmoothing": lambda: preprocessor.SpatialSmoothing(3, **FIRST),
    "SpatialSmoothingPyTorch": lambda: preprocessor.SpatialSmoothingPyTorch(3, **FIRST),
    "TotalVarMin": lambda: preprocessor.TotalVarMin(max_iter=2),
    "EoTBrightnessPyTorch": lambda: eot.EoTBrightnessPyTorch(1, CLIP, 0.2),
    "EoTContrastPyTorch": lambda: eot.EoTContrastPyTorch(1, CLIP, (0.5, 1.5)),
    "EoTGaussianNoisePyTorch": lambda: eot.EoTGaussianNoisePyTorch(1, CLIP, (0.1, 0.2)),
    "EoTShotNoisePyTorch": lambda: eot.EoTShotNoisePyTorch(1, CLIP, 20),
    "EoTZoomBlurPyTorch": lambda: eot.EoTZoomBlurPyTorch(1, CLIP, (1.0, 1.5)),
}


POSTPROCESSORS = ("ClassLabels", "GaussianNoise", "HighConfidence", "ReverseSigmoid", "Rounded")
LAST = {"EoTContrastPyTorch", "EoTZoomBlurPyTorch"}


def preprocessed(name: str) -> Trial:
    def case(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
        estimator.set_params(preprocessing_defences=PREPROCESSORS[name]())
        gradient = estimator.loss_gradient(x, one_hot(y)) if name != "JpegCompression" else 0
        return estimator.predict(x), gradient, estimator.class_gradient(x, label=1)

    return Trial(case, "channels last" if name in LAST else "image")


def postprocessed(name: str) -> Trial:
    def case(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
        estimator.set_params(postprocessing_defences=getattr(postprocessor, name)())
        return estimator.predict(x)

    return Trial(case, "probabilities")


PROCESSORS = {name: preprocessed(name) for name in PREPROCESSORS} | {
    name: postprocessed(name) for name in POSTPROCESSORS
}

# --- wrappers and evaluations ----------------------------------------------------------------------------------------


def attacked(make: Any) -> Any:
    """The answers of a wrapped estimator, and an attack on it."""

    def case(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
        wrapped = make(estimator)
        gradient = wrapped.loss_gradient(x, one_hot(y))
        return wrapped.predict(x), gradient, FastGradientMethod(wrapped, eps=0.1).generate(x, one_hot(y))

    return case


def black_box(kind: type) -> Any:
    def case(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
        return kind(estimator.predict, estimator.input_shape, NB_CLASSES, clip_values=CLIP).predict(x)

    return case


def smoothed(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    smooth = PyTorchRandomizedSmoothing(
        copy.deepcopy(estimator).model, nn.CrossEntropyLoss(), estimator.input_shape, NB_CLASSES, sample_size=8
    )
    return smooth.predict(x), smooth.certify(x, n=20), smooth.loss_gradient(x, one_hot(y))


def certified(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    smooth = NumpyRandomizedSmoothing(estimator, sample_size=8)
    return smooth.predict(x), smooth.certify(x, n=20)


def stripped(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    defended = STRIP(copy.deepcopy(estimator))(num_samples=3)
    defended.mitigate(x)
    return defended.predict(x)


def curve(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    return SecurityCurve(eps=[0.0, 0.1, 0.2]).evaluate(estimator, x, one_hot(y), max_iter=3, verbose=False)


WRAPPERS = {
    "BlackBoxClassifier": Trial(black_box(classification.BlackBoxClassifier)),
    "BlackBoxClassifierNeuralNetwork": Trial(black_box(classification.BlackBoxClassifierNeuralNetwork)),
    "EnsembleClassifier": Trial(
        attacked(lambda c: classification.EnsembleClassifier([c, c], channels_first=True, clip_values=CLIP)),
        "probabilities",
    ),
    "QueryEfficientGradientEstimationClassifier": Trial(
        attacked(lambda c: classification.QueryEfficientGradientEstimationClassifier(c, num_basis=4, sigma=0.1))
    ),
    "DetectorClassifier": Trial(
        lambda c, x, y: classification.DetectorClassifier(c, detector(*x.shape[1:], nb_scores=1)).predict(x)
    ),
    "PyTorchRandomizedSmoothing": Trial(smoothed),
    "NumpyRandomizedSmoothing": Trial(certified),
    "STRIP": Trial(stripped, "probabilities", nb_samples=8),
    "SecurityCurve": Trial(curve, nb_samples=8),
}

# --- attacks other than evasion --------------------------------------------------------------------------------------


def membership(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = membership_inference.MembershipInferenceBlackBox(estimator, attack_model_type="rf")
    attack.attack_model.set_params(random_state=0, n_estimators=5) if hasattr(attack, "attack_model") else None
    attack.fit(x[:8], y[:8], x[8:], y[8:])
    return attack.infer(x, y)


def copycat(kind: type) -> Any:
    def case(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
        torch.manual_seed(1)
        network = nn.Sequential(nn.Flatten(), nn.LazyLinear(NB_CLASSES))
        network(torch.from_numpy(x))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        thief = PyTorchClassifier(network, nn.CrossEntropyLoss(), x.shape[1:], NB_CLASSES, optimizer)
        attack = kind(estimator, batch_size_fit=8, batch_size_query=8, nb_epochs=2, nb_stolen=len(x))
        return attack.extract(x, thieved_classifier=thief).predict(x)

    return case


def feature_collision(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = poisoning.FeatureCollisionAttack(
        estimator, x[:1], "features", learning_rate=0.01, max_iter=2, verbose=False
    )
    return attack.poison(x[1:2])[0]


def bullseye(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = poisoning.BullseyePolytopeAttackPyTorch(estimator, x[:1], [1], max_iter=3, verbose=False)
    return attack.poison(x[1:3], one_hot(y)[1:3])[0]


def backdoor() -> poisoning.PoisoningAttackBackdoor:
    return poisoning.PoisoningAttackBackdoor(lambda image: add_pattern_bd(image, channels_first=True))


def hidden_trigger(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = poisoning.HiddenTriggerBackdoor(
        estimator, one_hot(y)[0], one_hot(y)[1], 1, backdoor(), max_iter=2, poison_percent=1.0, verbose=False
    )
    return attack.poison(x, one_hot(y))[0]


def clean_label(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = poisoning.PoisoningAttackCleanLabelBackdoor(
        backdoor(), estimator, one_hot(y)[0], pp_poison=0.9, max_iter=3
    )
    return attack.poison(x, one_hot(y))[0]


OTHER_ATTACKS = {
    "MembershipInferenceBlackBox": Trial(membership, nb_samples=20),
    "MembershipInferenceBlackBoxRuleBased": Trial(
        lambda c, x, y: membership_inference.MembershipInferenceBlackBoxRuleBased(c).infer(x, y), nb_samples=20
    ),
    "AttributeInferenceBlackBox": Trial(
        lambda c, x, y: attribute_inference.AttributeInferenceBlackBox(
            c, attack_model_type="lr", attack_feature=20, is_continuous=True
        ).fit(x),
        "tabular",
        nb_samples=20,
    ),
    "MIFace": Trial(lambda c, x, y: model_inversion.MIFace(c, max_iter=5, verbose=False).infer(x, y), "probabilities"),
    "CopycatCNN": Trial(copycat(extraction.CopycatCNN), nb_samples=16),
    "KnockoffNets": Trial(copycat(extraction.KnockoffNets), nb_samples=16),
    "FeatureCollisionAttack": Trial(feature_collision),
    "BullseyePolytopeAttackPyTorch": Trial(bullseye),
    "HiddenTriggerBackdoor": Trial(hidden_trigger, nb_samples=12),
    "PoisoningAttackCleanLabelBackdoor": Trial(clean_label, nb_samples=30),
}

TRIALS = METRICS | DETECTORS | PROCESSORS | WRAPPERS | OTHER_ATTACKS


def check(comparison: Comparison) -> None:
    if comparison.verdict == "needs":
        pytest.skip(f"needs {comparison.remark}")
    assert comparison.verdict == "pass", comparison.remark


@pytest.mark.parametrize("name", TRIALS)
def test_what_runs_on_a_plain_classifier_answers_alike_here_and_leaves_the_network_alone(name):
    trial = TRIALS[name]
    check(compare(trial.case, trial.scene, trial.nb_samples))


FAIL_IN_ART = {"AdversarialPatchNumpy", "GeoDA", "LaserAttack"}  # the table says how


@pytest.mark.parametrize("name", [name for name, trial in ART_ATTACKS.items() if not trial.is_slow])
def test_an_art_attack_does_here_what_it_does_to_a_plain_classifier(name):
    trial = ART_ATTACKS[name]
    comparison = compare(trial.case, trial.scene, trial.nb_samples)
    if name in FAIL_IN_ART:
        assert comparison.verdict == "own fault", comparison.remark
    else:
        check(comparison)


@pytest.mark.parametrize("name", [name for name, trial in TORCH_ATTACKS.items() if not trial.is_slow])
def test_an_attack_of_torchattacks_does_to_a_module_what_it_does_to_a_plain_network(name):
    check(compare_modules(TORCH_ATTACKS[name].case))


HALF = OperatingPoint(LAM, 0.5)


def slimmable() -> OATClassifier:
    """Random weights and statistics will do; in float64, so that rounding decides no branch."""
    torch.manual_seed(0)
    network = SmallCNN(3, NB_CLASSES, (8, 16)).double()
    model = to_conditional(network, widths=(HALF.width, 1.0), code_dim=8, input_shape=(3, 16, 16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return OATClassifier(model, nn.CrossEntropyLoss(), (3, 16, 16), NB_CLASSES, optimizer, clip_values=CLIP)


def alike_at_half_width(case: Any, expected_of: Any, actual_of: Any) -> None:
    """Compare what a case does to the plain network of a width with what it does here, to classes answered right."""
    classifier = slimmable()
    x, _ = data()
    y = classifier.predict(x, lam=HALF.lam, width=HALF.width).argmax(axis=1)
    network = fold(classifier.model, HALF)
    network.register_forward_pre_hook(lambda _, inputs: tuple(part.double() for part in inputs))
    arguments = (nn.CrossEntropyLoss(), classifier.input_shape, NB_CLASSES)
    plain_one = expected_of(PlainClassifier(network, *arguments, clip_values=CLIP))
    expected, left = left_behind(case, plain_one, x, y)
    subject = actual_of(classifier)
    before = state(classifier)
    actual = answer(case, subject, x, y)
    assert type(actual.error) is type(expected.error)
    assert is_same(actual.value, expected.value)
    assert actual.generators == expected.generators
    tolerated = left if isinstance(subject, OATClassifier) else set()
    assert [kind for kind in changed(classifier, before) if kind not in tolerated] == []


@pytest.mark.parametrize(
    "name", [n for n, trial in ART_ATTACKS.items() if not trial.is_slow and trial.scene == "image"]
)
def test_at_a_smaller_width_an_art_attack_does_to_a_view_what_it_does_to_the_plain_network_of_that_width(name):
    alike_at_half_width(ART_ATTACKS[name].case, lambda plain: plain, lambda classifier: classifier.at(*HALF))


@pytest.mark.parametrize("name", ["AutoProjectedGradientDescent", "DeepFool", "FastGradientMethod", "SquareAttack"])
def test_an_art_attack_finds_the_default_width_of_a_classifier(name):
    def at_half(classifier: OATClassifier) -> OATClassifier:
        classifier.set_params(lam=HALF.lam, width=HALF.width)
        return classifier

    alike_at_half_width(ART_ATTACKS[name].case, lambda plain: plain, at_half)


@pytest.mark.parametrize("name", [name for name, trial in TORCH_ATTACKS.items() if not trial.is_slow])
def test_at_a_smaller_width_an_attack_of_torchattacks_does_to_a_module_what_it_does_to_a_plain_network(name):
    def in_float32(network: nn.Module) -> nn.Module:
        network.register_forward_hook(lambda _module, _inputs, scores: scores.float())
        return network

    alike_at_half_width(
        TORCH_ATTACKS[name].case,
        lambda classifier: in_float32(classifier.model),
        lambda classifier: in_float32(classifier.at(*HALF).as_module()),
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_table_says_something_about_every_attack(library):
    assert LIBRARIES[library].unlisted() == set()


def test_a_comparison_notices_another_answer_another_draw_and_a_touched_network():
    def answer(estimator, x, y):
        return estimator.predict(x) + isinstance(estimator, PinnedClassifier)

    def draw(estimator, x, y):
        return torch.rand(1 + isinstance(estimator, PinnedClassifier))[:1]

    def touch(estimator, x, y):
        estimator.model.eval()

    def touch_weights(estimator, x, y):
        with torch.no_grad():
            next(estimator.model.parameters()).add_(isinstance(estimator, OATClassifier))

    assert compare(answer).remark == "view: another answer"
    assert compare(draw).remark == "view: other draws from a global generator"
    assert compare(touch).verdict == "pass"  # hosts set modes; nothing depends on them
    assert compare(touch_weights).remark == "classifier: weights and statistics changed"


# --- ART's trainers --------------------------------------------------------------------------------------------------


def untrained() -> tuple[PyTorchClassifier, OATClassifier]:
    """A plain classifier, and a conditional one that has nothing more to train than the plain one has."""
    torch.manual_seed(0)
    network = SmallCNN(3, NB_CLASSES, (8, 16)).double()
    model = to_conditional(network, lambdas=(0.0, 1.0), code_dim=8)
    network.register_forward_pre_hook(lambda _, inputs: inputs[0].double())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".film." not in name and ".adversarial." not in name)
    classifiers = []
    for kind, own in ((PlainClassifier, network), (OATClassifier, model)):
        own.eval()
        optimizer = torch.optim.SGD([p for p in own.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        arguments = (nn.CrossEntropyLoss(), (3, 16, 16), NB_CLASSES, optimizer)
        classifiers.append(kind(own, *arguments, clip_values=CLIP))
    classifiers[-1].lam = 0.0  # meant: this lam is what is trained
    return tuple(classifiers)


def pgd(classifier: Any) -> ProjectedGradientDescent:
    return ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.05, max_iter=2, verbose=False)


TRAINERS = {
    "AdversarialTrainer": lambda c, _: trainer.AdversarialTrainer(c, pgd(c), ratio=0.5),
    "AdversarialTrainerMadryPGD": lambda c, _: trainer.AdversarialTrainerMadryPGD(
        c, nb_epochs=2, batch_size=10, eps=0.1, eps_step=0.05, max_iter=2
    ),
    "AdversarialTrainerTRADESPyTorch": lambda c, _: trainer.AdversarialTrainerTRADESPyTorch(c, pgd(c), beta=6.0),
    "AdversarialTrainerAWPPyTorch": lambda c, proxy: trainer.AdversarialTrainerAWPPyTorch(
        c, proxy, pgd(c), mode="PGD", gamma=0.01, beta=6.0, warmup=0
    ),
    "AdversarialTrainerAWPPyTorch with TRADES": lambda c, proxy: trainer.AdversarialTrainerAWPPyTorch(
        c, proxy, pgd(c), mode="TRADES", gamma=0.01, beta=6.0, warmup=0
    ),
    "AdversarialTrainerFBFPyTorch": lambda c, _: trainer.AdversarialTrainerFBFPyTorch(c, eps=0.1),
    "DPInstaHideTrainer": lambda c, _: trainer.DPInstaHideTrainer(c, preprocessor.Mixup(NB_CLASSES)),
}


def fit(name: str, classifier: Any, proxy: Any, x: np.ndarray, y: np.ndarray) -> None:
    options = {} if name == "AdversarialTrainerMadryPGD" else {"batch_size": 10, "nb_epochs": 2}
    TRAINERS[name](classifier, proxy).fit(x, one_hot(y), **options)


@pytest.mark.parametrize("name", TRAINERS)
def test_one_of_arts_trainers_takes_the_steps_it_takes_on_a_plain_classifier(name):
    x, y = data(nb_samples=30)
    scores = []
    for classifier, proxy in zip(untrained(), untrained(), strict=True):
        before = classifier.predict(x)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - ART draws from it
        fit(name, classifier, proxy, x, y)
        scores.append(classifier.predict(x))
        assert not np.allclose(scores[-1], before, atol=0.01)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3, atol=1e-4)  # ART hands gradients over in float32


@pytest.mark.parametrize("name", TRAINERS)
def test_one_of_arts_trainers_trains_a_conditional_network_at_its_default_lam(name):
    classifier, proxy = trained(dtype=torch.float32), trained(dtype=torch.float32)
    classifier.lam = proxy.lam = LAM
    before = copy.deepcopy(classifier.model.state_dict())
    fit(name, classifier, proxy, *data(nb_samples=30))
    after = classifier.model.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert "network.features.0.weight" in moved
    assert any(".film." in name for name in moved)
    assert not any(".clean." in name for name in moved if "running" in name)


def shadow_models(classifier: OATClassifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    attack = membership_inference.ShadowModels(classifier, num_shadow_models=1, random_state=0)
    (_, _, scores), _ = attack.generate_shadow_dataset(x, one_hot(y))
    return scores


def partitioned(classifier: OATClassifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ensemble = classification.DeepPartitionEnsemble(classifier, ensemble_size=2, channels_first=True, clip_values=CLIP)
    ensemble.fit(x, one_hot(y), nb_epochs=1)
    return ensemble.predict(x)


def refitted(classifier: OATClassifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    scores, _, _ = metrics.PDTP(
        classifier, classifier.clone_for_refitting(), x, one_hot(y), indexes=np.arange(2), num_iter=1
    )
    return scores


@pytest.mark.parametrize("use", [shadow_models, partitioned, refitted])
def test_what_refits_copies_of_a_classifier_refits_conditional_ones_and_leaves_the_original_alone(use):
    classifier = trained(dtype=torch.float32)
    before = state(classifier)
    assert np.isfinite(use(classifier, *data(nb_samples=40))).all()
    assert changed(classifier, before) == []


# --- modules ---------------------------------------------------------------------------------------------------------


def test_what_an_attack_of_torchattacks_does_to_modes_does_not_reach_the_trained_network():
    classifier = trained()
    before = state(classifier)
    x, y = (torch.from_numpy(part) for part in data())
    attack = torchattacks.PGD(classifier.at(LAM).as_module(), steps=2, random_start=False)
    expected = attack(x, y)
    attack.set_model_training_mode(model_training=True, batchnorm_training=True, dropout_training=True)
    torch.testing.assert_close(attack(x, y), expected, rtol=0, atol=0)
    assert changed(classifier, before) == []


class Standardize(nn.Module):
    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("preprocessing", [(0.0, 1.0), (0.4, 0.25)])
def test_autoattack_does_to_a_module_what_it_does_to_a_plain_network(preprocessing):
    classifier = trained()
    classifier.set_params(preprocessing=preprocessing)
    before = state(classifier)
    x, y = (torch.from_numpy(part) for part in data())
    plain_module = nn.Sequential(Standardize(*preprocessing), plain(classifier).model)
    x_adv = []
    for network in (plain_module, classifier.at(LAM).as_module()):
        network.register_forward_hook(lambda _module, _inputs, scores: scores.float())
        attack = AutoAttack(network, norm="Linf", eps=0.05, seed=0, device=torch.device("cpu"))
        attack.square.n_queries = 50
        x_adv.append(attack.run_standard_evaluation(x, y, batch_size=4)[0])
    torch.testing.assert_close(x_adv[1], x_adv[0], rtol=0, atol=1e-5)
    assert changed(classifier, before) == []
